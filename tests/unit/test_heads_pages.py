"""What peers tell each other of what was decided: certificates page by page, and who stands on a lost branch."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2ptrain.config.schema import ExchangeConfig
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.swarm import answers as module
from p2ptrain.swarm.catch_up import _parted
from p2ptrain.swarm.certificates import sign_vote
from p2ptrain.swarm.coverage import Target
from p2ptrain.swarm.follower import SliceFollower
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.history import History
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.wire.blobs import BlobStore
from p2ptrain.wire.messages import Ballot, BlobRef, Certificate, PartResult, Value
from p2ptrain.wire.v1 import peer_pb2 as pb

RUN = RunId("ab" * 32)
SLICE = SliceId("0")
OWNER = Identity.generate()


def chain(length: int, num_parts: int) -> list[Certificate]:
    certificates: list[Certificate] = []
    for number in range(1, length + 1):
        value = Value(
            run=RUN,
            slice=SLICE,
            version=Version(number),
            previous=certificates[-1].value.value_hash if certificates else None,
            digest=Digest(f"{number:064x}"),
            published_digest=Digest("44" * 32),
            update=BlobRef(Digest("55" * 32), 7),
            results=tuple(
                PartResult(part, BlobRef(Digest(f"{part:064x}"), 9), (OWNER.peer_id,)) for part in range(num_parts)
            ),
            contributions=(),
            owners=(OWNER.peer_id,),
            tokens=number,
            weight=number,
        )
        ballot = Ballot(1, 0, (OWNER.peer_id,))
        certificates.append(Certificate(value, ballot, (sign_vote(OWNER, ballot, value),)))
    return certificates


class Wire:
    """Hands calls straight to the other's handler and measures the answers."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.to: Swarm

    async def call(self, peer: PeerId, name: str, request: Any, reply_type: Any, *, timeout_s: float) -> Any:
        reply = await self.to._on_heads(peer, pb.HeadsRequest.FromString(request.SerializeToString()))
        self.answers.append(reply.ByteSize())
        return reply_type.FromString(reply.SerializeToString())


def party(wire: Wire) -> Swarm:
    node: Any = wire
    context: Any = SimpleNamespace(run=RUN, me=OWNER.peer_id, node=node, numel={SLICE: 1}, claims={}, quorum=1)
    context.exchange = ExchangeConfig()
    nothing: Any = None
    return Swarm(context, nothing, nothing, Target(replicas=2, quorum=1))


async def test_certificates_of_thousands_of_parts_come_in_pages_and_all_of_them_come() -> None:
    certificates = chain(8, 8000)
    assert sum(len(c.encode()) for c in certificates) > 4 * 1024 * 1024
    wire = Wire()
    asker, server = party(wire), party(wire)
    wire.to = server
    history = History(SLICE, BlobStore(), 8)
    for certificate in certificates:
        history.add(certificate, [])
    follower: Any = SimpleNamespace(
        slice=SLICE, history=history, replica=SimpleNamespace(certificate=certificates[-1]), loss_nats=math.nan
    )
    server.followers[SLICE] = follower
    assert await asker.newer_certificates(OWNER.peer_id, {SLICE: 0}) == certificates
    assert len(wire.answers) > 1
    assert max(wire.answers) < module._PAGE_BYTES
    assert await asker.newer_certificates(OWNER.peer_id, {SLICE: 6}) == certificates[6:]


async def test_whoever_stood_on_a_branch_that_lost_can_be_told_so_long_after_its_rounds_are_gone() -> None:
    certificates = chain(40, 1)
    wire = Wire()
    asker, server = party(wire), party(wire)
    wire.to = server
    history = History(SLICE, BlobStore(), 4)
    for certificate in certificates:
        history.add(certificate, [])
    server.followers[SLICE] = cast(Any, SimpleNamespace(history=history, replica=SimpleNamespace(certificate=None)))
    ours = Head.of(certificates[9])
    assert not await asker.decided_otherwise(OWNER.peer_id, SLICE, ours)
    rival = replace(ours, value_hash=Digest("ab" * 32))
    assert await asker.decided_otherwise(OWNER.peer_id, SLICE, rival)
    unknown = replace(rival, version=Version(41))
    assert not await asker.decided_otherwise(OWNER.peer_id, SLICE, unknown)


