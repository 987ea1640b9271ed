"""The wire format of protocol buffers, as far as two kinds of files here need it.

SentencePiece models (tokenizers/model_file.py) and the entries of TensorFlow checkpoints (convert/tf_checkpoint.py) are
made of such messages. A message is a run of fields: a varint tag = number << 3 | wire type, then the value.
Source: the public encoding guide of protocol buffers.
"""

import struct
from collections.abc import Iterator


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message. Raises ValueError when the bytes are none."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire == 0:
            value, at = read_varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = read_varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("a field longer than the file")
        yield number, data[at : at + length]
        at += length


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, lowest first; and the place after it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number without end")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def signed(value: int | bytes) -> int:
    """An int64 as `fields` gives it: negative numbers are their 64 bits. Raises ValueError for anything else."""
    if not isinstance(value, int) or value >= 2**64:
        raise ValueError("bytes, or more than 64 bits, where a whole number belongs")
    return value - 2**64 if value >= 2**63 else value


def message(value: int | bytes) -> bytes:
    """A message inside a message as `fields` gives it. Raises ValueError for a number."""
    if isinstance(value, int):
        raise ValueError("a whole number where a message belongs")
    return value


def fixed32(value: int | bytes) -> int:
    """An unsigned number of four bytes as `fields` gives it. Raises ValueError for anything else."""
    if isinstance(value, int) or len(value) != 4:
        raise ValueError("something else where four bytes belong")
    return int.from_bytes(value, "little")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value % 2**64)  # negative numbers are written as 64-bit ones


def bytes_field(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def float_field(field: int, value: float) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<f", value)


def fixed32_field(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<I", value)
