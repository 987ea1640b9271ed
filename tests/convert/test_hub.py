"""The official names: where they are looked for on this machine, and how they get here from a hub on this machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minialbert.convert.hub as hub_module
from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert.hub import (
    OFFICIAL,
    cache,
    canonical,
    complaints,
    download,
    files_of,
    is_offline,
    local,
    weight_bytes,
    where_to_get,
)
from minialbert.errors import FileError, InputError, NameUnknown
from tests.convert.web_server import COMMIT, like_the_hub, refuse, web_server

CONFIG, WEIGHTS, PIECES = b'{"model_type": "albert"}', bytes(range(256)) * 300, b"\x0a\x0epieces"
FILES = {"config.json": CONFIG, "spiece.model": PIECES, "tokenizer.json": b'{"a": 1}', "model.safetensors": WEIGHTS}
LARGE = ("spiece.model", "model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
VARIABLES = ("HF_ENDPOINT", "HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME",
             "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MINIALBERT_CACHE")  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A home and a current directory in which nothing lies, and no checkout around the package."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(hub_module, "__file__", str(tmp_path / "site" / "minialbert" / "convert" / "hub.py"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import of it fails, but for the tests about it
    return tmp_path


@pytest.fixture
def server(monkeypatch):
    with web_server(monkeypatch) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
        like_the_hub(server, "albert/albert-base-v2", FILES, LARGE)
        yield server


def put(directory: Path, files: dict[str, bytes]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def refused(call, *words, kind=FileError):
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line


def paths(server) -> list[str]:
    return [path for path, _ in server.asked]


# ---- the table ----


def test_every_preset_is_in_the_table_and_the_other_way_round():
    assert set(OFFICIAL) == set(PRESETS)


def test_the_table_says_where_each_model_was_published():
    base = OFFICIAL["albert-base-v2"]
    assert base.hub == "albert/albert-base-v2"
    assert base.archive == "https://storage.googleapis.com/albert_models/albert_base_v2.tar.gz"
    assert OFFICIAL["albert-xxlarge-zh"].hub is None
    assert OFFICIAL["albert-xxlarge-zh"].archive.endswith("/albert_models/albert_xxlarge_zh.tar.gz")
    bert = OFFICIAL["bert-large-cased"]
    assert bert.hub == "google-bert/bert-large-cased"
    assert bert.archive == "https://storage.googleapis.com/bert_models/2018_10_18/cased_L-24_H-1024_A-16.zip"


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_sizes_in_the_names_of_archives_are_those_of_the_presets(name):
    config, archive = AlbertConfig.preset(name), OFFICIAL[name].archive
    found = re.search(r"L-(\d+)_H-(\d+)_A-(\d+)", archive)
    if found:
        sizes = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
        assert sizes == tuple(map(int, found.groups()))
        assert ("uncased" in name) == ("uncased" in archive) and ("multilingual" in name) == ("multi" in archive)
    else:
        assert archive.rpartition("/")[2] == name.replace("-", "_") + ".tar.gz"
    assert len({row.archive for row in OFFICIAL.values()}) == len(OFFICIAL)


def test_the_weights_of_base_are_as_large_as_published():
    assert weight_bytes("albert-base-v2") == 47_255_240  # 11,813,810 parameters with both heads
    assert complaints("albert-base-v2", Path()) == []


def test_names_may_carry_their_owner():
    for name in OFFICIAL:
        owner = "google-bert" if name.startswith("bert") else "albert"
        assert canonical(name) == canonical(f"{owner}/{name}") == name
    assert canonical("textattack/albert-base-v2-imdb") == "textattack/albert-base-v2-imdb"


@pytest.mark.parametrize(
    "name", ["albert-base-v3", "", "a/b/c", "../x", "x/..", "a--b/c", "/etc", "a/b c", "~/x", "a\\b"]
)
def test_what_can_be_no_name_is_refused(name):
    refused(lambda: canonical(name), "no official model is called", kind=NameUnknown)
    assert local(name) is None
    refused(lambda: download(name), "no official model is called", kind=NameUnknown)


def test_a_typing_error_gets_the_nearest_names():
    refused(lambda: canonical("albert-base-v3"), "Nearest: albert-base-v", kind=NameUnknown)
    assert "albert-large-v1, albert-large-v2, albert-large-zh" in where_to_get("albert-large")
    assert "bert-base-uncased" in where_to_get("bert-base-uncaesd")
    assert where_to_get("albert/albert-base-v2") == "get it: minialbert download albert-base-v2"
    assert where_to_get("owner/name") == "if this is a model on the hub: minialbert download owner/name"
    assert "minialbert download --list" in where_to_get("zzzzzz")


@given(st.text(max_size=40))
def test_any_text_at_all_is_found_nowhere_and_answered_in_a_line(name):
    if name.strip():
        assert where_to_get(name) and (local(name) is None or name in OFFICIAL)


# ---- on this machine ----


def test_models_are_found_in_the_order_that_is_promised(nowhere, monkeypatch):
    assert local("albert-base-v2") is None
    snapshot = nowhere / "home/.cache/huggingface/hub/models--albert--albert-base-v2/snapshots/abc"
    put(snapshot.parents[1] / "refs", {"main": b"abc"})
    put(snapshot, FILES)
    assert local("albert-base-v2") == local("albert/albert-base-v2") == snapshot
    assert local("albert-base-v1") is None
    ours = put(nowhere / "home/.cache/minialbert/albert-base-v2", FILES)
    assert local("albert-base-v2") == ours
    put(nowhere / "site", {"pyproject.toml": b""})
    checkout = put(nowhere / "site/weights/albert-base-v2", FILES)
    assert local("albert-base-v2") == checkout
    put(Path("weights/albert-base-v2"), FILES)
    assert local("albert-base-v2") == Path("weights/albert-base-v2")


def test_our_cache_can_be_elsewhere(nowhere, monkeypatch):
    monkeypatch.setenv("MINIALBERT_CACHE", "~/elsewhere")
    assert cache() == nowhere / "home" / "elsewhere"
    assert local("own/er") is None
    assert local("own/er") != put(cache() / "own" / "er", FILES) == local("own/er")


@pytest.mark.parametrize("variable, below", [
    ("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub"),
])  # fmt: skip
@pytest.mark.parametrize("folder", ["models--albert-base-v2", "models--albert--albert-base-v2"])
def test_hugging_faces_cache_is_found_where_its_variables_say(nowhere, monkeypatch, variable, below, folder):
    repository = nowhere / "cache" / below / folder
    put(repository / "refs", {"main": COMMIT.encode()})
    put(repository / "snapshots" / COMMIT, FILES)
    assert local("albert-base-v2") is None
    monkeypatch.setenv(variable, str(nowhere / "cache"))
    assert local("albert-base-v2") == repository / "snapshots" / COMMIT


def test_a_snapshot_that_is_not_whole_is_none(nowhere):
    repository = nowhere / "home/.cache/huggingface/hub/models--albert--albert-base-v2"
    snapshot = put(repository / "snapshots" / "abc", {"config.json": CONFIG, "tf_model.h5": b"x"})
    put(repository / "refs", {"main": b"abc\n"})
    assert local("albert-base-v2") is None
    (snapshot / "model.safetensors").symlink_to("../../blobs/missing")
    assert local("albert-base-v2") is None
    put(repository / "blobs", {"missing": WEIGHTS})
    assert local("albert-base-v2") == snapshot
    put(repository / "elsewhere", FILES)
    for wrong in (b"def", b"../elsewhere", b"", b"\xff"):
        put(repository / "refs", {"main": wrong})
        assert local("albert-base-v2") is None


def test_shards_count_when_all_are_there():
    place = Path("weights/albert-base-v2")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    put(place, {"config.json": CONFIG, "model-1.safetensors": b"1",
                "model.safetensors.index.json": json.dumps(index).encode()})  # fmt: skip
    assert local("albert-base-v2") is None
    put(place, {"model-2.safetensors": b"2"})
    assert local("albert-base-v2") == place
    assert [file.name for file in files_of(place)] == [
        "config.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"]  # fmt: skip
    for wrong in (b"", b"[]", b'{"weight_map": {"a": "../x"}}', b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}'):
        put(place, {"model.safetensors.index.json": wrong})
        assert local("albert-base-v2") is None


def test_half_a_download_is_not_found():
    put(Path("weights/albert-base-v2"), {"config.json": CONFIG, "model.safetensors.part": WEIGHTS[:99]})
    assert local("albert-base-v2") is None
    put(Path("weights/albert-base-zh"), {"albert_base_zh.tar.gz.part": b"x", "albert_base_zh.tar.gz.part.json": b"{}"})
    assert local("albert-base-zh") is None


def test_archives_are_found_in_the_directory_and_beside_it():
    put(Path("weights"), {"albert-base-v2.tar.gz": b"x"})
    assert local("albert-base-v2") == Path("weights/albert-base-v2.tar.gz")
    put(Path("weights/albert-base-v2"), {"albert_base_v2.tar.gz": b"x"})
    assert local("albert-base-v2") == Path("weights/albert-base-v2/albert_base_v2.tar.gz")
    put(Path("weights/bert-base-cased"), {"cased_L-12_H-768_A-12.zip": b"x"})
    assert local("google-bert/bert-base-cased") == Path("weights/bert-base-cased/cased_L-12_H-768_A-12.zip")


def test_an_unpacked_release_is_found():
    place = put(Path("weights/albert-base-v2"), {"albert_config.json": CONFIG, "model.ckpt-best.index": b"x"})
    assert local("albert-base-v2") is None
    put(place, {"model.ckpt-best.data-00000-of-00001": b"x"})
    assert local("albert-base-v2") == place


# ---- from the hub ----


@pytest.mark.parametrize("name", ["albert-base-v2", "albert/albert-base-v2"])
def test_a_model_comes_from_the_hub_whole_and_is_found_afterwards(server, nowhere, name):
    place = download(name, progress=False)
    assert place == nowhere / "home/.cache/minialbert/albert-base-v2" == local(name)
    assert content(place) == FILES
    resolve = "/albert/albert-base-v2/resolve"
    assert paths(server)[0] == f"{resolve}/main/config.json"
    assert all(path.startswith((f"{resolve}/{COMMIT}/", "/store/")) for path in paths(server)[1:])  # one revision
    assert paths(server)[-2:] == [f"{resolve}/{COMMIT}/model.safetensors", "/store/model.safetensors?signature=secret"]


def test_huggingface_hub_is_not_needed(server):
    assert content(download("albert-base-v2", progress=False)) == FILES


def test_a_weights_directory_here_is_where_it_goes_unless_told_otherwise(server, nowhere):
    Path("weights").mkdir()
    assert download("albert-base-v2", progress=False) == Path("weights/albert-base-v2") == local("albert-base-v2")
    assert download("albert-base-v2", nowhere / "mine", progress=False) == nowhere / "mine"
    assert content(nowhere / "mine") == content(Path("weights/albert-base-v2")) == FILES


def test_a_second_download_keeps_what_is_whole_and_repairs_what_is_not(server, nowhere):
    place = download("albert-base-v2", progress=False)
    before = {path.name: path.stat().st_ino for path in place.iterdir()}
    (place / "model.safetensors").write_bytes(b"x" + WEIGHTS[1:])  # as long as it was
    download("albert-base-v2", progress=False)
    after = {path.name: path.stat().st_ino for path in place.iterdir()}
    assert content(place) == FILES and [name for name in FILES if before[name] != after[name]] == ["model.safetensors"]


def test_the_directory_of_another_model_is_left_alone(server, nowhere):
    mine = {"config.json": CONFIG.replace(b"albert", b"ALBERT"), "model.safetensors": b"mine", "spiece.model": b"mine"}
    place = put(nowhere / "mine", mine)
    refused(lambda: download("albert-base-v2", place, progress=False), f"{place}/config.json: is there and is another")
    assert content(place) == mine


def test_a_download_that_breaks_off_goes_on(server, nowhere):
    good = server.serve

    def break_off(handler, **how):
        if handler.path.startswith("/store/model") and "Range" not in handler.headers:
            return good(handler, cut=50_000, **how)
        return refuse(503)(handler) if handler.path.startswith("/store/model") else good(handler, **how)

    server.serve = break_off
    refused(lambda: download("albert-base-v2", progress=False), "model.safetensors", "503", "50,000 bytes are kept")
    assert local("albert-base-v2") is None
    server.serve = good
    assert content(download("albert-base-v2", progress=False)) == FILES
    assert server.asked[-1][1]["range"] == "bytes=50000-"


def test_shards_come_through_their_index(server):
    index = {"metadata": {}, "weight_map": {"a": LARGE[2], "b": LARGE[3], "c": LARGE[2]}}
    files = {"config.json": CONFIG, "vocab.txt": b"[PAD]\n", "model.safetensors.index.json": json.dumps(index).encode(),
             LARGE[2]: WEIGHTS, LARGE[3]: WEIGHTS[::-1]}  # fmt: skip
    like_the_hub(server, "own/er", files, LARGE)
    assert content(download("own/er", progress=False)) == files
    assert local("own/er") == cache() / "own" / "er"


def test_a_bin_is_taken_where_there_is_nothing_better(server):
    files = {"config.json": CONFIG, "tokenizer.json": b"{}", "pytorch_model.bin": WEIGHTS}
    like_the_hub(server, "google-bert/bert-base-cased", files, ("pytorch_model.bin",))
    assert content(download("bert-base-cased", progress=False)) == files


@pytest.mark.parametrize("leave, word", [
    ("config.json", "no model of that name"), ("model.safetensors", "no weights there"), ("", "no vocabulary there"),
])  # fmt: skip
def test_what_is_missing_on_the_hub_is_named(server, leave, word):
    files = {"config.json": CONFIG, "model.safetensors": WEIGHTS} | ({"vocab.txt": b"x"} if leave else {})
    like_the_hub(server, "own/er", {name: content for name, content in files.items() if name != leave})
    refused(lambda: download("own/er", progress=False), f"{server.address}/own/er", word)
    assert local("own/er") is None


def test_a_shard_that_is_named_and_missing_is_told(server):
    index = b'{"weight_map": {"a": "model-1.safetensors"}}'
    like_the_hub(server, "own/er", {"config.json": CONFIG, "vocab.txt": b"x", "model.safetensors.index.json": index})
    refused(lambda: download("own/er", progress=False), "model-1.safetensors is named in model.safetensors.index.json")


@pytest.mark.parametrize("shard", ["..", "../x", "/x", "a/b", ""])
def test_an_index_that_leads_elsewhere_is_refused(server, nowhere, shard):
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    like_the_hub(server, "own/er", {"config.json": CONFIG, "vocab.txt": b"x", "model.safetensors.index.json": index})
    refused(
        lambda: download("own/er", progress=False), "model.safetensors.index.json: not an index of shards beside it"
    )


def test_the_token_goes_to_the_hub(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", " hf_x\n")
    download("albert-base-v2", progress=False)
    said = {("/store/" in path, headers.get("authorization")) for path, headers in server.asked}
    assert said == {(False, "Bearer hf_x"), (True, None)}  # and not to its store
    monkeypatch.setenv("HF_TOKEN", "hf_x\nHost: y")
    refused(lambda: download("albert-base-v2", progress=False), "HF_TOKEN holds characters", kind=InputError)


def test_a_name_that_the_hub_does_not_open_is_one_line(server):
    server.answers = [refuse(401)]
    refused(lambda: download("own/er"), "own/er/resolve/main/config.json: refused (401)", "HF_TOKEN")


@pytest.mark.parametrize("said", ["1", "true", "YES", "On"])
@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nobody(server, monkeypatch, variable, said):
    monkeypatch.setenv(variable, said)
    assert is_offline()
    refused(lambda: download("albert-base-v2"), "albert-base-v2 is not there, and HF_HUB_OFFLINE forbids the network")
    refused(lambda: download("albert-base-zh"), "HF_HUB_OFFLINE")
    place = put(cache() / "albert-base-v2", FILES)
    assert download("albert-base-v2") == place and server.asked == []
    monkeypatch.setenv(variable, "0")
    assert not is_offline()


def test_no_network_is_one_line(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    refused(lambda: download("albert-base-v2"), "http://nowhere.invalid/albert/", "is there a network?")
    assert not (cache() / "albert-base-v2").exists()


CALL = """
import sys
from minialbert.convert.hub import download
from minialbert.errors import FileError
try:
    print(download(sys.argv[1]))
