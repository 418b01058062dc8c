"""A peer's memory does not grow with the rounds; P2PTRAIN_MEMORY_ROUNDS=500 P2PTRAIN_MEMORY_PEERS=4: a longer look."""

import os
import sys
from pathlib import Path

import pytest

from p2ptrain.ids import COMMON
from tests.support.live_swarm import PATIENCE_S, LivePeer, LiveSwarm

ROUNDS = int(os.environ.get("P2PTRAIN_MEMORY_ROUNDS", "60"))
PEERS = int(os.environ.get("P2PTRAIN_MEMORY_PEERS", "2"))
WARM = 20
"""Rounds until histories are full and allocators have what they need."""
GROWTH_MIB = 6.0
DAEMON_MIB = 160.0
"""p2pd is a Go program that fills its heap in the first 70 rounds: 86 MiB then, and no more after 520."""

pytestmark = pytest.mark.faults


def resident_mib(peer: LivePeer) -> list[float]:
    """Memory of a peer's process and of its p2pd."""
    pids = [peer.child.pid, *peer.daemons()]
    return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20 for pid in pids]


def test_memory_stays_flat_over_the_rounds(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, rounds=100_000) as swarm:
        peers = [swarm.start_peer(f"peer-{number}", str(number % 2)) for number in range(PEERS)]
        samples: list[list[list[float]]] = []
        step = max(10, ROUNDS // 10)
        for version in range(WARM, WARM + ROUNDS + 1, step):
            for peer in peers:
                peer.wait_for_version(COMMON, version, within_s=PATIENCE_S + 10 * step)
            samples.append([resident_mib(peer) for peer in peers])
            sys.stdout.write(f"v{version}: {[[round(mib, 1) for mib in of_peer] for of_peer in samples[-1]]}\n")
            sys.stdout.flush()
        swarm.assert_same_digests()
        for first, last in zip(samples[0], samples[-1], strict=True):
            assert last[0] < first[0] + GROWTH_MIB, samples
            assert sum(last[1:]) < DAEMON_MIB, samples
