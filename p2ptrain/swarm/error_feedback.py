"""Error feedback: what the codec rounds away from a contribution is added to the sender's next one.

Source: 1-bit SGD (Seide et al. 2014); EF-SGD (arXiv:1901.09847).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from p2ptrain.config.schema import Codec
from p2ptrain.wire.codec import Float32, decode, encode


@dataclass(frozen=True, slots=True, eq=False)
class EncodedContribution:
    """A pseudo-gradient as its sender would like it to arrive, and as it does."""

    total: Float32
    """The pseudo-gradient and what is left of earlier ones, shape [numel]."""
    parts: Sequence[bytes]
    """What is sent, part by part."""


def encode_contribution(
    codec: Codec, pseudo_gradient: Float32, residual: Float32, bounds: Sequence[tuple[int, int]]
) -> EncodedContribution:
    """The contribution to one round.

    Args:
        codec: the run's encoding.
        pseudo_gradient: anchor minus local weights, shape [numel].
        residual: what was rounded away before, shape [numel]; zeros at first.
        bounds: per part its first and last + 1 element.

    Raises:
        NonFiniteUpdate: an element is NaN or infinite.
    """
    total = pseudo_gradient + residual
    return EncodedContribution(total, [encode(codec, total[start:stop]) for start, stop in bounds])


def keep_rounded_away(
    residual: Float32,
    codec: Codec,
    sent: EncodedContribution,
    bounds: Sequence[tuple[int, int]],
    used_parts: Collection[int],
) -> None:
    """Bring ``residual`` [numel] up to date, in place, once a round has committed.

    Args:
        residual: as it was when ``sent`` was encoded.
        codec: the run's encoding.
        sent: our contribution.
        bounds: per part its first and last + 1 element.
        used_parts: those whose average contains ours; the others' residual stays.
    """
    for part in used_parts:
        start, stop = bounds[part]
        residual[start:stop] = sent.total[start:stop] - decode(codec, sent.parts[part], stop - start)
