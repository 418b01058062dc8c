"""What a peer holds of a slice, and how a committed round moves it; pure arithmetic on flat arrays.

Owners hold the anchor and the outer momentum in float32, one contiguous block whose SHA-256 is the slice's digest: the
state is the blob that joiners fetch. Everybody holds the published weights in bf16. A commit moves both, with the same
bits everywhere: owners apply the outer step to the decoded averages, and everybody adds the decoded update.

Slices may have hundreds of millions of parameters, so all of it goes stretch by stretch: an array as long as the slice
for each step of the arithmetic would cost more time, to get the memory, than the arithmetic does.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from p2ptrain.config.schema import Codec
from p2ptrain.errors import BadMessage
from p2ptrain.ids import GENESIS, Digest, Version
from p2ptrain.wire.codec import Bf16Bits, Float32, bf16_to_float32, decode, encode, round_to_bf16

OuterRule = Callable[[Version, Float32, Float32, Float32], tuple[Float32, Float32]]
"""(version to be made, anchor, momentum, averaged pseudo-gradient) of a stretch of a slice, each [elements] -> its new
anchor and momentum; element by element, so that stretches do not matter."""

_HEADER_BYTES = 8
_STRETCH_ELEMENTS = 2**18
"""1 MiB of float32, which stays in a core's cache."""


@dataclass(frozen=True, slots=True)
class OwnedState:
    """Anchor and momentum of a slice at one version; the arrays are views into ``blob`` and never change."""

    version: Version
    blob: memoryview
    """Version (8 bytes, little endian), anchor, momentum (little-endian float32)."""
    digest: Digest

    @staticmethod
    def of(version: Version, anchor: Float32, momentum: Float32) -> "OwnedState":
        """The state with these arrays, each [numel]."""
        # Not by joining bytes, which keeps all other threads of the process waiting until it is done.
        blank = _Blank.of(anchor.size)
        blank.anchor[:], blank.momentum[:] = anchor, momentum
        return blank.filled(version)

    @classmethod
    def from_blob(cls, blob: memoryview) -> Self:
        """The state in a blob whose length has been checked."""
        version = Version(int.from_bytes(blob[:_HEADER_BYTES], "little"))
        return cls(version, blob, Digest(hashlib.sha256(blob).hexdigest()))

    @property
    def anchor(self) -> Float32:
        """The slice's agreed weights, shape [numel]."""
        return np.frombuffer(self.blob, "<f4", offset=_HEADER_BYTES)[: self.numel]

    @property
    def momentum(self) -> Float32:
        """The outer optimizer's momentum, shape [numel]."""
        return np.frombuffer(self.blob, "<f4", offset=_HEADER_BYTES)[self.numel :]

    @property
    def numel(self) -> int:
        """Parameters of the slice."""
        return (len(self.blob) - _HEADER_BYTES) // 8


@dataclass(frozen=True, slots=True)
class _Blank:
    """An owners' state to be filled in."""

    blob: npt.NDArray[np.uint8]
    anchor: Float32
    """View of the blob, [numel]."""
    momentum: Float32
    """View of the blob, [numel]."""

    @classmethod
    def of(cls, numel: int) -> Self:
        """Room for a slice of so many parameters."""
        blob = np.empty(owned_blob_bytes(numel), np.uint8)
        values = blob[_HEADER_BYTES:].view("<f4")
        return cls(blob, values[:numel], values[numel:])

    def filled(self, version: Version) -> OwnedState:
        """The state, which does not change any more."""
        self.blob[:_HEADER_BYTES] = np.frombuffer(version.to_bytes(_HEADER_BYTES, "little"), np.uint8)
        for array in (self.blob, self.anchor, self.momentum):
            array.flags.writeable = False
        return OwnedState.from_blob(self.blob.data)


def owned_blob_bytes(numel: int) -> int:
    """Length of the state blob of a slice with ``numel`` parameters."""
    return _HEADER_BYTES + 8 * numel


