"""Fragments in real processes: rounds of their own, in turn, and one owner who comes back to all of them."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from p2ptrain.events import CheckpointSaved, SlicesClaimed, StateResumed
from p2ptrain.ids import Version, every_fragment
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently

pytestmark = pytest.mark.swarm
ALL = every_fragment(num_slices=2, num_fragments=2)
OWNED = ("common.0", "common.1", "0.0", "0.1")
"""By the peer that is killed."""
SAVED_AT_LEAST = 2
"""Versions of each fragment, before it is."""


def test_fragments_have_rounds_in_turn_and_a_killed_owner_comes_back_to_all_of_them(tmp_path: Path) -> None:
    swarm = LiveSwarm(tmp_path, lease_s=30)  # longer than it is away: those who stay are a majority without it
    swarm.change_manifest("[slicing]\n", "[slicing]\nfragments = 2\n")
    swarm.change_manifest("[exchange]\n", "[overlap]\ndelay_steps = 2\n\n[exchange]\n")
    with swarm:
        stays, other, killed = swarm.start_peer("a", "all"), swarm.start_peer("b", "all"), swarm.start_peer("c", "0")
        for slice_id in OWNED:  # who is killed before the others have met it leaves them a branch of their own
            eventually(
                lambda s=slice_id: any(len(event.members) == 3 for event in killed.committed(s)[-1:]),
                what=lambda s=slice_id: f"all three decide on {s}\n{killed.log()}",
            )
        together = max(killed.reached(slice_id) for slice_id in OWNED)
        eventually(
            lambda: _saved(killed) >= max(SAVED_AT_LEAST, together),
            what=lambda: f"a checkpoint of all fragments\n{killed.log()}",
        )
        killed.child.kill()
        for slice_id in ALL:
            stays.wait_for_version(slice_id, stays.reached(slice_id) + 2)
        before = {slice_id: len(stays.committed(slice_id)) for slice_id in OWNED}
        back = swarm.start_peer("c again", home=killed.home)
        for slice_id in OWNED:
            eventually(
                lambda s=slice_id: any(back.id in event.contributors for event in stays.committed(s)[before[s] :]),
                what=lambda s=slice_id: f"who was killed contributes to {s} again\n{back.log()}",
            )
        (resumed,) = back.events(StateResumed)
        assert set(resumed.versions) == set(ALL)
        assert min(resumed.versions[slice_id] for slice_id in OWNED) >= SAVED_AT_LEAST
        claimed = back.events(SlicesClaimed)[0]
        assert claimed.slices == ["common", "0"], "whole slices are claimed"
        assert claimed.reason == "its state is on our disk"
        assert [one["id"] for one in swarm.report()["slices"]] == list(ALL)
        assert set(stop_gently([stays, other, back]).values()) == {0}
        swarm.assert_same_digests()
        _assert_one_turn_after_the_other(list(swarm.peers.values()))


def _saved(peer: LivePeer) -> int:
    """The oldest of the fragments that are on its disk."""
    peer.check()
    saved = peer.events(CheckpointSaved)
    return min(saved[-1].versions.get(slice_id, Version(0)) for slice_id in OWNED) if saved else 0


def _assert_one_turn_after_the_other(peers: Sequence[LivePeer]) -> None:
    """The swarm never has one fragment of the common part two versions ahead, and one more that is being averaged."""
    newest = []
    for index in (0, 1):
        committed = [[event.version for event in peer.committed(f"common.{index}")] for peer in peers]
        assert all(earlier < later for versions in committed for earlier, later in itertools.pairwise(versions))
        newest.append(max(version for versions in committed for version in versions))
    assert abs(newest[0] - newest[1]) <= 2
