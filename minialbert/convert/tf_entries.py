"""What the index of a TensorFlow checkpoint holds: the header, an entry for each tensor, the keys of slices.

Each is a message in the wire format of protocol buffers (protobuf.py). tf_checkpoint.py reads them out of the index
and goes on to the tensors; tf_writer.py writes them. Sources: TensorFlow's public tensor_bundle.proto,
tensor_shape.proto, tensor_slice.proto and types.proto; the keys of slices as measured in files that it wrote.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minialbert.protobuf import fields, fixed32, message, signed

DTYPES = {  # TensorFlow's code: (word of safetensors, how the bytes are read)
    1: ("F32", "<f4"), 2: ("F64", "<f8"), 3: ("I32", "<i4"), 4: ("U8", "u1"), 5: ("I16", "<i2"), 6: ("I8", "i1"),
    8: ("C64", "<c8"), 9: ("I64", "<i8"), 10: ("BOOL", "?"), 14: ("BF16", "<u2"), 17: ("U16", "<u2"),
    18: ("C128", "<c16"), 19: ("F16", "<f2"), 22: ("U32", "<u4"), 23: ("U64", "<u8"),
}  # fmt: skip
UNREAD = {  # listed, but never read: numpy has no such dtype
    7: "string", 11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16", 20: "resource", 21: "variant",
    24: "float8_e5m2", 25: "float8_e4m3fn", 26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz",
    29: "int4", 30: "uint4", 31: "int2", 32: "uint2", 33: "float4_e2m1fn",
}  # fmt: skip
BFLOAT16 = 14
MOST_DIMENSIONS = 254  # of a TensorFlow shape

Span = tuple[int, int]  # start and length of a slice along one dimension
WHOLE = (0, -1)  # a dimension that is not cut


class Entry(NamedTuple):
    """What the index says of one tensor, or of one piece of a tensor that was saved in slices."""

    code: int
    shape: list[int]
    shard: int
    offset: int
    size: int
    crc: int
    slices: list[list[Span]]  # of a tensor in slices, which has no bytes under its own name


def word_of(code: int) -> str:
    return DTYPES[code][0] if code in DTYPES else UNREAD.get(code, f"code {code}")


def index_path(prefix: Path) -> Path:
    return Path(f"{prefix}.index")


def shard_path(prefix: Path, number: int, count: int) -> Path:
    return Path(f"{prefix}.data-{number:05}-of-{count:05}")


def parse_header(value: bytes) -> int:
    """The number of shards, from the value under the empty key. Raises ValueError for what cannot be read."""
    numbers, versions = {1: 0, 2: 0}, {2: 0}
    for field, content in fields(value):
        if field in numbers:
            numbers[field] = signed(content)
        elif field == 3:
            versions.update((f, signed(v)) for f, v in fields(message(content)) if f in versions)
    if numbers[1] < 1:
        raise ValueError(f"a header that counts {numbers[1]} shards")
    if numbers[2] != 0:
        raise ValueError("numbers in big-endian order, which are not read; save it on a little-endian machine")
    if versions[2] > 1:
        raise ValueError(f"a format newer than is known here (for readers of version {versions[2]}, known is 1)")
    return numbers[1]


def parse_entry(value: bytes) -> Entry:
    """One tensor's entry; fields that are left out are 0. Raises ValueError when the bytes are no such message."""
    numbers = {1: 0, 3: 0, 4: 0, 5: 0}  # dtype, shard, offset, size
    shape: list[int] = []
    slices: list[list[Span]] = []
    crc = 0
    for field, content in fields(value):
        if field in numbers:
            numbers[field] = signed(content)
        elif field == 2:
            shape += _parse_shape(message(content))
        elif field == 6:
            crc = fixed32(content)
        elif field == 7:
            slices.append([_parse_span(message(v)) for f, v in fields(message(content)) if f == 1])
    code, shard, offset, size = numbers.values()
    if min(shard, offset, size, *shape, 0) < 0:
        raise ValueError("a negative number")
    if len(shape) > MOST_DIMENSIONS or any(len(spans) != len(shape) for spans in slices):
        raise ValueError("a shape of too many dimensions, or slices that have others")
    return Entry(code, shape, shard, offset, size, crc, slices)


def _parse_shape(value: bytes) -> Iterator[int]:
    for field, content in fields(value):
        if field == 2:  # a dimension: a message with its size as field 1
            yield signed(dict(fields(message(content))).get(1, 0))
        elif field == 3:
            raise ValueError("a shape of unknown rank")


def _parse_span(value: bytes) -> Span:
    numbers = dict(fields(value))
    return signed(numbers.get(1, 0)), signed(numbers.get(2, WHOLE[1]))


def slice_key(name: str, spans: list[Span]) -> bytes:
    """The key under which a piece of a tensor has its entry: made so that keys sort as names and spans do.

    The zero byte in front keeps it from being a name. (In a name the bytes 00 and ff would be escaped; text has none.)
    """
    rank = len(spans).to_bytes((len(spans).bit_length() + 7) // 8, "big")
    numbers = [ordered(number) for span in spans for number in span]
    return b"\0" + name.encode() + b"\0\1" + bytes([len(rank)]) + rank + b"".join(numbers)


def ordered(value: int) -> bytes:
    """A whole number of 64 bits as bytes that sort as the numbers do.

    n bytes hold the numbers of 7n bits, in which the first n + 1 bits are all the sign. The first n of them are
    flipped: a number from 0 on then begins with n ones and a zero, a negative one with n zeros and a one. That tells
    sign and length, and puts longer numbers outside shorter ones.

    >>> [ordered(n).hex() for n in (0, -1, 63, 64, -65)]
    ['80', '7f', 'bf', 'c040', '3fbf']
    """
    n = next(n for n in range(1, 11) if -(1 << 7 * n - 1) <= value < 1 << 7 * n - 1)
    ones = (1 << n) - 1 << 7 * n  # n one-bits, then 7n zeros
    return ((value & (1 << 8 * n) - 1) ^ ones).to_bytes(n, "big")
