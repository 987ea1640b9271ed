"""TensorFlow checkpoints of every kind that the reader must know, and the means to damage them at each level.

Tables are put together here by other code than tf_writer.py's: any block size, compressed blocks, any keys.
"""

import struct
from collections.abc import Callable, Iterable
from itertools import count, pairwise
from pathlib import Path

import numpy as np

from minialbert.convert.crc32c import crc32c, mask
from minialbert.convert.sstable import MAGIC, decompress, entries, read_table
from minialbert.convert.tf_entries import WHOLE, Span, slice_key
from minialbert.convert.tf_writer import entry_of
from minialbert.protobuf import bytes_field, number_field, read_varint, varint

GOLDEN = Path(__file__).parent.parent / "golden"
PACKS = [GOLDEN / "google-v2-tiny", GOLDEN / "google-v1-groups"]
CODES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9, "bool": 10,
    "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
WORDS = {
    "float32": "F32", "float64": "F64", "int32": "I32", "uint8": "U8", "int16": "I16", "int8": "I8", "complex64": "C64",
    "int64": "I64", "bool": "BOOL", "uint16": "U16", "complex128": "C128", "float16": "F16", "uint32": "U32",
    "uint64": "U64",
}  # fmt: skip
Items = dict[bytes, bytes]


def arrays_of_every_dtype() -> dict[str, np.ndarray]:
    """By the name of the dtype; with extreme values, 0-d, and empty ones."""
    arrays = {name: np.arange(-3, 9).reshape(3, 4).astype(name) for name in CODES if name != "bool"}
    arrays["bool"] = np.array([[True, False], [False, True]])
    arrays["float32/odd"] = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    arrays["int64/odd"] = np.array([-(2**63), 2**63 - 1])
    arrays["scalar"] = np.array(7.25, np.float32)
    arrays["empty"] = np.zeros((0, 3), np.float64)
    arrays["one"] = np.ones((1, 1, 1, 1), np.int16)
    return arrays


# ---- tables ----


def snappy(data: bytes) -> bytes:
    """A small compressor that uses every kind of element: literals, copies with 1, 2 and 4 bytes for the distance."""
    out = bytearray(varint(len(data)))
    seen: dict[bytes, int] = {}
    at = literal = 0

    def flush(end: int) -> None:
        piece = data[literal:end]
        if piece:
            n = len(piece) - 1
            wide = (n.bit_length() + 7) // 8
            out.extend(bytes([n << 2]) if n < 60 else bytes([59 + wide << 2]) + n.to_bytes(wide, "little"))
            out.extend(piece)

    while at + 4 <= len(data):
        here = data[at : at + 4]
        start = seen.get(here)
        seen[here] = at
        if start is None:
            at += 1
            continue
        flush(at)
        length = 4
        while at + length < len(data) and length < 64 and data[start + length] == data[at + length]:
            length += 1
        back = at - start
        if length < 12 and back < 2048:
            out += bytes([back >> 8 << 5 | length - 4 << 2 | 1, back & 255])
        elif back < 65536 and length % 3:
            out += bytes([length - 1 << 2 | 2]) + struct.pack("<H", back)
        else:
            out += bytes([length - 1 << 2 | 3]) + struct.pack("<I", back)
        at += length
        literal = at
    flush(len(data))
    return bytes(out)


def block_of(items: Iterable[tuple[bytes, bytes]], every: int = 16) -> bytes:
    out, restarts, last = bytearray(), [], b""
    for number, (key, value) in enumerate(items):
        shared = 0
        if number % every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table_of_blocks(
    blocks: list[bytes], index: bytes | None = None, kind: int = 0, keys: Iterable[bytes] | None = None
) -> bytes:
    """A file of blocks as they are to be stored, with right checksums, and of an index block unless one is given.

    The keys of the index block are of no use to us; TensorFlow looks for tensors with them.
    """
    out, handles = bytearray(), []

    def append(block: bytes, kind: int) -> bytes:
        start = len(out)
        out.extend(block + bytes([kind]))
        out.extend(struct.pack("<I", mask(crc32c(block + bytes([kind])))))
        return varint(start) + varint(len(block))

    for key, block in zip(keys or map(b"%05d".__mod__, count()), blocks, strict=False):
        handles.append((key, append(block, kind)))
    metaindex = append(block_of([]), 0)
    if index is None:
        index = snappy(block_of(handles, every=1)) if kind == 1 else block_of(handles, every=1)
    footer = metaindex + append(index, kind)
    return bytes(out) + footer.ljust(40, b"\0") + MAGIC


