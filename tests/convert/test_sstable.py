"""Sorted tables: what is written is read, and no byte of a file is believed before it is checked."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialbert.convert.sstable import decompress, entries, read_table, stand_in
from minialbert.convert.tf_writer import Block, table
from minialbert.errors import CheckpointError, FileError
from minialbert.protobuf import varint
from tests.convert.bundles import PACKS, block_of, blocks_of, snappy, table_of, table_of_blocks

ITEMS = {b"": b"header", **{b"name/%03d" % i: b"v" * (i % 7) for i in range(100)}}
tables = st.dictionaries(st.binary(max_size=20), st.binary(max_size=300), min_size=1, max_size=60)


def write(tmp_path, data: bytes):
    path = tmp_path / "x.index"
    path.write_bytes(data)
    return path


# ---- what is read ----


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("per_block", [1, 16, 17, 1000])
def test_tables_of_any_blocks_plain_or_compressed_are_read(tmp_path, kind, per_block):
    path = write(tmp_path, table_of(ITEMS, per_block, kind))
    assert list(read_table(path)) == sorted(ITEMS.items())


@given(items=tables)
def test_the_table_that_the_writer_makes_holds_what_went_in(items, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("table"), table(sorted(items.items())))
    assert list(read_table(path)) == sorted(items.items())


@given(items=tables)
def test_the_writers_block_is_the_one_that_the_tests_build(items):
    block = Block(16)
    for key, value in sorted(items.items()):
        block.add(key, value)
    assert block.finish() == block_of(sorted(items.items()))
    assert block.size == len(block.finish())
    assert list(entries(block.finish())) == sorted(items.items())


def test_the_worked_example_is_as_told():
    data = (PACKS[0] / "model.ckpt-best.index").read_bytes()
    assert len(data) == 1691
    assert data[-48:].startswith(bytes.fromhex("ca0c08d70c0f")) and data[-8:] == struct.pack("<Q", 0xDB4775248B80FB57)
    assert data[1623 : 1623 + 15] == bytes.fromhex("0001036800c50c 00000000 01000000")
    blocks, index = blocks_of(data)
    assert list(entries(index)) == [(b"h", varint(0) + varint(1605))]
    assert len(blocks) == 1 and len(blocks[0]) == 1605
    assert struct.unpack("<4I", blocks[0][-16:]) == (0, 614, 1231, 3)
    rows = list(entries(blocks[0]))
    assert len(rows) == 42
    assert rows[0] == (b"", bytes.fromhex("08011a020801"))
    assert [key for key, _ in rows[1:3]] == [b"bert/embeddings/LayerNorm/beta", b"bert/embeddings/LayerNorm/gamma"]


# ---- what is refused ----


@pytest.mark.parametrize(
    "data, text",
    [
        (b"", "0 bytes, too short"),
        (b"x" * 47, "47 bytes, too short"),
        (table_of(ITEMS)[:-1], "does not end as the index"),
        (table_of(ITEMS)[:300], "does not end as the index"),
        (table_of(ITEMS)[:-1] + b"\0", "does not end as the index"),
        (b"<!DOCTYPE html><html>" + b" " * 100, "a web page"),
        (b"\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git lfs pull"),
        (table_of_blocks([block_of(ITEMS.items())], kind=2), "compression 2"),
        (table_of_blocks([block_of([(b"b", b""), (b"a", b"")])]), "keys out of order"),
        (table_of_blocks([block_of([(b"a", b"")])] * 2), "keys out of order"),
        (table_of_blocks([b"\0\0"]), "shorter than its list of restarts"),
        (table_of_blocks([struct.pack("<I", 2**32 - 1)]), "shorter than its list of restarts"),
        (table_of_blocks([b"\1\0\0" + bytes(4) + struct.pack("<I", 1)]), "longer than its block"),
        (table_of_blocks([b"\0\5\0ab" + bytes(4) + struct.pack("<I", 1)]), "longer than its block"),
        (table_of_blocks([b"\0\0" + varint(2**63) + bytes(4) + struct.pack("<I", 1)]), "longer than its block"),
        (table_of_blocks([b"\0" + b"\xff" * 11 + bytes(4) + struct.pack("<I", 1)]), "a number without end"),
        (table_of_blocks([], block_of([(b"a", varint(10**9) + varint(9))])), "a block at bytes 1000000000"),
        (table_of_blocks([], block_of([(b"a", varint(0) + varint(2**64))])), "a block at bytes 0"),
        (table_of_blocks([], block_of([(b"a", b"\x80")])), "a number without end"),
        (b"\xff" * 40 + table_of(ITEMS)[-8:], "a number without end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_damage_has_its_own_line(tmp_path, data, text):
    path = write(tmp_path, data)
    with pytest.raises(CheckpointError) as caught:
        list(read_table(path))
    assert text in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_any_flipped_bit_in_a_block_is_noticed(tmp_path):
    good = table_of(ITEMS)
    for at in range(0, len(good) - 48, 41):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        with pytest.raises(CheckpointError, match="wrong checksum of the block at byte"):
            list(read_table(write(tmp_path, bytes(bad))))


def test_one_block_is_not_read_twice(tmp_path):
    blocks = [block_of([(b"a", b"")])]
    length = varint(len(blocks[0]))
    index = block_of([(b"a", varint(0) + length), (b"b", varint(0) + length)], every=1)
    with pytest.raises(CheckpointError, match="blocks that overlap"):
        list(read_table(write(tmp_path, table_of_blocks(blocks, index))))


def test_keys_cannot_grow_without_bound(tmp_path):
    keys = [(b"a" * n, b"") for n in range(1, 1500)]  # five bytes each in the file, 750 on average when unfolded
    with pytest.raises(CheckpointError, match="keys"):
        list(read_table(write(tmp_path, table_of_blocks([block_of(keys, every=10_000)]))))


def test_a_table_that_is_missing_or_a_folder_is_a_file_error(tmp_path):
    for path in (tmp_path / "x.index", tmp_path):
        with pytest.raises(FileError, match="cannot be read") as caught:
            list(read_table(path))
        assert not isinstance(caught.value, CheckpointError)


@given(st.binary(max_size=80))
def test_any_bytes_as_a_block_are_entries_or_a_value_error(data):
    try:
        rows = list(entries(data))
    except ValueError:
        return
    assert sum(len(value) for _, value in rows) <= len(data)


def test_what_stands_in_for_a_file_is_told_from_its_first_bytes():
    assert stand_in(b"version https://git-lfs.github.com") and stand_in(b"  <!doctype") and not stand_in(b"\0\0\6")
    assert not stand_in(b"")


# ---- Snappy ----


def test_each_element_of_snappy_is_known():
    literal = bytes([4 << 2]) + b"abcde"
    assert decompress(varint(5) + literal) == b"abcde"
    assert decompress(varint(9) + literal + bytes([0 << 2 | 1, 5])) == b"abcdeabcd"
    assert decompress(varint(8) + literal + bytes([2 << 2 | 2, 2, 0])) == b"abcdeded"  # it runs into its own output
    assert decompress(varint(12) + literal + bytes([6 << 2 | 3, 1, 0, 0, 0])) == b"abcde" + b"e" * 7
    for wide in (1, 2, 3, 4):
        assert decompress(varint(70) + bytes([59 + wide << 2]) + (69).to_bytes(wide, "little") + b"x" * 70) == b"x" * 70
    assert decompress(b"\0") == b""


@pytest.mark.parametrize(
    "data, text",
    [
        (b"", "without end"),
        (varint(2**40) + b"\0a", "impossible length"),
        (varint(5) + b"\0a", "claims 5"),
        (varint(1) + b"\4ab", "claims 1"),
        (varint(9) + b"\x20a", "ends in a literal"),
        (varint(9) + b"\xf0", "ends in a literal"),
        (varint(9) + b"\1\1", "not there"),
        (varint(9) + b"\0a\1\0", "not there"),
        (varint(9) + b"\0a\1", "not there"),
        (varint(9) + b"\0a\2\1", "not there"),
        (varint(9) + b"\0a\3\2\0\0\0", "not there"),
    ],
)
def test_damaged_snappy_is_a_value_error(data, text):
    with pytest.raises(ValueError, match=text):
        decompress(data)


@given(st.lists(st.sampled_from([b"abcd", b"abcabc", b"x", b"long run of text ", bytes(70)]), max_size=60))
def test_what_was_compressed_comes_back(parts):
    data = b"".join(parts)
    assert decompress(snappy(data)) == data


@given(st.binary(max_size=60))
def test_any_bytes_as_snappy_are_data_or_a_value_error(data):
    try:
        out = decompress(data)
    except ValueError:
        return
    assert len(out) <= 64 * len(data)


def test_far_copies_come_back():
    data = bytes(range(256)) + b"q" * 100_000 + bytes(range(256))
    assert decompress(snappy(data)) == data
