"""The edge of an owned slice, with real arrays and signatures, in one event loop."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from p2ptrain.errors import PeerUnreachable, StorageError
from p2ptrain.ids import GENESIS, PeerId, Version
from p2ptrain.swarm import error_feedback, part_averages, state
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.swarm.round_commands import Promise
from p2ptrain.wire.codec import Float32, decode, encode
from p2ptrain.wire.doorkeeper import Doorkeeper
from p2ptrain.wire.messages import BlobRef, CastVote, Committed, Offer, PartResult, Propose, Ready, RoundMessage
from tests.support.owners_in_memory import EXCHANGE, NUMEL, Hand, OwnersInMemory, gradient


def rounded_away(total: Float32) -> Float32:
    """What int8 loses of a contribution that is sent part by part."""
    lost = np.empty_like(total)
    for start, stop in part_bounds(NUMEL, EXCHANGE.part_elements):
        part = total[start:stop]
        lost[start:stop] = part - decode(EXCHANGE.codec, encode(EXCHANGE.codec, part), stop - start)
    return lost


async def contribute(hands: list[Hand], first: int = 0) -> None:
    await asyncio.gather(*(hand.owner.contribute(gradient(first + n), 100, 1.0) for n, hand in enumerate(hands)))


async def test_owners_commit_rounds_with_equal_bits_and_keep_what_encoding_rounded_away() -> None:
    async with OwnersInMemory(3).running() as hands:
        expected = [np.zeros(NUMEL, np.float32) for _ in hands]
        for number in range(3):
            await contribute(hands, 10 * number)
            await asyncio.gather(*(hand.round_settled_here() for hand in hands))
            expected = [rounded_away(gradient(10 * number + n) + before) for n, before in enumerate(expected)]
            assert [hand.version for hand in hands] == [number + 1] * 3
            assert len({hand.digest for hand in hands}) == 1
            for hand, lost in zip(hands, expected, strict=True):
                np.testing.assert_array_equal(np.concatenate(hand.owner.residual), lost)


async def test_no_message_waits_while_arrays_are_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hundred million parameters in a slice each of these takes up to a second."""
    used: set[str] = set()
    in_the_event_loop: set[str] = set()

    def watched(module: Any, name: str) -> Callable[..., Any]:
        function = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            used.add(name)
            if threading.current_thread() is threading.main_thread():
                in_the_event_loop.add(f"{module.__name__}.{name}")
            return function(*arguments, **named)

        return call

    async with OwnersInMemory(3).running() as hands:
        for module in (error_feedback, part_averages, state):
            for name in ("encode", "decode", "round_to_bf16"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, watched(module, name))
        monkeypatch.setattr(BlobRef, "of", watched(BlobRef, "of"))
        await contribute(hands)
        await asyncio.gather(*(hand.round_settled_here() for hand in hands))
        assert [hand.version for hand in hands] == [1] * 3
    assert used == {"encode", "decode", "round_to_bf16", "of"}
    assert in_the_event_loop == set()


def what_is_sent(group: OwnersInMemory, by: Hand) -> list[type]:
    """Kinds of messages, as they leave."""
    sent: list[type] = []

    def note(sender: PeerId, to: PeerId, message: RoundMessage) -> bool:
        if sender == by.peer:
            sent.append(type(message.body))
        return True

    group.passes = note
    return sent


async def test_nothing_is_said_before_the_disk_has_the_promise_and_nobody_else_waits_for_it() -> None:
    group = OwnersInMemory(3)
    slow, *others = group.hands.values()
    sent, is_written, threads = what_is_sent(group, slow), threading.Event(), set()

    def save_promise(*_: object) -> None:
        threads.add(threading.current_thread())
        assert is_written.wait(20)

    slow.save_promise = save_promise  # type: ignore[attr-defined]
    async with group.running():
        await contribute([slow, *others])
        async with asyncio.timeout(20):
            while len(slow.owner._state.ready) < 3 or not threads:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0)
        assert not sent
        is_written.set()
        await asyncio.gather(*(hand.round_settled_here() for hand in (slow, *others)))
        assert Ready in sent
        (certificate,) = slow.owner.history.since(GENESIS)
        assert {c.peer for c in certificate.value.contributions} == set(group.hands)
    assert threading.main_thread() not in threads


