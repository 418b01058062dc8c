"""Averaging among owners of whom some may lie: screening, and means that a minority cannot move far.

All rules work on one part at its reducer. Whoever is left out is named with the reason. What a rule returns need not be
bitwise the same on another processor: owners take the reducer's encoded bytes, whatever computed them.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p2ptrain.config.schema import Averaging
from p2ptrain.errors import BadMessage
from p2ptrain.ids import PeerId
from p2ptrain.swarm.reduce import weighted_mean
from p2ptrain.wire.codec import Float32

MAX_NORM_RATIO = 8.0
"""Norm over the group's median from which a part is left out, at equal tokens. Honest owners with equal rounds stayed
below 1.3; one whose round was four times as long had 2.7 times the norm in the median and 12.8 at most (tiny preset
with one slice, 4 peers, 12 rounds), hence the allowance for tokens."""
MAX_LONGER = 8
"""How far more tokens than the others' excuse a larger norm, or weigh more in an owner's mean: they are a claim."""
_MIN_JURY = 3
"""With fewer contributors nobody can say which of them is the odd one."""
_TRIM_SHARE = 0.25
"""Of the contributors, cut from each end of every element's values: up to so many may lie."""
_CLIP_ROUNDS = 3
"""Iterations of centered clipping; the paper finds no gain beyond."""


@dataclass(frozen=True, slots=True)
class Combined:
    """A part's average, and who is not in it; without contributors there is no average."""

    mean: Float32
    contributors: tuple[PeerId, ...]
    left_out: Mapping[PeerId, str]
    """With the reason."""


def combine(rule: Averaging, parts: Mapping[PeerId, tuple[int, Float32]]) -> Combined:
    """The average of one part under a rule.

    Args:
        rule: ``mean`` weighs by tokens, as announced. ``trimmed`` and ``clipped`` weigh all contributors alike, since
            a token count is a claim, too.
        parts: per owner its tokens (positive) and its part, shape [numel], float32.
    """
    left_out = _conspicuous(parts)
    kept = {peer: part for peer, part in parts.items() if peer not in left_out}
    if not kept:
        return Combined(np.zeros(0, np.float32), (), left_out)
    return Combined(average(rule, kept), tuple(sorted(kept)), left_out)


def average(rule: Averaging, parts: Mapping[PeerId, tuple[int, Float32]]) -> Float32:
    """The average of exactly these parts; arguments as for ``combine``, which leaves some of them out before."""
    if rule == "mean" or len(parts) < _MIN_JURY:
        return weighted_mean(parts)
    stacked = np.stack([parts[peer][1] for peer in sorted(parts)])
    return trimmed_mean(stacked) if rule == "trimmed" else centered_clip(stacked)


def trimmed_mean(values: Float32) -> Float32:
    """Mean of each element after its largest and smallest quarter are cut.

    Args:
        values: shape [contributors, numel], float32; at least three contributors.

    Source: Yin et al., "Byzantine-Robust Distributed Learning" (arXiv:1803.01498), definition 2.
    """
    count = len(values)
    cut = max(1, int(count * _TRIM_SHARE))
    ordered = np.sort(values, axis=0)
    mean: Float32 = ordered[cut : count - cut].mean(axis=0, dtype=np.float32)
    return mean


def centered_clip(values: Float32) -> Float32:
    """Mean of the values pulled towards a centre, those far away no further than the median distance.

    Args:
        values: shape [contributors, numel], float32; at least three contributors.

    Source: Karimireddy et al., "Learning from History for Byzantine Robust Optimization" (arXiv:2012.10333), equation
    (3), started from the element-wise median because there is no previous round that owners could agree on.
    """
    centre = np.median(values, axis=0).astype(np.float32)
    for _ in range(_CLIP_ROUNDS):
        apart = values - centre
        distances = np.linalg.norm(apart.astype(np.float64), axis=1)
        radius = float(np.median(distances))
        scales = np.minimum(1.0, radius / np.maximum(distances, np.finfo(np.float64).tiny)).astype(np.float32)
        centre = centre + (apart * scales[:, None]).mean(axis=0, dtype=np.float32)
    return centre


def add_work(
    values: Float32,
    tokens: int,
    others: Mapping[PeerId, int],
    bounds: Sequence[tuple[int, int]],
    part: Callable[[PeerId, int], Float32],
) -> tuple[tuple[PeerId, ...], Mapping[PeerId, str]]:
    """Make a pseudo-gradient the mean, by tokens, of itself and those of others; who is in it, and who is not and why.

    Who has one part that is not finite, or far larger than ours, is left out of all: else the group would leave out
    what we bring, and the others' work with it.

    Args:
        values: our own pseudo-gradient, shape [numel], float32; changed in place.
        tokens: of ours, positive.
        others: tokens of each, positive.
        bounds: first and last + 1 element of each part.
        part: somebody's part by its number, shape [elements of the part], float32; may raise BadMessage. Called twice
            for each, so that no more than one part of all has to be held.
    """
    left_out: dict[PeerId, str] = {}
    whole = _norm(values)
    for index, (start, stop) in enumerate(bounds):
        usual = _norm(values[start:stop]) or whole
        for peer in others.keys() - left_out.keys():
            longer = min(max(others[peer] / tokens, 1.0), MAX_LONGER)
            try:
                norm = _norm(part(peer, index))
            except BadMessage as error:
                left_out[peer] = str(error)
                continue
            if not math.isfinite(norm):
                left_out[peer] = "its part has NaN or infinity"
            elif norm > MAX_NORM_RATIO * longer * usual:
                left_out[peer] = f"its part's norm is {norm / usual if usual else math.inf:.0f}x ours"
    brought = tuple(sorted(others.keys() - left_out.keys()))
    total = tokens + sum(others[peer] for peer in brought)
    for index, (start, stop) in enumerate(bounds):
        mean = values[start:stop]
        mean *= np.float32(tokens / total)
        for peer in brought:
            mean += part(peer, index) * np.float32(others[peer] / total)
    return brought, left_out


def _conspicuous(parts: Mapping[PeerId, tuple[int, Float32]]) -> dict[PeerId, str]:
    """Who is left out, and why: not a number, or far larger than the others."""
    norms = {peer: _norm(values) for peer, (_, values) in parts.items()}
    left_out = {peer: "its part has NaN or infinity" for peer, norm in norms.items() if not math.isfinite(norm)}
    finite = {peer: part for peer, part in parts.items() if peer not in left_out}
    if len(finite) < _MIN_JURY:
        return left_out
    norms = {peer: norms[peer] for peer in finite}
    median, median_tokens = statistics.median(norms.values()), statistics.median(t for t, _ in finite.values())
    for peer, norm in norms.items():
        longer = min(max(finite[peer][0] / median_tokens, 1.0), MAX_LONGER)
        if median > 0 and norm > MAX_NORM_RATIO * longer * median:
            left_out[peer] = f"its part's norm is {norm / median:.0f}x the group's median"
    return left_out


def _norm(values: Float32) -> float:
    """Euclidean norm; not finite if an element is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(np.dot(values, values))
    if math.isfinite(square) and square > np.finfo(np.float32).tiny:
        return math.sqrt(square)
    # Too large or too small for a square in float32: the slow way.
    return float(np.linalg.norm(values.astype(np.float64)))
