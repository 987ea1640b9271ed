"""The official checkpoints by name: where they are in the world, where they lie on this machine, how they get here.

fetch.py downloads one file; __init__.py and its neighbours read what came. Where huggingface_hub is installed, models
of the hub go through it into the cache that transformers has, too; without it, and for a directory of one's own, over
plain https, as Google's archives do. Its variables (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME, HF_HUB_CACHE) mean
here what they mean there, and its cache is read in any case.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert.fetch import NotThere, fetch
from minialbert.errors import FileError, InputError, NameUnknown, nearest

VOCABULARIES = ("spiece.model", "vocab.txt", "tokenizer.json")
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there; each also as shards with an index
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_STORE = "https://storage.googleapis.com"


class Official(NamedTuple):
    """Where one official model is published."""

    hub: str | None  # OWNER/NAME on the hub
    archive: str  # address of Google's release
    sha256: str | None = None  # of the archive; Google published none, and none is made up here
    sizes: tuple[tuple[str, int], ...] = ()  # files of the hub's directory and their published bytes


def _albert(size: str, version: str) -> Official:
    hub = None if version == "zh" else f"albert/albert-{size}-{version}"
    known = (("config.json", 684), ("spiece.model", 760_289)) if (size, version) == ("base", "v2") else ()
    return Official(hub, f"{_STORE}/albert_models/albert_{size}_{version}.tar.gz", sizes=known)


_BERT_ARCHIVES = {  # under bert_models, as linked in the README of Google's BERT
    "bert-base-uncased": "2018_10_18/uncased_L-12_H-768_A-12.zip",
    "bert-large-uncased": "2018_10_18/uncased_L-24_H-1024_A-16.zip",
    "bert-base-cased": "2018_10_18/cased_L-12_H-768_A-12.zip",
    "bert-large-cased": "2018_10_18/cased_L-24_H-1024_A-16.zip",
    "bert-base-multilingual-cased": "2018_11_23/multi_cased_L-12_H-768_A-12.zip",
    "bert-base-chinese": "2018_11_03/chinese_L-12_H-768_A-12.zip",
}
OFFICIAL: dict[str, Official] = {
    f"albert-{size}-{version}": _albert(size, version)
    for version in ("v1", "v2", "zh")
    for size in ("base", "large", "xlarge", "xxlarge")
} | {name: Official(f"google-bert/{name}", f"{_STORE}/bert_models/{path}") for name, path in _BERT_ARCHIVES.items()}


def canonical(name: str) -> str:
    """An official name without its owner ("albert-base-v2"), or OWNER/NAME of any other model on the hub.

    Raises NameUnknown, with the nearest official names.
    """
    key = name.removeprefix("albert/").removeprefix("google-bert/")
    if key in OFFICIAL:
        return key
    word = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
    if re.fullmatch(f"{word}/{word}", name) and ".." not in name and "--" not in name:
        return name
    near = nearest(key, OFFICIAL)
    raise NameUnknown(
        f"no official model is called {name!r}. "
        + (f"Nearest: {near}" if near else "All: minialbert download --list; others by OWNER/NAME of the hub")
    )


def weight_bytes(key: str) -> int:
    """Bytes of an official model's parameters in float32, heads of pre-training included."""
    return 4 * AlbertConfig.preset(key).count_parameters()["pretraining"]


# ---- on this machine ----


def local(name: str) -> Path | None:
    """Where a model already lies on this machine: its directory, or Google's archive of it; None when nowhere.

    name is an official name or OWNER/NAME. Looked through, in this order: weights/ in the current directory, weights/
    of the checkout this package runs from, our cache (MINIALBERT_CACHE, else ~/.cache/minialbert), Hugging Face's cache
    (revision main). A directory counts when it holds a configuration and all its weights. Never raises.
    """
    try:
        key = canonical(name)
    except NameUnknown:
        return None
    checkout = Path(__file__).resolve().parents[2]
    roots = [Path("weights"), *([checkout / "weights"] if (checkout / "pyproject.toml").is_file() else []), cache()]
    places = (_lies_at(root / key) for root in roots)
    return next((place for place in (*places, *_hugging_face_snapshots(key)) if place), None)


def where_to_get(name: str) -> str:
    """What stands after "not here": the command that downloads it, or the official names most like it."""
    try:
        key = canonical(name)
    except NameUnknown as error:
        return str(error)
    if key in OFFICIAL:
        return f"get it: minialbert download {key}"
    return f"if this is a model on the hub: minialbert download {key}"


