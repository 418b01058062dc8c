"""A run whose manifest asks for two owners of every slice: nothing is committed by one, and everybody says so."""

import re
import subprocess
from pathlib import Path

import pytest

from p2ptrain.events import InnerStepDone
from tests.support.live_swarm import PATIENCE_S, LivePeer, LiveSwarm, eventually, p2ptrain

pytestmark = pytest.mark.faults

SENTENCE = r"not averaging: slice (common|0) has 1 of 2 owners it needs; waiting for 1\s+more since \d\d:\d\d"


def why(peer: LivePeer) -> str:
    """What ``p2ptrain why`` prints."""
    done = subprocess.run(
        p2ptrain("why", "--home", str(peer.home)), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.stdout


def says_that_it_waits(peer: LivePeer) -> None:
    eventually(lambda: re.search(SENTENCE, why(peer)), what=f"it says so\n{peer.log()}")


def test_slice_below_its_quorum_commits_nothing_says_so_and_goes_on_when_somebody_joins(tmp_path: Path) -> None:
    swarm = LiveSwarm(tmp_path, slices=1)
    swarm.manifest.write_text(swarm.manifest.read_text().replace("[slicing]\n", "[slicing]\nquorum = 2\n"))
    with swarm:
        first = swarm.start_peer("first", "0")
        says_that_it_waits(first)
        assert not first.committed("0"), "nobody is there to commit it with"
        second = swarm.start_peer("second", "0")
        for peer in (first, second):
            peer.wait_for_version("0", 3)
        second.child.kill()
        says_that_it_waits(first)
        alone_at = first.reached("0")
        steps = len(first.events(InnerStepDone))
        eventually(lambda: len(first.events(InnerStepDone)) > steps + 8, what="it trains on")
        assert first.reached("0") == alone_at, "one of two commits nothing"
        third = swarm.start_peer("third")
        for peer in (first, third):
            peer.wait_for_version("0", alone_at + 2)
        assert all(len(event.members) >= 2 for event in first.committed("0"))
        swarm.assert_same_digests()
