"""A peer that starts takes silence for silence: it founds nothing anew because somebody did not answer."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from p2ptrain import clock
from p2ptrain.config.schema import ExchangeConfig
from p2ptrain.errors import PeerUnreachable
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import COMMON, PeerId, RunId, SliceId, Version
from p2ptrain.swarm import joining, roster
from p2ptrain.swarm import swarm as module
from p2ptrain.swarm.answers import HEADS, Condition
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.coverage import Target
from p2ptrain.swarm.directory import Capacity, Claim
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.wire.v1 import peer_pb2 as pb

RUN = RunId("ab" * 32)
ME, OWNER, JOINER = (Identity.generate().peer_id for _ in range(3))


class Hearsay:
    """A directory that shows nobody at first, as one does whose nodes do not answer in time."""

    def __init__(self, silent_looks: int, *others: Claim) -> None:
        self.silent_looks = silent_looks
        self._others = {claim.peer: claim for claim in others}
        self._own: dict[PeerId, Claim] = {}

    async def publish(self, claim: Claim) -> bool:
        self._own = {claim.peer: claim}
        return True

    async def claims(self, *, elsewhere: bool = False) -> Mapping[PeerId, Claim]:
        self.silent_looks -= 1
        if self.silent_looks >= 0:
            return {} if elsewhere else self._own
        return self._own | self._others


class Wire:
    """Peers of whom some answer, none of whom has anything newer."""

    bootstraps = ("somewhere",)

    def __init__(self, *answering: PeerId) -> None:
        self.answering = set(answering)

    async def call(self, peer: PeerId, name: str, request: Any, reply_type: Any, *, timeout_s: float) -> Any:
        if peer not in self.answering:
            raise PeerUnreachable(f"{peer} is slow")
        return pb.HeadsReply() if name == HEADS else pb.StatusReply()


def claim(peer: PeerId, *, ready: tuple[str, ...] = (), joining: tuple[str, ...] = ()) -> Claim:
    slices = {"ready": tuple(map(SliceId, ready)), "joining": tuple(map(SliceId, joining))}
    return Claim(run=RUN, peer=peer, expires_s=clock.wall_s() + 60, **slices)


def swarm(directory: Hearsay, wire: Wire, *, lease_s: float = 30.0) -> Swarm:
    numel = {COMMON: 1, SliceId("0"): 1, SliceId("1"): 1}
    context: Any = SimpleNamespace(
        run=RUN,
        me=ME,
        node=wire,
        numel=numel,
        claims={},
        quorum=1,
        was_admitted=lambda peer, invite: True,
        halvings=0,
        is_listed=True,
        num_peers=lambda: len(context.claims),
        exchange=ExchangeConfig(lease_s=lease_s),
        events=SimpleNamespace(emit=print),
    )
    condition = Condition(state="", reason="", tokens=0, validation_loss_nats=0.0, capacity=Capacity())
    return Swarm(context, directory, lambda: condition, Target(replicas=2, quorum=1))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "_ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(joining, "_ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(module, "_SETTLE_S", 0.0)


@pytest.mark.parametrize("taken", ["0", "1"])
async def test_newcomer_to_whom_the_directory_shows_nobody_looks_again_before_it_takes_a_slice(taken: str) -> None:
    newcomer = swarm(Hearsay(3, claim(OWNER, ready=("common", taken))), Wire(OWNER))
    assert await newcomer.choose(None, is_fixed=False) == {COMMON, SliceId("1" if taken == "0" else "0")}


async def test_claim_is_renewed_for_as_long_as_its_peer_chooses() -> None:
    is_renewed = asyncio.Event()

    class SlowOwner(Wire):
        async def call(self, *arguments: Any, **options: Any) -> Any:
            async with asyncio.timeout(30):
                await is_renewed.wait()  # its answer takes longer than a claim lasts
            return await super().call(*arguments, **options)

    class Counted(Hearsay):
        published = 0

        async def publish(self, claim: Claim) -> bool:
            self.published += 1
            if self.published == 4:
                is_renewed.set()
            return await super().publish(claim)

    newcomer = swarm(Counted(0, claim(OWNER, ready=("common", "0"))), SlowOwner(OWNER), lease_s=0.01)
    assert await newcomer.choose(None, is_fixed=False) == {COMMON, SliceId("1")}


async def test_peer_whom_no_other_node_ever_sees_goes_on_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "_SEEN_WITHIN_S", 0.05)
    directory = Hearsay(1_000_000)
    assert len(await swarm(directory, Wire()).choose(None, is_fixed=False)) == 2
    assert directory.silent_looks < 999_998, "it looked more than once"


@pytest.mark.parametrize(
    ("answering", "expected"), [((), None), ((OWNER,), {}), ((JOINER,), None)], ids=["nobody", "the owner", "a joiner"]
)
async def test_nothing_newer_is_what_somebody_said_who_knows(
    answering: tuple[PeerId, ...], expected: dict[SliceId, Replica] | None
) -> None:
    others = claim(OWNER, ready=("common", "0")), claim(JOINER, joining=("common", "1"))
    newcomer = swarm(Hearsay(0, *others), Wire(*answering))
    await newcomer.choose([SliceId("0")], is_fixed=True)
    await newcomer.roster.look()
    published: Any = SimpleNamespace(version=Version(0))
    assert await newcomer._joining._one_pass({SliceId("0"): Replica(None, published, None)}) == expected


def certificate_by(voter: PeerId, *, weight: int) -> Any:
    value = SimpleNamespace(slice="0", version=Version(3), value_hash="aa", owners=(voter,), tokens=9, weight=weight)
    value.previous = "what was before"
    votes = [SimpleNamespace(peer=voter, invite="")]
    return SimpleNamespace(value=value, ballot=SimpleNamespace(epoch=1, majority=1), votes=votes)


async def test_the_highest_head_is_not_tried_if_its_voters_were_never_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    others = claim(OWNER, ready=("common", "0")), claim(JOINER, ready=("common", "1"))
    newcomer = swarm(Hearsay(0, *others), Wire(OWNER, JOINER))
    await newcomer.choose([SliceId("0")], is_fixed=True)
    await newcomer.roster.look()
    made_up = Identity.generate().peer_id
    heads = {OWNER: certificate_by(OWNER, weight=9), JOINER: certificate_by(made_up, weight=2**60)}
    tried: list[tuple[Any, PeerId]] = []

    async def told(peer: PeerId, have: Mapping[SliceId, int]) -> list[Any]:
        return [heads[peer]]

    async def catch_up(
        context: Any, slice_id: SliceId, replica: Any, certificates: list[Any], donor: PeerId
    ) -> list[Any]:
        tried.append((certificates[-1], donor))
        return []

    monkeypatch.setattr(newcomer._calls, "ask_for_newer", told)
    monkeypatch.setattr(joining, "catch_up", catch_up)
    replica: Any = SimpleNamespace(published=SimpleNamespace(version=Version(0)), certificate=None)
    await newcomer._joining._one_pass({SliceId("0"): replica})
    assert tried.pop() == (heads[JOINER], JOINER), "in an open run nobody can tell"
    newcomer.context.was_admitted = lambda peer, invite: peer != made_up
    await newcomer._joining._one_pass({SliceId("0"): replica})
    assert tried == [(heads[OWNER], OWNER)]
    newcomer.context.was_admitted = lambda peer, invite: False
    outcome = await newcomer._joining._one_pass({SliceId("0"): replica})
    assert outcome is None, "nothing is founded anew: perhaps our guest list is old"


async def test_what_somebody_told_of_and_nobody_gives_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer = swarm(Hearsay(0, claim(OWNER, ready=("common", "0"))), Wire(OWNER))
    await newcomer.choose([SliceId("0")], is_fixed=True)
    await newcomer.roster.look()
    certificate = certificate_by(OWNER, weight=9)

    async def told(peer: PeerId, have: Mapping[SliceId, int]) -> list[Any]:
        return [certificate]

    async def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(newcomer._calls, "ask_for_newer", told)
    monkeypatch.setattr(joining, "catch_up", nothing)
    replica: Any = SimpleNamespace(published=SimpleNamespace(version=Version(0)), certificate=None)
    assert await newcomer._joining._one_pass({SliceId("0"): replica}) is None
    ahead: Any = SimpleNamespace(published=SimpleNamespace(version=Version(3)), certificate=certificate)
    assert await newcomer._joining._one_pass({SliceId("0"): ahead}) == {}, "as far as anybody is"


async def test_claim_that_expires_while_its_peer_is_asked_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer = swarm(Hearsay(0, claim(OWNER, ready=("common", "0"))), Wire())
    await newcomer.choose([SliceId("0")], is_fixed=True)
    await newcomer.roster.look()

    async def silent(peer: PeerId, have: Mapping[SliceId, int]) -> None:
        newcomer.context.claims = {}

    monkeypatch.setattr(newcomer._calls, "ask_for_newer", silent)
    replica: Any = SimpleNamespace(published=SimpleNamespace(version=Version(0)), certificate=None)
    assert await newcomer._joining._one_pass({SliceId("0"): replica}) is None
