"""The checksum of the fast form equals that of the definition, for every length and every way to cut a message."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialbert.convert.crc32c import POLYNOMIAL, append_zeros, crc32c, mask, unmask

ROW = 1 << 16


def by_the_definition(data: bytes) -> int:
    """Bit by bit, from the standard."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    "data, crc",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_published_vectors_come_out(data, crc):  # the last four: RFC 3720, appendix B.4
    assert crc32c(data) == by_the_definition(data) == crc
    assert crc32c(np.frombuffer(data, np.uint8)) == crc


@pytest.mark.parametrize("crc, masked", [(0, 0xA282EAD8), (0xE3069283, 0xC78AB0E5)])
def test_the_stored_form_of_a_checksum_is_as_published(crc, masked):
    assert mask(crc) == masked
    assert unmask(masked) == crc


@given(st.integers(0, 2**32 - 1))
def test_unmask_undoes_mask(crc):
    assert 0 <= mask(crc) < 2**32
    assert unmask(mask(crc)) == mask(unmask(crc)) == crc


def test_every_length_to_both_sides_of_the_fast_path_equals_the_definition():
    data = np.random.default_rng(0).bytes(1100)
    for length in range(0, len(data) + 1, 3):
        assert crc32c(data[:length]) == by_the_definition(data[:length]), length


@pytest.mark.parametrize("length", [ROW - 1, ROW, ROW + 1, 2 * ROW - 3, 2 * ROW, 2 * ROW + 4, 3 * ROW + 511])
def test_lengths_around_whole_rows_equal_the_definition(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == by_the_definition(data)


@given(st.binary(max_size=40), st.integers(0, 3000))
def test_leading_zeros_count_although_the_register_alone_would_not_see_them(data, zeros):
    assert crc32c(bytes(zeros) + data) == by_the_definition(bytes(zeros) + data)


@given(st.binary(min_size=512, max_size=5000), st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_changes_the_checksum(data, at, bit):
    flipped = bytearray(data)
    flipped[at % len(data)] ^= 1 << bit
    assert crc32c(bytes(flipped)) != crc32c(data)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(2, 20))
def test_appending_zeros_is_linear_and_its_square_appends_twice_as_many(a, b, power):
    x, y, both = (np.array([n], np.uint32) for n in (a, b, a ^ b))
    count = 1 << power
    assert append_zeros(x, count) ^ append_zeros(y, count) == append_zeros(both, count)
    assert append_zeros(append_zeros(x, count), count) == append_zeros(x, 2 * count)


def test_slices_of_an_array_are_read_where_they_lie():
    data = np.arange(100_000, dtype=np.uint32).view(np.uint8)
    for start in (1, 2, 3, 77):
        assert crc32c(data[start:90_000]) == crc32c(data[start:90_000].tobytes())
