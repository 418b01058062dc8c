"""Running peers take slices that lost their owners, help where owners are few, and give back what is not needed."""

from pathlib import Path

import pytest

from p2ptrain.events import (
    CoverageChanged,
    RoundCommitted,
    SliceGained,
    SliceGivenUp,
    SliceTakenOver,
    StateFetched,
    UpdateApplied,
)
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently

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
        expected = {
            other: (sorted(helper.id for helper in helpers), "ok"),
            mine: ([stays.id], "THIN: 1 of 2 owners"),
        }
        eventually(lambda: _owners_and_verdicts(swarm) == expected, what=f"everybody sees {expected}")
        swarm.assert_same_digests()


def test_who_starts_alone_with_a_slice_that_it_only_followed_goes_on_from_what_was_published(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        stays, goes = swarm.start_peer("stays", "0"), swarm.start_peer("goes", "1")
        goes.wait_for_version("1", 6)
        assert stop_gently([goes]) == {"goes": 0}
        eventually(lambda: newest_received(stays, "1") >= 6, what="the other peer has the published weights")
        published = newest_received(stays, "1")
        assert stop_gently([stays]) == {"stays": 0}
        alone = swarm.start_peer("alone", "all", home=stays.home)
        alone.wait_for_version("1", published + 2)
        taken = [event.version for event in alone.events(SliceTakenOver) if event.slice == "1"]
        assert len(taken) == 1
        assert taken[0] >= published
        assert alone.committed("1")[0].version == taken[0] + 1


def _owners_and_verdicts(swarm: LiveSwarm) -> dict[str, tuple[list[str], str]]:
    slices = swarm.report()["slices"]
    return {one["id"]: (sorted(one["owners"]), one["verdict"]) for one in slices if one["id"] != "common"}


def newest_received(peer: LivePeer, slice_id: str) -> int:
    """The newest version of a slice that a peer has as one of those who do not own it."""
    received = [e for e in (*peer.events(UpdateApplied), *peer.events(StateFetched)) if e.slice == slice_id]
    return max((event.version for event in received), default=0)


def test_all_owners_of_a_slice_die_and_exactly_one_of_the_other_slice_moves_over(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        lost = [swarm.start_peer(name, "1") for name in ("lost-a", "lost-b")]
        for peer in lost:
            peer.wait_for_version("1", 1)
        stay = [swarm.start_peer(name) for name in ("a", "b")]
        for peer in stay:
            peer.wait_for_version("0", 3)
        # What the dead alone had is gone with them: how much that is, is for the moment of their death to say.
        known = lost[0].reached("1")
        for peer in stay:
            eventually(lambda peer=peer: newest_received(peer, "1") >= known, what=f"{peer.name} follows slice 1")
        for peer in lost:
            peer.child.kill()
        died_at = lost[0].reached("1")

        def moved() -> list[LivePeer]:
            return [peer for peer in stay if gained(peer, "1")]

        (heir,) = eventually(moved, what="one of the two moves")
        (keeper,) = [peer for peer in stay if peer is not heir]
        eventually(lambda: heir.events(SliceGivenUp), what="it gives its old slice up")
        heir.wait_for_version("1", died_at + 3)
        keeper.wait_for_version("0", keeper.reached("0") + 3)
        assert heir.events(SliceTakenOver)[0].version >= known, "from the published weights"
        expected = {"0": ([keeper.id], "THIN: 1 of 2 owners"), "1": ([heir.id], "THIN: 1 of 2 owners")}
        eventually(lambda: _owners_and_verdicts(swarm) == expected, what=f"everybody sees {expected}")
        assert not gained(keeper, "1")
        swarm.assert_same_digests(lost)
        swarm.assert_same_digests(stay)
