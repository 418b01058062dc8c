"""Who should own which slice: one plan that everybody computes from the claims, each carrying out its own lines of it.

Coverage is how many owners a slice has against the run's target. The plan closes gaps in the order of their harm:
slices without an owner, then below the target, then lopsided ones. A gap is closed by a peer that has room for one more
slice, and if there is none, by one that moves away from the slice with the most owners. What a peer holds beyond its
first slice it gives back once the others suffice.

Two peers that see the same claims compute the same plan, so at most one acts on a gap. Peers that see different claims
are kept from chasing each other by a dead band (a slice is taken below the target and given back above it; a move needs
a difference of two), by a cool-down after each change, and by patience: a line is carried out only after it has stood
in the plan for a while. A peer that moves owns both slices until the new one is ready, so a move orphans nothing.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from p2ptrain.ids import PeerId, SliceId, slice_order

Cause = Literal["undecided", "uncovered", "thin", "lopsided", "plenty", "assigned"]
"""Why a line stands in the plan; ``assigned`` lines come from an operator and not from a plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What the run wants of every slice."""

    replicas: int
    """Owners to reach; below it a slice is thin."""
    quorum: int
    """Owners without whom a slice counts as uncovered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How eagerly lines of the plan are carried out, in seconds."""

    urgent_s: float
    """How long an uncovered slice must be seen before somebody acts: the time in which claims reach everybody."""
    patience_s: float
    """The same for all else."""
    cool_down_s: float
    """After a change, how long a peer neither moves nor gives back."""

    @classmethod
    def of(cls, *, lease_s: float, look_s: float) -> "Pace":
        """The run's pace.

        Args:
            lease_s: how long a claim lasts.
            look_s: pause between two looks at the directory.
        """
        # Two looks rule out that a claim was merely missed; a whole lease, that its owner is about to be back; and
        # three leases are what a move takes to be seen by all and to show whether it helped.
        return cls(urgent_s=2 * look_s, patience_s=lease_s, cool_down_s=3 * lease_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One peer as its claim shows it; only numbered slices count, the common part belongs to everybody."""

    peer: PeerId
    ready: frozenset[SliceId] = frozenset()
    joining: frozenset[SliceId] = frozenset()
    leaving: frozenset[SliceId] = frozenset()
    """Of ``ready``, those that it will give up when it is done with a move."""
    max_slices: int = 1
    """How many it can train at once."""
    tokens_per_s: float = 0.0
    """0: not measured."""
    is_fixed: bool = False
    """Its volunteer chose the slices; the plan leaves it alone."""
    changed_s: float = 0.0
    """Wall time of its last change of slices."""

    @property
    def held(self) -> frozenset[SliceId]:
        """What it owns or is about to, and means to keep."""
        return (self.ready | self.joining) - self.leaving


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One line of the plan."""

    peer: PeerId
    gains: SliceId | None = None
    yields: SliceId | None = None
    cause: Cause
    reason: str
    """For people."""

    @property
    def is_urgent(self) -> bool:
        """Whether a slice does not learn until this is done."""
        return self.cause in ("undecided", "uncovered", "assigned")


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How a slice stands against the target."""

    slice: SliceId
    ready: int
    """Owners that hold its state and stay."""
    joining: int
    """Peers that are fetching it."""
    target: Target

    @property
    def is_covered(self) -> bool:
        """Whether it has the quorum."""
        return self.ready >= max(1, self.target.quorum)

    @property
    def is_thin(self) -> bool:
        """Whether it has fewer owners than it should."""
        return self.ready < self.target.replicas

    @property
    def verdict(self) -> str:
        """In words: ``ok``, or what it lacks."""
        coming = f", {self.joining} joining" if self.joining else ""
        if not self.is_covered:
            return f"NOT COVERED: {self.ready} of {max(1, self.target.quorum)} owners that it needs{coming}"
        if self.is_thin:
            return f"THIN: {self.ready} of {self.target.replicas} owners{coming}"
        return "ok"


