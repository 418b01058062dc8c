"""How flat float32 vectors become bytes; encoding and decoding give the same bits on every processor.

``int8``: per block of 256 elements a float32 scale ``s = max|x| / 127`` and elements ``q = rint(x / s)``, as int8.

``int4``: per block of 64 elements a bf16 scale ``s = -p / 8``, where ``p`` is the element of largest magnitude with its
sign (the negative one of two equal ones), and elements ``q = min(rint(x / s), 7)``, sixteen levels from -8 to 7, stored
as ``q + 8`` in half a byte. The scale's sign lets the largest element use the level -8, which has no opposite: measured
on normal, Laplace and Student-t numbers, the error is that of levels from -7 to 7 with blocks half as long.

Both: ``rint`` breaks ties to even; decoded as ``q * s``; a scale below 2**-126 is 0 and its block decodes as zeros.
Layout: all scales, little endian, then all elements; of two in a byte the first is the lower half. ``float32``: the
elements themselves, little endian.

bf16 values travel and rest as uint16 bit patterns; ``round_to_bf16`` rounds to nearest, ties to even, as IEEE 754 does.
"""

from collections.abc import Iterator
from typing import assert_never

import numpy as np
import numpy.typing as npt

from p2ptrain.config.schema import Codec
from p2ptrain.errors import BadMessage, NonFiniteUpdate

Float32 = npt.NDArray[np.float32]
Bf16Bits = npt.NDArray[np.uint16]
_Bytes = npt.NDArray[np.uint8]

INT8_BLOCK = 256
"""Elements under one int8 scale: 1.6 % more bytes than the elements alone."""
INT4_BLOCK = 64
"""Elements under one int4 scale, 6 % more bytes. Blocks of 128 save 3 % and have a tenth more error."""
_CHUNK_ELEMENTS = 65536
"""Worked on at a time: 256 KiB of float32 stay in a core's second-level cache from one pass to the next."""
_ROUND = np.float32(1.5 * 2**23)
"""Added to a small float32, it rounds it to an integer, ties to even, and leaves that in the lowest bits."""
_TINY = np.finfo(np.float32).tiny
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_INT8_SCALE = np.nextafter(np.float32(_LARGEST) / np.float32(127), np.float32(0))
"""127 times the next larger number is infinite."""
_LARGEST_INT4_SCALE = np.float32(255 / 128 * 2.0**124)
"""8 times the next larger bf16 number is infinite."""


def encoded_bytes(codec: Codec, numel: int) -> int:
    """Length of the encoding of ``numel`` elements, so that a receiver can check it before it takes memory."""
    match codec:
        case "float32":
            return 4 * numel
        case "int8":
            return 4 * _num_blocks(numel, INT8_BLOCK) + numel
        case "int4":
            return 2 * _num_blocks(numel, INT4_BLOCK) + (numel + 1) // 2
        case _:
            assert_never(codec)


def encode(codec: Codec, values: Float32) -> memoryview:
    """``values`` [numel] as bytes, which are not copied once more: other threads would wait for that.

    Raises:
        NonFiniteUpdate: an element is NaN or infinite.
    """
    match codec:
        case "float32":
            _check_finite(values, np.isfinite(values).all())
            return _read_only(values.astype("<f4").view(np.uint8))
        case "int8":
            return _encode_int8(values)
        case "int4":
            return _encode_int4(values)
        case _:
            assert_never(codec)


