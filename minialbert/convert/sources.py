"""What a path or a name means: where the weights, the configuration and the vocabulary of a model are.

A source is a Hugging Face directory, a Google release (archive, directory or checkpoint prefix), a hub module, a single
file of weights, or an official name that hub.py finds on this machine. Archives are unpacked to a temporary directory
by archives.py. Nothing is loaded here; reading.py does that.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minialbert.config import AlbertConfig
from minialbert.convert.archives import is_archive, unpack
from minialbert.convert.google_files import GoogleWeights
from minialbert.convert.hub import local, where_to_get
from minialbert.convert.tf_checkpoint import find_prefix, is_bundle
from minialbert.convert.torch_files import Weights, holds_weights, nothing_to_read
from minialbert.errors import CheckpointError, FileError, MiniAlbertError
from minialbert.tokenizers import Tokenizer, load_tokenizer

SHIPPED = "minialbert-tiny-en"  # the model that load() gives
CONFIGS = ("config.json", "albert_config.json", "bert_config.json")


@dataclass(frozen=True)
class Source:
    """Where the parts of a model are."""

    ref: str  # as it was given
    kind: str  # in words, for people
    directory: Path  # with the vocabulary; in an archive, a temporary one
    config: Path  # the file, which may not be there
    weights_path: Path  # a directory or file of Hugging Face's, or a TensorFlow prefix
    is_google: bool = False
    unpacked: tuple[Path, Path] | None = None  # an archive, and the directory that stands for it

    def weights(self) -> Weights | GoogleWeights:
        """The tensors, listed; raises FileError or CheckpointError."""
        return GoogleWeights(self.weights_path) if self.is_google else Weights(self.weights_path)

    def tokenizer(
        self, vocabulary: str | Path | None = None, config: AlbertConfig | None = None, **settings: Any
    ) -> Tokenizer:
        """The tokenizer beside the weights, or of a vocabulary elsewhere; settings and errors as in load_tokenizer.

        With a configuration no text is taken for longer than the model has positions.
        """
        try:
            tokenizer = load_tokenizer(vocabulary or self.directory, **settings)
        except CheckpointError:
            raise
        except FileError as error:  # a cache that somebody filled with the weights alone
            by_name = not os.path.exists(self.ref) and not _is_prefix(Path(self.ref))
            more = f"; complete it: minialbert download {self.ref}" if by_name else ""
            raise FileError(f"{error}{more}") from None
        if config is not None and "model_max_length" not in settings:
            longest = tokenizer.model_max_length or config.max_position_embeddings
            tokenizer.model_max_length = min(longest, config.max_position_embeddings)
        tokenizer.source = Path(self.shown(str(tokenizer.source)))
        return tokenizer

    def shown(self, text: str) -> str:
        """A message as the user should see it: with the name of the archive, not of the folder it was unpacked to."""
        return text.replace(str(self.unpacked[1]), str(self.unpacked[0])) if self.unpacked else text

    @property
    def is_native(self) -> bool:
        """Whether transformers could read it as it is: a Hugging Face directory."""
        return not self.is_google and self.weights_path == self.directory


def shipped() -> Path:
    """The directory of the model that ships: in the package as installed, or beside it in a clone."""
    package = Path(__file__).parent.parent
    found = [place / "weights" / SHIPPED for place in (package, package.parent)]
    for path in found:
        if path.is_dir():
            return path
    raise FileError(f"{found[0]}: the model that ships is not there; install minialbert again, or give a model")


@contextmanager
def opened(ref: str | Path | None) -> Iterator[Source]:
    """The source that a path or name means; what was unpacked for it is there as long as the context.

    None, and its name, is the small model that ships. Raises FileError when there is nothing under this name, or
    nothing to read in it.
    """
    if ref is None or (str(ref) == SHIPPED and not os.path.exists(ref)):
        ref = shipped()
    if not str(ref):
        raise FileError("the name of the model is empty; is a variable not set?")
    path = Path(ref)
    if not os.path.exists(path):  # not path.exists(), which raises for a name too long and for a closed folder above
        if _is_prefix(path):
            yield _bundle(path, str(ref))
            return
        found = local(str(ref))
        if found is None:
            raise FileError(f"{ref}: no such file or directory; {_what_then(str(ref))}")
        path = found
    if os.path.isdir(path):
        if os.path.isfile(path / "report.json") and os.path.isfile(path / "model" / "config.json"):
            path = path / "model"  # a run of finetune: its best model
        archive = _only_archive(path)
        if archive is None:
            yield _directory(path, str(ref))
            return
        path = archive
    if is_archive(path):
        with tempfile.TemporaryDirectory(prefix="minialbert-") as folder:
            unpack(path, Path(folder))
            try:
                yield replace(_directory(Path(folder), str(ref)), unpacked=(path, Path(folder)))
            except MiniAlbertError as error:
                error.args = (str(error).replace(folder, str(path)),)  # as Source.shown has it
                raise
    else:
        yield _file(path, str(ref))


def _what_then(ref: str) -> str:
    """What to do about what is not there: the nearest files of a path, or how to get the model of a name."""
    above = os.path.dirname(ref.rstrip("/"))
    if above and os.path.isdir(above):
        return f"{above} has {', '.join(sorted(os.listdir(above))[:8]) or 'no files'}"
    if ref.startswith((".", "/", "~")) or ref.count("/") > 1:
        return f"there is no {above} either" if above else "expected a path, or the name of a model"
    return where_to_get(ref)


def _is_prefix(path: Path) -> bool:
    """Whether there are files of a TensorFlow checkpoint under this name, which is none itself."""
    endings = (".index", ".meta", ".data-00000-of-00001")
    return any(os.path.exists(f"{path}{ending}") for ending in endings)


def _file(path: Path, ref: str) -> Source:
    """One file: of a TensorFlow checkpoint, of tensors, or the index of shards."""
    if is_bundle(path):
        return _bundle(path, ref)
    if path.name.endswith(".index.json"):
        return _directory(path.parent, ref)
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        return Source(ref, "file of tensors", path.parent, config_in(path.parent), path)
    raise FileError(
        f"{path}: is no file of weights by its name; expected .safetensors, .bin, an archive (.tar.gz, .zip), "
        "a TensorFlow checkpoint (.index) or a directory with one of them"
    )


def _directory(path: Path, ref: str, depth: int = 2) -> Source:
    """A directory, or the only one inside it that holds a model, as releases have it."""
    here = _here(path, ref)
    if here is not None:
        return here
    inside = []
    if depth:
        for folder in sorted(p for p in _listed(path) if p.is_dir() and not p.name.startswith((".", "__"))):
            try:
                inside.append(_directory(folder, ref, depth - 1))
            except CheckpointError:
                raise
            except FileError:  # nothing in this one
                pass
    if len(inside) > 1:
        names = ", ".join(str(source.weights_path.relative_to(path)) for source in inside)
        raise CheckpointError(f"{path}: holds {len(inside)} models ({names}); give the path of one")
    if not inside:
        raise nothing_to_read(path)
    return inside[0]


def _here(path: Path, ref: str) -> Source | None:
    """The model in a directory itself."""
    if holds_weights(path):
        return Source(ref, "Hugging Face directory", path, config_in(path), path)
    if os.path.isfile(path / "variables" / "variables.index"):
        assets = path / "assets" if os.path.isdir(path / "assets") else path
        return Source(ref, "hub module", assets, config_in(assets, path), path / "variables" / "variables", True)
    return _bundle(path, ref) if is_bundle(path) else None


def _bundle(path: Path, ref: str) -> Source:
    prefix = find_prefix(path)
    if prefix.parent.name == "variables" and prefix.name == "variables":
        assets = prefix.parent.parent / "assets"
        if assets.is_dir():
            return Source(ref, "hub module", assets, config_in(assets, prefix.parent.parent), prefix, True)
    return Source(ref, "TensorFlow checkpoint", prefix.parent, config_in(prefix.parent), prefix, True)


def config_in(*directories: Path) -> Path:
    """The configuration by one of its names; the first name where there is none, for the error that comes."""
    every = [directory / name for directory in directories for name in CONFIGS]
    return next((path for path in every if os.path.isfile(path)), every[0])


def _only_archive(path: Path) -> Path | None:
    """The archive in a directory that holds nothing else to read, as a download leaves it."""
    archives = [p for p in _listed(path) if p.is_file() and is_archive(p)]
    return archives[0] if len(archives) == 1 and _here(path, "") is None else None


def _listed(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