def coverage(slices: Iterable[SliceId], members: Collection[Member], target: Target) -> dict[SliceId, Coverage]:
    """Every numbered slice against the target."""
    return {
        s: Coverage(
            slice=s,
            ready=sum(s in m.ready - m.leaving for m in members),
            joining=sum(s in m.joining for m in members),
            target=target,
        )
        for s in sorted(slices, key=slice_order)
    }


def plan(
    slices: Collection[SliceId], members: Collection[Member], target: Target, *, pace: Pace, now_s: float
) -> list[Change]:
    """All changes that the claims call for, at most one a peer, at most one a slice besides undecided peers' choices.

    Args:
        slices: numbered slices of the run.
        members: the peers with a live claim.
        target: of the run.
        pace: of the run; the cool-down is taken from it.
        now_s: wall time.
    """
    board = _Board(slices, members, target, pace.cool_down_s, now_s)
    for peer in sorted(m.peer for m in members if not m.held and not m.is_fixed):
        board.settle(peer)
    for below in (max(1, target.quorum), target.replicas):
        for slice_id in board.thinnest_first():
            if board.count(slice_id) < below:
                board.fill(slice_id)
    board.even_out()
    board.give_back()
    return board.changes


def change_of(peer: PeerId, changes: Iterable[Change]) -> Change | None:
    """The peer's own line."""
    return next((change for change in changes if change.peer == peer), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Considered:
    """A line that has stood in the plan since then."""

    change: Change
    since_s: float
    """Monotonic."""

    def is_due(self, pace: Pace, now_s: float) -> bool:
        """Whether it has stood there long enough to be carried out."""
        return now_s - self.since_s >= (pace.urgent_s if self.change.is_urgent else pace.patience_s)


def consider(before: Considered | None, change: Change | None, now_s: float) -> Considered | None:
    """The line that now stands in the plan, and since when; monotonic time."""
    if change is None:
        return None
    if before and (before.change.gains, before.change.yields) == (change.gains, change.yields):
        return Considered(change=change, since_s=before.since_s)
    return Considered(change=change, since_s=now_s)


def may_yield(slice_id: SliceId, me: PeerId, members: Collection[Member], target: Target) -> bool:
    """Whether the other owners that are ready and stay suffice without this one."""
    others = sum(slice_id in m.ready - m.leaving for m in members if m.peer != me)
    return others >= max(1, target.quorum)


def tie_break(peer: PeerId, slice_id: SliceId) -> bytes:
    """Decides between equals in a way that favours nobody twice: another order of peers for each slice."""
    return hashlib.sha256(f"{peer} {slice_id}".encode()).digest()


class _Board:
    """The claims with the plan's changes so far applied to them."""

    def __init__(
        self,
        slices: Collection[SliceId],
        members: Collection[Member],
        target: Target,
        cool_down_s: float,
        now_s: float,
    ) -> None:
        self.changes: list[Change] = []
        self._slices = sorted(slices, key=slice_order)
        self._members: dict[PeerId, Member] = {m.peer: m for m in members}
        self._target = target
        self._rested = {m.peer for m in members if now_s - m.changed_s >= cool_down_s}
        self._busy: set[PeerId] = {m.peer for m in members if m.is_fixed or m.joining or m.leaving}
        """Peers that this plan asks for nothing (more)."""
        self._touched: set[SliceId] = set()

    def count(self, slice_id: SliceId) -> int:
        return sum(slice_id in m.held for m in self._members.values())

    def thinnest_first(self) -> list[SliceId]:
        return sorted(self._slices, key=lambda s: (*self._weight(s), slice_order(s)))

    def settle(self, peer: PeerId) -> None:
        """Give an undecided peer the slice that needs it most."""
        if peer in self._busy:
            return
        counts = ", ".join(f"slice {s} has {self.count(s)}" for s in self._slices)
        slice_id = min(self._slices, key=lambda s: (*self._weight(s), tie_break(peer, s)))
        self._apply(peer, slice_id, None, "undecided", f"slice {slice_id} has the fewest owners ({counts})")
        self._touched.discard(slice_id)  # several newcomers may choose the same

    def fill(self, slice_id: SliceId) -> None:
        """Find an owner for a slice that has too few."""
        if slice_id in self._touched:
            return
        have, wanted = self.count(slice_id), max(1, self._target.quorum)
        is_urgent = have < wanted
        cause: Cause = "uncovered" if is_urgent else "thin"
        lacks = f"slice {slice_id} has {have} of {wanted if is_urgent else self._target.replicas} owners"
        with_room = [
            m
            for m in self._members.values()
            if m.peer not in self._busy and slice_id not in m.held and len(m.held) < m.max_slices
        ]
        if with_room:
            taker = min(with_room, key=lambda m: (len(m.held), tie_break(m.peer, slice_id)))
            self._apply(taker.peer, slice_id, None, cause, f"{lacks}, and there is room for it here")
            return
        self._move_to(slice_id, least=have + 2, cause=cause, lacks=lacks)

    def even_out(self) -> None:
        """Move one owner to the thinnest slice while the thickest has twice as many and all have enough."""
        thinnest = self.thinnest_first()[0]
        have = self.count(thinnest)
        if have >= self._target.replicas and thinnest not in self._touched:
            lacks = f"slice {thinnest} has {have} owners"
            self._move_to(thinnest, least=max(2 * have, have + 2), cause="lopsided", lacks=lacks)

    def give_back(self) -> None:
        """What peers hold beyond their first slice, where the others suffice."""
        for slice_id in reversed(self.thinnest_first()):
            if slice_id in self._touched:
                continue
            ready = [m for m in self._members.values() if slice_id in m.ready - m.leaving]
            givers = [m for m in ready if m.peer not in self._busy and len(m.held) > 1]
            overfull = [m for m in givers if len(m.held) > m.max_slices]
            if len(ready) > self._target.replicas:
                givers = [m for m in givers if m.peer in self._rested]
            elif len(ready) > max(1, self._target.quorum):
                givers = overfull
            else:
                continue
            if givers:
                giver = max(givers, key=lambda m: (len(m.held) - m.max_slices, tie_break(m.peer, slice_id)))
                others = len(ready) - 1
                reason = f"slice {slice_id} has {others} other owners, and {self._target.replicas} are wanted"
                self._apply(giver.peer, None, slice_id, "plenty", reason)

    def _move_to(self, slice_id: SliceId, *, least: int, cause: Cause, lacks: str) -> None:
        sources = [s for s in self._slices if s not in self._touched and self.count(s) >= least]
        for source in sorted(sources, key=lambda s: (-self.count(s), tie_break(PeerId(""), s))):
            movers = [
                m
                for m in self._members.values()
                if source in m.ready - m.leaving
                and slice_id not in m.held
                and m.peer not in self._busy
                and (m.peer in self._rested or cause == "uncovered")
            ]
            if movers:
                mover = min(movers, key=lambda m: (m.peer not in self._rested, tie_break(m.peer, slice_id)))
                reason = f"{lacks}, and slice {source} has {self.count(source)}"
                self._apply(mover.peer, slice_id, source, cause, reason)
                return

    def _weight(self, slice_id: SliceId) -> tuple[int, float]:
        owners = [m for m in self._members.values() if slice_id in m.held]
        return len(owners), sum(m.tokens_per_s for m in owners)

    def _apply(self, peer: PeerId, gains: SliceId | None, yields: SliceId | None, cause: Cause, reason: str) -> None:
        self.changes.append(Change(peer=peer, gains=gains, yields=yields, cause=cause, reason=reason))
        member = self._members[peer]
        joining = member.joining | ({gains} if gains else set())
        leaving = member.leaving | ({yields} if yields else set())
        self._members[peer] = replace(member, joining=joining, leaving=leaving)
        self._busy.add(peer)
        self._touched |= {s for s in (gains, yields) if s}
