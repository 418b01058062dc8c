"""Holders that were not drawn, and the owners that bring their work along, in one event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain import clock
from p2ptrain.errors import BadMessage, PeerUnreachable
from p2ptrain.events import PeerLost, Refused, WorkBrought, WorkEntrusted
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.swarm.delegation import Brought, Contained, asks
from p2ptrain.swarm.reduce import part_bounds, weighted_mean
from p2ptrain.swarm.robust import add_work
from p2ptrain.swarm.round_events import Tick, Unreachable
from p2ptrain.swarm.round_state import Stage
from p2ptrain.wire.codec import Float32, decode, encode
from p2ptrain.wire.messages import (
    MAX_TOKENS,
    Ballot,
    BlobRef,
    Certificate,
    Contribution,
    Entrust,
    PartResult,
    Value,
)
from tests.support.owners_in_memory import EXCHANGE, NUMEL, RUN, SLICE, Hand, OwnersInMemory, gradient

THREE = replace(EXCHANGE, max_owners=3)
BOUNDS = part_bounds(NUMEL, EXCHANGE.part_elements)


def owners_of(group: OwnersInMemory) -> list[Hand]:
    return [hand for hand in group.hands.values() if hand.peer in hand.owner._state.ballot.members]


def others_of(group: OwnersInMemory) -> list[Hand]:
    return [hand for hand in group.hands.values() if hand.peer not in hand.owner._state.ballot.members]


@asynccontextmanager
async def with_places(group: OwnersInMemory) -> AsyncIterator[tuple[list[Hand], list[Hand]]]:
    """Owners and others of version 1; every other has looked for a delegate."""
    async with group.running(), asyncio.timeout(60):
        while not all(hand.owner._delegation._searching for hand in others_of(group)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for hand in others_of(group):
            searching = hand.owner._delegation._searching
            assert searching
            await searching.wait()
        yield owners_of(group), others_of(group)


async def commit(owners: list[Hand], others: list[Hand]) -> Certificate:
    """The version that the owners commit, once everybody has contributed; the others are told."""
    everybody = sorted([*owners, *others], key=lambda hand: hand.peer)
    contributing = [hand.owner.contribute(gradient(n), 100 * (n + 1), 1.0 + n) for n, hand in enumerate(everybody)]
    await asyncio.gather(*contributing)
    await asyncio.gather(*(hand.round_settled_here() for hand in owners))
    certificate = owners[0].owner.replica.certificate
    assert certificate
    for hand in others:
        hand.owner.learn(certificate, owners[0].peer)
        await hand.round_settled_here()
    return certificate


def contributed(hands: list[Hand]) -> dict[PeerId, tuple[int, Float32]]:
    """What ``commit`` let each contribute, as it arrives."""
    found = {}
    for n, hand in enumerate(sorted(hands, key=lambda hand: hand.peer)):
        parts = [gradient(n)[start:stop] for start, stop in BOUNDS]
        sent = [decode("int8", encode("int8", part), len(part)) for part in parts]
        found[hand.peer] = 100 * (n + 1), np.concatenate(sent)
    return found


def step_of(before: Float32, hand: Hand) -> Float32:
    assert hand.owner.replica.owned
    return before - hand.owner.replica.owned.anchor


async def test_the_work_of_all_holders_is_in_a_version_that_three_of_them_decide() -> None:
    group = OwnersInMemory(5, THREE)
    async with with_places(group) as (owners, others):
        assert (len(owners), len(others)) == (3, 2)
        assert owners[0].owner.replica.owned
        before = owners[0].owner.replica.owned.anchor
        certificate = await commit(owners, others)
        assert sorted(c.peer for c in certificate.value.contributions) == sorted(hand.peer for hand in owners)
        assert certificate.value.tokens == sum(100 * (n + 1) for n in range(5))
        assert certificate.value.loss_nats == pytest.approx(sum(100 * (n + 1) * (n + 1) for n in range(5)) / 1500)
        mean = weighted_mean(contributed([*owners, *others]))
        np.testing.assert_allclose(step_of(before, owners[0]), mean, atol=0.05)  # encoded twice more
        assert {hand.version for hand in group.hands.values()} == {1}
        assert len({hand.digest for hand in group.hands.values()}) == 1


async def test_everybody_knows_what_of_its_own_a_version_contains() -> None:
    group = OwnersInMemory(5, THREE)
    found: dict[PeerId, tuple[int | None, int]] = {}
    for hand in group.hands.values():

        def slice_moved(*_: object, hand: Hand = hand) -> None:
            certificate = hand.owner.replica.certificate
            assert certificate
            contained = hand.owner.contained(certificate)
            found[hand.peer] = contained.tokens, len(contained.parts)

        hand.slice_moved = slice_moved  # type: ignore[attr-defined]
    async with with_places(group) as (owners, others):
        await commit(owners, others)
    own = {peer: (100 * (n + 1), len(BOUNDS)) for n, peer in enumerate(sorted(group.hands))}
    assert found == own


async def test_what_rounding_took_from_entrusted_work_is_not_lost() -> None:
    group = OwnersInMemory(5, THREE)
    async with with_places(group) as (owners, others):
        await commit(owners, others)
        sent = contributed([*owners, *others])
        for hand in others:
            number = sorted(group.hands).index(hand.peer)
            lost = gradient(number) - sent[hand.peer][1]
            np.testing.assert_array_equal(np.concatenate(hand.owner.residual), lost)


async def test_both_sides_say_whose_work_is_brought() -> None:
    group = OwnersInMemory(5, THREE)
    async with with_places(group) as (owners, others):
        await commit(owners, others)
        brought = {
            constituent: (hand.peer, event.version)
            for hand in owners
            for event in hand.events
            if isinstance(event, WorkBrought)
            for constituent in event.constituents
        }
        told = {
            hand.peer: (event.delegate, event.version)
            for hand in others
            for event in hand.events
            if isinstance(event, WorkEntrusted)
        }
    assert brought.keys() == {hand.peer for hand in others}
    assert told == brought


async def test_without_places_those_who_were_not_drawn_know_that_nobody_has_their_work() -> None:
    group = OwnersInMemory(5, replace(THREE, max_constituents=0))
    had_place: dict[PeerId, bool] = {}
    for hand in group.hands.values():

        def slice_moved(*_: object, hand: Hand = hand) -> None:
            certificate = hand.owner.replica.certificate
            assert certificate
            had_place[hand.peer] = hand.owner.contained(certificate).had_place

        hand.slice_moved = slice_moved  # type: ignore[attr-defined]
    async with group.running(), asyncio.timeout(60):
        owners, others = owners_of(group), others_of(group)
        certificate = await commit(owners, others)
        assert certificate.value.tokens == sum(c.tokens for c in certificate.value.contributions)
        assert {hand.peer for hand in group.hands.values() if had_place[hand.peer]} == {hand.peer for hand in owners}
        assert all(np.all(np.concatenate(hand.owner.residual) == 0) for hand in others)


async def test_who_is_counted_in_later_had_a_place() -> None:
    group = OwnersInMemory(4, replace(THREE, max_constituents=0))
    async with group.running(), asyncio.timeout(60):
        (outsider,) = others_of(group)
        while outsider.owner._delegation.next is None:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        someone = next(peer for peer in group.hands if peer != outsider.peer)
        certificate = certificate_with(someone, 100)
        assert not outsider.owner.contained(certificate).had_place
        outsider.owner.claims_changed(frozenset([outsider.peer, someone]))
        while outsider.peer not in outsider.owner._state.ballot.members:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        assert outsider.owner.contained(certificate).had_place


async def test_what_a_peer_contributed_itself_goes_before_what_its_delegate_says() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (_, (constituent,)):
        delegation = constituent.owner._delegation
        assert delegation._delegate
        await constituent.owner.contribute(gradient(0), 70, 1.0)
        constituent.owner.heard_from_delegate(delegation._delegate, Version(1), cut_off_within_s=0.0, tokens=170)
        one = certificate_with(delegation._delegate, 170)
        assert constituent.owner.contained(one).tokens == 70
        both = (*one.value.contributions, Contribution(constituent.peer, 150, 1.0))
        peers = tuple(c.peer for c in both)
        results = tuple(replace(result, contributors=peers) for result in one.value.results)
        value = replace(one.value, contributions=both, results=results)
        assert constituent.owner.contained(replace(one, value=value)).tokens == 150


async def test_places_are_as_many_as_the_manifest_says() -> None:
    group = OwnersInMemory(9, replace(THREE, max_constituents=1))
    async with with_places(group) as (owners, others):
        assert all(len(hand.owner._delegation._constituents) == 1 for hand in owners)
        placed = [hand for hand in others if hand.owner._delegation._delegate]
        assert len(placed) == 3
        certificate = await commit(owners, others)
        tokens = {peer: 100 * (n + 1) for n, peer in enumerate(sorted(group.hands))}
        assert certificate.value.tokens == sum(tokens[hand.peer] for hand in [*owners, *placed])


async def test_an_owner_that_cannot_be_reached_is_nobodys_delegate() -> None:
    group = OwnersInMemory(5, THREE)
    away = owners_of(group)[0].peer
    group.is_reachable = lambda sender, to: away not in (sender, to)
    async with with_places(group) as (_, others):
        assert {hand.owner._delegation._delegate for hand in others} <= {hand.peer for hand in owners_of(group)[1:]}


async def test_owners_wait_for_a_silent_constituent_no_longer_than_their_patience_and_it_keeps_its_work() -> None:
    group = OwnersInMemory(4, replace(THREE, gather_timeout_s=2.0))
    async with with_places(group) as (owners, (silent,)):
        began_s = asyncio.get_running_loop().time()
        certificate = await commit(owners, [])
        assert 0.5 < asyncio.get_running_loop().time() - began_s < 10
        assert certificate.value.version == 1
        tokens = sum(100 * (n + 1) for n in range(3))
        assert certificate.value.tokens == tokens
        assert silent.owner.contained(certificate).tokens is None


async def test_whoever_let_its_delegate_wait_is_waited_for_no_more_until_it_comes_in_time() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (late,)):
        delegate = next(hand for hand in owners if hand.peer == late.owner._delegation._delegate).owner._delegation
        loop = asyncio.get_running_loop()

        async def brings(version: int, patience_s: float) -> tuple[int, float]:
            delegate.begin(Version(version), None, has_place=True)
            late.owner._delegation.begin(Version(version), None, has_place=False)
            late.owner._delegation.look_for_delegate([delegate._context.me])
            assert late.owner._delegation._searching
            await late.owner._delegation._searching.wait()
            if hands_over:
                await late.owner._delegation.hand_over(contributions)
                while not delegate._constituents[late.peer].is_done:  # noqa: ASYNC110 - no event says so
                    await asyncio.sleep(0)
            began_s = loop.time()
            return (await delegate.bring(gradient(0), 100, 1.0, patience_s)).tokens, loop.time() - began_s

        parts = [encode("int8", gradient(1)[start:stop]) for start, stop in BOUNDS]
        for part in parts:
            late.store.hold("test", part)
        contributions = Contribution(late.peer, 50, 1.0, tuple(map(BlobRef.of, parts)))
        hands_over = False
        tokens, waited_s = await brings(1, 0.3)
        assert (tokens, waited_s > 0.2) == (100, True)
        tokens, waited_s = await brings(2, 50.0)
        assert (tokens, waited_s < 5) == (100, True), "it let us wait before"
        hands_over = True
        tokens, waited_s = await brings(3, 50.0)
        assert tokens == 150
        hands_over = False
        tokens, waited_s = await brings(4, 0.3)
        assert (tokens, waited_s > 0.2) == (100, True), "it came, and is waited for again"
        tokens, waited_s = await brings(11, 50.0)
        assert (tokens, waited_s < 5) == (100, True)
        tokens, waited_s = await brings(12, 0.3)
        assert (tokens, waited_s > 0.2) == (100, True), "that was long ago"


async def test_a_constituent_is_asked_for_its_work_when_the_owners_are_ready() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (asked,)):
        calls: list[float] = []

        def cut_off_wanted(slice_id: object, within_s: float) -> None:
            calls.append(within_s)
            task = asyncio.ensure_future(asked.owner.contribute(gradient(7), 50, 1.0))
            calls_made.append(task)

        calls_made: list[asyncio.Task[None]] = []
        asked.cut_off_wanted = cut_off_wanted  # type: ignore[attr-defined]
        certificate = await commit(owners, [])
        assert certificate.value.tokens == 100 + 200 + 300 + 50
        (within_s,) = calls
        assert 0 < within_s < THREE.gather_timeout_s
        await asyncio.gather(*calls_made)


async def test_a_constituent_with_nothing_to_add_is_not_waited_for() -> None:
    group = OwnersInMemory(4, replace(THREE, gather_timeout_s=600.0, vote_timeout_s=600.0))
    async with with_places(group) as (owners, (idle,)):
        await idle.owner.contribute(gradient(0), 0, 1.0)
        certificate = await commit(owners, [])
        assert certificate.value.tokens == 600


async def test_work_that_cannot_be_fetched_is_not_waited_for_and_stays_where_it_is() -> None:
    group = OwnersInMemory(4, replace(THREE, gather_timeout_s=600.0, vote_timeout_s=600.0))
    async with with_places(group) as (owners, (hidden,)):
        for hand in owners:
            hand.can_fetch = lambda what: "entrusted" not in what
        await hidden.owner.contribute(gradient(0), 100, 1.0)
        certificate = await commit(owners, [])
        assert certificate.value.tokens == 600
        assert hidden.owner.contained(certificate).tokens is None
        (lost,) = [event for hand in owners for event in hand.events if isinstance(event, PeerLost)]
        assert lost.peer == hidden.peer


async def test_work_a_hundred_times_as_large_is_not_brought_and_its_sender_is_named() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (liar,)):
        await liar.owner.contribute(100 * gradient(0), 100, 1.0)
        certificate = await commit(owners, [])
        assert certificate.value.tokens == 600
        assert liar.owner.contained(certificate).tokens is None
        (refused,) = [event for hand in owners for event in hand.events if isinstance(event, Refused)]
        assert refused.peer == liar.peer
        assert "x ours" in refused.reason


async def test_of_a_delegates_contributions_to_one_version_the_committed_one_counts() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        delegation = constituent.owner._delegation
        delegate = next(hand for hand in owners if hand.peer == delegation._delegate)
        await constituent.owner.contribute(gradient(2), 70, 1.0)
        for own_tokens in (100, 200):
            brought = await delegate.owner._delegation.bring(gradient(3), own_tokens, 1.0, 60.0)
            assert (brought.tokens, brought.constituents) == (own_tokens + 70, (constituent.peer,))
            delegate.owner._delegation.contributed(brought)
        while len(delegation._entrusted) < 2:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        for total, own, entrusted in ((170, 100, 70), (270, 200, 70), (100, 100, None)):
            certificate = certificate_with(delegate.peer, total)
            assert delegate.owner.contained(certificate).tokens == own
            found = constituent.owner.contained(certificate)
            assert (found.tokens, found.had_place) == (entrusted, True)
        later = certificate_with(delegate.peer, 170, version=2)
        assert constituent.owner.contained(later) == Contained(None, had_place=False), "it caught up over two"


def certificate_with(peer: PeerId, tokens: int, version: int = 1) -> Certificate:
    """Of which only the contributions matter."""
    digest = Digest("0" * 64)
    results = tuple(PartResult(part, BlobRef(digest, 1), (peer,)) for part in range(len(BOUNDS)))
    value = Value(
        run=RUN,
        slice=SLICE,
        version=Version(version),
        previous=None,
        digest=digest,
        published_digest=digest,
        update=BlobRef(digest, 1),
        results=results,
        contributions=(Contribution(peer, tokens, 1.0),),
        owners=(peer,),
        tokens=tokens,
        weight=tokens,
    )
    return Certificate(value, Ballot(0, 0, (peer,)), ())


def request(of: Hand, **changes: object) -> Entrust:
    whole = Entrust(
        run=RUN, slice=SLICE, version=Version(1), previous=None, is_cut_off=True, contribution=contribution(of)
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def contribution(of: Hand, numels: tuple[int, ...] = tuple(stop - start for start, stop in BOUNDS)) -> Contribution:
    parts = tuple(BlobRef.of(encode("int8", np.zeros(numel, np.float32))) for numel in numels)
    return Contribution(of.peer, 100, 1.0, parts)


async def test_who_is_counted_in_by_the_group_after_all_is_not_counted_by_way_of_its_delegate_too() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (outsider,)):
        delegate = next(hand for hand in owners if hand.peer == outsider.owner._delegation._delegate)
        await outsider.owner.contribute(gradient(0), 70, 1.0)
        for hand in (delegate, outsider):
            hand.owner.claims_changed(frozenset([delegate.peer, outsider.peer]))
        await delegate.owner.contribute(gradient(1), 100, 1.0)
        await asyncio.gather(*(hand.round_settled_here() for hand in (delegate, outsider)))
        certificate = outsider.owner.replica.certificate
        assert certificate
        assert set(certificate.ballot.members) == {delegate.peer, outsider.peer}
        assert certificate.value.tokens == 170
        assert outsider.owner.contained(certificate).tokens == 70


async def test_who_became_a_member_after_it_handed_over_contributes_nothing_else_to_that_version() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (outsider,)):
        delegate = next(hand for hand in owners if hand.peer == outsider.owner._delegation._delegate)
        await outsider.owner.contribute(gradient(0), 70, 1.0)
        group.passes = lambda sender, to, message: not isinstance(message.body, PartResult)
        for hand in (delegate, outsider):
            hand.owner.claims_changed(frozenset([delegate.peer, outsider.peer]))
        await delegate.owner.contribute(gradient(1), 100, 1.0)
        while {hand.owner._state.stage for hand in (delegate, outsider)} != {Stage.REDUCING}:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for hand in (delegate, outsider):
            state = hand.owner._state
            assert state.plan
            plan = replace(state.plan, revision=3)  # the last that is tried
            hand.owner._state = replace(state, attempts=3, deadline_s=0.0, plan=plan)
            hand.owner._queue.put_nowait(Tick())
        await asyncio.gather(*(hand.round_settled_here() for hand in (delegate, outsider)))
        group.passes = lambda sender, to, message: True
        contributing = [(outsider, gradient(2), 150), (delegate, gradient(3), 180)]
        await asyncio.gather(*(hand.owner.contribute(values, tokens, 1.0) for hand, values, tokens in contributing))
        await asyncio.gather(*(hand.round_settled_here() for hand in (delegate, outsider)))
        certificate = outsider.owner.replica.certificate
        assert certificate
        assert certificate.value.tokens == 250
        assert outsider.owner.contained(certificate).tokens == 70


async def test_a_search_that_ends_after_its_version_hands_nothing_over_to_the_next_delegate() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (holder,)):
        delegation = holder.owner._delegation
        asked: list[Entrust] = []
        goes_on = asyncio.Event()

        async def entrust(owner: PeerId, request: Entrust) -> bool:
            asked.append(request)
            if request.version == 1:
                await goes_on.wait()
            return True

        holder.entrust = entrust  # type: ignore[method-assign]
        delegation.begin(Version(1), None, has_place=False)
        delegation.look_for_delegate([owners[0].peer])
        handing = asyncio.ensure_future(delegation.hand_over(contribution(holder)))
        await asyncio.sleep(0)
        delegation.begin(Version(2), Digest("2" * 64), has_place=False)
        delegation.look_for_delegate([owners[1].peer])
        assert delegation._searching
        await delegation._searching.wait()
        goes_on.set()
        assert not await handing
        assert not any(request.is_cut_off for request in asked)
        assert delegation._delegate == owners[1].peer


async def test_work_whose_taking_was_not_heard_of_is_contributed_in_no_other_way() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        entrust = constituent.entrust

        async def lost_reply(owner: PeerId, request: Entrust) -> bool:
            await entrust(owner, request)
            raise PeerUnreachable("no answer in time")

        constituent.entrust = lost_reply  # type: ignore[method-assign]
        certificate = await commit(owners, [constituent])
        assert certificate.value.tokens == 1000
        tokens = {peer: 100 * (n + 1) for n, peer in enumerate(sorted(group.hands))}
        assert constituent.owner.contained(certificate).tokens == tokens[constituent.peer]


async def test_work_that_comes_after_its_owner_has_contributed_is_too_late_and_no_merit() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (late,)):
        delegate = next(hand for hand in owners if hand.peer == late.owner._delegation._delegate).owner._delegation
        await delegate.bring(gradient(0), 100, 1.0, 0.1)
        assert delegate._let_down_by.keys() == {late.peer}
        await late.owner.contribute(gradient(1), 70, 1.0)
        assert not late.owner._delegation.has_handed_over
        assert delegate._let_down_by.keys() == {late.peer}
        began_s = asyncio.get_running_loop().time()
        await delegate.bring(gradient(0), 100, 1.0, 60.0)
        assert asyncio.get_running_loop().time() - began_s < 5, "nobody is waited for twice"


def fetches_without_end(hand: Hand) -> tuple[asyncio.Event, asyncio.Event]:
    """From now on; when it has begun to fetch, and when it was made to end."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def fetch(*_: object, **__: object) -> object:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    hand.fetch = fetch  # type: ignore[method-assign,assignment]
    return begun, ended


