"""Corners of the encodings; the laws are in tests/properties/test_wire_formats.py."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from p2ptrain.config.schema import Codec
from p2ptrain.errors import BadMessage
from p2ptrain.wire.benchmark_codec import codec_speeds
from p2ptrain.wire.codec import INT8_BLOCK, decode, encode, encoded_bytes, round_to_bf16

LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize("numel", [0, 1, INT8_BLOCK - 1, INT8_BLOCK, INT8_BLOCK + 1, 3 * INT8_BLOCK + 5])
def test_zeros_of_any_length_stay_zeros(numel: int) -> None:
    data = encode("int8", np.zeros(numel, np.float32))
    assert data == bytes(encoded_bytes("int8", numel))
    assert decode("int8", data, numel).tobytes() == bytes(4 * numel)
    assert not decode("int4", encode("int4", np.zeros(numel, np.float32)), numel).any()


def test_each_block_has_a_scale_of_its_own_and_all_scales_come_first() -> None:
    values = np.concatenate([np.full(INT8_BLOCK, 127, np.float32), np.full(2, -254, np.float32)])
    assert encode("int8", values) == bytes.fromhex("0000803f" + "00000040" + "7f" * INT8_BLOCK + "8181")


def test_int4_has_these_very_bytes() -> None:
    values = np.array([-8, 1, 0.5, 1.5, 2.5, -2.5, 7, 8], np.float32)
    # -8 comes first among the largest, so the scale is 1.0, bf16 3F80. Ties go to the even number, 8 is clipped to 7:
    # q is -8 1 0 2 2 -2 7 7, q + 8 is 0 9 8 A A 6 F F, the first of two in the lower half.
    assert encode("int4", values).hex() == "803f" + "90" + "a8" + "6a" + "ff"
    # The scale of a positive peak is negative, so that the peak is at -8 here, too.
    assert encode("int4", np.array([16, -2, 0], np.float32)).hex() == "00c0" + "90" + "88"


def test_int4_blocks_of_64_have_scales_of_their_own_that_come_first() -> None:
    values = np.concatenate([np.full(64, -8, np.float32), np.full(1, -16, np.float32)])
    assert encode("int4", values) == bytes.fromhex("803f" + "0040" + "00" * 32 + "80")


@pytest.mark.parametrize(("codec", "levels"), [("int8", 254), ("int4", 7.7)])
def test_the_largest_numbers_come_back_finite(codec: Codec, levels: float) -> None:
    values = np.array([LARGEST, -LARGEST, 0], np.float32)
    back = decode(codec, encode(codec, values), 3)
    assert np.abs(back.astype(np.float64) - values).max() <= float(LARGEST) / levels


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_blocks_too_small_for_a_scale_become_zeros(codec: Codec) -> None:
    for exponent in range(-149, -110):
        value = np.array([2.0**exponent], np.float32)
        back = float(decode(codec, encode(codec, value), 1)[0])
        assert abs(back / 2.0**exponent - 1) < 0.01 or (back == 0 and exponent < -119)


@pytest.mark.parametrize("scale", [np.inf, np.nan, LARGEST])
def test_a_strangers_scale_that_is_not_finite_or_overflows_is_refused(scale: float) -> None:
    data = np.array([scale], "<f4").tobytes() + bytes([127, 0])
    with pytest.raises(BadMessage, match="NaN or infinite"):
        decode("int8", data, 2)
    with pytest.raises(BadMessage, match="NaN or infinite"):
        decode("int4", data[2:4] + bytes([0]), 2)


PROGRAM = """
import hashlib
import numpy as np
from p2ptrain.wire.codec import decode, encode
for codec in ("int8", "int4"):
    for numel in (1, 63, 64, 257, 300001):
        values = np.random.default_rng(numel).standard_normal(numel).astype(np.float32)
        values[::3] = np.ldexp(values[::3], (values[::3] * 20).astype(np.int32))
        data = encode(codec, values)
        print(codec, hashlib.sha256(bytes(data) + decode(codec, data, numel).tobytes()).hexdigest())
"""


def test_encodings_have_the_same_bits_with_and_without_vector_instructions() -> None:
    processors = [{"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 FMA3 AVX512F AVX512_SKX"}, {}]
    running = [
        # numpy warns about names that it does not know: they changed between its versions.
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM], env=os.environ | env, stdout=subprocess.PIPE, text=True
        )
        for env in processors
    ]
    outputs = [process.communicate(timeout=50)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0].count("\n") == 10
    assert outputs[0] == outputs[1]
    assert hashlib.sha256(outputs[0].encode()).hexdigest()[:16] == "ffaa96c7d937d2ef"


def test_the_benchmark_measures_what_the_encodings_promise() -> None:
    rows = {row.codec: row for row in codec_speeds(numel=1 << 18, repeats=3)}
    assert (rows["int8"].bits, rows["int4"].bits, rows["float32"].bits) == (8.125, 4.25, 32)
    assert rows["int8"].relative_error < 0.01
    assert rows["int4"].relative_error < 0.1
    assert rows["int4"].encode_gb_s > 0.3  # 1.5 and more on a quiet machine; this catches a loop in Python


def test_decoding_does_not_write_into_what_it_was_given() -> None:
    values = np.arange(5, dtype=np.float32)
    data = encode("float32", values)
    decode("float32", data, 5)[:] = 0
    assert decode("float32", data, 5).tobytes() == values.tobytes()


def test_bf16_ties_go_to_the_even_number_and_overflow_goes_to_infinity() -> None:
    values = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x80000001], np.uint32).view(np.float32)
    assert [hex(bits) for bits in round_to_bf16(values)] == ["0x3f80", "0x3f82", "0x3f81", "0x7f80", "0x8000"]
