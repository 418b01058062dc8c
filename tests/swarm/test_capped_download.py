"""A volunteer caps the download of a running peer: the others plan for it, and lose nothing of its work."""

import functools
from pathlib import Path

import pytest

from p2ptrain.control.address import target_of_home
from p2ptrain.control.client import ControlClient
from p2ptrain.events import LimitsChanged, PartLeftOut, PeerLost, RoundCommitted, RoundStage, RoundVoid
from p2ptrain.ids import COMMON
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently

pytestmark = pytest.mark.swarm
CAP_MBPS = 1.0
"""Two thirds of a megabyte, which a round needs, take five seconds then, four times the usual deadline."""
ROUNDS = 4
ZERO = "0"


def test_a_low_cap_on_downloads_costs_its_peer_no_contribution(tmp_path: Path) -> None:
    swarm = LiveSwarm(tmp_path, slices=1, lease_s=60)
    changes = (("width", 32, 128), ("mlp_hidden", 64, 512), ("steps", 4, 80), ("gather_timeout_s", 6, 60))
    for key, before, after in (*changes, ("reduce_timeout_s", 4, 30)):
        swarm.change_manifest(f"{key} = {before}", f"{key} = {after}")
    with swarm:
        peers = [swarm.start_peer(f"p{number}") for number in range(3)]
        capped = peers[0]
        for peer in peers:
            eventually(functools.partial(_has_whole, peer, 8), what=peer.log)
        assert max(map(_deadline_s, peers)) < CAP_MBPS * 5, "they have adapted to what rounds take"

        with ControlClient(target_of_home(capped.home)) as client:
            since = _capped_while_training(peers, client)
        known = {peer.name: len(peer.records()) for peer in peers}
        for peer in peers:
            for slice_id in (COMMON, ZERO):
                peer.wait_for_version(slice_id, since + ROUNDS)
        for peer in peers:
            events = [record.event for record in peer.records()[known[peer.name] :]]
            lost = [event for event in events if isinstance(event, RoundVoid | PeerLost | PartLeftOut)]
            assert not lost, f"{lost}\n{peer.log()}"
            later = [e for s in (COMMON, ZERO) for e in peer.committed(s) if since < e.version <= since + ROUNDS]
            assert len(later) == 2 * ROUNDS
            assert all(capped.id in commit.contributors for commit in later)
        assert max(e.seconds for e in capped.committed(ZERO) if e.version > since) > 3, "the cap holds"
        assert set(stop_gently(peers).values()) == {0}
        swarm.assert_same_digests()


def _capped_while_training(peers: list[LivePeer], client: ControlClient) -> int:
    """The version after which the first peer's cap holds, set between two rounds: nobody plans for what comes later."""
    capped = peers[0]
    while True:
        for peer in peers:
            eventually(functools.partial(_has_whole, peer, _count_whole(peer) + 1), what=peer.log)
        eventually(lambda: capped.state() == "TRAINING", what=capped.log)
        changes = len(capped.events(LimitsChanged))
        client.set_limits({"download_mbps": str(CAP_MBPS)})
        eventually(lambda: len(capped.events(LimitsChanged)) > changes, what=capped.log)  # noqa: B023 - at once
        if (begun := _version_begun_before_the_cap(capped)) is not None:
            return begun
        client.set_limits({"download_mbps": ""})
        eventually(lambda: len(capped.events(LimitsChanged)) > changes + 1, what=capped.log)  # noqa: B023 - at once


def _version_begun_before_the_cap(capped: LivePeer) -> int | None:
    """The newest version before its limits changed, None if its round was still open then."""
    at = max(at for at, record in enumerate(capped.records()) if isinstance(record.event, LimitsChanged))
    events = [record.event for record in capped.records()[:at]]
    begun = max(event.version for event in events if isinstance(event, RoundStage))
    done = {event.slice for event in events if isinstance(event, RoundCommitted) and event.version >= begun}
    return begun if done == {COMMON, ZERO} else None


def _has_whole(peer: LivePeer, count: int) -> bool:
    return _count_whole(peer) >= count


def _count_whole(peer: LivePeer) -> int:
    """Versions of slice 0 that all three contributed to."""
    return sum(len(commit.contributors) == 3 for commit in peer.committed(ZERO))


def _deadline_s(peer: LivePeer) -> float:
    """Of reducing, in the newest round."""
    return [e.deadline_s for e in peer.events(RoundStage) if e.stage == "reducing"][-1]
