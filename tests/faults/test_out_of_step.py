"""Peers whose cut-offs belong to different rounds of two slices would wait for each other for good."""

from itertools import pairwise
from pathlib import Path

import pytest

from p2ptrain.events import ComputeUsed, RoundStage
from p2ptrain.ids import COMMON
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually

pytestmark = pytest.mark.faults


def cut_offs(peer: LivePeer) -> list[dict[str, int]]:
    """The versions that each cut-off of a peer went into, by slice."""
    records = peer.records()
    ends = [i for i, record in enumerate(records) if isinstance(record.event, ComputeUsed)]
    return [
        {
            e.slice: e.version
            for r in records[first:last]
            if isinstance(e := r.event, RoundStage) and e.stage == "gathering"
        }
        for first, last in pairwise([*ends, len(records)])
    ]


def test_a_peer_that_is_ahead_in_one_slice_is_soon_in_step_again(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, preset="tiny", lease_s=60, rounds=1000, inner_steps=6) as swarm:
        orders = tmp_path / "apart.orders"
        orders.write_text("")
        peers = [swarm.start_peer("steady", "0,1"), swarm.start_peer("apart", "0,1", orders=orders)]
        for peer in peers:
            peer.wait_for_version(COMMON, 1)
            eventually(lambda peer=peer: len(peer.committed(COMMON)[-1].members) == 2, what="both decide together")
        orders.write_text("training:*:apart:1\n")
        eventually(orders.with_suffix(".struck").exists, what="it is cut off for the common part alone")
        version = peers[0].committed(COMMON)[-1].version
        for peer in peers:
            peer.wait_for_version(COMMON, version + 12)
        assert [cut for cut in cut_offs(peers[1]) if list(cut) == [COMMON]], "they were out of step"
        for peer in peers:
            last = cut_offs(peer)[-8:-1]  # to the last one something may be missing yet
            ahead = {cut[slice_id] - cut[COMMON] for cut in last for slice_id in "01"}
            assert ahead == {-1}, f"{peer.name}: {last}"
        swarm.assert_same_digests()
