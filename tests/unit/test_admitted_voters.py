"""Keys are free: voters who were never let into a run take nobody's slice over."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from p2ptrain.errors import BadMessage, BadRecord
from p2ptrain.events import Refused
from p2ptrain.ids import PeerId, Version
from p2ptrain.swarm import catch_up
from p2ptrain.swarm.certificates import check_admitted
from p2ptrain.wire.messages import MAX_INVITE_CHARACTERS, Certificate, Vote
from tests.support.owners_in_memory import SLICE, Hand, OwnersInMemory, gradient

DEADLINE_S = 20.0


async def soon(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.001)


async def commit(hands: list[Hand]) -> None:
    await asyncio.gather(*(hand.owner.contribute(gradient(n), 100, 1.0) for n, hand in enumerate(hands)))
    await asyncio.gather(*(hand.round_settled_here() for hand in hands))


async def test_a_branch_of_made_up_owners_is_refused_and_one_of_peers_that_were_let_in_is_followed() -> None:
    group = OwnersInMemory(4)
    ours, theirs = list(group.hands.values())[:2], list(group.hands.values())[2:]
    for pair in (ours, theirs):
        for hand in pair:
            hand.context.quorum = 2
            hand.context.invite = f"invitation of {hand.peer}"
            hand.begin({peer: claim for peer, claim in hand.context.claims.items() if peer in {p.peer for p in pair}})
    victim, liar = ours[0], theirs[0]
    let_in = {hand.peer for hand in ours}

    def was_admitted(peer: PeerId, invite: str) -> bool:
        return invite == f"invitation of {peer}" and peer in let_in

    victim.context.was_admitted = was_admitted
    async with group.running():
        await commit(ours)
        for _ in range(2):
            await commit(theirs)
        newest = liar.owner.replica.certificate
        assert newest is not None

        victim.owner.learn(newest, liar.peer)
        await soon(lambda: any(isinstance(event, Refused) for event in victim.events))
        refused = next(event for event in victim.events if isinstance(event, Refused))
        assert "0 of its voters were let into this run; 2 are needed" in refused.reason
        assert (victim.version, victim.digest) == (1, ours[1].digest)
        await commit(ours)  # and it goes on with those whom it knows
        assert victim.version == 2

        await commit(theirs)
        let_in.update(hand.peer for hand in theirs)
        victim.owner.learn(liar.owner.replica.certificate or newest, liar.peer)
        await soon(lambda: victim.version == 3)
        assert victim.digest == liar.digest


async def test_one_peer_that_was_let_in_does_not_make_a_quorum_with_keys_of_its_own() -> None:
    group = OwnersInMemory(3)
    hands = list(group.hands.values())
    async with group.running():
        await commit(hands)
        certificate = hands[0].owner.replica.certificate
        assert certificate is not None
    certificate = replace(certificate, votes=certificate.votes[:2])  # as few as commit

    def only(*admitted: PeerId) -> Callable[[PeerId, str], bool]:
        return lambda peer, invite: peer in admitted

    voters = [vote.peer for vote in certificate.votes]
    check_admitted(certificate, only(*voters), 1)
    with pytest.raises(BadRecord, match="1 of its voters"):
        check_admitted(certificate, only(voters[0]), 1)
    with pytest.raises(BadRecord, match="3 are needed"):
        check_admitted(certificate, only(*voters), 3)
    kept = Certificate.decode(replace(certificate, votes=(Vote(voters[0], bytes(64), "word"),)).encode())
    assert kept.votes[0].invite == "word"
    too_long = Vote(voters[0], bytes(64), "x" * (MAX_INVITE_CHARACTERS + 1))
    with pytest.raises(BadMessage, match="characters"):
        Certificate.decode(replace(certificate, votes=(too_long,)).encode())


async def test_an_invitation_that_is_missing_from_a_vote_is_taken_from_its_peers_claim() -> None:
    group = OwnersInMemory(3)
    hands = list(group.hands.values())
    shown = {hand.peer: f"invitation of {hand.peer}" for hand in hands}
    shy = hands[1].peer  # votes without one, so that nobody could prove later what was decided with it
    for hand in hands:
        hand.context.invite = "" if hand.peer == shy else shown[hand.peer]
        hand.context.was_admitted = lambda peer, invite: invite == shown[peer]
        hand.begin({peer: replace(claim, invite=shown[peer]) for peer, claim in hand.context.claims.items()})
    async with group.running():
        for _ in range(3):
            await commit(hands)
    honest = hands[0]
    assert honest.version == 3
    for certificate in honest.owner.history.since(Version(0)):
        invites = {vote.peer: vote.invite for vote in certificate.votes}
        assert invites == {peer: shown[peer] for peer in invites}
    stripped = replace(certificate, votes=tuple(replace(vote, invite="") for vote in certificate.votes))
    assert honest.context.checked(stripped, [SLICE]) == certificate
    honest.context.claims = {}
    assert honest.context.checked(stripped, [SLICE]) == stripped, "of whom nobody shows a claim nothing is known"


async def test_what_leads_to_the_newest_need_not_be_believed_if_the_newest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    group = OwnersInMemory(2)
    hands = list(group.hands.values())
    follower = OwnersInMemory(1).hands.popitem()[1]
    async with group.running():
        for _ in range(3):
            await commit(hands)
    donor = hands[0]
    chain = donor.owner.history.since(Version(0))
    doubtful = {chain[1].value.value_hash}
    perform = catch_up._Task.perform
    tried = []

    async def perform_if_believed(task: Any, *, is_rival: bool = False) -> catch_up.Advance:
        tried.append(task._value.version)
        if task._value.value_hash in doubtful:
            raise BadRecord("its voters were never let in")
        return await perform(task, is_rival=is_rival)

    monkeypatch.setattr(catch_up._Task, "perform", perform_if_believed)
    follower._group = group  # whose blobs it fetches
    steps = await catch_up.catch_up(follower.context, SLICE, follower.owner.replica, chain, donor.peer)
    assert tried == [1, 2, 3]
    assert [step.certificate for step in steps] == [chain[0], chain[2]]
    assert steps[-1].replica.owned.digest == donor.digest
    doubtful.add(chain[2].value.value_hash)
    assert len(await catch_up.catch_up(follower.context, SLICE, follower.owner.replica, chain, donor.peer)) == 1
