"""More holders than a group may have, in real processes: those whom the lot left out work for it all the same."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from p2ptrain.events import InnerStepDone, RoundCommitted, WorkBrought, WorkEntrusted
from p2ptrain.ids import COMMON
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently

pytestmark = pytest.mark.swarm
PEERS, OWNERS = 6, 3
MORE_VERSIONS = 4


def test_the_work_of_everybody_is_in_versions_that_few_decide_and_none_of_it_twice(tmp_path: Path) -> None:
    with _many_for_few(tmp_path) as swarm:
        peers = [swarm.start_peer(f"p{number}") for number in range(PEERS)]
        _until_brought(peers, dict.fromkeys(peers, MORE_VERSIONS))
        ids = {peer.id for peer in peers}
        assert set(stop_gently(peers).values()) == {0}
        swarm.assert_same_digests()
        committed = _committed(peers)
        assert all(len(event.members) <= OWNERS for event in committed.values() if event.version > 1)
        brought = {who for peer in peers for event in peer.events(WorkBrought) for who in event.constituents}
        assert brought == ids
        trained, counted = _trained(peers), sum(event.tokens for event in committed.values())
        assert 0.75 * trained <= counted <= trained


def test_delegates_and_constituents_that_die_or_freeze_cost_their_work_and_nobody_elses(tmp_path: Path) -> None:
    with _many_for_few(tmp_path) as swarm:
        peers = [swarm.start_peer(f"p{number}") for number in range(PEERS)]
        _until_brought(peers, dict.fromkeys(peers, 1))
        killed, frozen, *others = peers
        frozen.freeze()
        killed.child.kill()
        now = {peer: len(peer.events(WorkEntrusted)) + MORE_VERSIONS for peer in others}
        _until_brought(others, now)
        os.kill(frozen.child.pid, signal.SIGCONT)
        _until_brought([frozen], {frozen: len(frozen.events(WorkEntrusted)) + 1})
        assert set(stop_gently([frozen, *others]).values()) == {0}
        swarm.assert_same_digests([frozen, *others])
        counted = sum(event.tokens for event in _committed(peers).values())
        assert counted <= _trained(peers), "some work was counted twice"


def _many_for_few(folder: Path) -> LiveSwarm:
    """Rounds of half a second, of which three decide."""
    swarm = LiveSwarm(folder, lease_s=10, slices=1)
    swarm.change_manifest("[exchange]\n", f"[exchange]\nmax_owners = {OWNERS}\n")
    swarm.change_manifest("steps = 4", "steps = 30")
    return swarm


def _until_brought(peers: list[LivePeer], times: Mapping[LivePeer, int]) -> None:
    """Until others have brought each peer's work so often."""
    for peer in peers:
        eventually(
            lambda peer=peer: len(peer.events(WorkEntrusted)) >= times[peer],
            what=lambda peer=peer: f"the work of {peer.name} is brought by others\n{peer.log()}",
        )


def _committed(peers: list[LivePeer]) -> dict[int, RoundCommitted]:
    return {event.version: event for peer in peers for event in peer.committed(COMMON)}


def _trained(peers: list[LivePeer]) -> int:
    return sum(step.tokens for peer in peers for step in peer.events(InnerStepDone))
