"""Identifiers that must never be mixed up: each is its own type, so a checker sees the mistake.

Imports nothing of p2ptrain.
"""

from typing import NewType

PeerId = NewType("PeerId", str)
"""A peer's libp2p id in base58 (``12D3Koo...``); it encodes the peer's Ed25519 public key."""

RunId = NewType("RunId", str)
"""SHA-256 of the run's manifest in canonical form, 64 hex digits."""

SliceId = NewType("SliceId", str)
"""``"0"`` to ``"N-1"`` for the slices, ``"common"`` for the common part, which is averaged as one more slice. Where the
manifest divides slices into fragments, what is agreed on are these: ``"0.0"``, ``"0.1"``, ``"common.0"``; and a slice
is what is owned."""

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


def fragments_of(slice_id: SliceId, num_fragments: int) -> tuple[SliceId, ...]:
    """What of a slice is agreed on: its fragments in order, or the slice itself where it is not divided."""
    if num_fragments == 1:
        return (slice_id,)
    return tuple(SliceId(f"{slice_id}.{index}") for index in range(num_fragments))


def every_fragment(num_slices: int, num_fragments: int) -> tuple[SliceId, ...]:
    """What of a whole run is agreed on, in the order of ``slice_order``."""
    return tuple(
        one for slice_id in (COMMON, *numbered_slices(num_slices)) for one in fragments_of(slice_id, num_fragments)
    )


def slice_of(fragment: SliceId) -> SliceId:
    """The slice that a fragment is of; a slice is its own."""
    return SliceId(fragment.partition(".")[0])


def fragment_index(fragment: SliceId) -> int:
    """Whose turn it is together: 0 to F-1, and 0 for a slice that is not divided."""
    return int(fragment.partition(".")[2] or 0)


def counts_rounds(fragment: SliceId) -> bool:
    """Whether its version is shown as the run's round: the common part, or the first fragment of it."""
    return slice_of(fragment) == COMMON and fragment_index(fragment) == 0


def slice_order(slice_id: SliceId) -> tuple[int, int, int]:
    """Sort key that puts the common part first and the slices in numeric order, each with its fragments in order."""
    whole, index = slice_of(slice_id), fragment_index(slice_id)
    return (0, 0, index) if whole == COMMON else (1, int(whole), index)


def short(identifier: str) -> str:
    """The few characters by which people tell peers, runs and digests apart on a screen."""
    return identifier[-6:] if identifier.startswith("12D3Koo") else identifier[:8]
