"""The wire format: what is written is read back, and any bytes are either fields or a ValueError."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialbert.protobuf import (
    bytes_field,
    fields,
    fixed32,
    fixed32_field,
    float_field,
    message,
    number_field,
    read_varint,
    signed,
    varint,
)

numbers = st.integers(1, 2**29 - 1)  # of fields


@pytest.mark.parametrize("value, written", [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02")])
def test_varints_are_as_in_the_public_guide(value, written):
    assert varint(value).hex() == written
    assert read_varint(bytes.fromhex(written), 0) == (value, len(written) // 2)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=5), st.binary(max_size=5))
def test_a_varint_is_read_back_wherever_it_stands(value, before, after):
    data = before + varint(value) + after
    assert read_varint(data, len(before)) == (value, len(data) - len(after))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 10, b"\xff" * 10 + b"\1", b"\x80" * 1000 + b"\0"])
def test_a_varint_without_end_or_of_more_than_ten_bytes_is_refused(data):
    with pytest.raises(ValueError, match="without end"):
        read_varint(data, 0)


@given(numbers, st.integers(-(2**63), 2**63 - 1))
def test_signed_numbers_come_back(field, value):
    ((number, read),) = fields(number_field(field, value))
    assert (number, signed(read)) == (field, value)
    assert value >= 0 or len(number_field(field, value)) >= 11  # ten bytes, whatever its size


@given(numbers, st.binary(max_size=300))
def test_bytes_come_back(field, value):
    ((number, read),) = fields(bytes_field(field, value))
    assert (number, message(read)) == (field, value)


@given(numbers, st.integers(0, 2**32 - 1))
def test_fixed_numbers_come_back(field, value):
    ((number, read),) = fields(fixed32_field(field, value))
    assert (number, fixed32(read)) == (field, value)


@given(numbers, st.floats(width=32, allow_nan=False))
def test_floats_come_back(field, value):
    ((number, read),) = fields(float_field(field, value))
    assert number == field and struct.unpack("<f", message(read)) == (value,)


def test_a_message_is_its_fields_in_order_and_eight_bytes_are_known_too():
    data = number_field(1, 5) + bytes_field(2, b"ab") + bytes([3 << 3 | 1]) + b"12345678" + number_field(1, 6)
    assert list(fields(data)) == [(1, 5), (2, b"ab"), (3, b"12345678"), (1, 6)]
    assert list(fields(b"")) == []


@pytest.mark.parametrize(
    "data, text",
    [
        (b"\0\0", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0f\0", "wire type 7"),
        (b"\x0a\5abcd", "longer than the file"),
        (b"\x0d\0\0\0", "longer than the file"),
        (b"\x09\0\0\0", "longer than the file"),
        (b"\x0a" + b"\xff" * 9 + b"\1", "longer than the file"),
        (b"\x08", "without end"),
    ],
)
def test_bytes_that_are_no_message_are_refused(data, text):
    with pytest.raises(ValueError, match=text):
        list(fields(data))


@pytest.mark.parametrize("value", [b"", b"1234", 2**64, 2**69])
def test_what_is_no_number_of_64_bits_is_refused(value):
    with pytest.raises(ValueError, match="where a whole number belongs"):
        signed(value)


@pytest.mark.parametrize("value", [0, 7, b"", b"123", b"12345"])
def test_what_is_no_number_of_four_bytes_is_refused(value):
    with pytest.raises(ValueError, match="four bytes"):
        fixed32(value)


def test_a_number_is_no_message():
    with pytest.raises(ValueError, match="where a message belongs"):
        message(3)


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_a_value_error(data):
    try:
        read = list(fields(data))
    except ValueError:
        return
    assert sum(len(value) for _, value in read if isinstance(value, bytes)) <= len(data)
