"""How much of their time four peers behind home connections spend in inner steps, with and without overlap.

Needs root (``home_network.py``). Peers are real processes in network namespaces; the same run is trained with
``overlap.delay_steps = 0`` and with ``inner.steps``, in turn, several times.

    sudo python benchmarks/utilisation.py --repeats 3 --rounds 8
"""

import argparse
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from home_network import HomeNetwork

from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.dashboard.follow import JournalTail
from p2ptrain.events import ComputeUsed, Event, RoundCommitted, StateChanged, Traffic
from p2ptrain.node.child_processes import Child, start_child, stop_children

PEERS = 4
WARM_UP = 2
"""Rounds at the start that are not counted: connections open, peers find each other."""


def manifest(path: Path, *, steps: int, delay_steps: int, rounds: int, batch: int, context: int, hidden: int) -> None:
    """``tiny``, changed so that sending takes at least a third of a round."""
    write_manifest("tiny", path, ManifestChanges(seed=1, rounds=rounds))
    text = path.read_text()
    for key, value in {
        "mlp_hidden": hidden,
        "context": context,
        "steps": steps,
        "batch": batch,
        "lease_s": 60,
        "gather_timeout_s": 60,
        "reduce_timeout_s": 60,
        "vote_timeout_s": 30,
        "codec": '"float32"',
    }.items():
        text, count = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {value}  ", text)
        assert count == 1, key
    path.write_text(text + f"\n[overlap]\ndelay_steps = {delay_steps}\n")


def events(home: Path) -> list[Event]:
    """All that a peer has recorded."""
    return [record.event for record in JournalTail(home / "events.jsonl").new_records()]


def train(folder: Path, arguments: argparse.Namespace, delay_steps: int) -> dict[str, float]:
    """One run; per round and peer what became of its time."""
    run = folder / "run.toml"
    rounds = arguments.rounds + WARM_UP
    manifest(
        run,
        steps=arguments.steps,
        delay_steps=delay_steps,
        rounds=rounds,
        batch=arguments.batch,
        context=arguments.context,
        hidden=arguments.hidden,
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    program = [sys.executable, "-m", "p2ptrain"]
    children: list[Child] = []
    homes = [folder / f"peer-{number}" for number in range(PEERS)]
    with HomeNetwork(PEERS + 1) as network:
        try:
            command = [*program, "bootstrap", "--home", str(folder / "bootstrap"), "--host", network.address(PEERS)]
            boot = start_child("bootstrap", network.on(PEERS, command), folder / "bootstrap.log", environment)
            children.append(boot)
            while not (found := re.search(r"/ip4/\S+/p2p/\w+", boot.log.read_text())):
                time.sleep(0.2)
            for number, home in enumerate(homes):
                command = [
                    *program,
                    "peer",
                    "--run",
                    str(run),
                    "--bootstrap",
                    found.group(),
                    "--home",
                    str(home),
                    "--host",
                    network.address(number),
                    "--slices",
                    str(number % 2),
                ]
                log = folder / f"peer-{number}.log"
                children.append(start_child(home.name, network.on(number, command), log, environment))
            deadline_s = time.monotonic() + arguments.limit_s
            while not all(_is_complete(home) for home in homes):
                if time.monotonic() > deadline_s:
                    break
                time.sleep(1)
        finally:
            stop_children(children)
    return _summary([events(home) for home in homes])


def _is_complete(home: Path) -> bool:
    if not (home / "events.jsonl").exists():
        return False
    states = [event for event in events(home) if isinstance(event, StateChanged)]
    return bool(states) and states[-1].state == "COMPLETE"


def _summary(journals: list[list[Event]]) -> dict[str, float]:
    used = [event for journal in journals for event in [e for e in journal if isinstance(e, ComputeUsed)][WARM_UP:]]
    whole_s = sum(e.training_s + e.waiting_s + e.other_s for e in used)
    if not used:
        return {"rounds": 0, "utilisation_percent": math.nan}
    commits = [e.seconds for journal in journals for e in journal if isinstance(e, RoundCommitted)][WARM_UP:]
    sent = [[e for e in journal if isinstance(e, Traffic)][-1].sent_bytes for journal in journals]
    return {
        "rounds": len(used) / len(journals),
        "utilisation_percent": 100 * sum(e.training_s for e in used) / whole_s,
        "waiting_percent": 100 * sum(e.waiting_s for e in used) / whole_s,
        "other_percent": 100 * sum(e.other_s for e in used) / whole_s,
        "round_s": whole_s / len(used),
        "averaging_s": statistics.median(commits),
        "sent_mb_per_peer": statistics.fmean(sent) / 1e6,
        "loop_lag_s": max(e.loop_lag_s for e in used),
    }


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
        ("limit-s", 240),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--delays", default="", help="separated by commas; 0 and --steps unless given")
    arguments = parser.parse_args()
    delays = [int(delay) for delay in arguments.delays.split(",") if delay] or [0, arguments.steps]
    results: dict[int, list[float]] = {delay: [] for delay in delays}
    for _ in range(arguments.repeats):
        for delay_steps in delays:
            with tempfile.TemporaryDirectory(prefix="utilisation-") as folder:
                row = train(Path(folder), arguments, delay_steps)
            results[delay_steps].append(row["utilisation_percent"])
            print(json.dumps({"delay_steps": delay_steps} | {k: round(v, 2) for k, v in row.items()}), flush=True)
    for delay_steps, found in results.items():
        print(
            f"delay_steps {delay_steps}: utilisation {statistics.median(found):.1f} %"
            f" ({min(found):.1f} to {max(found):.1f}, n = {len(found)})"
        )


if __name__ == "__main__":
    main()