def table_of(items: Items, per_block: int = 1000, kind: int = 0) -> bytes:
    rows = sorted(items.items())
    groups = [rows[i : i + per_block] for i in range(0, len(rows), per_block)]
    blocks = [snappy(block_of(group)) if kind == 1 else block_of(group) for group in groups]
    return table_of_blocks(blocks, kind=kind, keys=[group[-1][0] for group in groups])


def blocks_of(table: bytes) -> tuple[list[bytes], bytes]:
    """A table taken apart: data blocks and index block, as stored."""
    _, at = read_varint(table, len(table) - 48)
    _, at = read_varint(table, at)
    start, at = read_varint(table, at)
    length, _ = read_varint(table, at)
    index = table[start : start + length]
    blocks = []
    for _, value in entries(decompress(index) if table[start + length] == 1 else index):
        start, at = read_varint(value, 0)
        length, _ = read_varint(value, at)
        blocks.append(table[start : start + length])
    return blocks, index


# ---- bundles ----


def header(shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    version = number_field(1, 1) + (number_field(2, min_consumer) if min_consumer else b"")
    order = number_field(2, endianness) if endianness else b""
    return number_field(1, shards) + order + bytes_field(3, version)


def spans_message(spans: list[Span]) -> bytes:
    extents = []
    for start, length in spans:
        extent = (number_field(1, start) if start else b"") + (number_field(2, length) if length != -1 else b"")
        extents.append(bytes_field(1, extent))
    return b"".join(extents)


def write_bundle(
    prefix: Path,
    tensors: dict[str, np.ndarray],
    *,
    shards: int = 1,
    cuts: dict[str, list[list[Span]]] | None = None,
    codes: dict[str, int] | None = None,
    per_block: int = 1000,
    kind: int = 0,
) -> Path:
    """Tensors and pieces go to the shards in turn. `cuts`: the slices of a tensor; `codes`: dtypes numpy has not."""
    data = [bytearray() for _ in range(shards)]
    items = {b"": header(shards)}
    turn = 0

    def save(key: bytes, x: np.ndarray, code: int) -> None:
        nonlocal turn
        octets = x.astype(x.dtype.newbyteorder("<")).tobytes()
        shard, turn = turn % shards, turn + 1
        items[key] = entry_of(code, x.shape, shard, len(data[shard]), len(octets), crc32c(octets))
        data[shard] += octets

    for name, x in tensors.items():
        code = (codes or {}).get(name) or CODES[x.dtype.name]
        if name not in (cuts or {}):
            save(name.encode(), x, code)
            continue
        slices = (cuts or {})[name]
        dims = b"".join(bytes_field(2, number_field(1, n) if n else b"") for n in x.shape)
        whole = number_field(1, code) + bytes_field(2, dims)
        items[name.encode()] = whole + b"".join(bytes_field(7, spans_message(spans)) for spans in slices)
        for spans in slices:
            region = tuple(slice(None) if span == WHOLE else slice(span[0], sum(span)) for span in spans)
            save(slice_key(name, spans), x[region], code)
    for number, octets in enumerate(data):
        Path(f"{prefix}.data-{number:05}-of-{shards:05}").write_bytes(octets)
    Path(f"{prefix}.index").write_bytes(table_of(items, per_block, kind))
    return prefix


def change(prefix: Path, edit: Callable[[Items], object]) -> Path:
    """The index with other entries, everything around them right again."""
    items = dict(read_table(Path(f"{prefix}.index")))
    edit(items)
    Path(f"{prefix}.index").write_bytes(table_of(items))
    return prefix


def rows_cut(x: np.ndarray, *at: int) -> list[list[Span]]:
    """Slices along the first dimension, as TensorFlow's partitioners make them."""
    edges = [0, *at, x.shape[0]]
    rest = [(0, n) for n in x.shape[1:]]
    return [[(start, stop - start), *rest] for start, stop in pairwise(edges)]


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal dtype, shape and bits; the layout is row-major and the memory its own."""
    assert got.dtype == want.dtype and got.shape == want.shape
    assert got.tobytes() == want.tobytes()
    assert got.flags.c_contiguous and got.flags.writeable and got.dtype.byteorder in "=<|"