@dataclass(frozen=True, slots=True)
class PublishedState:
    """What everybody computes with when they do not own the slice."""

    version: Version
    bits: Bf16Bits
    digest: Digest
    """SHA-256 of the bit patterns, little endian."""

    @classmethod
    def of(cls, version: Version, bits: Bf16Bits) -> Self:
        """The published weights with these bf16 bit patterns, shape [numel]."""
        return cls(version, bits, Digest(hashlib.sha256(_bytes_of(bits)).hexdigest()))

    @property
    def blob(self) -> memoryview:
        """The bit patterns as bytes, 2 a parameter."""
        return _bytes_of(self.bits)

    @property
    def values(self) -> Float32:
        """The weights, shape [numel]."""
        return bf16_to_float32(self.bits)

    def taken_over(self) -> OwnedState:
        """The owners' state, arrays [numel], when only these weights are left: zero momentum, the same bits for all."""
        return OwnedState.of(self.version, self.values, np.zeros(self.bits.size, np.float32))

    def moved(self, update: bytes | memoryview, codec: Codec) -> Self:
        """The next version's published weights.

        Raises:
            BadMessage: the update does not decode.
        """
        change = decode(codec, update, self.bits.size)
        bits = np.empty_like(self.bits)
        for start in range(0, bits.size, _STRETCH_ELEMENTS):
            stretch = slice(start, start + _STRETCH_ELEMENTS)
            bits[stretch] = round_to_bf16(bf16_to_float32(self.bits[stretch]) + change[stretch])
        return self.of(Version(self.version + 1), bits)


@dataclass(frozen=True, slots=True)
class StagedState:
    """The outcome of an outer step, beside the current state until the round commits."""

    owned: OwnedState
    published: PublishedState
    update: memoryview


def genesis(initial: Float32) -> tuple[OwnedState, PublishedState]:
    """Version 0 of a slice from its initial weights, shape [numel]."""
    return (
        OwnedState.of(GENESIS, initial, np.zeros_like(initial)),
        PublishedState.of(GENESIS, round_to_bf16(initial)),
    )


def outer_step(
    owned: OwnedState,
    published: PublishedState,
    averages: Sequence[bytes | memoryview],
    bounds: Sequence[tuple[int, int]],
    codec: Codec,
    rule: OuterRule,
) -> StagedState:
    """The next version, from the encoded averages of all parts.

    Args:
        owned: the current state.
        published: the published weights of the same version.
        averages: per part its encoded average.
        bounds: per part its first and last + 1 element.
        codec: the run's encoding.
        rule: the run's outer optimizer.

    Raises:
        BadMessage: an average does not decode or the result is not finite.
    """
    if len(averages) != len(bounds):
        raise BadMessage(f"{len(averages)} averages for {len(bounds)} parts")
    version = Version(owned.version + 1)
    new, change = _Blank.of(owned.numel), np.empty(owned.numel, np.float32)
    for data, (start, stop) in zip(averages, bounds, strict=True):
        part = slice(start, stop)
        gradient = decode(codec, data, stop - start)
        anchor, momentum = rule(version, owned.anchor[part], owned.momentum[part], gradient)
        if not (np.isfinite(anchor).all() and np.isfinite(momentum).all()):
            raise BadMessage("the outer step with these averages gives NaN or infinity")
        new.anchor[part], new.momentum[part] = anchor, momentum
        # Against what non-owners really have, so that what one update rounds away the next one carries.
        np.subtract(anchor, bf16_to_float32(published.bits[part]), out=change[part])
    update = encode(codec, change)
    del change  # before the next array of its size is made
    return StagedState(new.filled(version), published.moved(update, codec), update)


def _bytes_of(bits: Bf16Bits) -> memoryview:
    return memoryview(bits.astype("<u2", copy=False).data).cast("B")
