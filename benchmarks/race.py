"""Time to a validation loss behind home connections: p2ptrain, hivemind.Optimizer and DistributedDataParallel.

Needs root (``home_network.py``). Four peers on emulated lines of 50 Mbit/s down and 20 up with a round trip of 80 ms
train the same model from the same weights on the same text, with the same inner optimizer, one thread each. All of them
share this machine's cores, whoever races. Competitors take turns, so that other work on the machine hits all of them.

Time counts from the first step of the first peer, which is when all peers of the competitor have met, until half of
them have seen the target on the same held-out windows. Each run is one line of ``--out`` as soon as it is over;
``--table`` reads such a file again.

    sudo python benchmarks/race.py --repeats 3 --out race.jsonl
    python benchmarks/race.py --table race.jsonl
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from home_network import HomeNetwork
from home_swarm import HOME_TIMEOUTS, ONE_THREAD, HomeSwarm, write_changed_manifest

from p2ptrain.events import Evaluated, InnerStepDone, Record
from p2ptrain.node.child_processes import Child, start_child, stop_children

PEERS = 4
START_LIMIT_S = 90.0
"""Longest until the first validation."""
WORKER = Path(__file__).with_name("race_worker.py")

Curve = list[tuple[float, float]]
"""(seconds since the start, validation loss in nats per byte) of one peer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Competitor:
    """What differs between competitors; the rest is the command line's."""

    kind: str
    """``p2ptrain``, or a kind of ``race_worker.py``."""
    slices: int = 1
    outer_lr: float = 0.0
    """Fits the number of slices: see the presets. Only for p2ptrain."""
    amplification: float = 1.0
    """Of p2ptrain's slices."""
    steps: int | None = None
    """Inner steps between two exchanges, in place of the command line's."""
    lr_scale: float = 1.0
    warm_up: int | None = None
    """Optimizer steps, in place of the command line's."""
    every: int | None = None
    """Optimizer steps between two validations; once a round unless given."""
    accumulate: int = 1
    """Batches for one optimizer step of ``ddp``."""
    delay: bool = False
    """Whether ``hivemind`` averages in the background."""
    part_elements: int = 65536
    """Of p2ptrain: about a quarter of the smallest slice that has four owners, so that each reduces some of it."""


COMPETITORS = {
    "p2ptrain-4": Competitor(kind="p2ptrain", slices=4, steps=20, outer_lr=0.6, amplification=2.0),
    "p2ptrain-1": Competitor(kind="p2ptrain", slices=1, steps=30, outer_lr=0.7, part_elements=262144),
    "hivemind": Competitor(kind="hivemind", steps=50, every=10, delay=True),
    "hivemind-10": Competitor(kind="hivemind", steps=10),
    "hivemind-30": Competitor(kind="hivemind", steps=30, every=10, delay=True),
    "hivemind-75": Competitor(kind="hivemind", steps=75, every=15, delay=True),
    "ddp": Competitor(kind="ddp", warm_up=5, every=1, accumulate=4),
    "ddp-1": Competitor(kind="ddp", warm_up=5, every=1),
    "powersgd": Competitor(kind="powersgd", warm_up=5, every=5),
}


def manifest(path: Path, arguments: argparse.Namespace, competitor: Competitor, seed: int) -> None:
    """The run of a competitor."""
    values = {
        "model.mlp_hidden": arguments.hidden,
        "model.context": arguments.context,
        "slicing.slices": competitor.slices,
        "slicing.replicas": 1,
        "slicing.amplification": competitor.amplification,
        "inner.steps": competitor.steps or arguments.steps,
        "inner.batch": arguments.batch,
        "inner.lr": arguments.lr,
        "inner.warmup_steps": arguments.warm_up,
        "outer.lr": competitor.outer_lr or 0.7,
        "outer.momentum": arguments.momentum,
        "exchange.part_elements": competitor.part_elements,
        "exchange.codec": f'"{arguments.codec}"',
    }
    overlap = f"\n[overlap]\ndelay_steps = {arguments.delay_steps}\n"
    write_changed_manifest(path, rounds=arguments.rounds, seed=seed, values={**values, **HOME_TIMEOUTS}, end=overlap)


