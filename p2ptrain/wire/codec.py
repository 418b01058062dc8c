"""How flat float32 vectors become bytes; decoding gives the same bits on every processor.

``int8``: per block of 256 elements a float32 scale ``s = max|x| / 127`` and elements ``q = rint(x / s)``, ties to
even, as int8; decoded as ``q * s``. Layout: all scales (little-endian float32), then all elements. A block of zeros
has scale 0. The error of an element is at most ``s / 2``, or 1e-43 where ``s`` is subnormal. ``float32``: the elements
themselves, little endian.

bf16 values travel and rest as uint16 bit patterns; ``round_to_bf16`` rounds to nearest, ties to even, as IEEE 754 does.
"""

from typing import assert_never

import numpy as np
import numpy.typing as npt

from p2ptrain.config.schema import Codec
from p2ptrain.errors import BadMessage, NonFiniteUpdate

Float32 = npt.NDArray[np.float32]
Bf16Bits = npt.NDArray[np.uint16]

BLOCK = 256
"""Elements under one int8 scale: 1.6 % more bytes than the elements alone."""
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))
"""127 times the next larger number is infinite."""


def encoded_bytes(codec: Codec, numel: int) -> int:
    """Length of the encoding of ``numel`` elements, so that a receiver can check it before it takes memory."""
    if codec == "float32":
        return 4 * numel
    return 4 * _num_blocks(numel) + numel


def encode(codec: Codec, values: Float32) -> bytes:
    """``values`` [numel] as bytes.

    Raises:
        NonFiniteUpdate: an element is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NonFiniteUpdate(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} elements are NaN or infinite")
    if codec == "float32":
        return bytes(values.astype("<f4", copy=False).tobytes())
    if codec == "int8":
        padded = np.zeros((_num_blocks(values.size), BLOCK), np.float32)
        padded.reshape(-1)[: values.size] = values
        scales = np.minimum(np.abs(padded).max(axis=1) / np.float32(127), _LARGEST_SCALE)
        # A zero scale would divide by zero; its elements are all zero, so any divisor will do.
        divisors = np.where(scales > 0, scales, np.float32(1))
        padded /= divisors[:, None]
        np.rint(padded, out=padded)
        # A subnormal scale loses precision and could push a quotient past the range of int8.
        np.clip(padded, -127, 127, out=padded)
        elements = padded.astype(np.int8).reshape(-1)[: values.size]
        return bytes(scales.astype("<f4", copy=False).tobytes() + elements.tobytes())
    assert_never(codec)


def decode(codec: Codec, data: bytes | memoryview, numel: int) -> Float32:
    """The float32 vector [numel] in ``data``.

    Raises:
        BadMessage: the length does not fit ``numel``, or a value is not finite.
    """
    if len(data) != encoded_bytes(codec, numel):
        raise BadMessage(f"{numel} elements in {codec} are {encoded_bytes(codec, numel)} bytes, not {len(data)}")
    if codec == "float32":
        values = np.frombuffer(data, "<f4").astype(np.float32)
    else:
        scales = np.frombuffer(data, "<f4", count=_num_blocks(numel)).astype(np.float32)
        padded = np.zeros((scales.size, BLOCK), np.float32)
        padded.reshape(-1)[:numel] = np.frombuffer(data, np.int8, offset=scales.nbytes)
        with np.errstate(over="ignore", invalid="ignore"):  # somebody else's scales: checked below
            padded *= scales[:, None]
        values = padded.reshape(-1)[:numel]
    if not np.isfinite(values).all():
        raise BadMessage(f"{np.count_nonzero(~np.isfinite(values))} of {numel} decoded elements are NaN or infinite")
    return values


def round_to_bf16(values: Float32) -> Bf16Bits:
    """Bit patterns [numel] of the bf16 numbers nearest to finite ``values``, ties to even."""
    bits = values.view(np.uint32)
    lowest_kept = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + lowest_kept) >> np.uint32(16)).astype(np.uint16)


def bf16_to_float32(bits: Bf16Bits) -> Float32:
    """The float32 numbers [numel] that bf16 bit patterns stand for, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _num_blocks(numel: int) -> int:
    return -(-numel // BLOCK)