def cache() -> Path:
    """Where downloads go when there is no weights/ in the current directory."""
    return Path(os.path.expanduser(os.environ.get("MINIALBERT_CACHE") or "~/.cache/minialbert"))


def _lies_at(place: Path) -> Path | None:
    """A whole directory, an archive in it, or an archive beside it that has its name."""
    if _is_whole(place):
        return place
    inside = sorted(os.listdir(place)) if os.path.isdir(place) and os.access(place, os.R_OK) else []
    archives = [place / file for file in inside if file.endswith(_ARCHIVES)]
    archives += [place.with_name(place.name + ending) for ending in _ARCHIVES]
    return next((archive for archive in archives if os.path.isfile(archive)), None)


def _is_whole(directory: Path) -> bool:
    """Whether a directory has what a model needs: Hugging Face's two kinds of files, or those of Google's release."""
    names = set(os.listdir(directory)) if os.path.isdir(directory) and os.access(directory, os.R_OK) else set()
    here = {name for name in names if os.path.isfile(directory / name)}  # False for links that lead nowhere
    if "config.json" in here:
        for file in _WEIGHTS:
            if file in here:
                return True
            if f"{file}.index.json" in here:
                try:
                    return set(_shards(directory / f"{file}.index.json")) <= here
                except FileError:
                    return False
    variables = {name.removesuffix(".index") for name in here if name.endswith(".index")}
    parts = {name.partition(".data-")[0] for name in here if ".data-" in name}
    return bool(here & {"albert_config.json", "bert_config.json"} and variables & parts)


def _hugging_face_snapshots(key: str) -> Iterator[Path]:
    """What refs/main points to in Hugging Face's cache, by today's name and the one from before there were owners."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    root = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    for name in filter(None, (OFFICIAL[key].hub if key in OFFICIAL else None, key)):
        folder = Path(os.path.expanduser(root)) / f"models--{name.replace('/', '--')}"
        try:
            revision = (folder / "refs" / "main").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        snapshot = folder / "snapshots" / revision
        if re.fullmatch("[0-9a-f]+", revision) and _is_whole(snapshot):
            yield snapshot


def _shards(index: Path) -> list[str]:
    """The file names in an index of shards. Raises FileError when it is none, or names files elsewhere."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        if not all(name and Path(name).name == name and name[0] != "." for name in names) or not names:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FileError(f"{index}: not an index of shards beside it; download it again") from None
    return sorted(names)


# ---- from the network ----


