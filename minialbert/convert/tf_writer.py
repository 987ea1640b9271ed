"""Writes checkpoints that TensorFlow reads: the other direction of tf_checkpoint.py, one shard, nothing compressed.

The format is told in tf_entries.py (what an entry says) and sstable.py (how entries lie in a table). Blocks, restarts
and separators are placed as TensorFlow places them: for the same tensors in the same order both files are the same
to the byte.
"""

import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minialbert.convert.crc32c import crc32c, mask
from minialbert.convert.sstable import FOOTER, MAGIC, PLAIN, Handle
from minialbert.convert.tf_entries import BFLOAT16, DTYPES, index_path, shard_path
from minialbert.errors import InputError
from minialbert.protobuf import bytes_field, fixed32_field, number_field, varint
from minialbert.whole import whole_file

HEADER = number_field(1, 1) + bytes_field(3, number_field(1, 1))  # one shard; format of producer 1
_CODES = {np.dtype(kind): code for code, (_, kind) in DTYPES.items() if code != BFLOAT16}
_BLOCK = 1 << 18  # a block is closed when it reaches this size
_RESTART = 16  # every so many entries of a data block nothing is shared with the last key


def write_checkpoint(
    prefix: str | Path, tensors: Iterable[tuple[str, np.ndarray]], *, bfloat16: Collection[str] = ()
) -> None:
    """PREFIX.index and PREFIX.data-00000-of-00001 from (name, array) pairs, which are taken one at a time.

    The bytes are laid down in the order given, the index is sorted. numpy has no bfloat16: an array of uint16 whose
    name is in `bfloat16` holds the bits of such numbers. Both files are whole or not there. Raises InputError for
    a name or a dtype that a checkpoint cannot hold or a name that comes twice, FileError when writing fails.
    """
    prefix = Path(prefix)
    with whole_file(index_path(prefix)) as index, whole_file(shard_path(prefix, 0, 1)) as data:
        with open(data, "wb") as file:
            entries = _write_tensors(file, tensors, bfloat16)
        index.write_bytes(table([(b"", HEADER), *sorted(entries.items())]))
    # the data have their name first, then the index: it is what is looked for


def _write_tensors(
    file: BinaryIO, tensors: Iterable[tuple[str, np.ndarray]], bfloat16: Collection[str]
) -> dict[bytes, bytes]:
    """The bytes of all tensors to the file, and an entry for each."""
    entries: dict[bytes, bytes] = {}
    offset = 0
    for name, x in tensors:
        code = _check(name, x, bfloat16)
        if name.encode() in entries:
            raise InputError(f"a second tensor named {name!r}; names in a checkpoint are unique")
        octets = x.astype(DTYPES[code][1], order="C", copy=False).reshape(-1).view(np.uint8)
        file.write(octets.data)
        entries[name.encode()] = entry_of(code, x.shape, 0, offset, len(octets), crc32c(octets))
        offset += len(octets)
    return entries


def _check(name: str, x: np.ndarray, bfloat16: Collection[str]) -> int:
    """The code of the dtype, once name and array are found fit."""
    if not name or not name.isprintable():
        raise InputError(f"{name!r} cannot be the name of a tensor; expected text without control characters")
    code = BFLOAT16 if name in bfloat16 else _CODES.get(x.dtype.newbyteorder("<"))
    if code is None:
        known = ", ".join(dtype.name for dtype in _CODES)
        raise InputError(f"{name} is of dtype {x.dtype}, which a checkpoint cannot hold; known are {known}")
    if code == BFLOAT16 and x.dtype.newbyteorder("<") != np.dtype("<u2"):
        raise InputError(f"{name} is of dtype {x.dtype}, expected the bits of bfloat16 numbers as uint16")
    return code


def entry_of(code: int, shape: Iterable[int], shard: int, offset: int, size: int, crc: int) -> bytes:
    """What the index says of one tensor. The fields are in order of their numbers, and left out when 0."""
    dimensions = b"".join(bytes_field(2, _number(1, n)) for n in shape)
    masked = mask(crc)
    return (
        _number(1, code)
        + bytes_field(2, dimensions)
        + _number(3, shard)
        + _number(4, offset)
        + _number(5, size)
        + (fixed32_field(6, masked) if masked else b"")
    )


def _number(field: int, value: int) -> bytes:
    return number_field(field, value) if value else b""


# ---- the table ----


def _common(a: bytes, b: bytes) -> int:
    """How many bytes at the start are the same."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Block:
    """Entries that leave out what their key shares with the last one, except every `interval` entries."""

    def __init__(self, interval: int):
        self.interval, self.count, self.last = interval, 0, b""
        self.entries, self.restarts = bytearray(), [0]

    def add(self, key: bytes, value: bytes) -> None:
        shared = _common(self.last, key)
        if self.count and self.count % self.interval == 0:
            shared = 0
            self.restarts.append(len(self.entries))
        self.entries += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self.count, self.last = self.count + 1, key

    @property
    def size(self) -> int:
        return len(self.entries) + 4 * len(self.restarts) + 4

    def finish(self) -> bytes:
        return bytes(self.entries) + struct.pack(f"<{len(self.restarts) + 1}I", *self.restarts, len(self.restarts))


def table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole table from (key, value) pairs in ascending order of the keys."""
    out = bytearray()
    index, block = Block(1), Block(_RESTART)
    closed: Handle | None = None  # a full block; its key in the index is chosen when the next key is known
    for key, value in items:
        if closed:
            index.add(_separator(block.last, key), _handle(closed))
            block, closed = Block(_RESTART), None
        block.add(key, value)
        if block.size >= _BLOCK:
            closed = _append(out, block.finish())
    index.add(_successor(block.last), _handle(closed or _append(out, block.finish())))
    metaindex = _append(out, Block(1).finish())  # the format has room for filters here; there are none
    footer = _handle(metaindex) + _handle(_append(out, index.finish()))
    return bytes(out + footer.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC)


def _append(out: bytearray, block: bytes) -> Handle:
    """A block and its trailer."""
    start = len(out)
    stored = block + bytes([PLAIN])
    out += stored + struct.pack("<I", mask(crc32c(stored)))
    return start, len(block)


def _handle(handle: Handle) -> bytes:
    return varint(handle[0]) + varint(handle[1])


def _separator(last: bytes, following: bytes) -> bytes:
    """A short key from `last` on and before `following`: up to the first byte that can be raised between the two."""
    at = _common(last, following)
    if at < len(last) and last[at] + 1 < following[at]:
        return last[:at] + bytes([last[at] + 1])
    return last


def _successor(last: bytes) -> bytes:
    """A short key after all: up to the first byte that can be raised."""
    at = next((at for at, byte in enumerate(last) if byte < 255), None)
    return last if at is None else last[:at] + bytes([last[at] + 1])
