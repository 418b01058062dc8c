"""What a round's plan and proposal contain, as functions of the round's state; when they are due is for ``rounds``."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from p2ptrain.ids import PeerId
from p2ptrain.swarm.electorate import drawn
from p2ptrain.swarm.reduce import share_parts
from p2ptrain.swarm.round_events import Staged
from p2ptrain.swarm.round_state import RoundState
from p2ptrain.wire.messages import Offer, Plan, Ready, RoundMessage, Value


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
    room = s.max_owners - len(s.ballot.members)
    others = s.claims - {s.me, *s.ballot.members}
    return frozenset(drawn(others, present=(), most=max(0, room), lot=s.head.value_hash or ""))


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
    reducers = sorted(set(s.ready) - s.suspects)
    uplinks = {c.peer: c.uplink_mbps for c in contributions}
    return Plan(0, contributions, share_parts(num_parts, {peer: uplinks.get(peer, 0.0) for peer in reducers}))


def missing_parts(s: RoundState, reducers: Collection[PeerId]) -> list[int]:
    """Parts of the plan that these reducers have not delivered."""
    assert s.plan is not None
    return [j for j, peer in enumerate(s.plan.reducers) if peer in reducers and (j, peer) not in s.reduced]


def plan_without(s: RoundState, missing: Collection[int]) -> Plan:
    """The plan with these parts in the hands of others that are ready and not suspected."""
    assert s.plan is not None
    others = sorted(set(s.ready) - s.suspects)
    reducers = list(s.plan.reducers)
    for turn, part in enumerate(missing):
        reducers[part] = others[turn % len(others)]
    return Plan(s.plan.revision + 1, s.plan.contributions, tuple(reducers))


def value_of(s: RoundState, staged: Staged, plan: Plan) -> Value:
    """What the members are asked to vote for: the outer step that we have computed, and who owns its version."""
    included = {peer for result in staged.results for peer in result.contributors}
    contributions = tuple(replace(c, parts=(), uplink_mbps=0.0) for c in plan.contributions if c.peer in included)
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
        owners=drawn(holders, present=present, most=s.max_owners, lot=s.head.value_hash or ""),
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
