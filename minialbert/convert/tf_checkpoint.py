"""Reads TensorFlow's checkpoints (V2, "tensor bundles") with numpy alone: what Google's ALBERT releases consist of.

A checkpoint is named by a prefix. `PREFIX.index` is a sorted table (sstable.py): under each tensor's name its dtype,
its shape, and where its bytes are. `PREFIX.data-00000-of-00001` and so on, the shards, are those bytes one after the
other, nothing between them. Which of the tensors become which weights is decided elsewhere (names.py, __init__.py);
tf_writer.py writes such files. Source: TensorFlow's public tensor_bundle.proto, and files measured against TensorFlow.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minialbert.convert.crc32c import crc32c, unmask
from minialbert.convert.sstable import read_table, stand_in
from minialbert.convert.tf_entries import (
    BFLOAT16,
    DTYPES,
    WHOLE,
    Entry,
    Span,
    index_path,
    parse_entry,
    parse_header,
    shard_path,
    slice_key,
    word_of,
)
from minialbert.errors import CheckpointError, FileError, NameUnknown, nearest

_MOST_DIMENSIONS = 32  # what every numpy can hold


# ---- from a path to a prefix ----


def find_prefix(path: str | Path) -> Path:
    """The prefix that a path means: a folder with one *.index, any file of the checkpoint, or the prefix itself.

    Of several checkpoints in a folder the one is taken that TensorFlow's text file `checkpoint` beside them names as
    the newest; without such a file they are listed and CheckpointError is raised. Files whose names begin with a dot
    do not count. For the folder of a SavedModel its variables/ are looked up. Raises FileError when there is nothing.
    """
    path = Path(path)
    if path.is_dir():
        prefixes = _prefixes(path) or _prefixes(path / "variables")
        if not prefixes:
            raise FileError(f"{path}: no *.index of a TensorFlow checkpoint {_among(path)}")
        if len(prefixes) == 1:
            return prefixes[0]
        newest = _newest(path)
        if newest is None or newest not in prefixes:
            found = ", ".join(prefix.name for prefix in prefixes)
            raise CheckpointError(f"{path}: holds {len(prefixes)} checkpoints ({found}); give the path of one of them")
        return newest
    prefix = _without_ending(path)
    if index_path(prefix).is_file():
        return prefix
    if path == prefix and path.is_file():
        raise FileError(
            f"{path}: has no {path.name}.index beside it; a checkpoint in one file would be of TensorFlow's V1 format: "
            "load it there and save it again"
        )
    raise FileError(
        f"{index_path(prefix)}: no such index, expected beside the data of a checkpoint {_among(path.parent)}"
    )


def is_bundle(path: str | Path) -> bool:
    """Whether a path leads to the index of a TensorFlow checkpoint. Only names are looked at."""
    path = Path(path)
    if path.is_dir():
        return bool(_prefixes(path) or _prefixes(path / "variables"))
    return index_path(_without_ending(path)).is_file()


def _without_ending(path: Path) -> Path:
    stem = re.sub(r"(?<=.)\.(index|meta|data-\d{5,}-of-\d{5,})$", "", path.name)
    return path.with_name(stem) if stem and not index_path(path).is_file() else path


def _prefixes(folder: Path) -> list[Path]:
    names = [name for name in _names(folder) if name.endswith(".index") and name[0] != "."]
    return [folder / name.removesuffix(".index") for name in names if (folder / name).is_file()]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder)) if folder.is_dir() else []
    except OSError as error:
        raise FileError(f"{folder}: cannot be read ({error.strerror or error})") from None


def _newest(folder: Path) -> Path | None:
    """The prefix that the text file `checkpoint` names; its folder may be one of another machine."""
    text = _first_bytes(folder / "checkpoint", 1 << 16).decode("utf-8", "replace")
    found = re.search(r'^model_checkpoint_path: *"([^"]+)"', text, re.M)
    return folder / Path(found[1]).name if found else None


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:  # no such file, or a folder
        return b""


def _among(folder: Path) -> str:
    names = _names(folder)
    return f"among {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "(there are no files)"


# ---- the whole ----


class Checkpoint:
    """The tensors of a checkpoint by name; the index is read at once, a tensor when it is asked for.

    `listing` has the dtype (in the words of safetensors) and the shape of each; `files` the index and every shard that
    is named in it, there or not. With check=False the checksums of tensors are not looked at, those of the index are.
    Raises FileError when the index cannot be read, CheckpointError when it is damaged.
    """

    def __init__(self, prefix: str | Path, *, check: bool = True):
        self.prefix, self.check = Path(prefix), check
        self.index = index_path(self.prefix)
        self._entries: dict[str, Entry] = {}
        self._pieces: dict[bytes, Entry] = {}
        table = read_table(self.index)
        key, header = next(table, (None, b""))
        if key != b"":
            raise CheckpointError(
                f"{self.index}: its first key is {_short(key)}, expected the empty key of the header: damaged, or "
                "another kind of table"
            )
        try:
            self._count = parse_header(header)
        except ValueError as error:
            raise CheckpointError(f"{self.index}: its header is not one of a V2 checkpoint: {error}") from None
        for key, value in table:
            self._add(key, value)
        self.listing = {name: (word_of(entry.code), entry.shape) for name, entry in self._entries.items()}
        plain = [entry for entry in self._entries.values() if not entry.slices]
        shards = sorted({entry.shard for entry in [*plain, *self._pieces.values()]})
        self.files = [self.index, *(shard_path(self.prefix, number, self._count) for number in shards)]

    def _add(self, key: bytes, value: bytes) -> None:
        try:
            entry = parse_entry(value)
            if entry.shard >= self._count:
                raise ValueError(f"bad shard number {entry.shard}: there are {self._count}, counted from 0")
            if key.startswith(b"\0"):
                self._pieces[key] = entry
            else:
                self._entries[_name(key)] = entry
        except ValueError as error:
            raise CheckpointError(
                f"{self.index}: the entry of {_short(key)} is damaged ({error}); copy or download it again"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.listing)

    def __len__(self) -> int:
        return len(self.listing)

    def __contains__(self, name: object) -> bool:
        return name in self.listing

    def home(self, name: str) -> Path:
        """The file with the tensor's bytes, of one in slices with those of the first."""
        entry = self._find(name)
        if entry.slices:
            entry = self._pieces.get(slice_key(name, entry.slices[0]), entry)
        return shard_path(self.prefix, entry.shard, self._count)

    def read(self, name: str) -> np.ndarray:
        """The tensor, row-major and little-endian, in memory of its own. bfloat16 is widened to float32, exactly.

        Raises NameUnknown; CheckpointError for what is damaged or of a dtype that numpy has not (strings and others);
        FileError for a shard that is missing or cannot be read. The file is not mapped into memory: one that shrinks
        while it is read would then end the process.
        """
        entry = self._find(name)
        if entry.code not in DTYPES:
            raise CheckpointError(f"{self.index}: {name} is of dtype {word_of(entry.code)}, which is not read")
        x = self._join(name, entry) if entry.slices else self._load(name, entry)
        if entry.code == BFLOAT16:  # the upper half of a float32
            wide = x.astype("<u4")
            wide <<= 16
            return wide.view("<f4")
        return x

    def _find(self, name: str) -> Entry:
        if name not in self._entries:
            near = nearest(name, self._entries)
            raise NameUnknown(f"{self.index}: no tensor named {name!r}." + (f" Nearest: {near}." if near else ""))
        return self._entries[name]

    def _locate(self, name: str, entry: Entry) -> tuple[Path, int]:
        """The shard of a tensor or a piece, and its size, once all that the index says of it is found possible."""
        self._check_shape(name, entry)
        need = math.prod(entry.shape) * np.dtype(DTYPES[entry.code][1]).itemsize
        if entry.size != need:
            raise CheckpointError(
                f"{self.index}: {name} is {word_of(entry.code)} {entry.shape}, that is {need} bytes, its entry says "
                f"{entry.size}; damaged, copy or download it again"
            )
        path = shard_path(self.prefix, entry.shard, self._count)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise FileError(f"{path}: missing, with {name} in it; copy it beside {self.index.name}") from None
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
        if entry.offset + entry.size > size:
            why = stand_in(_first_bytes(path, 64)) or "cut off, copy or download it again"
            raise CheckpointError(f"{path}: {size} bytes, {name} needs {entry.offset + entry.size}: {why}")
        return path, size

    def _check_shape(self, name: str, entry: Entry) -> None:
        """Before any arithmetic: an empty tensor may claim all it likes of its other dimensions and need no bytes."""
        if len(entry.shape) > _MOST_DIMENSIONS or math.prod(n or 1 for n in entry.shape) >= 2**58:
            raise CheckpointError(f"{self.index}: {name} has the shape {entry.shape}, which no array can have; damaged")

    def _load(self, name: str, entry: Entry) -> np.ndarray:
        """The bytes of one entry, checked, as an array of its shape."""
        path, _ = self._locate(name, entry)
        x = np.empty(entry.shape, DTYPES[entry.code][1])
        octets = x.reshape(-1).view(np.uint8)
        try:
            with open(path, "rb") as file:
                file.seek(entry.offset)
                count = file.readinto(octets)  # type: ignore[arg-type]
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
        if count != entry.size:
            raise CheckpointError(f"{path}: {name} ends too early; was the file changed just now?")
        if self.check and crc32c(octets) != unmask(entry.crc):
            raise CheckpointError(f"{path}: wrong checksum of {name}, its bytes are damaged; copy or download it again")
        return x

    def _join(self, name: str, whole: Entry) -> np.ndarray:
        """A tensor in slices, which may be in several shards. Every element must come from exactly one of them."""
        self._check_shape(name, whole)
        pieces = [self._piece(name, whole, spans) for spans in whole.slices]
        sizes = dict(self._locate(name, piece) for _, piece in pieces)
        need, found = math.prod(whole.shape), sum(math.prod(piece.shape) for _, piece in pieces)
        if found != need:
            raise CheckpointError(f"{self.index}: the slices of {name} have {found} elements, expected {need}; damaged")
        if sum(piece.size for _, piece in pieces) > sum(sizes.values()):  # nothing is allocated for such a claim
            raise CheckpointError(f"{self.index}: the slices of {name} share their bytes; damaged")
        x = np.empty(whole.shape, DTYPES[whole.code][1])
        filled = np.zeros(whole.shape, bool)
        for region, piece in pieces:
            if filled[region].any():
                raise CheckpointError(f"{self.index}: slices of {name} overlap; damaged, copy or download it again")
            filled[region] = True
            x[region] = self._load(name, piece)
        return x

    def _piece(self, name: str, whole: Entry, spans: list[Span]) -> tuple[tuple[slice, ...], Entry]:
        """The place of a slice in the whole, and its entry, which must be of that shape."""
        text = ", ".join(":" if span == WHOLE else f"{span[0]}:{sum(span)}" for span in spans)
        bounds = [(0, n) if span == WHOLE else (span[0], sum(span)) for span, n in zip(spans, whole.shape, strict=True)]
        piece = self._pieces.get(slice_key(name, spans))
        if piece is None:
            raise CheckpointError(f"{self.index}: the slice [{text}] of {name} is missing; damaged")
        fits = all(0 <= start <= stop <= n for (start, stop), n in zip(bounds, whole.shape, strict=True))
        if not fits or piece[:2] != (whole.code, [stop - start for start, stop in bounds]):
            raise CheckpointError(
                f"{self.index}: {name} is {word_of(whole.code)} {whole.shape}, its slice [{text}] is "
                f"{word_of(piece.code)} {piece.shape}; damaged, copy or download it again"
            )
        return tuple(slice(start, stop) for start, stop in bounds), piece


def _name(key: bytes) -> str:
    """Names stand in messages of one line. Raises ValueError."""
    name = key.decode()
    if not name.isprintable():
        raise ValueError("a name with characters that no text has")
    return name


def _short(key: bytes | None) -> str:
    """A key as it stands in messages."""
    if key is None:
        return "missing"
    text = key.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 150 else text[:150] + "...")