except FileError as error:
    print("error:", error)
"""


def with_library(server, home: Path, name: str, **more: str) -> str:
    """What a download says in a process of its own, where huggingface_hub can be imported."""
    base = {"HF_ENDPOINT": server.address, "HF_HOME": str(home / ".cache/huggingface"), "HF_HUB_DISABLE_XET": "1",
             "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
             "PYTHONPATH": str(Path(__file__).parents[2])}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CALL, name], env=os.environ | base | more, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_huggingface_hub_is_installed_its_cache_is_where_models_go(server, nowhere):
    said = with_library(server, nowhere / "home", "albert-base-v2")
    place = local("albert-base-v2")
    assert said == str(place) and ".cache/huggingface/hub/models--albert--albert-base-v2/snapshots/" in said
    assert content(place) == FILES
    assert not cache().exists()
    server.asked.clear()
    assert with_library(server, nowhere / "home", "albert-base-v2", HF_HUB_OFFLINE="1") == said and not server.asked


def test_what_huggingface_hub_cannot_get_is_one_line(server, nowhere):
    said = with_library(server, nowhere / "home", "somebody/nothing")
    assert said.startswith("error: somebody/nothing: config.json cannot be got") and "\n" not in said
    like_the_hub(server, "somebody/half", {"config.json": CONFIG}, ())
    assert "no vocabulary there" in with_library(server, nowhere / "home", "somebody/half")


# ---- Google's archives ----


def test_an_archive_comes_from_its_address(server, monkeypatch):
    for name, path in (("albert-base-zh", "albert_models/albert_base_zh.tar.gz"),
                       ("bert-base-chinese", "bert_models/2018_11_03/chinese_L-12_H-768_A-12.zip")):  # fmt: skip
        assert OFFICIAL[name].archive == f"https://storage.googleapis.com/{path}"
        server.files[f"/{path}"] = WEIGHTS
        monkeypatch.setitem(OFFICIAL, name, OFFICIAL[name]._replace(archive=f"{server.address}/{path}"))
        source = None if name == "albert-base-zh" else "archive"
        place = download(name, source=source, progress=False)
        assert place == cache() / name / path.rpartition("/")[2] == local(name)
        assert place.read_bytes() == WEIGHTS


def test_a_digest_in_the_table_is_checked(server, monkeypatch):
    server.files["/x.tar.gz"] = WEIGHTS
    row = OFFICIAL["albert-base-zh"]._replace(archive=f"{server.address}/x.tar.gz", sha256="0" * 64)
    monkeypatch.setitem(OFFICIAL, "albert-base-zh", row)
    refused(lambda: download("albert-base-zh", progress=False), "sha256 of what came is", "0" * 64)


def test_a_mirror_can_be_given(server, monkeypatch, nowhere):
    server.files["/copy/albert_base_v2.tar.gz"] = WEIGHTS
    address = f"{server.address}/copy/albert_base_v2.tar.gz"
    place = download("albert-base-v2", nowhere / "mine", address=address, progress=False)
    assert place == nowhere / "mine" / "albert_base_v2.tar.gz" and place.read_bytes() == WEIGHTS
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    assert content(download("albert-base-v2", nowhere / "b", address=server.address, progress=False)) == FILES


def test_sources_that_cannot_be_are_refused(server):
    refused(lambda: download("albert-base-zh", source="hub"), "not on the hub", "source='archive'", kind=InputError)
    refused(lambda: download("own/er", source="archive"), "no release of Google's", kind=InputError)
    refused(lambda: download("albert-base-v2", source="web"), "must be 'hub' or 'archive'", kind=InputError)
    refused(lambda: download("albert-base-v2", source="archive", address=f"{server.address}/x"), "is of no archive",
            kind=InputError)  # fmt: skip
    assert server.asked == []


# ---- what came ----


def test_what_differs_from_the_published_sizes_is_told(nowhere):
    place = put(nowhere / "m", {"config.json": b"x" * 684, "spiece.model": b"x" * 760_289})
    with open(place / "model.safetensors", "wb") as file:
        file.truncate(47_372_000)  # the hub's file, as published: 47.4 MB
    assert complaints("albert-base-v2", place) == []
    put(place, {"spiece.model": b"x" * 760_288})
    with open(place / "model.safetensors", "wb") as file:
        file.truncate(23_700_000)
    assert [line.split(": ")[1] for line in complaints("albert/albert-base-v2", place)] == [
        "760,288 bytes, 760,289 were published for albert-base-v2",
        "23,700,000 bytes, expected about 47,255,240 for albert-base-v2 in float32",
    ]
    assert "too few" in complaints("albert-base-v2", place / "spiece.model")[0]
    assert complaints("own/er", place) == []