async def test_whoever_could_not_save_its_promise_is_silent_and_takes_part_again_as_a_guest() -> None:
    group = OwnersInMemory(3, replace(EXCHANGE, gather_timeout_s=5.0))
    full, *others = group.hands.values()
    sent = what_is_sent(group, full)

    def save_promise(*_: object) -> None:
        raise StorageError("no space left")

    full.save_promise = save_promise  # type: ignore[attr-defined]
    async with group.running(), asyncio.timeout(60):
        await contribute([full, *others])
        await asyncio.gather(*(hand.round_settled_here() for hand in (full, *others)))
        assert [hand.version for hand in (full, *others)] == [1, 1, 1]
        assert not {Ready, PartResult, Propose, CastVote} & set(sent)
        del full.save_promise  # type: ignore[attr-defined]
        await contribute([full], 10)
        while Offer not in sent:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        await contribute(others, 11)
        await asyncio.gather(*(hand.round_settled_here() for hand in others))
        _, second = others[0].owner.history.since(GENESIS)
        assert {c.peer for c in second.value.contributions} == set(group.hands), "it was a guest, who promises nothing"


async def test_what_is_said_in_a_ballot_waits_for_that_promise_and_promises_are_saved_in_their_order() -> None:
    group = OwnersInMemory(3)
    slow, *others = group.hands.values()
    heard: list[tuple[type, int]] = []
    saved: list[int] = []
    first_begins, first_ends = threading.Event(), threading.Event()

    def note(sender: PeerId, to: PeerId, message: RoundMessage) -> bool:
        if sender == slow.peer:
            heard.append((type(message.body), message.ballot.attempt))
        return True

    def save_promise(_: object, promise: Promise) -> None:
        if promise.ballot.attempt == 0:
            first_begins.set()
            assert first_ends.wait(20)
            saved.append(0)
            raise StorageError("no space left for the first one")
        saved.append(promise.ballot.attempt)

    group.passes = note
    slow.save_promise = save_promise  # type: ignore[attr-defined]
    async with group.running(), asyncio.timeout(60):
        await contribute([slow, *others])
        assert await asyncio.to_thread(first_begins.wait, 20)
        state = slow.owner._state
        ballot = replace(state.ballot, attempt=1)
        higher = RoundMessage(slow.context.run, slow.owner.slice, state.version, ballot, Ready(None, None))
        slow.owner.heard(others[0].peer, higher)
        while slow.owner._state.ballot.attempt != 1:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        for _ in range(3):  # if the second one did not wait for the first, a thread would have saved it by then
            await asyncio.to_thread(time.sleep, 0.01)
        assert not saved
        assert not heard
        first_ends.set()
        while (Ready, 1) not in heard:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        assert saved == [0, 1]
        assert (Ready, 0) not in heard, "the disk never took it"


async def test_a_contribution_says_what_its_line_carries() -> None:
    group = OwnersInMemory(2)
    announced: set[tuple[float, float]] = set()

    def listen(sender: PeerId, to: PeerId, message: RoundMessage) -> bool:
        if isinstance(message.body, Ready) and message.body.contribution:
            announced.add((message.body.contribution.uplink_mbps, message.body.contribution.downlink_mbps))
        return True

    group.passes = listen
    for hand in group.hands.values():
        hand.context.node = SimpleNamespace(door=Doorkeeper(), uplink_mbps=20.0, downlink_mbps=50.0)  # type: ignore[assignment]
    async with group.running() as hands:
        await contribute(hands)
        await asyncio.gather(*(hand.round_settled_here() for hand in hands))
    assert announced == {(20.0, 50.0)}


async def test_a_member_whose_link_was_broken_is_told_again_and_the_round_waits_for_no_deadline() -> None:
    group = OwnersInMemory(3)
    broken: set[tuple[PeerId, PeerId]] = set()

    def breaks_once_between_two_that_only_reduce(sender: PeerId, to: PeerId, message: RoundMessage) -> bool:
        proposer = group.hands[sender].owner._state.proposer
        if isinstance(message.body, PartResult) and proposer not in (sender, to) and (sender, to) not in broken:
            broken.add((sender, to))
            raise PeerUnreachable("dial backoff")
        return True

    group.passes = breaks_once_between_two_that_only_reduce
    async with group.running() as hands:
        await contribute(hands)
        async with asyncio.timeout(EXCHANGE.reduce_timeout_s / 2):
            await asyncio.gather(*(hand.round_settled_here() for hand in hands))
        assert len(broken) == 2
        (certificate,) = hands[0].owner.history.since(GENESIS)
        assert {c.peer for c in certificate.value.contributions} == set(group.hands)


