"""What a peer holds of a slice, and how a committed round moves it; pure arithmetic on flat arrays.

Owners hold the anchor and the outer momentum in float32, one contiguous block whose SHA-256 is the slice's digest: the
state is the blob that joiners fetch. Everybody holds the published weights in bf16. A commit moves both, with the same
bits everywhere: owners apply the outer step to the decoded averages, and everybody adds the decoded update.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from p2ptrain.config.schema import Codec
from p2ptrain.errors import BadMessage
from p2ptrain.ids import GENESIS, Digest, Version
from p2ptrain.wire.codec import Bf16Bits, Float32, bf16_to_float32, decode, encode, round_to_bf16

OuterRule = Callable[[Version, Float32, Float32, Float32], tuple[Float32, Float32]]
"""(version to be made, anchor, momentum, averaged pseudo-gradient), each [numel] -> the new anchor and momentum."""

_HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class OwnedState:
    """Anchor and momentum of a slice at one version; the arrays are views into ``blob`` and never change."""

    version: Version
    blob: memoryview
    """Version (8 bytes, little endian), anchor, momentum (little-endian float32)."""
    digest: Digest

    @classmethod
    def of(cls, version: Version, anchor: Float32, momentum: Float32) -> Self:
        """The state with these arrays, each [numel]."""
        blob = (
            version.to_bytes(_HEADER_BYTES, "little")
            + anchor.astype("<f4").tobytes()
            + momentum.astype("<f4").tobytes()
        )
        return cls.from_blob(memoryview(blob))

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
        values = self.values
        return self.of(Version(self.version + 1), round_to_bf16(values + decode(codec, update, values.size)))


@dataclass(frozen=True, slots=True)
class StagedState:
    """The outcome of an outer step, beside the current state until the round commits."""

    owned: OwnedState
    published: PublishedState
    update: bytes


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
    gradient = np.concatenate(
        [decode(codec, data, stop - start) for data, (start, stop) in zip(averages, bounds, strict=True)]
    )
    version = Version(owned.version + 1)
    anchor, momentum = rule(version, owned.anchor, owned.momentum, gradient)
    if not (np.isfinite(anchor).all() and np.isfinite(momentum).all()):
        raise BadMessage("the outer step with these averages gives NaN or infinity")
    # Against what non-owners really have, so that what one update rounds away the next one carries.
    update = encode(codec, anchor - published.values)
    return StagedState(OwnedState.of(version, anchor, momentum), published.moved(update, codec), update)


def _bytes_of(bits: Bf16Bits) -> memoryview:
    return memoryview(bits.astype("<u2", copy=False).data).cast("B")