async def test_a_transfer_that_is_waited_for_no_more_ends() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        delegate = next(hand for hand in owners if hand.peer == constituent.owner._delegation._delegate)
        begun, ended = fetches_without_end(delegate)
        await constituent.owner.contribute(gradient(1), 70, 1.0)
        await begun.wait()
        brought = await delegate.owner._delegation.bring(gradient(0), 100, 1.0, 0.1)
        assert brought.constituents == ()
        await ended.wait()


async def test_when_all_delegates_are_gone_those_who_trusted_in_them_decide_the_version_with_their_own_work() -> None:
    group = OwnersInMemory(5, replace(THREE, gather_timeout_s=1.0, vote_timeout_s=1.0))
    async with with_places(group) as (owners, others):
        await asyncio.gather(*(hand.owner.contribute(gradient(n), 70, 1.0) for n, hand in enumerate(others)))
        assert all(hand.owner._delegation.has_handed_over for hand in others)
        gone, left = {hand.peer for hand in owners}, frozenset(hand.peer for hand in others)
        group.is_reachable = lambda sender, to: to not in gone
        group.passes = lambda sender, to, message: not {sender, to} & gone
        for hand in others:
            hand.owner.claims_changed(left)
        await asyncio.gather(*(hand.round_settled_here() for hand in others))
        assert {hand.version for hand in others} == {0}, "nobody had anything to contribute"
        await asyncio.gather(*(hand.owner.contribute(gradient(n), 150, 1.0) for n, hand in enumerate(others)))
        await asyncio.gather(*(hand.round_settled_here() for hand in others))
        certificate = others[0].owner.replica.certificate
        assert certificate
        assert certificate.value.tokens == 300
        assert [hand.owner.contained(certificate).tokens for hand in others] == [150, 150]


