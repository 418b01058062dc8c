"""Slices that change hands while their fragments are agreed on one by one: all of a slice comes and goes together."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from p2ptrain import clock
from p2ptrain.config.schema import ExchangeConfig
from p2ptrain.events import Event, SliceGained, SliceGivenUp
from p2ptrain.ids import COMMON, PeerId, RunId, SliceId, Version, every_fragment, slice_of
from p2ptrain.swarm import swarm as module
from p2ptrain.swarm.address_book import AddressBook
from p2ptrain.swarm.answers import Condition
from p2ptrain.swarm.context import Context, Past, Replica
from p2ptrain.swarm.coverage import Change, Target
from p2ptrain.swarm.directory import Capacity, Claim
from p2ptrain.swarm.swarm import Swarm

RUN, ME, OTHER = RunId("ab" * 32), PeerId("me"), PeerId("other")
ALL = every_fragment(num_slices=2, num_fragments=2)


class Part:
    """Our side of one fragment, as an owner or a follower."""

    def __init__(self, context: Any, slice_id: SliceId, replica: Any, past: Past | None = None) -> None:
        self.slice, self.replica, self.is_owner = slice_id, replica, past is not None
        self.owners: tuple[PeerId, ...] = (ME, OTHER)
        self.can_stop = True
        self.history = self.loss_nats = None

    async def run(self) -> None:
        await asyncio.Event().wait()

    def stop_serving(self) -> None:
        pass


def replica(version: int) -> Replica:
    anything: Any = SimpleNamespace(version=Version(version))
    return Replica(None, anything, anything)


class Desk:
    """The directory and the listener."""

    def __init__(self) -> None:
        self.claims_published: list[Claim] = []
        self.trained: list[frozenset[SliceId]] = []
        self.still_training: set[str] = set()

    async def publish(self, claim: Claim) -> bool:
        self.claims_published.append(claim)
        return True

    def slices_changed(self, trained: frozenset[SliceId]) -> None:
        self.trained.append(trained)

    def is_training(self, slice_id: SliceId) -> bool:
        return slice_id in self.still_training

    def past_of(self, slice_id: SliceId) -> Past:
        return Past()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def peer(desk: Desk, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> Swarm:
    """One that owns slice 0 and follows slice 1, beside another one that owns both."""
    monkeypatch.setattr(module, "SliceOwner", Part)
    monkeypatch.setattr(module, "SliceFollower", Part)
    other = Claim(run=RUN, peer=OTHER, ready=(COMMON, SliceId("0"), SliceId("1")), expires_s=clock.wall_s() + 60)
    anything: Any = SimpleNamespace(peer_id=ME, door=SimpleNamespace(is_out=lambda peer: False), emit=events.append)
    context = Context(
        run=RUN,
        identity=anything,
        exchange=ExchangeConfig(),
        numel=dict.fromkeys(ALL, 1),
        outer=anything,
        node=anything,
        blobs=anything,
        events=anything,
        listener=desk,  # type: ignore[arg-type]
        book=AddressBook(ME),
        claims={OTHER: other},
    )
    condition = Condition(state="", reason="", tokens=0, validation_loss_nats=0.0, capacity=Capacity(max_slices=1))
    swarm = Swarm(context, desk, lambda: condition, Target(replicas=2, quorum=1))  # type: ignore[arg-type]
    owned = context.fragments([COMMON, SliceId("0")])
    swarm._begin_parts(owned, {slice_id: replica(3) for slice_id in ALL}, {}, {})
    return swarm


def owned(peer: Swarm) -> set[str]:
    return set(map(str, peer.owners))


async def test_a_slice_is_claimed_once_the_owners_state_of_all_its_fragments_is_here(
    peer: Swarm, desk: Desk, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[SliceId] = []

    async def owners_replica(slice_id: SliceId, current: Any) -> Any:
        fetched.append(slice_id)
        assert SliceId("1") not in desk.claims_published[-1].ready
        return replica(4)

    async def newest(slice_id: SliceId, current: Any) -> Any:
        return replica(7) if slice_id == "1.0" else current

    monkeypatch.setattr(peer._joining, "owners_replica", owners_replica)
    monkeypatch.setattr(peer._joining, "newest", newest)
    assert peer.assignment.ready == {COMMON, "0"}
    async with asyncio.TaskGroup() as peer._group:
        change = Change(peer=ME, gains=SliceId("1"), cause="thin", reason="it is thin")
        peer.assignment.begin(change, 0.0)
        await peer._carry_out(change)
        for task in peer._running.values():
            task.cancel()
    assert fetched == ["1.0", "1.1"]
    assert owned(peer) == set(ALL)
    assert desk.trained == [frozenset(ALL)]
    assert desk.claims_published[-1].ready == (COMMON, "0", "1")
    (gained,) = (event for event in events if isinstance(event, SliceGained))
    assert (gained.slice, gained.version) == ("1", 4), "of the fragment that is furthest behind"


async def test_a_slice_is_given_up_only_with_all_its_fragments(peer: Swarm, desk: Desk, events: list[Event]) -> None:
    async with asyncio.TaskGroup() as peer._group:
        for slice_id, owner in peer.owners.items():
            peer._running[slice_id] = peer._group.create_task(owner.run())
        peer.assignment.ready |= {SliceId("1")}  # for which it leaves the other one
        peer.assignment.leaving = frozenset({SliceId("0")})
        last = peer.owners[SliceId("0.1")]
        obstacles: list[Mapping[str, Any]] = [{"owners": (ME,)}, {"owners": (ME, OTHER), "can_stop": False}]
        for obstacle in obstacles:
            vars(last).update(obstacle)
            await peer._release_what_others_own()
            assert {slice_of(one) for one in peer.owners} == {COMMON, "0"}
        last.can_stop = True  # type: ignore[misc]
        desk.still_training = {"0.0"}
        await peer._release_what_others_own()
        assert len(peer.owners) == 4
        desk.still_training = set()
        await peer._release_what_others_own()
        for task in peer._running.values():
            task.cancel()
    assert owned(peer) == {"common.0", "common.1"}
    assert set(map(str, peer.followers)) == {"0.0", "0.1", "1.0", "1.1"}
    assert desk.claims_published[-1].ready == (COMMON, "1")
    assert [event.slice for event in events if isinstance(event, SliceGivenUp)] == ["0"]
