"""Entries, headers and the keys of slices: the measured bytes, and every value that no file should have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialbert.convert.crc32c import crc32c
from minialbert.convert.tf_entries import Entry, ordered, parse_entry, parse_header, slice_key, word_of
from minialbert.convert.tf_writer import HEADER, entry_of
from minialbert.protobuf import bytes_field, number_field
from tests.convert.bundles import header, spans_message

int64 = st.integers(-(2**63), 2**63 - 1)


def test_the_measured_entries_are_read():
    bias = bytes.fromhex("0801 1204 12020830 2080920a 28c001 35c2f72692")
    assert parse_entry(bias) == Entry(1, [48], 0, 166144, 192, 0x9226F7C2, [])
    step = bytes.fromhex("0809 1200 20e8e50c 2808 35f079ba64")
    assert parse_entry(step) == Entry(9, [], 0, 209640, 8, 0x64BA79F0, [])
    assert parse_entry(bytes.fromhex("0801 1206 1200 12020803 35d8ea82a2")).shape == [0, 3]


def test_the_usual_header_is_read_and_written():
    assert bytes.fromhex("08011a020801") == HEADER == header()
    assert parse_header(HEADER) == 1
    assert parse_header(header(shards=300, min_consumer=1)) == 300


def test_slices_are_read_with_absent_lengths_as_whole_dimensions():
    spans = [(67, 67), (0, -1), (0, 5)]
    shape = bytes_field(2, b"".join(bytes_field(2, number_field(1, n)) for n in (200, 9, 5)))
    assert parse_entry(number_field(1, 1) + shape + bytes_field(7, spans_message(spans))).slices == [spans]


@given(
    st.integers(1, 40), st.lists(st.integers(0, 2**62), max_size=9), st.integers(0, 99), st.integers(0), st.integers(0)
)
def test_entries_come_back(code, shape, shard, offset, size):
    offset, size = offset % 2**63, size % 2**63
    crc = crc32c(bytes([code]))
    entry = parse_entry(entry_of(code, shape, shard, offset, size, crc))
    assert entry[:5] == (code, shape, shard, offset, size)


def test_fields_that_are_unknown_are_skipped():
    assert parse_entry(bytes_field(99, b"?") + number_field(1, 3) + number_field(98, 1)).code == 3
    assert parse_header(HEADER + bytes_field(99, b"?")) == 1


@pytest.mark.parametrize(
    "value, text",
    [
        (b"\xff", "without end"),
        (number_field(4, -1), "negative"),
        (number_field(5, -8), "negative"),
        (number_field(3, -1), "negative"),
        (bytes_field(2, bytes_field(2, number_field(1, -2))), "negative"),
        (bytes_field(2, bytes_field(2, b"") * 255), "too many dimensions"),
        (bytes_field(2, number_field(3, 1)), "unknown rank"),
        (number_field(2, 1), "where a message belongs"),
        (bytes_field(1, b""), "where a whole number belongs"),
        (number_field(6, 1), "four bytes"),
        (bytes_field(7, spans_message([(0, 1)])), "slices that have others"),
        (bytes_field(2, bytes_field(2, bytes_field(1, b"x"))), "where a whole number belongs"),
        (b"\x20" + b"\xff" * 9 + b"\x7f", "64 bits"),
    ],
)
def test_impossible_entries_are_refused(value, text):
    with pytest.raises(ValueError, match=text):
        parse_entry(value)


@pytest.mark.parametrize(
    "value, text",
    [
        (b"", "counts 0 shards"),
        (number_field(1, -1), "counts -1 shards"),
        (header(endianness=1), "big-endian"),
        (header(min_consumer=9), "newer"),
        (entry_of(1, [2], 0, 0, 8, 0), "where a whole number belongs"),  # a tensor's entry
        (bytes_field(1, b"V1 has a message here"), "where a whole number belongs"),
        (b"\x08", "without end"),
    ],
)
def test_impossible_headers_are_refused(value, text):
    with pytest.raises(ValueError, match=text):
        parse_header(value)


def test_codes_have_words():
    assert [word_of(code) for code in (1, 14, 7, 20, 99, 0, -3)] == [
        "F32", "BF16", "string", "resource", "code 99", "code 0", "code -3",
    ]  # fmt: skip


# ---- the keys of slices ----


@pytest.mark.parametrize(
    "value, written",
    [
        (0, "80"), (1, "81"), (-1, "7f"), (63, "bf"), (64, "c040"), (-64, "40"), (-65, "3fbf"), (8191, "dfff"),
        (8192, "e02000"), (23334, "e05b26"), (2**31, "f880000000"), (2**55, "ff8080000000000000"),
    ],
)  # fmt: skip
def test_ordered_numbers_are_as_measured(value, written):
    assert ordered(value).hex() == written


@given(int64, int64)
def test_ordered_numbers_sort_as_numbers_do(a, b):
    assert (ordered(a) < ordered(b)) == (a < b)
    assert not (a != b and ordered(b).startswith(ordered(a)))  # so that what follows cannot disturb the order


def test_the_measured_key_of_a_slice_comes_out():
    assert slice_key("p/emb", [(67, 67), (0, 5)]) == b"\0p/emb\0\1\1\2" + bytes.fromhex("c043c0438085")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=2, unique=True))
def test_keys_sort_as_the_places_of_the_slices_do(spans):
    first, second = sorted(spans)
    assert slice_key("a", [first]) < slice_key("a", [second]) < slice_key("b", [first])