@pytest.mark.parametrize("fault", ["unreachable", "has no work itself", "cannot fetch", "refuses", "not a member"])
async def test_who_contributes_again_takes_its_work_back_from_a_delegate_that_will_not_bring_it(fault: str) -> None:
    group = OwnersInMemory(5, THREE)
    async with with_places(group) as (owners, (constituent, *_)):
        delegation = constituent.owner._delegation
        delegate = next(hand for hand in owners if hand.peer == delegation._delegate)
        still = [hand.peer for hand in owners[1:]]
        delegate.can_fetch = lambda what: fault != "cannot fetch"
        await constituent.owner.contribute((100 if fault == "refuses" else 1) * gradient(0), 70, 1.0)
        place = delegate.owner._delegation._constituents[constituent.peer]
        while not place.is_done:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        if fault != "cannot fetch":
            await delegation.make_sure(still)
            assert delegation.has_handed_over, "all is well"
        match fault:
            case "unreachable":
                group.is_reachable = lambda sender, to: False
            case "has no work itself":
                await delegate.owner._delegation.bring(gradient(1), 0, 1.0, 0.0)
            case "refuses":
                await delegate.owner._delegation.bring(gradient(1), 100, 1.0, 0.0)
            case "not a member":
                state = delegate.owner._state
                without = tuple(sorted({*state.ballot.members, constituent.peer} - {delegate.peer}))
                delegate.owner._state = replace(state, ballot=Ballot(state.ballot.epoch + 1, 0, without))
                delegate.owner._take_place()
                assert not (await delegate.owner._delegation.bring(gradient(1), 100, 1.0, 0.0)).constituents
        await delegation.make_sure(still)
        assert not delegation.has_handed_over
        assert set(delegation._owners) == set(still)


