"""Corners of the encodings; the laws are in tests/properties/test_wire_formats.py."""

import numpy as np
import pytest

from p2ptrain.errors import BadMessage
from p2ptrain.wire.codec import BLOCK, decode, encode, encoded_bytes, round_to_bf16

LARGEST = np.finfo(np.float32).max
SMALLEST = np.finfo(np.float32).smallest_subnormal


@pytest.mark.parametrize("numel", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_zeros_of_any_length_stay_zeros(numel: int) -> None:
    data = encode("int8", np.zeros(numel, np.float32))
    assert data == bytes(encoded_bytes("int8", numel))
    assert decode("int8", data, numel).tobytes() == bytes(4 * numel)


def test_each_block_has_a_scale_of_its_own_and_all_scales_come_first() -> None:
    values = np.concatenate([np.full(BLOCK, 127, np.float32), np.full(2, -254, np.float32)])
    assert encode("int8", values) == bytes.fromhex("0000803f" + "00000040" + "7f" * BLOCK + "8181")


def test_the_largest_numbers_come_back_finite() -> None:
    values = np.array([LARGEST, -LARGEST, 0], np.float32)
    back = decode("int8", encode("int8", values), 3)
    assert np.abs(back.astype(np.float64) - values).max() <= float(LARGEST) / 254


def test_numbers_too_small_for_a_scale_lose_at_most_what_is_stated() -> None:
    for units in range(1, 40000, 7):
        value = np.array([units], np.float32) * SMALLEST
        data = encode("int8", value)
        scale = np.frombuffer(data, "<f4", count=1)[0]
        error = abs(float(value[0]) - float(decode("int8", data, 1)[0]))
        assert error <= max(float(scale) / 2, 1e-43)


@pytest.mark.parametrize("scale", [np.inf, np.nan, LARGEST])
def test_a_strangers_scale_that_is_not_finite_or_overflows_is_refused(scale: float) -> None:
    data = np.array([scale], "<f4").tobytes() + bytes([127, 0])
    with pytest.raises(BadMessage, match="NaN or infinite"):
        decode("int8", data, 2)


def test_decoding_does_not_write_into_what_it_was_given() -> None:
    values = np.arange(5, dtype=np.float32)
    data = encode("float32", values)
    decode("float32", data, 5)[:] = 0
    assert decode("float32", data, 5).tobytes() == values.tobytes()


def test_bf16_ties_go_to_the_even_number_and_overflow_goes_to_infinity() -> None:
    values = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x80000001], np.uint32).view(np.float32)
    assert [hex(bits) for bits in round_to_bf16(values)] == ["0x3f80", "0x3f82", "0x3f81", "0x7f80", "0x8000"]
