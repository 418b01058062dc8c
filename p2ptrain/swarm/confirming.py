"""When an average may be gone on with, and who lied about one: what a reducer announces, a second member computes too.

Where ``exchange.check_averages`` is off nobody does, and a reducer's word is enough.

Whether two words agree, and whose is wrong where they do not, are functions of the round's state; what is done about it
is for ``rounds``.
"""

from dataclasses import replace

from p2ptrain.ids import PeerId
from p2ptrain.swarm.round_state import RoundState
from p2ptrain.wire.messages import Contribution, PartResult, Plan, Value


def announced(s: RoundState, member: PeerId, result: PartResult) -> RoundState:
    """The state after a member has said what the average of a part is; two who say the same agree on it."""
    others = (s.reduced.get((result.part, m)) for m in s.ballot.members if m != member)
    agreed = s.agreed
    if len(s.ballot.members) > 1 and result.part not in agreed and result in others:
        agreed = {**agreed, result.part: result}
    return replace(s, agreed=agreed, reduced={**s.reduced, (result.part, member): result})


def result_of(s: RoundState, part: int) -> PartResult | None:
    """The average of a part that may be gone on with: two members computed it, or nobody is there to check."""
    assert s.plan is not None
    return s.agreed.get(part) if s.plan.checkers else s.reduced.get((part, s.plan.reducers[part]))


def whom_to_wait_for(s: RoundState, part: int) -> PeerId:
    """Who has to announce a part next: its reducer, or then its checker."""
    assert s.plan is not None
    reducer = s.plan.reducers[part]
    return s.plan.checkers[part] if s.plan.checkers and (part, reducer) in s.reduced else reducer


def inputs_to_check(s: RoundState, result: PartResult) -> tuple[Contribution, ...]:
    """What to average once more for a result; nothing if we have done so, or do not know all that is in it."""
    assert s.plan is not None
    known = tuple(c for c in s.plan.contributions if c.peer in result.contributors)
    ours = s.reduced.get((result.part, s.me))
    is_done = ours is not None and ours.contributors == result.contributors
    return () if is_done or result in s.checking or len(known) < len(result.contributors) else known


def disagreement(s: RoundState, part: int) -> frozenset[PeerId]:
    """The members that announced different averages of the same contributions, while no two agree."""
    if part in s.agreed:
        return frozenset()
    said = {m: s.reduced[part, m] for m in s.ballot.members if (part, m) in s.reduced}
    return frozenset(
        m
        for m, result in said.items()
        if any(o.contributors == result.contributors and o.average != result.average for o in said.values())
    )


def liars(s: RoundState, part: int) -> dict[PeerId, PartResult]:
    """Who announced another average of the same contributions than the one that two members have computed."""
    right = s.agreed.get(part)
    said = {m: s.reduced[part, m] for m in s.ballot.members if (part, m) in s.reduced}
    return {
        m: result
        for m, result in said.items()
        if right and result.contributors == right.contributors and result.average != right.average
    }


def is_confirmed(s: RoundState, value: Value) -> bool:
    """Whether the averages that a value names are more than one member's word.

    Each was announced by two members, or we computed what another member proposes. What a member accepted in an
    earlier ballot it has looked at in this way, and the inputs may be gone by now. The manifest may ask for no checks.
    """
    if not s.rules.check_averages or len(s.ballot.members) < 2:
        return True
    if any(r.accepted and r.accepted.value == value for r in s.ready.values()):
        return True
    if s.accepted and s.accepted.value == value:
        return True
    ours = [s.reduced.get((r.part, s.me)) if s.proposer != s.me else None for r in value.results]
    return all(r in (s.agreed.get(r.part), own) for r, own in zip(value.results, ours, strict=True))


def is_held_elsewhere(s: RoundState, value: Value) -> bool:
    """Whether somebody beside the proposer has the averages of what it proposes for sure; it votes only then.

    What a member has voted for may have to be proposed again by all others, who cannot if it alone can give the bytes.
    Where averages are checked the checkers have them, otherwise whoever has voted.
    """
    if s.rules.check_averages or s.proposer != s.me or len(s.ballot.members) < 2:
        return True
    return any(voted == value.value_hash for voted, _ in s.votes)


def plan_to_settle(s: RoundState, part: int, unsettled: frozenset[PeerId]) -> Plan | None:
    """The plan with a third member as the checker of a part that these disagree on; None if nobody is left."""
    assert s.plan is not None
    third = sorted(set(s.ready) - s.suspects - unsettled)
    if not third:
        return None
    checkers = list(s.plan.checkers)
    checkers[part] = third[part % len(third)]
    return replace(s.plan, revision=s.plan.revision + 1, checkers=tuple(checkers))


def without_the_word_of(s: RoundState, liar: PeerId) -> RoundState:
    """The state in which nothing counts that this member has computed in this ballot."""
    reduced = {(part, m): said for (part, m), said in s.reduced.items() if m != liar}
    return replace(s, convicted=s.convicted | {liar}, reduced=reduced, disputed=frozenset())
