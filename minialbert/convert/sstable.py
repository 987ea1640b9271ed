"""Sorted tables: the container that holds the index of a TensorFlow checkpoint (tf_checkpoint.py).

The format is LevelDB's ("SSTable"), which documents it publicly. A file is

    data block, data block, ..., metaindex block, index block, footer of 48 bytes

and each block is followed by a trailer: a byte for its compression, four for the checksum of block and byte. The
footer says where the index block is, the index block where the data blocks are, the data blocks hold keys and values
in the order of the keys. Everything a file claims is checked before it is used; tf_writer.py writes such files.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from minialbert.convert.crc32c import crc32c, unmask
from minialbert.errors import CheckpointError, FileError
from minialbert.protobuf import read_varint

MAGIC = bytes.fromhex("57fb808b247547db")  # the number 0xdb4775248b80fb57, lowest byte first
FOOTER, TRAILER = 48, 5
PLAIN, SNAPPY = 0, 1  # kinds of compression
_LONGEST_KEYS = 64  # times the size of the file: all keys together, which leave out what they share with the last one

Handle = tuple[int, int]  # where a block begins, and its size without the trailer


def read_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each entry, in the order of the keys, with one block in memory at a time.

    Raises FileError when the file cannot be read and CheckpointError when it is damaged or something else.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            room = _LONGEST_KEYS * size
            end, last = 0, None
            for _, value in entries(_read_block(file, path, _find_index_block(file, path, size), size)):
                start, length = _handle(value)
                if start < end:
                    raise ValueError(f"blocks that overlap, at byte {start}")
                end = start + length + TRAILER
                for key, value in entries(_read_block(file, path, (start, length), size)):
                    room -= len(key)
                    if (last is not None and key <= last) or room < 0:
                        raise ValueError(f"keys out of order, in the block at byte {start}")
                    yield key, value
                    last = key
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged, it holds {error}; copy or download it again") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None


def stand_in(first: bytes) -> str:
    """What stands in the place of a file that was never downloaded, told from its first bytes; "" for others."""
    if first.startswith(b"version https://git-lfs"):
        return "only git-lfs's note of where the file is; fetch it with git lfs pull"
    if first.lstrip()[:1] == b"<":
        return "a web page, not the file itself; download it again"
    return ""


def _find_index_block(file: BinaryIO, path: Path, size: int) -> Handle:
    """The footer: handle of the metaindex block (which is empty), handle of the index block, zeros, the magic."""
    first = file.read(64)
    if trouble := stand_in(first):
        raise CheckpointError(f"{path}: {trouble}")
    if size < FOOTER:
        raise CheckpointError(f"{path}: {size} bytes, too short for the index of a checkpoint; copy it again")
    file.seek(size - FOOTER)
    footer = file.read(FOOTER)
    if not footer.endswith(MAGIC):
        raise CheckpointError(
            f"{path}: does not end as the index of a checkpoint does: cut off, or something else; copy it again"
        )
    _, at = read_varint(footer, 0)
    _, at = read_varint(footer, at)
    start, at = read_varint(footer, at)
    length, at = read_varint(footer, at)
    return start, length


def _handle(value: bytes) -> Handle:
    start, at = read_varint(value, 0)
    length, at = read_varint(value, at)
    return start, length


def _read_block(file: BinaryIO, path: Path, handle: Handle, size: int) -> bytes:
    """The content of one block, its checksum checked, decompressed."""
    start, length = handle
    if start + length + TRAILER > size - FOOTER:
        raise ValueError(f"a block at bytes {start} to {start + length + TRAILER}, of {size}")
    file.seek(start)
    stored = file.read(length + TRAILER)
    block, kind, masked = stored[:length], stored[length : length + 1], stored[length + 1 :]
    if crc32c(block + kind) != unmask(int.from_bytes(masked, "little")):
        raise CheckpointError(f"{path}: wrong checksum of the block at byte {start}; copy or download the file again")
    if kind[0] == SNAPPY:
        return decompress(block)
    if kind[0] != PLAIN:
        raise ValueError(f"a block of compression {kind[0]} (known: 0 none, 1 Snappy)")
    return block


def entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each entry of a block. Raises ValueError for a damaged one.

    An entry is three varints - bytes shared with the last key, further bytes of the key, bytes of the value - then
    those bytes. After the entries come the places where nothing is shared, four bytes each, and their number: jumps
    for who looks for one key, of no use to who reads them all.
    """
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if len(block) < 4 or end < 0:
        raise ValueError("a block shorter than its list of restarts")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or at + fresh + length > end:
            raise ValueError("an entry that is longer than its block")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def decompress(data: bytes) -> bytes:
    """Snappy's raw format: the length, then literal bytes and copies of what came before. Raises ValueError.

    TensorFlow reads it in tables, though it writes none. Source: Snappy's public format description.
    """
    length, at = read_varint(data, 0)
    if length > 64 * len(data):  # no element gives more than 64 bytes
        raise ValueError("Snappy data that claims an impossible length")
    out = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        count = (tag >> 2) + 1
        if tag & 3 == 0:  # a literal
            if count > 60:  # its length - 1 stands in the next 1 to 4 bytes
                wide = count - 60
                count, at = int.from_bytes(data[at : at + wide], "little") + 1, at + wide
            if at + count > len(data):
                raise ValueError("Snappy data that ends in a literal")
            out += data[at : at + count]
            at += count
            continue
        if tag & 3 == 1:
            count, back, wide = (tag >> 2 & 7) + 4, tag >> 5 << 8, 1
            back |= int.from_bytes(data[at : at + 1], "little")
        else:
            wide = 2 if tag & 3 == 2 else 4
            back = int.from_bytes(data[at : at + wide], "little")
        at += wide
        if at > len(data) or not 0 < back <= len(out):
            raise ValueError("a Snappy copy of bytes that are not there")
        piece = bytes(out[len(out) - back :][:count])
        out += (piece * (count // len(piece) + 1))[:count]  # it may run into what it writes: then it repeats
        if len(out) > length:
            break
    if len(out) != length:
        raise ValueError(f"Snappy data of {len(out)} bytes that claims {length}")
    return bytes(out)