async def test_a_delegate_that_is_asked_about_an_earlier_version_is_not_given_up_in_the_next() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        delegation = constituent.owner._delegation
        await constituent.owner.contribute(gradient(0), 70, 1.0)
        asked, goes_on = asyncio.Event(), asyncio.Event()

        async def entrust(owner: PeerId, request: Entrust) -> bool:
            if request.version == 1:
                asked.set()
                await goes_on.wait()
                return False
            return True

        constituent.entrust = entrust  # type: ignore[method-assign]
        asking = asyncio.ensure_future(delegation.make_sure([]))
        await asked.wait()
        delegation.begin(Version(2), Digest("2" * 64), has_place=False)
        delegation.look_for_delegate([owners[1].peer])
        assert await delegation.hand_over(contribution(constituent))
        goes_on.set()
        await asking
        assert delegation.has_handed_over
        assert delegation._delegate == owners[1].peer


async def test_a_delegate_that_leaves_the_group_waits_for_nobody_any_more() -> None:
    group = OwnersInMemory(5, replace(THREE, max_owners=1))
    async with with_places(group) as ((delegate,), (one, *_)):
        begun, ended = fetches_without_end(delegate)
        await one.owner.contribute(gradient(1), 70, 1.0)
        await begun.wait()
        bringing = asyncio.ensure_future(delegate.owner._delegation.bring(gradient(0), 100, 1.0, 600.0))
        await asyncio.sleep(0)
        delegate.owner._delegation.bring_nobody()
        assert (await bringing).constituents == ()
        await ended.wait()


