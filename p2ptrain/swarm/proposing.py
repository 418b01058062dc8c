"""What a round's plan and proposal contain, as functions of the round's state; when they are due is for ``rounds``."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from p2ptrain.ids import PeerId
from p2ptrain.swarm.confirming import result_of
from p2ptrain.swarm.electorate import drawn
from p2ptrain.swarm.reduce import line_mbps, planned_transfer_s, share_parts, who_checks
from p2ptrain.swarm.round_events import Staged
from p2ptrain.swarm.round_state import RoundState
from p2ptrain.wire.messages import Offer, Plan, Ready, RoundMessage, Value

_MAX_PLANNED = 4
"""Deadlines of reducing that a slow uplink may add to a round; who announces a slower one is left out."""


def binding_value(s: RoundState) -> Value | None:
    """The value that a proposer must propose because a majority may have accepted it; None leaves it free to choose."""
    accepted = [
        r.accepted
        for r in s.ready.values()
        if r.accepted
        and r.accepted.ballot.order < s.ballot.order
        and (r.accepted.value.version, r.accepted.value.previous) == (s.version, s.head.value_hash)
    ]
    return max(accepted, key=lambda a: a.ballot.order).value if accepted else None


def guests(s: RoundState) -> frozenset[PeerId]:
    """Who holds the slice and has no vote yet; where the group has room they contribute all the same."""
    room = s.rules.max_owners - len(s.ballot.members)
    if room <= 0:
        return frozenset()
    others = s.claims - {*s.ballot.members}
    return frozenset(drawn(others, present=(), most=room, lot=s.head.value_hash or ""))


def first_plan(s: RoundState) -> Plan | None:
    """Who contributes, and who reduces what; None when nobody contributes anything."""
    given = {peer: ready.contribution for peer, ready in s.ready.items()}
    given |= {guest: s.offers[guest] for guest in guests(s) & s.offers.keys()}
    contributions = tuple(contribution for _, contribution in sorted(given.items()) if contribution)
    if not contributions:
        return None
    # One contribution of another length must not push the right ones out.
    num_parts = Counter(len(c.parts) for c in contributions).most_common(1)[0][0]
    contributions = tuple(c for c in contributions if len(c.parts) == num_parts)
    reducers = _able(s)
    announced = {c.peer: line_mbps(c) for c in contributions}
    lines = {peer: announced.get(peer, 0.0) for peer in reducers}
    shares = share_parts(num_parts, lines)
    checkers = _checkers(shares, who_checks(shares, lines)) if s.rules.check_averages else ()
    return Plan(0, contributions, shares, checkers)


def _able(s: RoundState) -> list[PeerId]:
    """Who can be asked to compute averages: not whose averages could not be had, as long as there are enough others."""
    reachable = set(s.ready) - s.suspects
    willing = reachable - s.withholding
    has_checker = len(willing) > 1 or not s.rules.check_averages
    return sorted(willing if has_checker else reachable)


def _checkers(reducers: Sequence[PeerId], able: Sequence[PeerId]) -> tuple[PeerId, ...]:
    """For every part somebody else than its reducer: who reduces more also checks more, and each reducer's in turn.

    Empty where there is nobody.
    """
    if len(able) < 2:
        return ()
    reduced = Counter(reducers)
    checks: Counter[PeerId] = Counter()
    pairs: Counter[tuple[PeerId, PeerId]] = Counter()
    chosen: list[PeerId] = []
    for reducer in reducers:
        after = [peer for peer in able if peer > reducer] + [peer for peer in able if peer < reducer]
        checker = min(after, key=lambda peer: ((checks[peer] + 1) / max(1, reduced[peer]), pairs[reducer, peer]))
        checks[checker] += 1
        pairs[reducer, checker] += 1
        chosen.append(checker)
    return tuple(chosen)


def missing_parts(s: RoundState, late: Collection[PeerId]) -> list[int]:
    """Parts of the plan that wait, or will wait, for these members."""
    plan, parts = s.plan, range(len(s.plan.reducers) if s.plan else 0)
    assert plan is not None
    asked = [{plan.reducers[j], *plan.checkers[j : j + 1]} for j in parts]
    return [
        j for j in parts if result_of(s, j) is None and any(m in late and (j, m) not in s.reduced for m in asked[j])
    ]


def plan_without(s: RoundState, missing: Collection[int], late: Collection[PeerId]) -> Plan:
    """The plan with what these members have not delivered of these parts in the hands of others, not suspected ones."""
    assert s.plan is not None
    able = _able(s)
    reducers, checkers = list(s.plan.reducers), list(s.plan.checkers)
    for turn, part in enumerate(missing):
        if reducers[part] in late and (part, reducers[part]) not in s.reduced:
            reducers[part] = able[turn % len(able)]
        if checkers and (checkers[part] in late or checkers[part] == reducers[part]):
            asked = {reducers[part], s.plan.checkers[part]}
            others = [peer for peer in able if peer not in asked] or [peer for peer in able if peer != reducers[part]]
            checkers[part] = others[turn % len(others)] if others else reducers[part]
    return Plan(s.plan.revision + 1, s.plan.contributions, tuple(reducers), tuple(checkers))


def transfers_s(s: RoundState, plan: Plan) -> float:
    """What a plan's transfers take over the lines that its members announce."""
    return planned_transfer_s(
        plan.contributions,
        plan.reducers,
        len(s.ballot.members),
        checkers=plan.checkers,
        at_most_s=_MAX_PLANNED * s.rules.reduce_s,
    )


def value_of(s: RoundState, staged: Staged, plan: Plan) -> Value:
    """What the members are asked to vote for: the outer step that we have computed, and who owns its version."""
    included = {peer for result in staged.results for peer in result.contributors}
    bare = (replace(c, parts=(), uplink_mbps=0.0, downlink_mbps=0.0) for c in plan.contributions)
    contributions = tuple(c for c in bare if c.peer in included)
    # Whoever holds the slice and has a claim is an owner from the next version on, or takes part in the draw: that is
    # how peers join.
    present = {m for m in s.ballot.members if m in s.ready} - s.suspects
    holders = (present | s.claims | {s.me}) - s.suspects
    tokens, weight = s.head.sums_with(contributions)
    return Value(
        run=s.run,
        slice=s.slice,
        version=s.version,
        previous=s.head.value_hash,
        digest=staged.digest,
        published_digest=staged.published_digest,
        update=staged.update,
        results=staged.results,
        contributions=contributions,
        owners=drawn(holders, present=present, most=s.rules.max_owners, lot=s.head.value_hash or ""),
        tokens=tokens,
        weight=weight,
    )


def is_staged(s: RoundState, value: Value) -> bool:
    """Whether our own outer step gave what the value says."""
    staged = s.staged
    return staged is not None and (staged.results, staged.digest, staged.published_digest, staged.update) == (
        value.results,
        value.digest,
        value.published_digest,
        value.update,
    )


def stands_on_a_rival(s: RoundState, message: RoundMessage) -> bool:
    """Whether who sent this holds another value of our version."""
    body = message.body
    return message.version == s.version and isinstance(body, Ready | Offer) and body.previous != s.head.value_hash
