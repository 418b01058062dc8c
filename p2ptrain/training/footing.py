"""What local weights stand on, and how a committed outer step reaches them while inner steps go on.

At a cut-off a slice's weights are kept as a *snapshot* S, and anchor minus S is contributed. Inner steps go on at once,
from S to L. When the round commits, the new anchor contains the way from the old anchor to S, so only what came after S
is still this peer's own: the weights become new anchor + (L - S), and the next pseudo-gradient, new anchor minus
weights, has each token's progress once. Where a round ends without the contribution, the whole way from the old anchor
stays this peer's own. A void round changes nothing: the next snapshot contains the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from p2ptrain.config.schema import OverlapConfig
from p2ptrain.ids import SliceId, Version
from p2ptrain.training.inner_loop import InnerLoop

MAX_SNAPSHOTS = 2
"""Kept for a slice: of the contribution that is being averaged, and of one before it whose round was void here but may
have been committed elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A slice's weights at a cut-off."""

    values: np.ndarray
    """Shape [numel], float32."""
    tokens: int
    """That weigh the contribution; they tell it from an earlier one on the same anchor, which had fewer."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Footing:
    """What the local weights of one owned slice stand on."""

    anchor: np.ndarray
    """Shape [numel], float32; progress is measured from here."""
    version: Version
    """Of the anchor."""
    since: Version
    """Version of the anchor on which the oldest progress that no anchor contains was made."""
    tokens: int = 0
    """Trained on since, and in no anchor yet."""
    snapshots: tuple[Snapshot, ...] = field(default=())
    """Oldest first."""

    @classmethod
    def on(cls, anchor: np.ndarray, version: Version) -> "Footing":
        """Weights that are the anchor itself."""
        return cls(anchor=anchor, version=version, since=version)

    def trained(self, tokens: int) -> "Footing":
        """After an inner step."""
        return replace(self, tokens=self.tokens + tokens)

    def cut_off(self, local: np.ndarray) -> "Footing":
        """With a snapshot of ``local``, the slice's weights now, shape [numel], float32; it is kept, not copied."""
        return replace(self, snapshots=(*self.snapshots, Snapshot(local, self.tokens))[-MAX_SNAPSHOTS:])


def stretch_all(footings: dict[SliceId, Footing], loop: InnerLoop, before: Mapping[SliceId, float]) -> None:
    """Stretch all progress that a loop keeps, once it moves slices further than it did, or less far.

    Args:
        footings: of the owned slices; changed, as the loop's weights are.
        loop: with its new amplification.
        before: what that was of each slice which the loop owned.
    """
    for slice_id in loop.owned & before.keys():
        factor = loop.amplification_of(slice_id) / before[slice_id]
        if factor != 1.0:  # also without tokens: of a slice that is contained in part, the rest of the way is left
            footings[slice_id], local = stretch(footings[slice_id], loop.local_values(slice_id), factor)
            loop.replace(slice_id, local)


def stretch(footing: Footing, local: np.ndarray, factor: float) -> tuple[Footing, np.ndarray]:
    """The same progress for a peer that moves its slices ``factor`` times as far from now on.

    Args:
        footing: what the weights stand on.
        local: the slice's weights now, shape [numel], float32; not changed.
        factor: new amplification over the old one (training/amplification.py).

    Returns:
        The footing, and new weights.
    """

    def stretched(values: np.ndarray) -> np.ndarray:
        further: np.ndarray = footing.anchor + np.float32(factor) * (values - footing.anchor)
        return further

    snapshots = tuple(Snapshot(stretched(snapshot.values), snapshot.tokens) for snapshot in footing.snapshots)
    return replace(footing, snapshots=snapshots), stretched(local)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Move:
    """A slice is at a new anchor."""

    anchor: np.ndarray
    """Shape [numel], float32."""
    version: Version
    tokens: int | None = None
    """Of our contribution that the new anchor contains; None: it contains none."""
    contained: Sequence[tuple[int, int]] = ()
    """Where it contains it: first and last + 1 element of each part."""
    had_place: bool = True
    """Whether its round could have contained any: False where the lot left us out and nobody brought our work."""


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """A slice's weights on their new anchor."""

    footing: Footing
    local: np.ndarray
    """Shape [numel], float32."""
    dropped_tokens: int = 0
    """Of progress that was given up, because it had missed too many versions, or one in which it had no place."""


def move(footing: Footing, local: np.ndarray, to: Move, rule: OverlapConfig, amplification: float = 1.0) -> Moved:
    """Bring local weights onto a new anchor, with the progress that it does not contain.

    Args:
        footing: what they stand on.
        local: the slice's weights now, shape [numel], float32; not changed.
        to: the new anchor.
        rule: how to merge where the anchor contains our contribution. ``shift`` keeps exactly what came after the
            snapshot. ``mix`` is ``mixing * local + (1 - mixing) * anchor``, as in Streaming DiLoCo (arXiv:2501.18512,
            eq. 4): it also keeps a share of the snapshot's distance from the average, which is then contributed
            again, and drops a share of what came after it.
        amplification: how many times as far as it contributes the peer has moved ``local``; to mix with, the way of
            the anchor is as long.
    """
    used = next((i for i, snapshot in enumerate(footing.snapshots) if snapshot.tokens == to.tokens), None)
    contained = to.contained
    if used is None and footing.snapshots and to.version > footing.version + 1:
        # What lay between is unknown and may contain the contribution: rather lose it than count it twice.
        used, contained = len(footing.snapshots) - 1, [(0, local.size)]
    if used is None:
        # Rounds that we are no part of come many in a row: what is kept over them does harm (docs/results/lot.md).
        is_too_old = not to.had_place or to.version - footing.since > rule.max_stale_rounds
        if footing.tokens and is_too_old:
            return Moved(Footing.on(to.anchor, to.version), to.anchor, dropped_tokens=footing.tokens)
        sent, later = Snapshot(footing.anchor, 0), footing.snapshots
        contained, since = (), footing.since
    else:
        sent, later = footing.snapshots[used], footing.snapshots[used + 1 :]
        since = footing.version

    def on_new_anchor(values: np.ndarray) -> np.ndarray:
        moved: np.ndarray = values - footing.anchor
        for start, stop in contained:
            np.subtract(values[start:stop], sent.values[start:stop], out=moved[start:stop])
        moved += to.anchor
        return moved

    merged = on_new_anchor(local)
    if rule.merge == "mix":
        alpha, further = np.float32(rule.mixing), np.float32(amplification - 1)
        for start, stop in contained:
            merged[start:stop] = alpha * local[start:stop] + (1 - alpha) * to.anchor[start:stop]
            if further:
                merged[start:stop] -= alpha * further * (to.anchor[start:stop] - footing.anchor[start:stop])
    left = footing.tokens - sent.tokens
    stands = Footing(
        anchor=to.anchor,
        version=to.version,
        since=since if left else to.version,
        tokens=left,
        # As they would be had the weights stood on the new anchor when they were taken.
        snapshots=tuple(Snapshot(on_new_anchor(s.values), s.tokens - sent.tokens) for s in later),
    )
    return Moved(stands, merged)
