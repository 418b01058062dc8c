"""How much of their time four peers behind home connections spend in inner steps, with and without overlap.

Needs root (``home_network.py``). Peers are real processes in network namespaces; the same run is trained with
``overlap.delay_steps = 0`` and with ``inner.steps``, in turn, several times.

"Uplink" is the share of the time that a peer's line needs to carry what the peer sends, at 20 Mbit/s.

    sudo python benchmarks/utilisation.py --repeats 3 --rounds 8 --out utilisation.jsonl
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from home_network import HomeNetwork
from home_swarm import HOME_TIMEOUTS, HomeSwarm, write_changed_manifest

from p2ptrain.events import ComputeUsed, Record, RoundCommitted, Traffic

PEERS = 4
UPLINK_MBIT = 20.0
WARM_UP = 2
"""Rounds at the start that are not counted: connections open, peers find each other."""


def train(folder: Path, arguments: argparse.Namespace, delay_steps: int) -> dict[str, float]:
    """One run; per round and peer what became of its time."""
    run = folder / "run.toml"
    values: dict[str, object] = {
        "model.mlp_hidden": arguments.hidden,
        "model.context": arguments.context,
        "slicing.fragments": arguments.fragments,
        "inner.steps": arguments.steps,
        "inner.batch": arguments.batch,
        "exchange.codec": f'"{arguments.codec}"',
        **HOME_TIMEOUTS,
    }
    overlap = f"\n[overlap]\ndelay_steps = {delay_steps}\n"
    write_changed_manifest(run, rounds=arguments.rounds + WARM_UP, seed=1, values=values, end=overlap)
    with (
        HomeNetwork(PEERS + 1, up_mbit=UPLINK_MBIT) as network,
        HomeSwarm(network, folder, run, [str(number % 2) for number in range(PEERS)]) as swarm,
    ):
        swarm.start_together(90)
        deadline_s = time.monotonic() + arguments.limit_s
        while not swarm.is_complete() and time.monotonic() < deadline_s:
            time.sleep(1)
        return _summary(swarm.records)


def _summary(journals: list[list[Record]]) -> dict[str, float]:
    counted = [list(_counted(records)) for records in journals]
    used = [r.event for records in counted for r in records if isinstance(r.event, ComputeUsed)]
    if not used:
        return {"rounds": 0, "utilisation_percent": math.nan}
    whole_s = sum(e.training_s + e.waiting_s + e.other_s for e in used)
    commits = [r.event.seconds for records in counted for r in records if isinstance(r.event, RoundCommitted)]
    return {
        "rounds": len(used) / len(journals),
        "utilisation_percent": 100 * sum(e.training_s for e in used) / whole_s,
        "waiting_percent": 100 * sum(e.waiting_s for e in used) / whole_s,
        "other_percent": 100 * sum(e.other_s for e in used) / whole_s,
        "uplink_percent": 100 * statistics.fmean(map(_uplink_share, counted)),
        "round_s": whole_s / len(used),
        "averaging_s": statistics.median(commits),
        "loop_lag_s": max(e.loop_lag_s for e in used),
    }


def _counted(records: list[Record]) -> Iterator[Record]:
    """What comes after the warm-up."""
    rounds = 0
    for record in records:
        if rounds >= WARM_UP:
            yield record
        rounds += isinstance(record.event, ComputeUsed)


def _uplink_share(records: list[Record]) -> float:
    """Of the time until the last round's end; payload without headers."""
    last_s = max(r.time_s for r in records if isinstance(r.event, ComputeUsed))
    sent = [(r.time_s, r.event.sent_bytes) for r in records if isinstance(r.event, Traffic) and r.time_s <= last_s]
    if len(sent) < 2:
        return math.nan
    (began_s, before), (ended_s, after) = sent[0], sent[-1]
    return (after - before) * 8e-6 / UPLINK_MBIT / (ended_s - began_s)


def main() -> None:
    """Print one JSON object a run, and at the end the median and spread of each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("repeats", 3),
        ("rounds", 8),
        ("steps", 40),
        ("batch", 8),
        ("context", 32),
        ("hidden", 1024),
        ("fragments", 1),
        ("limit-s", 240),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--codec", default="float32", help="float32 sends four times what int8 does")
    parser.add_argument("--out", type=Path, default=Path("utilisation.jsonl"), help="each run is appended to it")
    parser.add_argument("--delays", default="", help="separated by commas; 0 and --steps unless given")
    arguments = parser.parse_args()
    delays = [int(delay) for delay in arguments.delays.split(",") if delay] or [0, arguments.steps]
    results: dict[int, list[float]] = {delay: [] for delay in delays}
    for _ in range(arguments.repeats):
        for delay_steps in delays:
            with tempfile.TemporaryDirectory(prefix="utilisation-") as folder:
                row = train(Path(folder), arguments, delay_steps)
            results[delay_steps].append(row["utilisation_percent"])
            settings = {key: value for key, value in vars(arguments).items() if isinstance(value, int | str)}
            line = json.dumps({"delay_steps": delay_steps, **{k: round(v, 2) for k, v in row.items()}, **settings})
            with arguments.out.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)
    for delay_steps, found in results.items():
        print(
            f"delay_steps {delay_steps}: utilisation {statistics.median(found):.1f} %"
            f" ({min(found):.1f} to {max(found):.1f}, n = {len(found)})"
        )


if __name__ == "__main__":
    main()