def decode(codec: Codec, data: bytes | memoryview, numel: int) -> Float32:
    """The float32 vector [numel] in ``data``.

    Raises:
        BadMessage: the length does not fit ``numel``, or a value is not finite.
    """
    if len(data) != encoded_bytes(codec, numel):
        raise BadMessage(f"{numel} elements in {codec} are {encoded_bytes(codec, numel)} bytes, not {len(data)}")
    match codec:
        case "float32":
            values = np.frombuffer(data, "<f4").astype(np.float32)
            bound = np.inf
        case "int8":
            scales = np.frombuffer(data, "<f4", count=_num_blocks(numel, INT8_BLOCK)).astype(np.float32)
            values = _decode_int8(np.frombuffer(data, np.int8, offset=scales.nbytes), scales)
            bound = 128 * float(np.abs(scales).max(initial=0))
        case "int4":
            bits = np.frombuffer(data, "<u2", count=_num_blocks(numel, INT4_BLOCK))
            scales = bf16_to_float32(bits)
            values = _decode_int4(np.frombuffer(data, np.uint8, offset=bits.nbytes), scales, numel)
            bound = 8 * float(np.abs(scales).max(initial=0))
        case _:
            assert_never(codec)
    # Scales this small cannot give infinity; only others cost a look at every element.
    if not bound <= _LARGEST and not np.isfinite(values).all():
        raise BadMessage(f"{np.count_nonzero(~np.isfinite(values))} of {numel} decoded elements are NaN or infinite")
    return values


def round_to_bf16(values: Float32) -> Bf16Bits:
    """Bit patterns [numel] of the bf16 numbers nearest to finite ``values``, ties to even."""
    bits = values.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)  # the lowest bit that is kept
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    return rounded.astype(np.uint16)