async def test_a_voter_is_asked_when_the_donor_has_fetched_the_state_whole_and_cannot_tell() -> None:
    newest, asked = chain(20, 1)[-1], list[PeerId]()

    async def decided_otherwise(peer: PeerId, slice_id: SliceId, head: Head) -> bool:
        asked.append(peer)
        return peer == OWNER.peer_id

    donor, claims = PeerId("donor"), {OWNER.peer_id: "a claim"}
    context: Any = SimpleNamespace(me="me", claims=claims, caller=SimpleNamespace(decided_otherwise=decided_otherwise))
    rival = Head(version=Version(9), value_hash=Digest("ab" * 32))
    assert await _parted(context, rival, newest, donor)
    assert asked == [donor, OWNER.peer_id]
    context.claims = {}  # it is gone
    assert not await _parted(context, rival, newest, donor)


class Part:
    """A slice as a peer holds it at the last of some certificates; what it is told of is kept."""

    def __init__(self, certificates: list[Certificate]) -> None:
        self.history = History(SLICE, BlobStore(), 8)
        for certificate in certificates:
            self.history.add(certificate, [])
        published = SimpleNamespace(version=Version(len(certificates)))
        self.replica = SimpleNamespace(certificate=certificates[-1] if certificates else None, published=published)
        self.learned: list[Certificate] = []
        self.rivals: list[PeerId] = []

    async def learn(self, certificates: list[Certificate], peer: PeerId) -> None:
        self.learned += certificates

    async def meet_rival(self, peer: PeerId) -> None:
        self.rivals.append(peer)


async def news_pulled(asking: Part, asked: Part, *, as_owners: bool) -> None:
    wire = Wire()
    asker, server = party(wire), party(wire)
    wire.to = server
    for swarm, part in ((asker, asking), (server, asked)):
        (swarm.owners if as_owners else swarm.followers)[SLICE] = cast(Any, part)
    if as_owners:
        asking.learn = lambda certificate, peer: asking.learned.append(certificate)  # type: ignore[method-assign,assignment]
    await asker._pull_news_from(OWNER.peer_id)


@pytest.mark.parametrize("as_owners", [False, True])
async def test_whoever_asks_for_news_sees_that_the_other_stands_on_another_branch(as_owners: bool) -> None:
    ours = chain(12, 1)
    rival = [*ours[:4], *(replace(c, value=replace(c.value, digest=Digest("ab" * 32))) for c in ours[4:])]
    for length, is_rival in ((3, False), (4, False), (5, True), (11, True), (12, True)):
        asking = Part(ours)
        await news_pulled(asking, Part(rival[:length]), as_owners=as_owners)
        assert asking.rivals == [OWNER.peer_id] * is_rival
        assert asking.learned == []
    asking = Part(ours)
    await news_pulled(asking, Part([]), as_owners=as_owners)
    assert (asking.learned, asking.rivals) == ([], [])


@pytest.mark.parametrize("as_owners", [False, True])
async def test_whoever_is_behind_on_the_same_branch_learns_and_meets_no_rival(as_owners: bool) -> None:
    ours = chain(12, 1)
    for length in (6, 12):
        asking = Part(ours[:length])
        await news_pulled(asking, Part(ours), as_owners=as_owners)
        assert asking.rivals == []
        assert asking.learned == (ours[-1:] if as_owners and length < 12 else ours[length:])


async def test_a_follower_asks_a_rival_for_its_newest_certificate() -> None:
    newest, asked = chain(5, 1)[-1], []

    async def newer_certificates(peer: PeerId, have: dict[SliceId, int]) -> list[Certificate]:
        asked.append((peer, have))
        return [newest]

    context: Any = SimpleNamespace(caller=SimpleNamespace(newer_certificates=newer_certificates))
    follower = object.__new__(SliceFollower)
    follower.slice, follower._context, learned = SLICE, context, []

    async def learn(certificates: list[Certificate], donor: PeerId) -> None:
        learned.append((certificates, donor))

    follower.learn = learn  # type: ignore[method-assign,assignment]
    await follower.meet_rival(OWNER.peer_id)
    assert asked == [(OWNER.peer_id, {SLICE: 0})]
    assert learned == [([newest], OWNER.peer_id)]
