"""Running peers take slices that lost their owners, help where owners are few, and give back what is not needed."""

from pathlib import Path

import pytest

from p2ptrain.events import CoverageChanged, RoundCommitted, SliceGained, SliceGivenUp, SliceTakenOver
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually

pytestmark = pytest.mark.swarm


def gained(peer: LivePeer, slice_id: str) -> list[SliceGained]:
    peer.check()
    return [event for event in peer.events(SliceGained) if event.slice == slice_id]


def test_running_peer_takes_an_orphan_beside_its_own_slice_and_gives_it_back(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        stays = swarm.start_peer("stays", "auto", "--max-slices", "2")
        stays.wait_for_version("common", 2)
        mine = next(event.slice for event in stays.events(RoundCommitted) if event.slice != "common")
        other = "1" if mine == "0" else "0"
        # Alone, it takes the other slice, too: nobody else would.
        eventually(lambda: gained(stays, other), what="it takes the uncovered slice")
        taken = gained(stays, other)[0].version
        stays.wait_for_version(other, taken + 3)
        stays.wait_for_version(mine, stays.reached(mine) + 3)
        assert any(event.slice == other and not event.is_covered for event in stays.events(CoverageChanged))

        helpers = [swarm.start_peer(name, other) for name in ("b", "c")]
        eventually(
            lambda: [event for event in stays.events(SliceGivenUp) if event.slice == other],
            what="it gives the second slice back",
        )
        for helper in helpers:
            helper.wait_for_version(other, helper.reached(other) + 3)
        stays.wait_for_version(mine, stays.reached(mine) + 3)
        report = swarm.slice_report(other)
        assert sorted(report["owners"]) == sorted(helper.id for helper in helpers)
        assert report["verdict"] == "ok"
        assert swarm.slice_report(mine)["verdict"] == "THIN: 1 of 2 owners"
        swarm.assert_same_digests()


def test_all_owners_of_a_slice_die_and_exactly_one_of_the_other_slice_moves_over(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        lost = [swarm.start_peer(name, "1") for name in ("lost-a", "lost-b")]
        for peer in lost:
            peer.wait_for_version("1", 1)
        stay = [swarm.start_peer(name) for name in ("a", "b")]
        for peer in stay:
            peer.wait_for_version("0", 3)
        for peer in lost:
            peer.child.kill()
        died_at = max(event.version for event in lost[0].committed("1"))

        def moved() -> list[LivePeer]:
            return [peer for peer in stay if gained(peer, "1")]

        (heir,) = eventually(moved, what="one of the two moves")
        (keeper,) = [peer for peer in stay if peer is not heir]
        eventually(lambda: heir.events(SliceGivenUp), what="it gives its old slice up")
        heir.wait_for_version("1", died_at + 3)
        keeper.wait_for_version("0", keeper.reached("0") + 3)
        assert heir.events(SliceTakenOver)[0].version >= died_at - 1, "from the published weights"
        assert swarm.slice_report("0")["owners"] == [keeper.id]
        assert swarm.slice_report("1")["owners"] == [heir.id]
        assert not gained(keeper, "1")
        swarm.assert_same_digests()