async def test_owners_that_are_gone_or_paused_are_not_asked() -> None:
    group = OwnersInMemory(5, THREE)
    async with with_places(group) as (owners, (holder, _)):
        claims = holder.context.claims
        gone, paused, there = [hand.peer for hand in owners]
        holder.context.claims = {peer: c for peer, c in claims.items() if peer != gone}
        holder.context.claims[paused] = replace(claims[paused], is_away=True)
        assert holder.owner._possible_delegates == [there]
        holder.context.is_listed = False  # and sees the directory seldom
        assert set(holder.owner._possible_delegates) == {gone, there}


async def test_an_owner_without_work_of_its_own_waits_for_nobody_and_brings_nobodys() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        delegate = next(hand for hand in owners if hand.peer == constituent.owner._delegation._delegate).owner
        began_s = asyncio.get_running_loop().time()
        assert (await delegate._delegation.bring(0 * gradient(0), 0, 1.0, 60.0)).tokens == 0
        assert asyncio.get_running_loop().time() - began_s < 5
        await constituent.owner.contribute(gradient(1), 70, 1.0)
        assert not constituent.owner._delegation.has_handed_over
        assert (await delegate._delegation.bring(0 * gradient(0), 0, 1.0, 60.0)).tokens == 0


async def test_contributions_of_nothing_do_not_make_an_owner_forget_what_it_contributed() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, _):
        delegation = owners[0].owner._delegation
        for tokens in (100, 0, 0, 0):
            delegation.contributed(Brought(gradient(0), tokens, 1.0, (), tokens, 0.0))
        assert list(delegation._own) == [(100, 100)]


