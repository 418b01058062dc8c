"""The arithmetic of averaging: the same bits at every owner, on any processor."""

from collections.abc import Mapping

import numpy as np

from p2ptrain.ids import PeerId
from p2ptrain.wire.codec import Float32


def part_bounds(numel: int, part_elements: int) -> list[tuple[int, int]]:
    """Start and stop of each part of a slice with ``numel`` elements; only the last may be shorter."""
    return [(start, min(start + part_elements, numel)) for start in range(0, numel, part_elements)]


def weighted_mean(parts: Mapping[PeerId, tuple[int, Float32]]) -> Float32:
    """Mean of the owners' parts, weighted by tokens.

    Args:
        parts: per owner its tokens (positive) and its part, shape [numel], float32.

    Returns:
        shape [numel], float32. Summed in peer-id order, never in arrival order: float addition does not associate, and
        whoever computes this part must get the same bits. Multiplications and additions are separate, because fused
        ones round differently on processors that have them.
    """
    total = sum(tokens for tokens, _ in parts.values())
    mean = np.zeros_like(next(iter(parts.values()))[1])
    for peer in sorted(parts):
        tokens, values = parts[peer]
        mean += values * np.float32(tokens / total)
    return mean
