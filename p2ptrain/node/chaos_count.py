"""Counting slice rounds from the journals of peers that are killed while they write them.

A round of a slice is one try to commit its next version. It starts when the first owner's cut-off passes, and counts
from then on whatever becomes of it: committed by anybody, void, or interrupted because all who took part are gone.
Each peer's journal has its own part of that, so tries of one version whose times overlap are one round.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from p2ptrain.events import BranchLost, Evaluated, Record, RoundCommitted, RoundStage, RoundVoid
from p2ptrain.ids import Digest, SliceId, Version


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """One peer's part in one round, by its journal; times are wall times of this machine."""

    peer: str
    slice: SliceId
    version: Version
    from_s: float
    until_s: float
    is_committed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundCounts:
    """What became of the slice rounds that started while peers were being killed."""

    started: int
    committed: int
    void_reasons: Counter[str]

    @property
    def void(self) -> int:
        """Rounds that committed nothing, void or interrupted."""
        return self.started - self.committed

    @property
    def committed_percent(self) -> float:
        """Share of the started rounds that committed; NaN when none started."""
        return 100 * self.committed / self.started if self.started else float("nan")


def tries_of(peer: str, journal: Iterable[Record], ended_s: float) -> tuple[list[Try], list[tuple[float, RoundVoid]]]:
    """The rounds that one peer took part in, and its void events.

    Args:
        peer: its name.
        journal: its records, in order.
        ended_s: when it was killed, or when the journals were read; a round that was open then ends so.
    """
    tries: list[Try] = []
    voids: list[tuple[float, RoundVoid]] = []
    opened: dict[SliceId, tuple[Version, float]] = {}

    def close(slice_id: SliceId, at_s: float, committed: Version | None) -> None:
        if slice_id in opened:
            version, from_s = opened.pop(slice_id)
            tries.append(
                Try(
                    peer=peer,
                    slice=slice_id,
                    version=version,
                    from_s=from_s,
                    until_s=at_s,
                    is_committed=committed == version,
                )
            )

    for record in journal:
        match record.event:
            case RoundStage(slice=slice_id, version=version):
                if slice_id in opened and opened[slice_id][0] != version:  # caught up with others meanwhile
                    close(slice_id, record.time_s, None)
                opened.setdefault(slice_id, (version, record.time_s))
            case RoundCommitted(slice=slice_id, version=version):
                close(slice_id, record.time_s, version)
            case RoundVoid(slice=slice_id) as void:
                if slice_id in opened:
                    voids.append((record.time_s, void))
                close(slice_id, record.time_s, None)
            case _:
                pass
    for slice_id in list(opened):
        close(slice_id, ended_s, None)
    return tries, voids


def count_rounds(
    tries: Sequence[Try], voids: Sequence[tuple[float, RoundVoid]], *, from_s: float, until_s: float
) -> RoundCounts:
    """The rounds whose first cut-off passed between two moments, and what became of them."""
    started = committed = 0
    by_version: defaultdict[tuple[SliceId, Version], list[Try]] = defaultdict(list)
    for one in tries:
        by_version[one.slice, one.version].append(one)
    for of_version in by_version.values():
        for together in _overlapping(of_version):
            if from_s <= together[0].from_s < until_s:
                # A peer that tried twice within the overlap began a second round, while others were late to leave the
                # first.
                started += max(Counter(one.peer for one in together).values())
                committed += any(one.is_committed for one in together)
    reasons = Counter(void.reason for at_s, void in voids if from_s <= at_s < until_s)
    return RoundCounts(started=started, committed=committed, void_reasons=reasons)


def diverged_owners(journals: Mapping[str, Sequence[Record]]) -> int:
    """Peers that committed a version with another digest than most who committed it."""
    digests: defaultdict[tuple[SliceId, Version], dict[str, Digest]] = defaultdict(dict)
    for peer, journal in journals.items():
        for record in journal:
            match record.event:
                case RoundCommitted(slice=slice_id, version=version, digest=digest):
                    digests[slice_id, version][peer] = digest
                case BranchLost(slice=slice_id, version=version):
                    # It knows and says so; but until then its bits were others'.
                    digests[slice_id, version].setdefault(peer, Digest(""))
                case _:
                    pass
    diverged = set()
    for by_peer in digests.values():
        most_common = Counter(by_peer.values()).most_common(1)[0][0]
        diverged |= {peer for peer, digest in by_peer.items() if digest != most_common}
    return len(diverged)


def first_and_last_loss(journals: Mapping[str, Sequence[Record]], survivors: Iterable[str]) -> tuple[float, float]:
    """Validation loss, nats per token: the earliest measured, and the median of what the survivors measured last."""
    losses = {
        peer: [(record.time_s, record.event.loss_nats) for record in journal if isinstance(record.event, Evaluated)]
        for peer, journal in journals.items()
    }
    first = min((measured[0] for measured in losses.values() if measured), default=(0.0, float("nan")))[1]
    last = [losses[peer][-1][1] for peer in survivors if losses.get(peer)]
    return first, statistics.median(last) if last else float("nan")


def _overlapping(tries: Sequence[Try]) -> list[list[Try]]:
    """Groups of tries that are connected by overlapping in time, each sorted by when they began."""
    groups: list[list[Try]] = []
    until_s = float("-inf")
    for one in sorted(tries, key=lambda one: one.from_s):
        if not groups or one.from_s > until_s:
            groups.append([])
        groups[-1].append(one)
        until_s = max(until_s, one.until_s)
    return groups