async def test_constituents_are_asked_as_soon_as_any_owner_is_ready() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        asked = asyncio.Event()
        constituent.cut_off_wanted = lambda *_: asked.set()  # type: ignore[attr-defined]
        other = next(hand for hand in owners if hand.peer != constituent.owner._delegation._delegate)
        await other.owner.contribute(gradient(0), 100, 1.0)
        await asked.wait()


async def test_an_owner_whose_volunteer_paused_it_is_not_asked_for_a_place() -> None:
    group = OwnersInMemory(5, THREE)
    paused, *others = owners_of(group)
    for hand in group.hands.values():
        claims = hand.context.claims
        hand.context.claims = {**claims, paused.peer: replace(claims[paused.peer], is_away=True)}
    async with with_places(group) as (_, outsiders):
        assert {hand.owner._delegation._delegate for hand in outsiders} <= {hand.peer for hand in others}
        assert not paused.owner._delegation._constituents


async def test_patience_is_short_while_little_is_measured_and_counts_from_the_first_that_was_ready() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, _):
        owner = owners[0].owner
        assert owner._patience_s == pytest.approx(2.0, abs=0.2)
        measured = replace(owner._state.durations, gather=(10.0,) * 5)
        owner._state = replace(owner._state, durations=measured)
        assert owner._patience_s == pytest.approx(7.5, abs=0.2)  # half of median and half of it again
        owner._state = replace(owner._state, first_ready_s=clock.monotonic_s() - 5)
        assert owner._patience_s == pytest.approx(2.5, abs=0.2)
        owner._state = replace(owner._state, first_ready_s=clock.monotonic_s() - 50)
        assert owner._patience_s == 0


async def test_where_owners_are_averaged_robustly_none_brings_the_work_of_others() -> None:
    group = OwnersInMemory(4, replace(THREE, averaging="trimmed"))
    async with with_places(group) as (owners, (outsider,)):
        assert outsider.owner._delegation._delegate is None
        certificate = await commit(owners, [outsider])
        assert certificate.value.tokens == sum(c.tokens for c in certificate.value.contributions)
        assert {c.peer for c in certificate.value.contributions} == {hand.peer for hand in owners}


async def test_a_member_by_now_hands_nothing_over_and_says_so() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (outsider,)):
        delegate = next(hand for hand in owners if hand.peer == outsider.owner._delegation._delegate)
        for hand in (outsider, delegate):
            ballot = replace(hand.owner._state.ballot, members=(delegate.peer, outsider.peer))
            hand.owner._state = replace(hand.owner._state, ballot=ballot)
        await outsider.owner.contribute(gradient(0), 70, 1.0)
        one = delegate.owner._delegation._constituents[outsider.peer]
        while not one.is_done:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        assert one.contribution is None


async def test_a_commit_while_a_delegate_encodes_leaves_all_work_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        late = next(hand for hand in owners if hand.peer == constituent.owner._delegation._delegate)
        others = [hand for hand in owners if hand is not late]
        await constituent.owner.contribute(gradient(0), 70, 1.0)
        encoded, goes_on = late.owner._encoded, threading.Event()

        def slow(*arguments: Float32) -> object:
            found = encoded(*arguments)  # type: ignore[arg-type]
            assert goes_on.wait(20)
            return found

        monkeypatch.setattr(late.owner, "_encoded", slow)
        contributing = asyncio.ensure_future(late.owner.contribute(gradient(1), 100, 1.0))
        await asyncio.sleep(0)
        await asyncio.gather(*(hand.owner.contribute(gradient(2), 100, 1.0) for hand in others))
        for hand in others:
            hand.owner._queue.put_nowait(Unreachable(late.peer))
        await asyncio.gather(*(hand.round_settled_here() for hand in others))
        certificate = others[0].owner.replica.certificate
        assert certificate
        assert certificate.value.tokens == 200
        late.owner.learn(certificate, others[0].peer)
        await late.round_settled_here()
        goes_on.set()
        await contributing
        while not late.owner._queue.empty():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        assert late.owner._state.contribution is None
        assert not late.owner.is_averaging
        assert not late.owner._delegation._own
        assert constituent.owner.contained(certificate).tokens is None


async def test_a_rival_branch_of_the_same_version_begins_anew() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        delegate = next(hand for hand in owners if hand.peer == constituent.owner._delegation._delegate).owner
        assert delegate._delegation._constituents
        rival = Digest("1" * 64)
        delegate._state = replace(delegate._state, head=replace(delegate._state.head, value_hash=rival))
        delegate._take_place()
        assert not delegate._delegation._constituents
        assert delegate.entrusted(constituent.peer, request(constituent))
        assert not delegate.entrusted(constituent.peer, request(constituent, previous=rival))


