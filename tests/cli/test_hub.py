"""`minialbert download` as a user types it, against a hub on this machine."""

import hashlib
import json
from pathlib import Path

import pytest

from minialbert.cli import main
from minialbert.config import PRESETS
from tests.convert.web_server import like_the_hub, web_server

FILES = {"config.json": b"{}", "spiece.model": b"pieces", "model.safetensors": b"weights" * 1000}


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINIALBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    with web_server(monkeypatch) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        like_the_hub(server, "albert/albert-base-v2", FILES, ("model.safetensors",))
        yield server


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_download_says_where_it_is_what_came_and_how_to_use_it(server, run):
    Path("weights").mkdir()
    status, out, err = run("download", "albert-base-v2")
    lines = out.splitlines()
    assert status == 0 and lines[0] == "weights/albert-base-v2"
    digest = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert f"  model.safetensors  7,000 bytes  sha256 {digest}" in lines
    assert lines[-1] == 'use it: minialbert embed --model albert-base-v2 "Some text."'
    assert "warning: weights/albert-base-v2/model.safetensors: 7,000 bytes, expected about 47,255,240" in err


def test_download_into_a_directory_names_that_directory(server, run, tmp_path):
    status, out, _ = run("download", "albert/albert-base-v2", "--directory", tmp_path / "mine")
    assert status == 0 and f"--model {tmp_path / 'mine'} " in out.splitlines()[-1]
    assert {path.name for path in (tmp_path / "mine").iterdir()} == set(FILES)


def test_download_as_json(server, run, tmp_path):
    status, out, _ = run("download", "albert-base-v2", "--json", "--address", server.address, "--source", "hub")
    found = json.loads(out)
    assert status == 0 and found["path"] == str(tmp_path / "cache" / "albert-base-v2")
    assert {name: row["bytes"] for name, row in found["files"].items()} == {n: len(c) for n, c in FILES.items()}


def test_an_archive_is_one_file(server, run, tmp_path):
    server.files["/albert_base_v2.tar.gz"] = b"x" * 40_000_000
    status, out, err = run("download", "albert-base-v2", "--address", f"{server.address}/albert_base_v2.tar.gz")
    place = tmp_path / "cache" / "albert-base-v2" / "albert_base_v2.tar.gz"
    assert status == 0 and out.splitlines()[0] == str(place) and err == ""
    assert len(out.splitlines()) == 3 and "albert_base_v2.tar.gz  40,000,000 bytes  sha256 " in out


def test_list_names_every_official_model(run, server):
    run("download", "albert-base-v2")
    status, out, _ = run("download", "--list")
    rows = [line.split() for line in out.splitlines()]
    assert status == 0 and [row[0] for row in rows[1:]] == list(PRESETS)
    by_name = {row[0]: row for row in rows}
    assert by_name["albert-base-v2"][1:5] == ["hub", "11,813,810", "47", "MB"]
    assert by_name["albert-base-v2"][5].endswith("cache/albert-base-v2") and by_name["albert-base-v1"][5] == "-"
    assert by_name["albert-xxlarge-zh"][1] == "archive"
    status, out, _ = run("download", "--list", "--json")
    rows = json.loads(out)
    assert status == 0 and [row["name"] for row in rows] == list(PRESETS)
    assert rows[4]["hub"] == "albert/albert-base-v2" and rows[4]["sha256"] is None and rows[4]["parameters"] == 11813810


def test_errors_are_one_line_and_exit_1(run, server, monkeypatch):
    status, _, err = run("download", "albert-bsae-v2")
    assert status == 1
    assert err == "error: no official model is called 'albert-bsae-v2'. Nearest: albert-base-v2, albert-base-v1\n"
    status, out, err = run("download", "own/er")
    assert (status, out) == (1, "") and err.startswith(f"error: {server.address}/own/er: no config.json there")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids the network" in run("download", "albert-base-v2")[2]


@pytest.mark.parametrize("arguments", [[], ["x", "--list"], ["x", "--source", "web"]])
def test_wrong_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["download", *arguments])
    assert caught.value.code == 2 and "usage:" in capsys.readouterr().err
