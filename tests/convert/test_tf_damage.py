"""Checkpoints damaged at random: each ends in the right bytes or in one line, in little time and little memory."""

import random
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minialbert.convert.sstable import read_table
from minialbert.convert.tf_checkpoint import Checkpoint
from minialbert.errors import MiniAlbertError
from tests.convert.bundles import blocks_of, table_of, table_of_blocks, write_bundle

GRID = np.arange(60, dtype=np.float32).reshape(10, 6)
CUTS = [[(r, 5), (c, 3)] for r in (0, 5) for c in (0, 3)]
ARRAYS = {
    "a/bias": np.arange(6, dtype=np.float16), "a/kernel": np.arange(24, dtype=np.float32).reshape(4, 6),
    "a/kernel/adam_m": np.ones((4, 6), np.float32), "flags": np.array([True, False]), "grid": GRID,
    "half": np.arange(8, dtype=np.uint16), "step": np.array(5), "zero": np.zeros((0, 3), np.int8),
}  # fmt: skip
PIECES = [GRID[r : r + 5, c : c + 3] for r in (0, 5) for c in (0, 3)]
BITS = {x.tobytes() for x in (*ARRAYS.values(), *PIECES)}  # what may be read, whatever name, shape or dtype it gets
CASES = 2500  # for each kind of index


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three of: a bit flipped, a byte set, a stretch cut out, doubled or made up, the end cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not out:
            break
        at, other, length = rng.randrange(len(out)), rng.randrange(len(out)), rng.choice((1, 2, 5, 40))
        kind = rng.randrange(7)
        if kind <= 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[other : other + length]
        elif kind == 5:
            out[at : at + length] = rng.randbytes(length)
        else:
            del out[at:]
    return bytes(out)


def damage(table: bytes, items: dict[bytes, bytes], kind: int, rng: random.Random) -> bytes:
    """The file as a whole; or a block, the index block, an entry, with every checksum around it right again."""
    blocks, index = blocks_of(table)
    level = rng.choice(("file", "block", "index block", "entry", "entry"))
    if level == "file":
        return mutate(table, rng)
    if level == "block":
        at = rng.randrange(len(blocks))
        blocks[at] = mutate(blocks[at], rng)
        return table_of_blocks(blocks, kind=kind)
    if level == "index block":
        return table_of_blocks(blocks, mutate(index, rng), kind)
    key = rng.choice(sorted(items))
    value = items.pop(key)
    items[key if rng.random() < 0.8 else mutate(key, rng)] = mutate(value, rng)
    return table_of(items, kind=kind)


def read_all(prefix: Path, ends: dict[str, int], check: bool = True) -> None:
    """Counts how many tensors and files are read and refused; anything but the right bytes and one line fails."""
    try:
        checkpoint = Checkpoint(prefix, check=check)
    except MiniAlbertError as error:
        assert str(error).isprintable()
        ends["files refused"] += 1
        return
    for name in checkpoint:
        try:
            x = checkpoint.read(name)
        except MiniAlbertError as error:
            assert str(error).isprintable()
            ends["tensors refused"] += 1
            continue
        if checkpoint.listing[name][0] == "BF16":
            x = (x.view(np.uint32) >> 16).astype(np.uint16)
        assert x.size == 0 or x.tobytes() in BITS or not check, name
        ends["tensors read"] += 1


@pytest.mark.parametrize("kind", [0, 1], ids=["plain", "snappy"])
def test_of_5000_damaged_files_each_gives_the_right_bytes_or_one_line(tmp_path, kind):
    """Memory is watched in every tenth case: the two thousand bytes of a file may claim anything, and get little."""
    prefix = write_bundle(
        tmp_path / "m", ARRAYS, shards=2, cuts={"grid": CUTS}, codes={"half": 14}, per_block=6, kind=kind
    )
    index, *shards = Checkpoint(prefix).files
    good = {path: path.read_bytes() for path in (index, *shards)}
    items = dict(read_table(index))
    rng = random.Random(kind)
    ends = {"files refused": 0, "tensors refused": 0, "tensors read": 0}
    for case in range(CASES):
        victim = index if case % 5 else rng.choice(shards)
        victim.write_bytes(damage(good[index], dict(items), kind, rng) if case % 5 else mutate(good[victim], rng))
        start = time.perf_counter()
        if case % 10 == 1:
            tracemalloc.start()
        read_all(prefix, ends)
        if tracemalloc.is_tracing():
            assert tracemalloc.get_traced_memory()[1] < 250_000, case
            tracemalloc.stop()
        if case % 4 == 2:  # with nothing but shapes and places to go by
            read_all(prefix, ends, check=False)
        assert time.perf_counter() - start < 5, f"case {case} hangs"
        victim.write_bytes(good[victim])
    assert ends["files refused"] > CASES / 5 and ends["tensors refused"] > CASES / 5 and ends["tensors read"] > CASES


def test_the_undamaged_file_is_read_whole(tmp_path):
    prefix = write_bundle(tmp_path / "m", ARRAYS, shards=2, cuts={"grid": CUTS}, codes={"half": 14})
    ends = {"files refused": 0, "tensors refused": 0, "tensors read": 0}
    read_all(prefix, ends)
    assert ends == {"files refused": 0, "tensors refused": 0, "tensors read": len(ARRAYS)}
