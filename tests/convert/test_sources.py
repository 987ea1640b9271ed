"""What a reference means: paths before names, names where hub.py finds them, and a helpful line where nothing is."""

from pathlib import Path

import pytest

import minialbert
from minialbert.convert.sources import opened
from minialbert.errors import CheckpointError, FileError
from tests.conftest import GOLDEN, tiny_config
from tests.convert.directories import google_variables, write_archive, write_module, write_release, write_released

CONFIG = tiny_config()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A current directory and a home in which nothing lies."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "MINIALBERT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def with_vocabulary(directory: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(26))]
    (directory / "vocab.txt").write_text("\n".join(words))
    return directory


def cached(home: Path, folder: str) -> Path:
    place = home / ".cache/huggingface/hub" / folder
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123abcd")
    return with_vocabulary(write_released(place / "snapshots" / "0123abcd"))


PLACES = {
    "weights, as a Hugging Face directory": lambda tmp: with_vocabulary(
        write_released(tmp / "here/weights/albert-base-v2")
    ),
    "weights, as an archive": lambda tmp: archived(tmp, tmp / "here/weights/albert-base-v2.tar.gz"),
    "weights, as an archive in a directory": lambda tmp: archived(
        tmp, tmp / "here/weights/albert-base-v2/albert_base_v2.tar.gz"
    ),
    "our cache": lambda tmp: with_vocabulary(write_released(tmp / "home/.cache/minialbert/albert-base-v2")),
    "the cache of Hugging Face": lambda tmp: cached(tmp / "home", "models--albert--albert-base-v2"),
    "the same, under the name of old": lambda tmp: cached(tmp / "home", "models--albert-base-v2"),
}


def archived(tmp: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True)
    return write_archive(target, write_release(tmp / "albert_base", google_variables(CONFIG), CONFIG))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["albert-base-v2", "albert/albert-base-v2"])
def test_an_official_name_is_what_lies_on_this_machine(place, name, tmp_path):
    PLACES[place](tmp_path)
    model, tokenizer = minialbert.load(name)
    assert model.config.hidden_size == 12 and tokenizer("word2").input_ids.tolist() == [[2, 7, 3]]
    assert minialbert.AlbertForPreTraining.from_pretrained(name).config == model.config


def test_a_vocabulary_that_is_missing_is_downloaded_for_a_name_and_not_for_a_path(tmp_path, here):
    write_released(tmp_path / "home/.cache/minialbert/albert-base-v2")  # weights and no vocabulary
    with pytest.raises(FileError, match=r"no vocabulary.*complete it: minialbert download albert-base-v2"):
        minialbert.load("albert-base-v2")
    release = write_release(tmp_path / "release", google_variables(CONFIG), CONFIG)
    (release / "vocab_chinese.txt").unlink()
    for path in (release, release / "model.ckpt-best", write_archive(tmp_path / "a.tar.gz", release)):
        with pytest.raises(FileError, match="no vocabulary") as caught:
            minialbert.load(path)
        assert "download" not in str(caught.value)


def test_an_empty_name_is_not_the_current_directory(here):
    with_vocabulary(write_released(here))
    with pytest.raises(FileError, match="the name of the model is empty"):
        minialbert.load("")


def test_a_path_is_meant_before_a_name(tmp_path, here):
    with_vocabulary(write_released(tmp_path / "home/.cache/minialbert/albert-base-v2"))
    write_released(here / "albert-base-v2", "bert")
    with opened("albert-base-v2") as source:
        assert source.directory == Path("albert-base-v2")


@pytest.mark.parametrize(
    "name, words",
    [
        ("albert-base-v2", "no such file or directory; get it: minialbert download albert-base-v2"),
        ("albert-bse-v2", "no official model is called 'albert-bse-v2'. Nearest: albert-base-v2"),
        ("somebody/albert", "if this is a model on the hub: minialbert download somebody/albert"),
        ("./nothing/here", "there is no ./nothing either"),
        ("../here/model.ckpt", "../here has no files"),
        ("/no/such/place", "there is no /no/such either"),
    ],
)
def test_a_name_that_is_not_here_says_what_to_run(name, words):
    with pytest.raises(FileError) as caught:
        minialbert.load(name)
    assert str(caught.value).startswith(f"{name}: ") and words in str(caught.value)


def test_what_a_source_is_called(tmp_path):
    release = write_release(tmp_path / "release", google_variables(CONFIG), CONFIG)
    hf = write_released(tmp_path / "hf")
    for path, kind, native in [
        (hf, "Hugging Face directory", True),
        (hf / "model.safetensors", "file of tensors", False),
        (release, "TensorFlow checkpoint", False),
        (release / "model.ckpt-best", "TensorFlow checkpoint", False),
        (GOLDEN / "google-v2-tiny", "TensorFlow checkpoint", False),
        (write_module(tmp_path / "module", release), "hub module", False),
        (write_archive(tmp_path / "a.tar.gz", release), "TensorFlow checkpoint", False),
    ]:
        with opened(path) as source:
            assert (source.kind, source.is_native) == (kind, native), path


def test_hugging_faces_files_are_preferred_to_tensorflows(tmp_path):
    release = write_release(tmp_path, google_variables(CONFIG), CONFIG)
    write_released(release)
    with opened(release) as source:
        assert source.kind == "Hugging Face directory" and source.config.name == "config.json"


def test_of_several_checkpoints_the_one_that_tensorflow_names_is_taken(tmp_path):
    for step in (100, 200, 300):
        write_release(tmp_path, google_variables(CONFIG, seed=step), CONFIG, f"model.ckpt-{step}")
    with pytest.raises(CheckpointError, match="holds 3 checkpoints"):
        minialbert.load(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-200"\n')
    newest, _ = minialbert.load(tmp_path)
    named, _ = minialbert.load(tmp_path / "model.ckpt-200")
    assert newest.digest() == named.digest() != minialbert.load(tmp_path / "model.ckpt-300")[0].digest()
