"""The inside of a SentencePiece model file: enough of its protocol-buffer format to check one and to write one.

Written are models for vocabularies that came as tokenizer.json (tokenizer_json.py). Field numbers are those of the
library's public sentencepiece_model.proto; the tests read back what is written here through the library.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from minialbert.errors import FileError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of a piece
PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of the file
VOCAB_SIZE = 4  # field of TRAINER


def check_model(data: bytes, source: str | Path) -> None:
    """Raises FileError unless the bytes are one whole SentencePiece model.

    The library itself accepts a file that was cut off between two pieces, and numbers what is left.
    """
    counts = {PIECES: 0, TRAINER: 0, NORMALIZER: 0}
    trouble = "it holds no pieces"
    try:
        for field, _ in fields(data):
            counts[field] = counts.get(field, 0) + 1
    except ValueError as error:
        trouble = str(error)
    else:
        if counts[PIECES] and counts[TRAINER] and counts[NORMALIZER]:  # in this order: the end is there
            return
    if counts[PIECES] > 3:
        raise FileError(f"{source}: is cut off after {counts[PIECES]} pieces; copy it again")
    raise FileError(f"{source}: is not a SentencePiece model ({trouble})")


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


def write_model(
    pieces: list[tuple[str, float, int]], ids: dict[str, int], charsmap: bytes, dummy_prefix: bool
) -> bytes:
    """A unigram model file. `pieces`: (text, score, type) in the order of ids; `ids`: "unk" and "pad" where present."""
    out = bytearray()
    for text, score, kind in pieces:
        body = bytes_field(1, text.encode()) + float_field(2, score)
        out += bytes_field(PIECES, body + (number_field(3, kind) if kind != NORMAL else b""))
    trainer = number_field(3, 1) + number_field(VOCAB_SIZE, len(pieces))  # model type 1: unigram
    for field, name in ((40, "unk"), (41, "bos"), (42, "eos"), (43, "pad")):
        trainer += number_field(field, ids.get(name, -1))
    for field, name in ((45, "unk"), (48, "pad")):
        if name in ids:
            trainer += bytes_field(field, pieces[ids[name]][0].encode())
    normalizer = bytes_field(1, b"nmt_nfkc" if charsmap else b"identity") + bytes_field(2, charsmap)
    normalizer += number_field(3, int(dummy_prefix))
    return bytes(out + bytes_field(TRAINER, trainer) + bytes_field(NORMALIZER, normalizer))
