"""Release archives: nothing leaves the directory, and every kind of damage has its one line."""

import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minialbert
from minialbert.convert.archives import unpack
from minialbert.convert.sources import opened
from minialbert.errors import CheckpointError, FileError, MiniAlbertError
from tests.conftest import tiny_config
from tests.convert.directories import google_variables, write_archive, write_module, write_release

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "albert_tiny", google_variables(CONFIG), CONFIG)


@pytest.fixture
def release(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "albert_tiny"))


def tar_with(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_with(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def files_of(release: Path) -> list[tuple[str, bytes]]:
    return [(f"albert_tiny/{path.name}", path.read_bytes()) for path in sorted(release.iterdir())]


def cut(path: Path, keep: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def flip(path: Path, place: float) -> Path:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    path.write_bytes(data)
    return path


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def without(release: Path, *endings: str) -> Path:
    for path in release.iterdir():
        if path.name.endswith(endings):
            path.unlink()
    return release


def renamed(release: Path, old: str, new: str) -> Path:
    (release / old).rename(release / new)
    return release


def second(release: Path) -> Path:
    write_release(release, google_variables(CONFIG), CONFIG, "model.ckpt-200")
    return release


NOTE = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64
DATA = "model.ckpt-best.data-00000-of-00001"
BROKEN = {  # what is given (release: a good directory, tmp: an empty one) and words of the answer
    "member above the directory": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", *files_of(r), ("../evil.json", b"{}")), "would leave the directory"),
    "member with an absolute name": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", ("/etc/evil.json", b"{}")), "would leave the directory"),
    "member above after going down": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", ("a/../../evil.json", b"{}")), "would leave the directory"),
    "member of a drive": (
        lambda r, tmp: zip_with(tmp / "a.zip", ("..\\evil.json", b"{}")), "would leave the directory"),
    "symbolic link": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", special("a/config.json", tarfile.SYMTYPE, "/etc/passwd")),
        "is a link, expected plain files"),
    "hard link": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", special("a/vocab.txt", tarfile.LNKTYPE, "x")), "is a link"),
    "device": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", special("a/vocab.txt", tarfile.CHRTYPE)), "is a device"),
    "symbolic link in a zip": (
        lambda r, tmp: zip_with(tmp / "a.zip", (zip_link("a/config.json"), b"/etc/passwd")), "is a link"),
    "member twice": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", *files_of(r), files_of(r)[0]), "has two members"),
    "archive cut in half": (
        lambda r, tmp: cut(write_archive(tmp / "a.tar.gz", r), 0.5), "not a whole archive", "download it again"),
    "archive without its last bytes": (
        lambda r, tmp: cut(write_archive(tmp / "a.tar.gz", r), 0.999), "not a whole archive"),
    "zip cut in half": (lambda r, tmp: cut(write_archive(tmp / "a.zip", r), 0.5), "not a whole archive"),
    "one bit of an archive changed": (
        lambda r, tmp: flip(write_archive(tmp / "a.tar.gz", r), 0.5), "not a whole archive"),
    "one bit of a zip changed": (lambda r, tmp: flip(write_archive(tmp / "a.zip", r), 0.4), "not a whole archive"),
    "empty archive file": (lambda r, tmp: written(tmp / "a.tar.gz", b""), "not a whole archive"),
    "a page called an archive": (
        lambda r, tmp: written(tmp / "a.tar.gz", "<!DOCTYPE html><html>404</html>"), "a web page, not the file"),
    "compressed, but no archive": (
        lambda r, tmp: written(tmp / "a.tar.gz", gzip.compress(b"text " * 1000)), "not a whole archive"),
    "archive without a model": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", ("readme.txt", b"nothing")), "no model.safetensors", "no TensorFlow"),
    "archive of two models": (
        lambda r, tmp: tar_with(tmp / "a.tar.gz", *files_of(r), *((f"b/{n}", d) for n, d in files_of(r))),
        "holds 2 models", "give the path of one"),
    "archive without its configuration": (
        lambda r, tmp: write_archive(tmp / "a.tar.gz", without(r, "_config.json")), "the sizes of a model", "--config"),
    "archive without its vocabulary": (
        lambda r, tmp: write_archive(tmp / "a.tar.gz", without(r, ".txt")), "no vocabulary. Looked for"),
    "archive without its index": (
        lambda r, tmp: write_archive(tmp / "a.tar.gz", without(r, ".index")), "no TensorFlow checkpoint"),
    "archive without its data": (
        lambda r, tmp: write_archive(tmp / "a.tar.gz", without(r, DATA)), DATA, "missing"),
    "directory without its data": (lambda r, tmp: without(r, DATA), DATA, "missing"),
    "prefix without its index": (
        lambda r, tmp: without(r, ".index") / "model.ckpt-best", "model.ckpt-best.index", "no such index"),
    "directory with two checkpoints": (lambda r, tmp: second(r), "model.ckpt-200", "model.ckpt-best"),
    "data cut off": (lambda r, tmp: cut(r / DATA, 0.5).parent, DATA, "bytes"),
    "one bit of the data changed": (lambda r, tmp: flip(r / DATA, 0.5).parent, "checksum"),
    "one bit of the index changed": (lambda r, tmp: flip(r / "model.ckpt-best.index", 0.3).parent, "checksum"),
    "index cut off": (lambda r, tmp: cut(r / "model.ckpt-best.index", 0.5).parent, "model.ckpt-best.index", "cut off"),
    "a page called an index": (
        lambda r, tmp: written(r / "model.ckpt-best.index", "<html>" + " " * 100).parent, "a web page"),
    "the note of git-lfs called an index": (
        lambda r, tmp: written(r / "model.ckpt-best.index", NOTE).parent, "git-lfs"),
    "damaged data in a sound archive": (
        lambda r, tmp: write_archive(tmp / "a.tar.gz", flip(r / DATA, 0.5).parent), f"a.tar.gz/albert_tiny/{DATA}: "),
    "configuration of another size": (
        lambda r, tmp: written(r / "albert_config.json", (r / "albert_config.json").read_text().replace(
            '"hidden_size": 12', '"hidden_size": 24')).parent, "the configuration needs"),
    "configuration cut off": (lambda r, tmp: cut(r / "albert_config.json", 0.5).parent, "not whole JSON"),
    "configuration without its vocabulary size": (
        lambda r, tmp: written(r / "albert_config.json", '{"hidden_size": 12}').parent, "vocab_size is missing"),
    "vocabulary of another model": (
        lambda r, tmp: written(r / "vocab_chinese.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "a\n" * 99).parent,
        "vocab"),
    "module without its variables": (
        lambda r, tmp: without(write_module(tmp / "m", r) / "variables", ".index").parent, "no model.safetensors"),
    "module without its configuration": (
        lambda r, tmp: without(write_module(tmp / "m", r) / "assets", "_config.json").parent, "--config"),
    "only the graph of a checkpoint": (
        lambda r, tmp: written(without(r, ".index", DATA) / "model.ckpt-best.meta", b"graph").parent,
        "no TensorFlow checkpoint", "model.ckpt-best.meta"),
    "a name that nobody has": (lambda r, tmp: "albert-base-v3", "albert-base-v2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_container_gets_one_line(name, release, tmp_path):
    (tmp_path / "given").mkdir()
    make, *words = BROKEN[name]
    given_path = make(release, tmp_path / "given")
    with pytest.raises(MiniAlbertError) as caught:
        minialbert.load(given_path)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 700
    for word in words:
        assert word in line, line
    assert not list(tmp_path.rglob("evil.json"))


def test_there_are_at_least_thirty_kinds():
    assert len(BROKEN) >= 30


def test_what_was_unpacked_is_gone_afterwards(release, tmp_path):
    archive = write_archive(tmp_path / "a.tar.gz", release)
    with opened(archive) as source:
        folder = source.directory
        assert (folder / "albert_config.json").is_file()
    assert not folder.exists()
    _, tokenizer = minialbert.load(archive)  # of neither is a part left in it
    assert tokenizer("word1").input_ids.tolist() == [[2, 6, 3]]
    tokenizer.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").is_file()


def test_what_is_not_needed_is_not_unpacked(release, tmp_path):
    (release / "model.ckpt-best.meta").write_bytes(b"graph")
    (release / "30k-clean.vocab").write_bytes(b"to read")
    with opened(write_archive(tmp_path / "a.tar.gz", release)) as source:
        names = {path.name for path in source.directory.iterdir()}
    assert names == {"model.ckpt-best.index", DATA, "albert_config.json", "vocab_chinese.txt"}


def test_an_archive_larger_than_the_room_is_refused_before_it_is_full(release, tmp_path, monkeypatch):
    archive = write_archive(tmp_path / "a.tar.gz", release)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(FileError, match="and no room in"):
        minialbert.load(archive)


def test_a_header_that_lies_about_a_size_cannot_fill_the_disk(tmp_path):
    info = tarfile.TarInfo("model.bin")
    info.size = 10**15
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf() + b"\0" * 1024)
    (tmp_path / "out").mkdir()
    with pytest.raises((CheckpointError, FileError)):
        unpack(path, tmp_path / "out")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_an_archive_raises_anything_else(original, tmp_path, data):
    path = tmp_path / data.draw(st.sampled_from(["a.tar.gz", "a.zip"]))
    bytes_ = bytearray(write_archive(path, original).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bytes_) - 1))
        if data.draw(st.booleans()):
            bytes_[at] ^= data.draw(st.integers(1, 255))
        else:
            del bytes_[at : at + data.draw(st.integers(1, 50))]
    path.write_bytes(bytes_)
    try:
        model, _ = minialbert.load(path)
    except MiniAlbertError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(model.embeddings.word.weight.detach().numpy()).all()
