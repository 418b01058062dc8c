"""Error feedback: what the codec rounds away from a contribution is added to the sender's next one.

Source: 1-bit SGD (Seide et al. 2014); EF-SGD (arXiv:1901.09847).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from p2ptrain.config.schema import Codec
from p2ptrain.wire.codec import Float32, decode, encode

Residual = tuple[Float32, ...]
"""Per part what was rounded away and has not been sent since, shape [elements of the part]; never changed in place, so
that it can be saved while training goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedContribution:
    """A pseudo-gradient as it is sent, and what its sender has to add to the next one."""

    parts: Sequence[memoryview]
    """What is sent, part by part."""
    rounded_away: Residual
    """What is left of the pseudo-gradient and of earlier ones, once a part is in an average."""


def encode_contribution(
    codec: Codec, pseudo_gradient: Float32, residual: Residual, bounds: Sequence[tuple[int, int]]
) -> EncodedContribution:
    """The contribution to one round.

    Args:
        codec: the run's encoding.
        pseudo_gradient: anchor minus local weights, shape [numel].
        residual: what was rounded away before; ``no_residual`` at first.
        bounds: per part its first and last + 1 element.

    Raises:
        NonFiniteUpdate: an element is NaN or infinite.
    """
    parts = []
    left = split(np.empty_like(pseudo_gradient), bounds)
    for (start, stop), before, after in zip(bounds, residual, left, strict=True):
        total = pseudo_gradient[start:stop] + before
        parts.append(encode(codec, total))
        np.subtract(total, decode(codec, parts[-1], stop - start), out=after)
    return EncodedContribution(parts, left)


def keep_rounded_away(residual: Residual, sent: EncodedContribution, used_parts: Collection[int]) -> Residual:
    """The residual once a round has committed.

    Args:
        residual: as it was when ``sent`` was encoded.
        sent: our contribution.
        used_parts: those whose average contains ours; the others' residual stays.
    """
    return tuple(sent.rounded_away[part] if part in used_parts else before for part, before in enumerate(residual))


def no_residual(bounds: Sequence[tuple[int, int]]) -> Residual:
    """Nothing rounded away yet."""
    return split(np.zeros(bounds[-1][1], np.float32), bounds)


def split(values: Float32, bounds: Sequence[tuple[int, int]]) -> Residual:
    """Views of ``values`` [numel], one a part."""
    return tuple(values[start:stop] for start, stop in bounds)
