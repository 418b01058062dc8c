"""Which slices this peer owns: what its claim says of them, and which change the plan wants next."""

from collections.abc import Callable, Mapping

from p2ptrain.ids import COMMON, PeerId, RunId, SliceId, slice_order
from p2ptrain.swarm.coverage import (
    Change,
    Considered,
    Coverage,
    Pace,
    Target,
    change_of,
    consider,
    coverage,
    may_yield,
    plan,
)
from p2ptrain.swarm.directory import Capacity, Claim


class Assignment:
    """This peer's own slices between two looks at the directory. Knows no network and reads no clock.

    Args:
        me: this peer.
        run: the run.
        slices: its numbered slices.
        target: owners that the run wants of each.
        pace: how eagerly to change.
        capacity: what this peer can give, as measured by now.
        ordered: slices that the run's authority asks this peer to own now; empty for none.
    """

    def __init__(
        self,
        me: PeerId,
        run: RunId,
        slices: tuple[SliceId, ...],
        *,
        target: Target,
        pace: Pace,
        capacity: Callable[[], Capacity],
        ordered: Callable[[], frozenset[SliceId]] = frozenset,
    ) -> None:
        self.ready: frozenset[SliceId] = frozenset()
        """Slices whose state we hold as an owner, the common part among them once we have joined."""
        self.joining: frozenset[SliceId] = frozenset()
        self.leaving: frozenset[SliceId] = frozenset()
        """Of ``ready``, those that we stop training and give up as soon as the others suffice."""
        self.is_fixed = False
        self.changed_s = 0.0
        """Wall time."""
        self._me = me
        self._run = run
        self._slices = slices
        self._target = target
        self._pace = pace
        self._capacity = capacity
        self._ordered = ordered
        self._considered: Considered | None = None

    @property
    def ordered(self) -> frozenset[SliceId]:
        """What the run's authority asks of us; nothing if our volunteer chose."""
        return frozenset() if self.is_fixed else self._ordered()

    @property
    def has_open_order(self) -> bool:
        """Whether we own something else than the run's authority asks of us."""
        return bool(self.ordered) and self.ordered != self.ready - {COMMON}

    @property
    def trained(self) -> frozenset[SliceId]:
        """What to train: all that we keep; what we leave only until there is something else."""
        kept = self.ready - self.leaving
        return kept if kept - {COMMON} else self.ready

    def claim(self, expires_s: float) -> Claim:
        """What to tell the others."""
        return Claim(
            run=self._run,
            peer=self._me,
            ready=_sorted(self.ready),
            joining=_sorted(self.joining),
            leaving=_sorted(self.leaving),
            capacity=self._capacity(),
            is_fixed=self.is_fixed or bool(self.ordered),
            changed_s=self.changed_s,
            expires_s=expires_s,
        )

    def first_choice(self, claims: Mapping[PeerId, Claim], now_s: float) -> Change:
        """What an undecided peer takes; wall time."""
        # Whatever stands about us in the directory is from before we started.
        members = [claim.member() for peer, claim in claims.items() if peer != self._me]
        members.append(self.claim(now_s).member())
        change = change_of(self._me, plan(self._slices, members, self._target, pace=self._pace, now_s=now_s))
        assert change is not None, "the plan has a line for every undecided peer"
        return change

    def due(self, claims: Mapping[PeerId, Claim], *, monotonic_s: float, wall_s: float) -> Change | None:
        """The change that has stood in the plan for long enough to be carried out now."""
        if self.joining or self.leaving or self.is_fixed or not self.ready:
            self._considered = None
            return None
        if self.ordered:
            return self._towards_order()
        members = [claim.member() for claim in claims.values()]
        changes = plan(self._slices, members, self._target, pace=self._pace, now_s=wall_s)
        self._considered = consider(self._considered, change_of(self._me, changes), monotonic_s)
        if self._considered and self._considered.is_due(self._pace, monotonic_s):
            change, self._considered = self._considered.change, None
            return change
        return None

    def _towards_order(self) -> Change | None:
        """The next step to what the authority asks for: first all that is missing, then out of the rest."""
        kept = self.ready - {COMMON}
        reason = f"the run's authority asks this peer to own slices {', '.join(_sorted(self.ordered))}"
        for gains in _sorted(self.ordered - kept):
            return Change(peer=self._me, gains=gains, cause="assigned", reason=reason)
        for yields in _sorted(kept - self.ordered):
            return Change(peer=self._me, yields=yields, cause="assigned", reason=reason)
        return None

    def begin(self, change: Change, wall_s: float) -> None:
        """Set out on a change."""
        self.changed_s = wall_s
        if change.gains:
            self.joining |= {change.gains}
        if change.yields:
            self.leaving |= {change.yields}

    def has_joined(self, slice_id: SliceId) -> None:
        """We hold the slice's state as an owner from now on."""
        self.joining -= {slice_id}
        self.ready |= {slice_id}

    def abandon(self, change: Change) -> None:
        """The slice's state could not be had: everything is as before, after a rest."""
        self.joining -= {change.gains} if change.gains else set()
        self.leaving -= {change.yields} if change.yields else set()

    def may_release(self, slice_id: SliceId, claims: Mapping[PeerId, Claim]) -> bool:
        """Whether a slice that we leave has enough other owners."""
        members = [claim.member() for claim in claims.values()]
        return not self.joining and may_yield(slice_id, self._me, members, self._target)

    def stays_after_all(self, slice_id: SliceId) -> bool:
        """Whether to keep a slice that we were leaving when the others turned out to be too few: if there is room."""
        if self.ordered:
            return slice_id in self.ordered
        kept = self.ready - self.leaving - {COMMON}
        return len(kept) < self._capacity().max_slices

    def stay(self, slice_id: SliceId) -> None:
        """Keep it."""
        self.leaving -= {slice_id}

    def has_released(self, slice_id: SliceId) -> None:
        """Others own it now."""
        self.leaving -= {slice_id}
        self.ready -= {slice_id}

    def coverage(self, claims: Mapping[PeerId, Claim]) -> dict[SliceId, Coverage]:
        """Every numbered slice against the target."""
        return coverage(self._slices, [claim.member() for claim in claims.values()], self._target)


def _sorted(slices: frozenset[SliceId]) -> tuple[SliceId, ...]:
    return tuple(sorted(slices, key=slice_order))
