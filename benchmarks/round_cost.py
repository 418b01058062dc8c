"""What a round costs a peer: bytes sent and received, and seconds from its cut-off to the commit, by real processes.

All peers own everything, so that each slice has as many owners as there are peers. The first rounds are not counted.

Example: python benchmarks/round_cost.py --peers 4 --rounds 20
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p2ptrain.events import RoundCommitted, Traffic
from tests.support.live_swarm import LivePeer, LiveSwarm

WARM_UP = 3


def measure(peers: int, rounds: int, preset: str) -> dict[str, float]:
    """Of all peers, for each version of the common part."""
    with tempfile.TemporaryDirectory(prefix="p2ptrain-cost-") as made, LiveSwarm(Path(made), preset=preset) as swarm:
        running = [swarm.start_peer(f"peer-{i}", "all") for i in range(peers)]
        for peer in running:
            peer.wait_for_version("common", WARM_UP, within_s=300)
        while len(running[0].committed("common")[-1].members) < peers:
            time.sleep(0.2)
        first = [_now(peer) for peer in running]
        for peer, (version, _, _) in zip(running, first, strict=True):
            peer.wait_for_version("common", version + rounds, within_s=600)
        last = [_now(peer) for peer in running]
        seconds = [
            event.seconds
            for peer, (version, _, _) in zip(running, first, strict=True)
            for event in peer.events(RoundCommitted)
            if event.slice == "common" and event.version > version
        ]
    done = [after[0] - before[0] for before, after in zip(first, last, strict=True)]
    sent = [(after[1] - before[1]) / n for before, after, n in zip(first, last, done, strict=True)]
    received = [(after[2] - before[2]) / n for before, after, n in zip(first, last, done, strict=True)]
    return {
        "peers": peers,
        "rounds": min(done),
        "sent_kb_a_round": round(statistics.mean(sent) / 1e3, 1),
        "received_kb_a_round": round(statistics.mean(received) / 1e3, 1),
        "commit_s_median": round(statistics.median(seconds), 3),
        "commit_s_p90": round(statistics.quantiles(seconds, n=10)[-1], 3),
    }


def _now(peer: LivePeer) -> tuple[int, int, int]:
    traffic = peer.events(Traffic)[-1]
    return peer.committed("common")[-1].version, traffic.sent_bytes, traffic.received_bytes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("-n", type=int, default=1, help="repeats")
    options = parser.parse_args()
    for _ in range(options.n):
        sys.stdout.write(json.dumps(measure(options.peers, options.rounds, options.preset)) + "\n")
        sys.stdout.flush()
