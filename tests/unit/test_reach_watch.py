"""What a peer does about how it is reached: holes where only a relay leads, and what it says."""

import asyncio
from dataclasses import replace

import pytest

from p2ptrain.events import ReachChanged
from p2ptrain.ids import PeerId, RunId
from p2ptrain.node.reach_watch import ReachWatch
from p2ptrain.swarm.directory import Capacity, Claim
from p2ptrain.wire.reach import Reach, Way
from tests.support.fake_time_loop import run_in_fake_time

US, OTHER, EARLIER, OPEN = (PeerId(f"12D3{name}") for name in "mzaq")
KEEPS_PORTS = Reach(way="relayed", nat="cone", seen="44.77.0.20:31000", reason="nobody could call back")


class FakeNode:
    """A node behind a router, connected to everybody by a relay."""

    def __init__(self, reach: Reach) -> None:
        self.peer = US
        self.reach, self.seen_next = reach, reach
        self.is_relayed = False
        self.places = ["relay"]
        self.tried: list[PeerId] = []
        self._paths = {OTHER: True, EARLIER: True, OPEN: True}

    async def paths(self) -> dict[PeerId, bool]:
        return dict(self._paths)

    async def punch(self, peer: PeerId) -> bool:
        self.tried.append(peer)
        self._paths[peer] = False
        return True

    async def change_reach(self, reach: Reach) -> None:
        """Now it dials from the port that it listens on, and what its router does can be seen."""
        self.reach, self.seen_next = reach, KEEPS_PORTS

    async def look_at_reach(self) -> Reach:
        return self.seen_next


def claim(peer: PeerId, way: Way) -> Claim:
    return Claim(run=RunId("r"), peer=peer, capacity=Capacity(way=way), expires_s=0.0)


def watched(node: FakeNode, claims: list[Claim], *, becomes: Reach | None = None) -> list[ReachChanged]:
    """What is said in a few looks; the node is seen as ``becomes`` from the second on."""
    said: list[ReachChanged] = []

    async def look() -> None:
        watch = ReachWatch(node, lambda: {c.peer: c for c in claims}, said.append)  # type: ignore[arg-type]
        if becomes:
            node.seen_next, node.places = becomes, []  # lost places make it measure
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(17)
        running.cancel()

    run_in_fake_time(look())
    return said


def test_who_can_only_be_reached_by_a_relay_is_tried_without_it_by_one_of_the_two() -> None:
    node = FakeNode(KEEPS_PORTS)
    said = watched(node, [claim(OTHER, "relayed"), claim(EARLIER, "relayed"), claim(OPEN, "direct")])
    assert node.tried == [OTHER]
    assert said[-1].reach == "relayed", "one is still reached by the relay"
    assert node.is_relayed


def test_a_peer_is_called_hole_punched_when_no_relay_is_left() -> None:
    node = FakeNode(KEEPS_PORTS)
    assert [event.reach for event in watched(node, [claim(OTHER, "relayed")])] == ["hole-punched"]
    assert not node.is_relayed


@pytest.mark.parametrize("nat", ["symmetric", "unknown"])
def test_behind_a_router_that_does_not_keep_ports_nothing_is_tried(nat: str) -> None:
    node = FakeNode(replace(KEEPS_PORTS, nat=nat, seen=""))  # type: ignore[arg-type]
    watched(node, [claim(OTHER, "relayed")])
    assert node.tried == []


def test_another_address_of_a_relayed_peer_is_noted_without_a_restart_of_its_daemon() -> None:
    node = FakeNode(replace(KEEPS_PORTS, nat="unknown", seen=""))
    watched(node, [claim(OTHER, "relayed")], becomes=KEEPS_PORTS)
    assert node.reach == KEEPS_PORTS
    assert node.tried == [OTHER]


def test_what_the_router_does_is_looked_at_soon_after_a_move_behind_it() -> None:
    node = FakeNode(Reach(way="direct", nat="none", reason="called back"))
    behind = replace(KEEPS_PORTS, nat="unknown", seen="")
    watched(node, [claim(OTHER, "relayed")], becomes=behind)
    assert node.reach == KEEPS_PORTS
