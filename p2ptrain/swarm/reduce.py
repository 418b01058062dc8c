"""The arithmetic of averaging: the same bits at every owner, on any processor."""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from p2ptrain.ids import PeerId
from p2ptrain.wire.codec import Float32
from p2ptrain.wire.messages import Contribution

_SLOWEST_MBPS, _FASTEST_MBPS = 1e-3, 1e6
"""Between these an announced line is believed; numbers far outside would leave no finite shares."""
_MOST_LINE_RATIO = 64.0
"""Between the fastest and the slowest line that is planned with: announcements are believed, within reason."""


_CHECKS_ABOVE = 4.0
"""So many times slower than the fastest line, and what it has to fetch for a check would be waited for by all."""
_PARTS = 16
"""Of a slice that is not large, so that several owners can share its reducing."""
_FINEST_PART, _PART_STEP = 65536, 4096
"""Elements: a smaller part is not made for that; and what its size is a multiple of, so that blocks fill parts."""


def part_bounds(numel: int, part_elements: int) -> list[tuple[int, int]]:
    """Start and stop of each part of a slice with ``numel`` elements; only the last may be shorter.

    Parts have ``part_elements``, or less where the slice would have fewer than 16, down to 65536.
    """
    fine = -(-numel // (_PARTS * _PART_STEP)) * _PART_STEP
    size = min(part_elements, max(_FINEST_PART, fine))
    return [(start, min(start + size, numel)) for start in range(0, numel, size)]


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


def line_mbps(contribution: Contribution) -> float:
    """What bounds a member's share of the reducing, which takes as many bytes up as down; 0 is not known."""
    return min((mbps for mbps in (contribution.uplink_mbps, contribution.downlink_mbps) if mbps), default=0.0)


def share_parts(num_parts: int, lines: Mapping[PeerId, float]) -> tuple[PeerId, ...]:
    """Who reduces which part, so that all lines are done at the same time.

    A member that reduces the share s of a slice, among G of them, sends its contribution to the other reducers and its
    averages to the other members: (1 - s) + s (G - 1) slices. It receives as much: the others' averages, and their
    contributions to its share. With two members that is one slice whatever s is, and the parts are shared evenly; with
    more, a slow one reduces less, or nothing.

    Args:
        num_parts: parts of the slice.
        lines: Mbit/s of each reducer; 0 is not known, and counts as the median of the known ones.

    Returns:
        One peer a part, each peer's spread over the slice.
    """
    peers = sorted(lines)
    lines = {peer: min(max(mbps, _SLOWEST_MBPS), _FASTEST_MBPS) if mbps else 0.0 for peer, mbps in lines.items()}
    known = [mbps for mbps in lines.values() if mbps]
    if not known or len(peers) <= 2:
        shares = dict.fromkeys(peers, 1 / len(peers))
    else:
        usual, fastest = statistics.median(known), max(known)
        shares = _filled({p: max(lines[p] or usual, fastest / _MOST_LINE_RATIO) for p in peers}, len(peers) - 2)
    counts = {peer: int(shares[peer] * num_parts) for peer in peers}
    missing = num_parts - sum(counts.values())
    for peer in sorted(peers, key=lambda p: (counts[p] - shares[p] * num_parts, p))[:missing]:
        counts[peer] += 1
    places = sorted(((i + 0.5) / counts[peer], peer) for peer in peers for i in range(counts[peer]))
    return tuple(peer for _, peer in places)


def who_checks(reducers: Collection[PeerId], lines: Mapping[PeerId, float]) -> list[PeerId]:
    """Who computes averages once more: the reducers; with a single one also those others whose lines are good for it.

    Args:
        reducers: those of ``share_parts``.
        lines: as for ``share_parts``.
    """
    others = {peer: mbps for peer, mbps in lines.items() if peer not in reducers}
    if len(set(reducers)) > 1 or not others:
        return sorted(set(reducers))
    usual = statistics.median([mbps for mbps in lines.values() if mbps] or [1.0])
    fastest = max(mbps or usual for mbps in others.values())
    return sorted({*reducers, *(peer for peer, mbps in others.items() if (mbps or usual) * _CHECKS_ABOVE >= fastest)})


def _filled(lines: Mapping[PeerId, float], others: int) -> dict[PeerId, float]:
    """Shares s with 1 + s * others = T * line for all that have one, T such that they add up to 1."""
    fastest = sorted(lines.values(), reverse=True)
    count = len(fastest)
    while count > 1 and (others + count) / sum(fastest[:count]) * fastest[count - 1] < 1:
        count -= 1  # the slowest is busy with its own contribution alone
    time = (others + count) / sum(fastest[:count])
    return {peer: max(0.0, (mbps * time - 1) / others) for peer, mbps in lines.items()}


def planned_transfer_s(
    contributions: Sequence[Contribution],
    reducers: Sequence[PeerId],
    num_members: int,
    *,
    checkers: Sequence[PeerId] = (),
    at_most_s: float,
) -> float:
    """Seconds that the slowest known line of a plan needs, up or down, for deadlines to take into account.

    Args:
        contributions: with their lines; what is not known is not waited for.
        reducers: one peer a part.
        num_members: who wants the averages.
        checkers: one peer a part, who wants the contributions to it, too, and no average; empty if nobody checks.
        at_most_s: nobody is planned for longer, whatever it announces.
    """
    if not reducers:  # contributions without parts
        return 0.0
    parts, checked = Counter(reducers), Counter(checkers)
    longest_s = 0.0
    for contribution in contributions:
        slice_megabits = 8e-6 * sum(ref.size_bytes for ref in contribution.parts)
        share = parts[contribution.peer] / len(reducers)
        up = down = (1 - share) + share * (num_members - 1)
        if checkers:
            its_checks = checked[contribution.peer] / len(checkers)
            up += 1 - its_checks - share
            down += its_checks * (num_members - 2)  # contributions instead of an average
        for slices, mbps in ((up, contribution.uplink_mbps), (down, contribution.downlink_mbps)):
            if mbps > 0:
                longest_s = max(longest_s, slices * slice_megabits / mbps)
    return min(longest_s, at_most_s)
