"""Identifiers that must never be mixed up: each is its own type, so a checker sees the mistake.

Imports nothing of p2ptrain.
"""

from typing import NewType

PeerId = NewType("PeerId", str)
"""A peer's libp2p id in base58 (``12D3Koo...``); it encodes the peer's Ed25519 public key."""

RunId = NewType("RunId", str)
"""SHA-256 of the run's manifest in canonical form, 64 hex digits."""

SliceId = NewType("SliceId", str)
"""``"0"`` to ``"N-1"`` for the slices, ``"common"`` for the common part, which is averaged as one more slice."""

Version = NewType("Version", int)
"""How many outer steps a slice has committed; 0 is the initial weights."""

Digest = NewType("Digest", str)
"""SHA-256 in 64 hex digits."""

COMMON = SliceId("common")
GENESIS = Version(0)
"""The initial weights; every peer computes them itself, so this version needs no certificate."""


def numbered_slices(num_slices: int) -> tuple[SliceId, ...]:
    """The sliced part's ids in order, without the common part."""
    return tuple(SliceId(str(i)) for i in range(num_slices))


def slice_order(slice_id: SliceId) -> tuple[int, int]:
    """Sort key that puts the common part first and the slices in numeric order."""
    return (0, 0) if slice_id == COMMON else (1, int(slice_id))


def short(identifier: str) -> str:
    """The few characters by which people tell peers, runs and digests apart on a screen."""
    return identifier[-6:] if identifier.startswith("12D3Koo") else identifier[:8]