def reached(curves: Iterable[Curve], target: float) -> float:
    """Seconds until half of the peers had seen the target; infinite if they never did."""
    first = [next((seconds for seconds, loss in curve if loss <= target), math.inf) for curve in curves]
    return sorted([*first, *[math.inf] * PEERS])[PEERS // 2 - 1]  # no curve yet is not there yet


def wait(curves: Callable[[], list[Curve]], arguments: argparse.Namespace) -> list[Curve]:
    """The curves when the target is reached, or when the time is up."""
    began_s = time.monotonic()
    while True:
        found = curves()
        last_s = max((curve[-1][0] for curve in found if curve), default=0.0)
        if not math.isinf(reached(found, arguments.target)) or last_s > arguments.limit_s:
            return found
        waited_s = time.monotonic() - began_s
        if waited_s > START_LIMIT_S + (arguments.limit_s if any(found) else 0):
            return found
        time.sleep(0.5)


def race_p2ptrain(
    network: HomeNetwork, folder: Path, run: Path, competitor: Competitor, arguments: argparse.Namespace
) -> list[Curve]:
    """Our own peers."""
    with HomeSwarm(network, folder, run, [str(number % competitor.slices) for number in range(PEERS)]) as swarm:
        swarm.start_together(START_LIMIT_S)

        def curves() -> list[Curve]:
            peers = swarm.look()
            began_s = min((s for s in map(_first_step_s, peers) if s is not None), default=math.inf)
            return [
                [(max(0.0, r.time_s - began_s), r.event.loss_nats) for r in records if isinstance(r.event, Evaluated)]
                for records in peers
            ]

        return wait(curves, arguments)


def _first_step_s(records: list[Record]) -> float | None:
    """When the first inner step began."""
    first = next((r for r in records if isinstance(r.event, InnerStepDone)), None)
    return first.time_s - first.event.seconds if first and isinstance(first.event, InnerStepDone) else None


def race_baseline(
    network: HomeNetwork, folder: Path, run: Path, competitor: Competitor, arguments: argparse.Namespace
) -> list[Curve]:
    """``race_worker.py`` on each host."""
    steps = competitor.steps or arguments.steps
    shared = [
        "--run",
        run,
        "--folder",
        folder,
        "--lr-scale",
        competitor.lr_scale,
        "--accumulate",
        competitor.accumulate,
    ]
    shared += ["--warm-up", arguments.warm_up if competitor.warm_up is None else competitor.warm_up]
    shared += ["--delay"] if competitor.delay else []
    shared += ["--every", competitor.every or steps, "--local-steps", steps]
    shared += ["--master", network.address(0), "--interface", "eth0"]
    address = folder / "address"
    with ExitStack() as stack:
        children: list[Child] = []
        stack.callback(lambda: stop_children(children, 1.0))
        for rank in range(PEERS):
            own = ["--rank", rank, "--address", network.address(rank)]
            if competitor.kind == "hivemind" and rank > 0:
                own += ["--bootstrap", _text_of(address)]
            command = network.on(rank, [sys.executable, str(WORKER), competitor.kind, *map(str, [*shared, *own])])
            name = f"{competitor.kind}-{rank}"
            children.append(start_child(name, command, folder / f"{name}.log", ONE_THREAD))

        def curves() -> list[Curve]:
            for child in children:
                assert child.exit_status() is None, "\n".join([child.name, *child.last_lines(20)])
            return [_printed_curve(child.log) for child in children]

        return wait(curves, arguments)


def _text_of(file: Path) -> str:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not file.exists():
        assert time.monotonic() < deadline_s, f"{file} was never written"
        time.sleep(0.1)
    return file.read_text()


def _printed_curve(log: Path) -> Curve:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [(line["seconds"], line["loss_nats"]) for line in lines]


def race(name: str, repeat: int, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """One run: what became of it."""
    competitor = COMPETITORS[name]
    folder.mkdir(parents=True)
    run = folder / "run.toml"
    manifest(run, arguments, competitor, arguments.seed + repeat)
    load = os.getloadavg()[0]
    with HomeNetwork(PEERS + 1) as network:
        go = race_p2ptrain if competitor.kind == "p2ptrain" else race_baseline
        curves = go(network, folder, run, competitor, arguments)
        sent = [network.sent_bytes(number) for number in range(PEERS)]
    seconds = reached(curves, arguments.target)
    return {
        "competitor": name,
        "repeat": repeat,
        "target": arguments.target,
        "seconds": None if math.isinf(seconds) else round(seconds, 1),
        "raced_s": round(max((curve[-1][0] for curve in curves if curve), default=0.0), 1),
        "best_loss": min((loss for curve in curves for _, loss in curve), default=None),
        "sent_mb_a_peer": round(statistics.fmean(sent) / 1e6, 1),
        "load_before": round(load, 1),
        "settings": {key: value for key, value in vars(arguments).items() if isinstance(value, int | float | str)},
        "curves": [[(round(s, 2), round(loss, 4)) for s, loss in curve] for curve in curves],
    }


def table(rows: list[dict[str, object]]) -> str:
    """Each competitor's median and spread, and how many times the first one's."""
    by_name: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        by_name.setdefault(str(row["competitor"]), []).append(row)
    lines, first = [], None
    for name, runs in by_name.items():
        times = [math.inf if run["seconds"] is None else float(str(run["seconds"])) for run in runs]
        median = statistics.median(times)
        first = first or median
        if math.isinf(median):
            raced_s = statistics.median(float(str(run["raced_s"])) for run in runs)
            text = f"not in {raced_s:.0f} s, more than {raced_s / first:.1f} times the first"
        else:
            text = f"{median:.1f} s ({min(times):.1f} to {max(times):.1f}), {median / first:.2f} times the first"
        sent = statistics.median(float(str(run["sent_mb_a_peer"])) for run in runs)
        lines.append(f"{name}: {text}; sent {sent:.0f} MB a peer; n = {len(times)}")
    return "\n".join(lines)


def main() -> None:
    """Race, and print each competitor's times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--first-repeat", type=int, default=0, help="to go on with a race that was cut off")
    parser.add_argument("--target", type=float, default=2.2, help="nats per byte on held-out text")
    parser.add_argument("--limit-s", type=float, default=300, help="of training; then the target was not reached")
    parser.add_argument("--rounds", type=int, default=1000, help="with --steps, the length of the schedule")
    parser.add_argument("--steps", type=int, default=10, help="inner steps of a round")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=2048, help="units of each MLP")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warm-up", type=int, default=20, help="inner steps")
    parser.add_argument("--momentum", type=float, default=0.7, help="p2ptrain's outer momentum")
    parser.add_argument("--codec", default="int8", help="p2ptrain's")
    parser.add_argument("--delay-steps", type=int, default=0, help="p2ptrain's inner steps while slices are averaged")
    parser.add_argument("--seed", type=int, default=1, help="of the first repeat; the next one has the next")
    parser.add_argument("--only", default=",".join(COMPETITORS), help="separated by commas")
    parser.add_argument("--out", type=Path, default=Path("race.jsonl"), help="each run is appended to it")
    parser.add_argument("--keep", type=Path, help="folder for logs; a temporary one if not given")
    parser.add_argument("--table", type=Path, help="race nothing; summarise this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.only.split(",")) - set(COMPETITORS):
        parser.error(f"--only: nobody is called {', '.join(sorted(unknown))}; choose from {', '.join(COMPETITORS)}")
    if arguments.table:
        print(table([json.loads(line) for line in arguments.table.read_text().splitlines()]))
        return
    rows = []
    for repeat in range(arguments.first_repeat, arguments.first_repeat + arguments.repeats):
        for name in arguments.only.split(","):
            with tempfile.TemporaryDirectory(prefix="race-") as temporary:
                try:
                    row = race(name, repeat, (arguments.keep or Path(temporary)) / f"{name}-{repeat}", arguments)
                except AssertionError as error:  # a peer ended, say: the others' race goes on
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
                    continue
            rows.append(row)
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print({key: value for key, value in row.items() if key not in {"curves", "settings"}}, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
