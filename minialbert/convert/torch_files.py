"""Reads and writes the files of Hugging Face's directory that hold tensors: safetensors and .bin, whole or in shards.

What the tensors are called and where they belong is in names.py and __init__.py. Nothing in a file is ever executed:
a .bin is a pickle and is read with weights_only=True or not at all.
"""

import json
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minialbert.errors import CheckpointError, FileError
from minialbert.whole import whole_file

Listing = dict[str, tuple[str, list[int]]]  # name: (dtype in the words of safetensors, shape)
FLOATS = ("F64", "F32", "F16", "BF16")  # what parameters can be
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # as in the safetensors library
_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order of preference; each may be in shards
_UNREAD = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "with-prefix-tf_model.h5")


class Span(NamedTuple):
    """Where one tensor lies in a safetensors file, in bytes from the end of the header."""

    dtype: str
    shape: list[int]
    start: int
    stop: int


def list_safetensors(path: Path) -> Listing:
    """Names, dtypes and shapes from the header alone, every number in it checked against the file's size."""
    _, spans = _read_header(path)
    return {name: (span.dtype, span.shape) for name, span in spans.items()}


def _read_header(path: Path) -> tuple[int, dict[str, Span]]:
    """The byte where the tensors begin, and where each of them lies. Raises CheckpointError."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        first = file.read(8)
        _refuse_stand_in(path, first)
        if len(first) < 8:
            raise CheckpointError(f"{path}: {size} bytes, too short to be safetensors; download it again")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - 8, _LONGEST_HEADER):
            raise CheckpointError(
                f"{path}: its header claims {length:,} bytes, the file has {size:,}: not safetensors, or cut off; "
                "download it again"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        made_for = dict(header.pop("__metadata__", None) or {}).get("format")
        spans = {
            name: Span(str(row["dtype"]), _counts(row["shape"]), *_counts(row["data_offsets"]))
            for name, row in header.items()
        }
        _printable(spans)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: its header is not the JSON of safetensors; download it again") from None
    if made_for in ("tf", "flax", "mlx"):
        raise CheckpointError(
            f"{path}: its tensors are laid out for {made_for}, expected format 'pt'; get the file made for PyTorch"
        )
    _check_spans(path, spans, size - 8 - length)
    return 8 + length, spans


def _check_spans(path: Path, spans: dict[str, Span], room: int) -> None:
    """The tensors must fill the room behind the header exactly, one after the other."""
    end = 0
    for name, (dtype, shape, start, stop) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if dtype not in _DTYPES:
            raise CheckpointError(f"{path}: {name} is of dtype {dtype!r}; known are {', '.join(_DTYPES)}")
        if start != end or stop - start != math.prod(shape) * _DTYPES[dtype].itemsize:
            raise CheckpointError(
                f"{path}: its header says {name} is {dtype} {shape} in bytes {start}..{stop}, expected "
                f"{math.prod(shape) * _DTYPES[dtype].itemsize} bytes from {end}; the file is damaged, download it again"
            )
        end = stop
    if end != room:
        raise CheckpointError(
            f"{path}: the tensors need {end:,} bytes, the file has {room:,} for them; "
            + ("it was cut off: download it again" if room < end else "something was added at its end")
        )


def _counts(values: Any) -> list[int]:
    """Whole numbers of at least 0, as JSON gives them."""
    if not isinstance(values, list) or any(type(n) is not int or n < 0 for n in values):
        raise ValueError
    return values


def _printable(names: Iterable[Any]) -> None:
    """Names stand in one-line messages; no real file has one with a line break in it."""
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError


def _refuse_stand_in(path: Path, first: bytes) -> None:
    """What git leaves in the place of a large file when git-lfs is not installed."""
    if first == b"version ":
        raise CheckpointError(f"{path}: only git-lfs's note of where the file is; fetch it with git lfs pull")


def read_bin(path: Path) -> dict[str, Tensor]:
    """A pickle of tensors, of any torch version, refused when it holds anything else."""
    with open(path, "rb") as file:
        first = file.read(8)
    if not first:
        raise CheckpointError(f"{path}: empty file; download it again")
    _refuse_stand_in(path, first)
    if first[7:8] == b"\0" and path.read_bytes()[8:9] == b"{":
        raise CheckpointError(f"{path}: is safetensors by its content; rename it to .safetensors")
    if not first.startswith((b"PK", b"\x80")):  # a zip, or a pickle as torch wrote them before
        raise CheckpointError(f"{path}: not a torch file, it begins with {first!r}; download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols and the like: it loads or it does not
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes torch.load raises nearly every kind there is
        raise CheckpointError(f"{path}: {_why_unread(error)}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, expected a dictionary of tensors")
    try:
        _printable(data)
    except ValueError:
        raise CheckpointError(f"{path}: its keys are not the names of tensors, expected a state_dict") from None
    for name, x in data.items():
        if not isinstance(x, Tensor) or x.layout != torch.strided or x.device.type != "cpu" or x.is_quantized:
            kind = f"tensor ({x.layout}, {x.device}, {x.dtype})" if isinstance(x, Tensor) else type(x).__name__
            raise CheckpointError(f"{path}: {name} is no plain tensor but a {kind}; expected nothing else")
    return dict(data)


def _why_unread(error: Exception) -> str:
    text = str(error)
    if "GLOBAL" in text or "reduce" in text:
        return (
            "this pickle holds more than tensors and would run code when read; refused. "
            "Ask its maker for a safetensors file"
        )
    text = text.split("WeightsUnpickler error: ")[-1].strip().split("\n")[0].split(". ")[0]
    text = "".join(c if c.isprintable() else "?" for c in text)[:100] or type(error).__name__
    return f"not a torch file that can be read ({text}); download it again"


class Weights:
    """The tensors of a directory by name, read one at a time. `listing` has dtypes and shapes, `files` what was found.

    Preference: model.safetensors, its shards, pytorch_model.bin, its shards; or only the file that is given.
    Raises FileError when there is nothing to read, CheckpointError for a damaged file, each naming it.
    google_files.GoogleWeights is the same for TensorFlow checkpoints.
    """

    style = "hf"

    def __init__(self, path: Path):
        self.directory = directory = path if path.is_dir() else path.parent
        self.listing: Listing = {}
        self._home: dict[str, Path] = {}
        self._begins: dict[Path, int] = {}
        self._spans: dict[str, Span] = {}
        self._loaded: dict[str, Tensor] = {}
        try:
            self.files, index = _choose(directory) if path.is_dir() else ([path], {})
            for path in self.files:
                self._open(path)
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"{error.filename or directory}: cannot be read ({error.strerror or error})") from None
        for name, shard in index.items():
            if self._home.get(name) != directory / shard:
                raise CheckpointError(f"{directory / shard}: the index promises {name} here, it is not; download again")

    def _open(self, path: Path) -> None:
        if path.suffix == ".safetensors":
            self._begins[path], spans = _read_header(path)
            self._spans |= spans
            found = {name: (span.dtype, span.shape) for name, span in spans.items()}
        else:
            tensors = read_bin(path)
            self._loaded |= tensors
            found = {name: (dtype_word(x), list(x.shape)) for name, x in tensors.items()}
        if twice := self.listing.keys() & found.keys():
            name = min(twice)
            raise CheckpointError(f"{path}: {name} is in {self._home[name].name} too; remove the one that is wrong")
        self.listing |= found
        self._home |= dict.fromkeys(found, path)

    @property
    def place(self) -> Path:
        """What an error about no tensor in particular names: the file, or the directory of the shards."""
        return self.files[0] if len(self.files) == 1 else self.directory

    def __iter__(self) -> Iterator[str]:
        return iter(self.listing)

    def home(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self._home[name]

    def shape(self, name: str) -> list[int]:
        return self.listing[name][1]

    def read(self, name: str) -> Tensor:
        """The tensor in memory of its own: what becomes of the file afterwards is nothing to the model."""
        if name in self._loaded:
            return self._loaded[name].detach().clone(memory_format=torch.contiguous_format)
        path, span = self._home[name], self._spans[name]
        x = torch.empty(span.shape, dtype=_DTYPES[span.dtype])
        try:
            with open(path, "rb") as file:
                file.seek(self._begins[path] + span.start)
                count = file.readinto(x.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
        if count != span.stop - span.start:
            raise CheckpointError(f"{path}: {name} ends too early; was the file changed just now?")
        return x


def holds_weights(directory: Path) -> bool:
    """Whether there is a file here that Weights would read."""
    return any(os.path.isfile(directory / f"{name}{index}") for name in _FILES for index in ("", ".index.json"))


def _choose(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """The files to read, and the index {tensor: file name} when they are shards."""
    for name in _FILES:
        if (directory / name).is_file():
            return [directory / name], {}
        index_path = directory / f"{name}.index.json"
        if index_path.is_file():
            index = _read_index(index_path)
            return [directory / shard for shard in sorted(set(index.values()))], index
    raise nothing_to_read(directory)


def nothing_to_read(directory: Path) -> FileError:
    """The error for a directory without weights: what was looked for, and what there is."""
    here = sorted(os.listdir(directory))
    if unread := [name for name in here if name in _UNREAD]:
        return FileError(f"{directory}: holds only {', '.join(unread)}, which is not read; get its model.safetensors")
    if data := [name for name in here if ".data-" in name]:
        index = f"{data[0].partition('.data-')[0]}.index"
        return FileError(f"{directory}: {data[0]} is here, but not {index}, which says what is in it; copy it too")
    return FileError(
        f"{directory}: no model.safetensors or pytorch_model.bin, whole or with an index, no TensorFlow checkpoint, "
        f"among {', '.join(here[:8]) or 'no files at all'}"
    )


def _read_index(path: Path) -> dict[str, str]:
    try:
        index = dict(json.loads(path.read_bytes())["weight_map"])
        _printable(index)
        _printable(index.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: not an index (JSON with a weight_map); download it again") from None
    if not index:
        raise CheckpointError(f"{path}: its weight_map is empty; download it again")
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard or shard in (".", ".."):
            raise CheckpointError(f"{path}: names a shard outside its directory, {shard!r}; refused")
        if not (path.parent / shard).is_file():
            raise CheckpointError(f"{path}: the shard {shard!r} is missing; download it too")
    return index


def write_safetensors(path: Path, listing: Listing, read: Callable[[str], Tensor]) -> None:
    """All tensors in one file, whole or not at all, one of them in memory at a time. Raises FileError.

    The layout is that of the safetensors library: wide dtypes first, then by name.
    """
    names = sorted(listing, key=lambda name: (-_DTYPES[listing[name][0]].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        kind, shape = listing[name]
        start, end = end, end + math.prod(shape) * _DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            x = read(name).detach().cpu().contiguous()
            assert (dtype_word(x), list(x.shape)) == listing[name], f"{name} is not as listed"
            file.write(x.flatten().view(torch.uint8).numpy().data)


def dtype_word(x: Tensor) -> str:
    """The dtype in the words of safetensors."""
    return _WORDS.get(x.dtype, str(x.dtype))


def torch_dtype(word: str) -> torch.dtype:
    """The dtype by its word in safetensors."""
    return _DTYPES[word]


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all. Raises FileError."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