async def test_work_is_handed_over_once_in_a_version_and_both_sides_agree_on_it() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (constituent,)):
        delegation = constituent.owner._delegation
        delegate = next(hand for hand in owners if hand.peer == delegation._delegate)
        await constituent.owner.contribute(gradient(0), 70, 1.0)
        await constituent.owner.contribute(gradient(1), 150, 1.0)
        brought = await delegate.owner._delegation.bring(gradient(2), 100, 1.0, 60.0)
        assert brought.tokens == 170
        assert delegation._handed
        assert delegation._handed.tokens == 70
        other = replace(delegation._handed, tokens=150)
        assert delegate.owner.entrusted(constituent.peer, request(constituent, contribution=other))
        assert not delegate.owner.entrusted(constituent.peer, request(constituent, contribution=delegation._handed))


async def test_who_asks_when_the_group_gathers_has_to_have_its_work_with_it() -> None:
    group = OwnersInMemory(4, THREE)
    group.is_reachable = lambda sender, to: False
    async with with_places(group) as (owners, (outsider,)):
        assert outsider.owner._delegation._delegate is None
        group.is_reachable = lambda sender, to: True
        for hand in owners:
            hand.owner._delegation.ask_for_work(60.0)
            asks = request(outsider, is_cut_off=False, contribution=None)
            assert hand.owner.entrusted(outsider.peer, asks)
        await outsider.owner.contribute(gradient(0), 70, 1.0)
        certificate = await commit(owners, [])
        assert certificate.value.tokens == 670


async def test_a_constituent_that_knows_nothing_of_it_is_not_waited_for() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (restarted,)):
        delegate = next(hand for hand in owners if hand.peer == restarted.owner._delegation._delegate)
        restarted.owner._delegation.begin(Version(1), None, has_place=False)
        began_s = asyncio.get_running_loop().time()
        await delegate.owner._delegation.bring(gradient(0), 100, 1.0, 60.0)
        assert asyncio.get_running_loop().time() - began_s < 5


async def test_members_guests_and_holders_of_other_slices_have_no_place() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (outsider,)):
        owner, member, _ = owners
        assert owner.owner.entrusted(member.peer, request(member))
        owner.owner._state = replace(owner.owner._state, claims=owner.owner._state.claims - {outsider.peer})
        assert owner.owner.entrusted(outsider.peer, request(outsider))
    roomy = OwnersInMemory(3, THREE)
    first, *_ = roomy.hands.values()
    first.owner._state = replace(first.owner._state, ballot=replace(first.owner._state.ballot, members=(first.peer,)))
    for guest in set(roomy.hands.values()) - {first}:
        assert first.owner.entrusted(guest.peer, request(guest))


async def test_holders_that_are_not_listed_have_their_work_brought_as_well() -> None:
    group = OwnersInMemory(5, THREE)
    async with with_places(group) as (owners, others):
        certificate = await commit(owners, others)
        listed = frozenset(certificate.value.owners)
        for peer, hand in group.hands.items():
            hand.context.claims = {one: hand.context.claims[one] for one in listed | {peer}}
            hand.context.is_listed = peer in listed
            hand.owner.claims_changed(listed)
        owners = [hand for peer, hand in group.hands.items() if peer in listed]
        others = [hand for peer, hand in group.hands.items() if peer not in listed]
        others[0].context.claims = {}  # it has not looked for long
        await commit(owners, others)
        for hand in others:
            searching = hand.owner._delegation._searching
            assert searching
            await searching.wait()
        certificate = await commit(owners, others)
        assert certificate.value.version == 3
        assert set(certificate.value.owners) == listed
        assert sum(c.tokens for c in certificate.value.contributions) == sum(100 * (n + 1) for n in range(5))
        assert all(hand.owner.contained(certificate).tokens for hand in others)


async def test_the_door_counts_for_holders_that_are_not_listed() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (outsider,)):
        shown: list[tuple[PeerId, str]] = []

        def admits(peer: PeerId, invite: str) -> bool:
            shown.append((peer, invite))
            return bool(invite)

        owner = owners[0]
        owner.context.admits = admits
        owner.context.claims = {one: claim for one, claim in owner.context.claims.items() if one != outsider.peer}
        delegation = outsider.owner._delegation
        delegation.look_for_delegate([owner.peer])
        assert not await delegation.hand_over(contribution(outsider))
        outsider.context.invite = "invited"
        assert not await delegation.hand_over(contribution(outsider)), (
            "the directory shows the invitation of the listed"
        )
        outsider.context.is_listed = False
        assert await delegation.hand_over(contribution(outsider))
        assert set(shown) == {(outsider.peer, ""), (outsider.peer, "invited")}


async def test_tokens_that_no_message_could_carry_with_those_of_others_are_refused() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (sender,)):
        most = MAX_TOKENS // (THREE.max_constituents + 1)
        with pytest.raises(BadMessage, match="tokens"):
            owners[0].owner.entrusted(
                sender.peer, request(sender, contribution=replace(contribution(sender), tokens=most + 1))
            )
        await sender.owner.contribute(gradient(0), most, 1.0)
        certificate = await commit(owners, [])
        own = {hand.peer: 100 * (n + 1) for n, hand in enumerate(owners)}
        assert sender.owner._delegation._delegate
        assert certificate.value.tokens == 600 + 8 * own[sender.owner._delegation._delegate]