def bf16_to_float32(bits: Bf16Bits) -> Float32:
    """The float32 numbers [numel] that bf16 bit patterns stand for, exactly."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def _encode_int8(values: Float32) -> memoryview:
    num_blocks = _num_blocks(values.size, INT8_BLOCK)
    encoded = np.empty(num_blocks * (4 + INT8_BLOCK), np.uint8)
    scales, elements = encoded[: 4 * num_blocks].view("<f4"), encoded[4 * num_blocks :].view(np.int8)
    elements_BE = elements.reshape(num_blocks, INT8_BLOCK)  # blocks, elements in one
    scratch = np.empty((_CHUNK_ELEMENTS // INT8_BLOCK, INT8_BLOCK), np.float32)
    for chunk, x_BE in _chunks(values, INT8_BLOCK):
        work_BE = scratch[: len(x_BE)]
        largest = np.abs(_peaks(x_BE, work_BE))
        _check_finite(values, np.isfinite(largest).all())
        scales[chunk] = _usable(np.divide(largest, 127, dtype=np.float32), _LARGEST_INT8_SCALE)
        np.divide(x_BE, _divisors(scales[chunk])[:, None], out=work_BE)
        np.rint(work_BE, out=work_BE)
        np.copyto(elements_BE[chunk], work_BE, casting="unsafe")
    return _read_only(encoded[: encoded_bytes("int8", values.size)])


def _encode_int4(values: Float32) -> memoryview:
    num_blocks = _num_blocks(values.size, INT4_BLOCK)
    encoded = np.empty(num_blocks * (2 + INT4_BLOCK // 2), np.uint8)
    scales, elements = encoded[: 2 * num_blocks].view("<u2"), encoded[2 * num_blocks :]
    elements_BE = elements.reshape(num_blocks, INT4_BLOCK // 2)
    scratch = np.empty((_CHUNK_ELEMENTS // INT4_BLOCK, INT4_BLOCK), np.float32)
    for chunk, x_BE in _chunks(values, INT4_BLOCK):
        work_BE = scratch[: len(x_BE)]
        peaks = _peaks(x_BE, work_BE)
        _check_finite(values, np.isfinite(peaks).all())
        scales[chunk] = round_to_bf16(_usable(peaks * np.float32(-1 / 8), _LARGEST_INT4_SCALE))
        np.divide(x_BE, _divisors(bf16_to_float32(scales[chunk]))[:, None], out=work_BE)
        work_BE += _ROUND + np.float32(8)
        np.minimum(work_BE, _ROUND + np.float32(15), out=work_BE)
        np.copyto(elements_BE[chunk], _packed(work_BE.view("<u4").astype(np.uint8)))
    return _read_only(encoded[: encoded_bytes("int4", values.size)])


def _decode_int8(elements: npt.NDArray[np.int8], scales: Float32) -> Float32:
    values = np.empty(elements.size, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # somebody else's scales: checked by the caller
        for chunk, x_BE in _chunks(values, INT8_BLOCK, tail_is_copied=False):
            start = chunk.start * INT8_BLOCK
            np.copyto(x_BE, elements[start : start + x_BE.size].reshape(x_BE.shape))
            x_BE *= scales[chunk, None]
    return values


def _decode_int4(elements: _Bytes, scales: Float32, numel: int) -> Float32:
    values = np.empty(numel + numel % 2, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk, x_BE in _chunks(values, INT4_BLOCK, tail_is_copied=False):
            start = chunk.start * INT4_BLOCK // 2
            np.copyto(x_BE, _unpacked(elements[start : start + x_BE.size // 2]).reshape(x_BE.shape))
            x_BE -= np.float32(8)
            x_BE *= scales[chunk, None]
    return values[:numel]


def _peaks(x_BE: Float32, scratch_BE: Float32) -> Float32:
    """Element of largest magnitude in each block, shape [blocks]; NaN where there is one, the negative of two equal.

    Compared as integers, which order like magnitudes once the sign is in the lowest bit: twice as fast as floats.
    """
    bits_BE, keys_BE = x_BE.view(np.uint32), scratch_BE.view(np.uint32)
    np.left_shift(bits_BE, np.uint32(1), out=keys_BE)
    keys_BE |= bits_BE >> np.uint32(31)
    largest = keys_BE.max(axis=1)
    bits: npt.NDArray[np.uint32] = (largest >> np.uint32(1)) | (largest << np.uint32(31))
    return bits.view(np.float32)


def _packed(halves_BE: _Bytes) -> _Bytes:
    """Two numbers below 16 in one byte, the first in the lower half: [blocks, n] -> [blocks, n / 2]."""
    pairs: npt.NDArray[np.uint16] = halves_BE.view("<u2")
    return (pairs | (pairs >> np.uint16(4))).astype(np.uint8)


def _unpacked(packed: _Bytes) -> _Bytes:
    """Inverse of ``_packed``: [n] -> [2 n]."""
    pairs: npt.NDArray[np.uint16] = packed.astype("<u2")
    pairs |= pairs << np.uint16(4)
    pairs &= np.uint16(0x0F0F)
    return pairs.view(np.uint8)


def _chunks(values: Float32, block: int, *, tail_is_copied: bool = True) -> Iterator[tuple[slice, Float32]]:
    """Numbers of blocks and their elements, shape [blocks, block], in pieces that fit the cache.

    A last block that is not full comes filled up with zeros, or, where it is to be written to, as it is.
    """
    num_full, step = values.size // block, _CHUNK_ELEMENTS // block
    full_BE = values[: num_full * block].reshape(num_full, block)
    for start in range(0, num_full, step):
        stop = min(start + step, num_full)
        yield slice(start, stop), full_BE[start:stop]
    tail = values[num_full * block :]
    if tail.size and tail_is_copied:
        padded = np.zeros((1, block), np.float32)
        padded[0, : tail.size] = tail
        yield slice(num_full, num_full + 1), padded
    elif tail.size:
        yield slice(num_full, num_full + 1), tail[None, :]


def _usable(scales: Float32, largest: np.float32) -> Float32:
    """Scales that neither overflow when decoded nor have lost the precision that keeps a quotient in its range."""
    return np.where(np.abs(scales) < _TINY, np.float32(0), np.clip(scales, -largest, largest))


def _divisors(scales: Float32) -> Float32:
    """What to divide blocks by; a block without a scale by so much that nothing is left of it."""
    return np.where(scales == 0, np.float32(_LARGEST), scales)


def _check_finite(values: Float32, is_finite: object) -> None:
    if not is_finite:
        raise NonFiniteUpdate(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} elements are NaN or infinite")


def _read_only(encoded: _Bytes) -> memoryview:
    encoded.flags.writeable = False
    return encoded.data


def _num_blocks(numel: int, block: int) -> int:
    return -(-numel // block)