def download(
    name: str, directory: str | Path | None = None, *, source: str | None = None, address: str | None = None,
    progress: bool = True,
) -> Path:  # fmt: skip
    """Get a model by name: a Hugging Face directory (source "hub") or Google's release (source "archive").

    name is an official name or OWNER/NAME of the hub; the source is the hub where the model is there. It is put into
    `directory` (refused when it holds another model), else weights/NAME when there is a weights/ here, else the cache
    of huggingface_hub if that is installed and MINIALBERT_CACHE not set, else our own.
    Files that are there already are compared and kept; a download that was stopped goes on. address is a mirror: of
    the archive, or of the hub in the place of HF_ENDPOINT. Returns the directory, or the archive's path.
    HF_HUB_OFFLINE is obeyed: then only what is there already is returned.
    Raises NameUnknown, InputError, FileError.
    """
    key = canonical(name)
    official = OFFICIAL.get(key)
    hub = official.hub if official else key
    if source is None:
        archived = address is not None and urlsplit(address).path.endswith(_ARCHIVES)
        source = "archive" if archived or not hub else "hub"
    place = (
        Path(directory) if directory is not None else (Path("weights") if os.path.isdir("weights") else cache()) / key
    )
    if is_offline():
        found = _lies_at(place) or (local(key) if directory is None else None)
        if found:
            return found
        raise FileError(f"{place}: {key} is not there, and HF_HUB_OFFLINE forbids the network; unset it to download")
    if source == "hub":
        if not hub:
            raise InputError(f"{key} is not on the hub under an official name; use source='archive'")
        own = directory is not None or address is not None or os.environ.get("MINIALBERT_CACHE")
        through_library = None if own or os.path.isdir("weights") else _library(hub)
        endpoint = (address or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        get = through_library or _https(f"{endpoint}/{hub}", place, progress, directory is None)
        return _collect(get, f"{endpoint}/{hub}")
    if source != "archive":
        raise InputError(f"source={source!r} must be 'hub' or 'archive'")
    address = address or (official.archive if official else None)
    if address is None:
        raise InputError(f"{key} has no release of Google's; use source='hub', or give its address")
    file = Path(urlsplit(address).path).name
    if not file.endswith(_ARCHIVES):
        raise InputError(f"address={address!r} is of no archive; expected one that ends in {', '.join(_ARCHIVES)}")
    return fetch(address, place / file, sha256=official.sha256 if official else None, progress=progress).path


def is_offline() -> bool:
    """Whether the user has forbidden the network, in the words of Hugging Face."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def _collect(get: Callable[[str], Path | None], repository: str) -> Path:
    """The directory with the files of a model; get brings one of them, None where there is no such file.

    The weights are the last, so that what has them is whole.
    """
    first = get("config.json")
    if first is None:
        raise FileError(f"{repository}: no config.json there, so no model of that name; check OWNER/NAME")
    if not [file for file in VOCABULARIES if get(file)]:
        raise FileError(f"{repository}: no vocabulary there, looked for {', '.join(VOCABULARIES)}")
    for file in _BESIDE:
        get(file)
    for file in _WEIGHTS:
        if get(file):
            return first.parent
        if index := get(f"{file}.index.json"):
            for shard in _shards(index):
                if not get(shard):
                    raise FileError(f"{repository}: {shard} is named in {file}.index.json and is not there")
            return first.parent
    raise FileError(f"{repository}: no weights there that can be read, looked for {', '.join(_WEIGHTS)}")


def _https(repository: str, place: Path, progress: bool, replace: bool) -> Callable[[str], Path | None]:
    """Files over plain https into a directory of their own, all of one revision.

    The configuration is the first. Without replace another one is refused there: it is some other model's directory.
    """
    token = os.environ.get("HF_TOKEN", "").strip() or None
    if token and not (token.isascii() and token.isprintable()):
        raise InputError("HF_TOKEN holds characters that no token has; set it again")
    revision = "main"

    def get(file: str) -> Path | None:
        nonlocal revision
        try:
            got = fetch(
                f"{repository}/resolve/{revision}/{file}", place / file, token=token, progress=progress,
                replace=replace or file != "config.json",
            )  # fmt: skip
        except NotThere:
            return None
        if revision == "main" and re.fullmatch("[0-9a-f]{40}", got.revision):
            revision = got.revision
        return place / file

    return get


def _library(hub: str) -> Callable[[str], Path | None] | None:
    """Files by way of huggingface_hub, in its cache; None where it is not installed."""
    try:
        from huggingface_hub import hf_hub_download, logging
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        return None

    logging.set_verbosity_error()  # its retries; the error says enough

    def get(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(hub, file))
        except LocalEntryNotFoundError as error:
            raise FileError(f"{hub}: {file} cannot be got, is there a network? ({_first_line(error)})") from None
        except EntryNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError) as error:  # http errors are OSErrors in some versions of it
            raise FileError(f"{hub}: {file} cannot be got ({_first_line(error)}); check OWNER/NAME") from None

    return get


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def files_of(path: Path) -> list[Path]:
    """The files that make the model at a path that `download` returned."""
    if path.is_file():
        return [path]
    names = ["config.json", *VOCABULARIES, *_BESIDE]
    for file in _WEIGHTS:
        index = path / f"{file}.index.json"
        names += [file, index.name, *(_shards(index) if index.is_file() else [])]
    return [path / name for name in names if (path / name).is_file()]


def complaints(name: str, path: Path) -> list[str]:
    """What differs from the published facts about an official model: sizes of files, a line each."""
    key = canonical(name)
    if key not in PRESETS:
        return []
    said, floats = [], weight_bytes(key)
    if path.is_file():
        size = path.stat().st_size
        return [f"{path}: {size:,} bytes, too few for {floats:,} bytes of weights"] if size < 0.8 * floats else []
    for file, published in OFFICIAL[key].sizes:
        found = (path / file).stat().st_size if (path / file).is_file() else published
        if found != published:
            said.append(f"{path / file}: {found:,} bytes, {published:,} were published for {key}")
    for file in _WEIGHTS:
        found = (path / file).stat().st_size if (path / file).is_file() else floats
        if not 0.98 < found / floats < 1.02:
            said.append(f"{path / file}: {found:,} bytes, expected about {floats:,} for {key} in float32")
    return said
