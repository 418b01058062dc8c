"""What peers tell each other of what was decided: certificates page by page, and who stands on a lost branch."""

import math
from collections.abc import Sequence
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
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.coverage import Target
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.history import History
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.wire.blob_store import BlobStore
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
    nothing: Any = None
    context = Context(
        run=RUN,
        identity=OWNER,
        exchange=ExchangeConfig(),
        numel={SLICE: 1},
        outer=nothing,
        node=node,
        blobs=nothing,
        events=nothing,
        listener=nothing,
        book=nothing,
    )
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
    assert await asker._calls.newer_certificates(OWNER.peer_id, {SLICE: 0}) == certificates
    assert len(wire.answers) > 1
    assert max(wire.answers) < module._PAGE_BYTES
    assert await asker._calls.newer_certificates(OWNER.peer_id, {SLICE: 6}) == certificates[6:]


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
    assert not await asker._calls.decided_otherwise(OWNER.peer_id, SLICE, ours)
    rival = replace(ours, value_hash=Digest("ab" * 32))
    assert await asker._calls.decided_otherwise(OWNER.peer_id, SLICE, rival)
    unknown = replace(rival, version=Version(41))
    assert not await asker._calls.decided_otherwise(OWNER.peer_id, SLICE, unknown)


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

    def __init__(self, certificates: list[Certificate], *, remembered: int = 8) -> None:
        self.history = History(SLICE, BlobStore(), 8)
        for certificate in certificates[-remembered:]:
            self.history.add(certificate, [])
        published = SimpleNamespace(version=Version(len(certificates)))
        self.replica = SimpleNamespace(certificate=certificates[-1] if certificates else None, published=published)
        self.learned: list[Certificate] = []
        self.met: list[PeerId] = []

    def meet_rival(self, peer: PeerId) -> None:
        self.met.append(peer)


class Owned(Part):
    """By this peer."""

    def learn(self, certificate: Certificate, peer: PeerId) -> None:
        self.learned.append(certificate)


class Followed(Part):
    """By this peer."""

    async def learn(self, certificates: list[Certificate], peer: PeerId) -> None:
        self.learned += certificates


async def news_pulled(asking: Part, asked: Part) -> None:
    wire = Wire()
    asker, server = party(wire), party(wire)
    wire.to = server
    for swarm, part in ((asker, asking), (server, asked)):
        (swarm.owners if isinstance(part, Owned) else swarm.followers)[SLICE] = cast(Any, part)
    await asker._pull_news_from(OWNER.peer_id)


def branches() -> tuple[list[Certificate], list[Certificate]]:
    """Twelve versions twice, of which the first four are the same."""
    ours = chain(12, 1)
    return ours, [*ours[:4], *chain(12, 2)[4:]]


@pytest.mark.parametrize(
    ("remembered", "rivals", "perhaps"),
    [
        (12, range(5, 13), []),
        (8, range(5, 13), range(1, 5)),  # as after a restart
        (1, range(5, 13), range(1, 12)),  # as after a state that was fetched whole
    ],
)
async def test_an_owner_that_asks_for_news_sees_who_may_stand_on_another_branch(
    remembered: int, rivals: Sequence[int], perhaps: Sequence[int]
) -> None:
    ours, theirs = branches()
    for length in range(1, 13):
        asking = Owned(ours, remembered=remembered)
        await news_pulled(asking, Owned(theirs[:length]))
        assert asking.met == [OWNER.peer_id] * (length in {*rivals, *perhaps})
        assert asking.learned == []
    asking = Owned(ours)
    await news_pulled(asking, Owned([]))
    assert (asking.learned, asking.met) == ([], [])


async def test_a_follower_looks_at_the_newest_certificate_of_another_branch() -> None:
    ours, theirs = branches()
    for length in range(1, 13):
        asking = Followed(ours, remembered=12)
        await news_pulled(asking, Followed(theirs[:length]))
        assert asking.learned == theirs[length - 1 : length] * (length > 4)


@pytest.mark.parametrize("kind", [Owned, Followed])
async def test_whoever_is_behind_on_the_same_branch_learns_and_meets_no_rival(kind: type[Part]) -> None:
    ours = chain(12, 1)
    for length in (6, 12):
        asking = kind(ours[:length])
        await news_pulled(asking, kind(ours))
        assert asking.met == []
        assert asking.learned == (ours[-1:] if kind is Owned and length < 12 else ours[length:])


class Liar(Wire):
    """Answers what it likes."""

    def __init__(self, reply: pb.HeadsReply) -> None:
        super().__init__()
        self.reply = reply
        self.to = party(self)

    async def call(self, peer: PeerId, name: str, request: Any, reply_type: Any, *, timeout_s: float) -> Any:
        return reply_type.FromString(self.reply.SerializeToString())


async def test_certificates_of_slices_that_were_not_asked_for_are_refused_with_who_sent_them() -> None:
    """A genuine one of a heavier slice would be taken for a branch of ours."""
    elsewhere = SliceId("1")
    asker = party(Liar(pb.HeadsReply(certificates=[pb.Certificate.FromString(chain(3, 1)[-1].encode())])))
    asker._context.numel = {SLICE: 1, elsewhere: 1}
    refused: list[PeerId] = []
    asker._calls.refuse = lambda peer, reason: refused.append(peer)  # type: ignore[method-assign]
    assert await asker._calls.newer_certificates(OWNER.peer_id, {elsewhere: 0}) == []
    assert refused == [OWNER.peer_id]
    assert len(await asker._calls.newer_certificates(OWNER.peer_id, {SLICE: 0})) == 1


async def test_made_up_slices_of_a_liar_are_not_kept() -> None:
    many = [pb.Behind(slice=str(number), version=1, value_sha256=b"x" * 32) for number in range(1000)]
    news = await party(Liar(pb.HeadsReply(behind=many)))._calls.ask_for_news(OWNER.peer_id, {SLICE: 5})
    assert news is not None
    assert list(news.behind) == [SLICE]