async def test_a_delegate_that_tells_of_sums_without_end_is_remembered_by_a_few() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (_, (constituent,)):
        delegation = constituent.owner._delegation
        assert delegation._delegate
        await constituent.owner.contribute(gradient(0), 70, 1.0)
        for tokens in range(100, 200):
            for _ in range(2):
                constituent.owner.heard_from_delegate(
                    delegation._delegate, Version(1), cut_off_within_s=0.0, tokens=tokens
                )
        assert len(delegation._entrusted) == 8
        assert sum(isinstance(event, WorkEntrusted) for event in constituent.events) == 8


async def test_what_cannot_be_a_holders_contribution_is_refused_before_anything_is_fetched() -> None:
    group = OwnersInMemory(4, THREE)
    async with with_places(group) as (owners, (sender,)):
        owner = owners[0].owner
        for wrong in (contribution(owners[1]), contribution(sender, (5,)), contribution(sender, (400, 400, 201))):
            with pytest.raises(BadMessage):
                owner.entrusted(sender.peer, replace(request(sender), contribution=wrong))
        assert owner.entrusted(sender.peer, request(sender, version=Version(3)))
        with pytest.raises(BadMessage):
            owner.entrusted(PeerId("stranger"), request(sender))
        assert sender.owner.entrusted(owners[0].peer, request(owners[0])), "it owns nothing"


def test_where_there_are_few_places_for_many_some_ask_and_others_next_time() -> None:
    places, peers = 256, [PeerId(str(number)) for number in range(10_000)]
    asking, next_time = ({p for p in peers if asks(p, places, len(peers), lot=lot)} for lot in ("ab", "cd"))
    assert 400 < len(asking) < 620
    assert len(asking & next_time) < 80
    assert all(asks(peer, places, seekers, lot="ab") for peer in peers[:500] for seekers in (0, 1, 500))


async def test_whom_the_lot_does_not_favour_asks_nobody() -> None:
    group = OwnersInMemory(3, replace(THREE, max_owners=1, max_constituents=1))
    async with with_places(group) as ((owner,), (holder, _)):
        assert holder.owner._delegation._owners == (owner.peer,), "two for one place"
        assert [holder.context.num_peers(slice_id) for slice_id in (SLICE, SliceId("1"))] == [3, 0]
        holder.context.num_peers = lambda slice_id: 10**8  # type: ignore[method-assign,assignment,misc]
        holder.owner._delegation.look_for_delegate([owner.peer])
        assert holder.owner._delegation._owners == ()


async def test_only_its_delegate_tells_a_holder_what_to_do() -> None:
    group = OwnersInMemory(5, THREE)
    async with with_places(group) as (owners, (one, other)):
        calls: list[float] = []
        one.cut_off_wanted = lambda slice_id, within_s: calls.append(within_s)  # type: ignore[attr-defined]
        for hand in (*owners, other):
            is_delegate = hand.peer == one.owner._delegation._delegate
            for version, within_s, wanted in (
                (1, 5.0, [5.0]),
                (2, 5.0, []),
                (1, 1e300, [THREE.gather_timeout_s]),
                (1, float("nan"), []),
                (1, -1.0, []),
            ):
                is_heard = one.owner.heard_from_delegate(
                    hand.peer, Version(version), cut_off_within_s=within_s, tokens=0
                )
                assert is_heard == (is_delegate and version == 1)
                assert calls == (wanted if is_delegate else [])
                calls.clear()


@given(
    tokens=st.lists(st.integers(1, 10**6), min_size=1, max_size=5),
    own=st.integers(1, 10**6),
    seed=st.integers(0, 2**32 - 1),
)
def test_added_work_is_the_mean_by_tokens(tokens: list[int], own: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    bounds = [(0, 40), (40, 64)]
    mine = random.standard_normal(64).astype(np.float32)
    theirs = {PeerId(f"p{n}"): random.standard_normal(64).astype(np.float32) for n in range(len(tokens))}
    counts: Mapping[PeerId, int] = dict(zip(theirs, tokens, strict=True))
    expected = sum(
        (values.astype(np.float64) * counts[peer] for peer, values in theirs.items()), mine.astype(np.float64) * own
    ) / (own + sum(tokens))
    brought, left_out = add_work(
        mine, own, counts, bounds, lambda peer, index: theirs[peer][slice(*bounds[index])].copy()
    )
    assert brought == tuple(sorted(theirs))
    assert not left_out
    np.testing.assert_allclose(mine, expected, atol=1e-5)


@pytest.mark.parametrize("fault", [np.nan, np.inf, 1e6])
def test_a_fault_in_one_part_leaves_the_whole_contribution_out(fault: float) -> None:
    bounds = [(0, 40), (40, 64)]
    theirs = {PeerId(f"p{n}"): np.full(64, n + 1, np.float32) for n in range(4)}
    theirs[PeerId("p1")][50] = fault
    mine = np.full(64, 1.0, np.float32)
    mine[:40] = 0  # no measure for that part, so that of the whole counts
    counts = dict.fromkeys(theirs, 100)
    brought, left_out = add_work(mine, 100, counts, bounds, lambda peer, index: theirs[peer][slice(*bounds[index])])
    assert set(left_out) == {"p1"}
    assert brought == ("p0", "p2", "p3")
    np.testing.assert_allclose(mine, np.repeat([8 / 4, 9 / 4], [40, 24]))
