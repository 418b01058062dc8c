"""What a round of large slices costs a peer: its event loop's delay, seconds from cut-off to commit, and memory.

Three real processes, two slices of 42 million parameters and a common part of 29 million; inner steps are few, so that
the exchange is nearly all that they do. The first version is not counted: peers start, and allocate what they keep.

Example: python benchmarks/large_slices.py --rounds 6
"""

import argparse
import functools
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from p2ptrain.events import ComputeUsed
from p2ptrain.ids import COMMON
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually

MODEL = {"layers": 12, "width": 768, "mlp_hidden": 3072, "context": 32, "steps": 3, "batch": 1, "part_elements": 2**20}
TIMEOUT_S = 120.0
WARM_UP = 1


def measure(rounds: int) -> dict[str, object]:
    """Over all peers and their rounds after the first."""
    with tempfile.TemporaryDirectory(prefix="p2ptrain-large-") as made:
        swarm = LiveSwarm(Path(made), slices=2, lease_s=300)
        text = swarm.manifest.read_text()
        changes = MODEL | {f"{stage}_timeout_s": TIMEOUT_S for stage in ("gather", "reduce", "vote")}
        for key, value in changes.items():
            text, count = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
            assert count == 1, key
        swarm.manifest.write_text(text)
        with swarm:
            peers = [swarm.start_peer(f"peer-{i}", slices) for i, slices in enumerate("001")]
            for peer in peers:
                has_done = functools.partial(_has_done, peer, rounds + WARM_UP)
                eventually(has_done, what=peer.log, within_s=TIMEOUT_S * (rounds + WARM_UP))
            lags = [used.loop_lag_s for peer in peers for used in peer.events(ComputeUsed)[WARM_UP:]]
            peak_gb = [_peak_bytes(peer) / 1e9 for peer in peers]
            seconds = [event.seconds for peer in peers for event in peer.committed(COMMON)[WARM_UP:]]
    return {
        "rounds": len(lags),
        "loop_lag_s_median": round(statistics.median(lags), 3),
        "loop_lag_s_max": round(max(lags), 3),
        "commit_s_median": round(statistics.median(seconds), 2),
        "commit_s_max": round(max(seconds), 2),
        "peak_gb_max": round(max(peak_gb), 2),
    }


def _peak_bytes(peer: LivePeer) -> int:
    status = Path(f"/proc/{peer.child.pid}/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def _has_done(peer: LivePeer, rounds: int) -> bool:
    peer.check()
    return len(peer.events(ComputeUsed)) > rounds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    sys.stdout.write(json.dumps(measure(parser.parse_args().rounds)) + "\n")
