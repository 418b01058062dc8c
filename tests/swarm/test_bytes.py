"""What a round sends and receives, counted where libp2p's daemon reads and writes its sockets."""

import re
import time
from pathlib import Path

import pytest

from p2ptrain.config.load import load_run
from p2ptrain.events import RoundCommitted, UpdateApplied
from p2ptrain.ids import COMMON, SliceId
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.wire.codec import encoded_bytes
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually

pytestmark = pytest.mark.swarm


def daemon_bytes(peer: LivePeer) -> int:
    """Bytes that a peer's p2pd has read from sockets so far: what the network brings and what the peer sends.

    What comes from the network is read once, encrypted; what goes there is read once, from the peer, in the clear.
    """
    for pid in peer.daemons():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "p2pd":
            return int(re.findall(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text())[0])
    raise AssertionError("no p2pd")


def counted(peer: LivePeer) -> tuple[int, int, dict[str, int]]:
    """p2pd's bytes, when nothing flows, and the versions that this peer has by then."""
    quiet_s, last = time.monotonic(), daemon_bytes(peer)
    versions: dict[str, int] = {}

    def quiet() -> bool:
        nonlocal quiet_s, last
        now = daemon_bytes(peer)
        if now - last > 20_000:  # more than the DHT's gossip
            quiet_s = time.monotonic()
        last = now
        return time.monotonic() - quiet_s > 0.3

    eventually(quiet, what="a pause between two rounds")
    for event in [*peer.events(RoundCommitted), *peer.events(UpdateApplied)]:
        versions[event.slice] = max(versions.get(event.slice, 0), event.version)
    return last, time.monotonic_ns(), versions


def test_bytes_of_a_round_are_those_of_the_formula_within_five_percent(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, preset="tiny", rounds=200) as swarm:
        swarm.manifest.write_text(swarm.manifest.read_text().replace("steps = 20", "steps = 6", 1))
        run = load_run(swarm.manifest)
        assert run.inner.steps == 6
        plan = SlicePlan.of(run.model, run.slicing)
        size = {s: encoded_bytes(run.exchange.codec, plan.numel(s)) for s in plan.slice_ids}
        peers = [swarm.start_peer("a", "0"), swarm.start_peer("b", "1")]
        for peer in peers:
            peer.wait_for_version(COMMON, 4, within_s=100)
        before = [counted(peer) for peer in peers]
        for peer in peers:
            peer.wait_for_version(COMMON, before[0][2][COMMON] + 8, within_s=100)
        after = [counted(peer) for peer in peers]
        swarm.assert_same_digests()
        for (bytes0, ns0, versions0), (bytes1, ns1, versions1) in zip(before, after, strict=True):
            # Two owners of the common part send and receive one of it each; each slice goes one way.
            expected = sum((versions1[s] - versions0[s]) * size[SliceId(s)] * (2 if s == COMMON else 1) for s in size)
            assert bytes1 - bytes0 == pytest.approx(expected, rel=0.05), f"in {(ns1 - ns0) / 1e9:.1f} s"