async def miss_the_commit(group: OwnersInMemory, *, has_computed_it: bool) -> None:
    """All contribute, and the last one is not told what was decided, or could not compute it."""
    *voters, late = group.hands.values()
    late.can_fetch = lambda what: has_computed_it or not what.startswith("average")
    group.passes = lambda sender, to, message: (
        to != late.peer or not isinstance(message.body, Propose | CastVote | Committed)
    )
    await contribute([*voters, late])
    await asyncio.gather(*(hand.round_settled_here() for hand in voters))
    assert [hand.version for hand in (*voters, late)] == [1, 1, 0]
    late.can_fetch = lambda what: True


@pytest.mark.parametrize("has_computed_it", [True, False])
async def test_an_owner_that_missed_a_commit_with_its_contribution_keeps_what_was_rounded_away_all_the_same(
    has_computed_it: bool,
) -> None:
    group = OwnersInMemory(3)
    async with group.running() as (first, _, late):
        await miss_the_commit(group, has_computed_it=has_computed_it)
        (certificate,) = first.owner.history.since(GENESIS)
        assert late.peer in {c.peer for c in certificate.value.contributions}
        assert not np.concatenate(late.owner.residual).any()
        late.owner.learn(certificate, first.peer)
        await late.round_settled_here()
        assert (late.version, late.digest) == (1, first.digest)
        np.testing.assert_array_equal(np.concatenate(late.owner.residual), rounded_away(gradient(2)))


def take_over(hand: Hand) -> None:
    """As whoever found nobody with the owners' state when it started."""
    replica = hand.owner.replica
    hand.owner.replica = replace(replica, owned=replica.published.taken_over())
    hand.owner._serve_state()


@pytest.mark.parametrize(("size", "number"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("certified", ["one", "all but one"])
async def test_owners_of_one_version_with_the_certified_state_and_without_it_agree_on_one_of_the_two(
    certified: str, size: int, number: int
) -> None:
    group = OwnersInMemory(size)
    async with group.running() as hands:
        await contribute(hands)
        await asyncio.gather(*(hand.round_settled_here() for hand in hands))
        for place, hand in enumerate(hands):
            if (place == number) != (certified == "one"):
                take_over(hand)
        assert len({hand.digest for hand in hands}) == 2
        for rounds_done in (2, 3):
            await contribute(hands, 10)
            await asyncio.gather(*(hand.round_settled_here() for hand in hands))
            async with asyncio.timeout(30):
                while {hand.version for hand in hands} != {rounds_done}:  # noqa: ASYNC110 - a catch-up tells nobody
                    await asyncio.sleep(0.01)
            assert len({hand.digest for hand in hands}) == 1


async def test_an_owner_that_comes_back_after_its_slice_was_taken_over_fetches_the_state_of_those_who_did() -> None:
    group = OwnersInMemory(3)
    async with group.running() as hands:
        await contribute(hands)
        await asyncio.gather(*(hand.round_settled_here() for hand in hands))
        *heirs, returns = hands
        for heir in heirs:
            take_over(heir)
        returns.can_fetch = lambda what: not what.startswith("average")
        group.passes = lambda sender, to, message: (
            to != returns.peer or not isinstance(message.body, Propose | CastVote | Committed)
        )
        await contribute(hands, 10)
        await asyncio.gather(*(heir.round_settled_here() for heir in heirs))
        returns.can_fetch = lambda what: True
        assert [hand.version for hand in hands] == [2, 2, 1]
        (certificate,) = heirs[0].owner.history.since(Version(1))
        returns.owner.learn(certificate, heirs[0].peer)
        async with asyncio.timeout(30):
            while returns.version != 2:  # noqa: ASYNC110 - a catch-up tells nobody
                await asyncio.sleep(0.01)
        assert returns.digest == heirs[0].digest


@pytest.mark.parametrize("is_listed", [True, False])
def test_an_owner_counts_itself_from_the_first_moment_on_if_the_directory_lists_it(is_listed: bool) -> None:
    (hand, *others) = OwnersInMemory(3).hands.values()
    hand.context.is_listed = is_listed
    hand.begin({other.peer: hand.context.claims[other.peer] for other in others})  # its own claim is not out yet
    assert (hand.peer in hand.owner._state.claims) == is_listed


def test_an_owner_is_told_of_other_holders_once() -> None:
    (hand, *others) = OwnersInMemory(3).hands.values()
    everybody = frozenset([hand.peer, *(other.peer for other in others)])
    hand.owner.claims_changed(everybody)
    assert hand.owner._queue.empty(), "as it was when it began"
    for holders in (everybody - {hand.peer}, everybody - {hand.peer}, everybody):
        hand.owner.claims_changed(holders)
    assert hand.owner._queue.qsize() == 2
