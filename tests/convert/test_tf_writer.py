"""What is written is read back to the same bits; Google's own files come out again to the byte."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from minialbert.convert.sstable import entries
from minialbert.convert.tf_checkpoint import Checkpoint, find_prefix
from minialbert.convert.tf_entries import parse_entry
from minialbert.convert.tf_writer import table, write_checkpoint
from minialbert.errors import CheckpointError, FileError, InputError
from tests.convert.bundles import CODES, PACKS, arrays_of_every_dtype, assert_same, blocks_of

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.isprintable)
arrays = st.sampled_from(sorted(CODES)).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4))
)


def files_of(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}.{ending}").read_bytes() for ending in ("index", "data-00000-of-00001")]


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_a_checkpoint_of_google_comes_out_again_to_the_byte(pack, tmp_path):
    """Both files: TensorFlow lays tensors down in the order of their names, and so does the reader give them."""
    prefix = find_prefix(pack)
    checkpoint = Checkpoint(prefix)
    write_checkpoint(tmp_path / "again", ((name, checkpoint.read(name)) for name in checkpoint))
    assert files_of(tmp_path / "again") == files_of(prefix)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(tensors=st.dictionaries(names, arrays, max_size=8))
def test_any_tensors_come_back_bit_for_bit(tensors, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("bundle") / "m"
    write_checkpoint(prefix, tensors.items())
    checkpoint = Checkpoint(prefix)
    assert list(checkpoint) == sorted(tensors)
    for name, x in tensors.items():
        assert_same(checkpoint.read(name), x)


def test_every_dtype_comes_back(tmp_path):
    tensors = arrays_of_every_dtype()
    write_checkpoint(tmp_path / "m", tensors.items())
    for name, x in tensors.items():
        assert_same(Checkpoint(tmp_path / "m").read(name), x)


def test_no_tensors_at_all_are_a_checkpoint_too(tmp_path):
    write_checkpoint(tmp_path / "m", [])
    assert list(Checkpoint(tmp_path / "m")) == []


def test_bfloat16_is_written_from_its_bits(tmp_path):
    bits = np.array([[0x3F80, 0xC000], [0x7F80, 0x0001]], np.uint16)  # 1, -2, infinity, the smallest
    write_checkpoint(tmp_path / "m", [("a", bits), ("b", bits)], bfloat16={"b"})
    checkpoint = Checkpoint(tmp_path / "m")
    assert checkpoint.listing == {"a": ("U16", [2, 2]), "b": ("BF16", [2, 2])}
    assert checkpoint.read("b").tolist() == [[1.0, -2.0], [float("inf"), 2.0**-133]]


@pytest.mark.parametrize(
    "x",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::-2],
        np.arange(12, dtype=">i4").reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.broadcast_to(np.float32(2), (3, 2)),
    ],
    ids=["transposed", "backwards", "big-endian", "column-major", "broadcast"],
)
def test_arrays_of_any_layout_are_written_row_by_row(x, tmp_path):
    write_checkpoint(tmp_path / "m", [("x", x)])
    assert_same(Checkpoint(tmp_path / "m").read("x"), np.array(x, x.dtype.newbyteorder("="), order="C"))


def test_data_lies_in_the_order_given_and_the_index_is_sorted(tmp_path):
    write_checkpoint(tmp_path / "m", ((name, np.array([ord(name)], np.uint8)) for name in "bca"))
    assert files_of(tmp_path / "m")[1] == b"bca"
    assert list(Checkpoint(tmp_path / "m")) == ["a", "b", "c"]


def test_tensors_are_taken_one_at_a_time(tmp_path):
    alive = 0
    most = 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= self.base is None

    def tensors():
        nonlocal alive, most
        for number in range(20):
            x = np.ndarray.__new__(Counted, (1000,), np.float32)
            x[:] = number
            alive += 1
            most = max(most, alive)
            yield f"t{number:02}", x
            del x

    write_checkpoint(tmp_path / "m", tensors())
    assert len(Checkpoint(tmp_path / "m")) == 20
    assert most <= 2  # the next one is made while the last is still held


# ---- what is refused ----


@pytest.mark.parametrize(
    "tensors, text",
    [
        ([("a", np.ones(2)), ("b", np.ones(1)), ("a", np.ones(2))], "a second tensor named 'a'"),
        ([("", np.ones(2))], "'' cannot be the name"),
        ([("a\nb", np.ones(2))], r"'a\\nb' cannot be the name"),
        ([("\0a", np.ones(2))], "cannot be the name"),
        ([("\ud800", np.ones(2))], "cannot be the name"),
        ([("a", np.array(["text"]))], "a is of dtype <U4, which a checkpoint cannot hold; known are float32"),
        ([("a", np.array([object()]))], "a is of dtype object"),
        ([("a", np.array(["2020"], "M8[Y]"))], "a is of dtype datetime64"),
        ([("bf", np.ones(2, np.float32))], "bf is of dtype float32, expected the bits of bfloat16"),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused_and_nothing_is_left(tensors, text, tmp_path):
    with pytest.raises(InputError, match=text) as caught:
        write_checkpoint(tmp_path / "m", tensors, bfloat16={"bf"})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_whoever_makes_the_tensors_goes_through_and_the_old_files_stay(tmp_path):
    write_checkpoint(tmp_path / "m", [("a", np.ones(2))])
    old = files_of(tmp_path / "m")
    for error in (CheckpointError("a wrong checksum"), KeyError("a"), KeyboardInterrupt()):

        def tensors(error=error):
            yield "a", np.zeros(5)
            raise error

        with pytest.raises(type(error)) as caught:
            write_checkpoint(tmp_path / "m", tensors())
        assert caught.value is error
        assert files_of(tmp_path / "m") == old and len(list(tmp_path.iterdir())) == 2


def test_where_nothing_can_be_written_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match=r"missing/m\.data-00000-of-00001: cannot be written"):
        write_checkpoint(tmp_path / "missing" / "m", [("a", np.ones(2))])
    (tmp_path / "m.index").mkdir()
    with pytest.raises(FileError, match=r"m\.index: cannot be written"):
        write_checkpoint(tmp_path / "m", [("a", np.ones(2))])


# ---- blocks ----


def test_blocks_are_closed_at_256_kilobytes_and_their_keys_in_the_index_are_short():
    items = [(b"scope_%05d/kernel" % number, b"v" * 40) for number in range(12_000)]
    blocks, index = blocks_of(table(items))
    assert [pair for block in blocks for pair in entries(block)] == items
    assert len(blocks) == 3 and all(2**18 <= len(block) < 2**18 + 100 for block in blocks[:-1])
    first = [next(iter(entries(block)))[0] for block in blocks]
    last = [list(entries(block))[-1][0] for block in blocks]
    keys = [key for key, _ in entries(index)]
    assert all(a <= key < b for a, key, b in zip(last, keys, first[1:], strict=False))
    assert keys[-1] == b"t" and all(len(key) <= len(last[0]) for key in keys)


@given(st.lists(st.binary(max_size=6), min_size=2, unique=True, max_size=6))
def test_separators_lie_between_the_blocks_they_separate(keys):
    keys = sorted(keys)
    blocks, index = blocks_of(table([(key, b"v" * 2**18) for key in keys]))
    separators = [key for key, _ in entries(index)]
    assert len(blocks) == len(keys)
    assert all(a <= s < b for a, s, b in zip(keys, separators, keys[1:], strict=False)) and keys[-1] <= separators[-1]


def test_entries_say_where_the_bytes_are(tmp_path):
    write_checkpoint(tmp_path / "m", [("a", np.zeros(3, np.int16)), ("b", np.zeros((0, 3))), ("c", np.array(1.0))])
    ((block,), _) = blocks_of(files_of(tmp_path / "m")[0])
    found = {key.decode(): parse_entry(value)[:5] for key, value in entries(block) if key}
    assert found == {"a": (5, [3], 0, 0, 6), "b": (2, [0, 3], 0, 6, 0), "c": (2, [], 0, 6, 8)}
