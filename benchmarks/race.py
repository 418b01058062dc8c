"""Time to a validation loss behind home connections: p2ptrain, hivemind.Optimizer and DistributedDataParallel.

Needs root (``home_network.py``). Four peers on emulated lines of 50 Mbit/s down and 20 up with a round trip of 80 ms
train the same model on the same text, with the same inner optimizer and schedule, one thread each. Competitors take
turns, so that other work on the machine hits all of them. Time counts from the first inner step of the last peer, until
half of the peers have seen the target on the same held-out windows.

    sudo python benchmarks/race.py --repeats 3 --target 2.2
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from home_network import HomeNetwork
from home_swarm import HOME_TIMEOUTS, ONE_THREAD, HomeSwarm, write_changed_manifest

from p2ptrain.events import Evaluated, InnerStepDone, Record
from p2ptrain.node.child_processes import start_child, stop_children

PEERS = 4
WORKER = Path(__file__).with_name("race_worker.py")

Curve = list[tuple[float, float]]
"""(seconds since the start, validation loss in nats per byte) of one peer."""


def manifest(path: Path, arguments: argparse.Namespace, *, slices: int, outer_lr: float) -> None:
    """The run; slices and the outer lr, which must fit their number, are all that differs between competitors."""
    values = {
        "model.context": arguments.context,
        "slicing.slices": slices,
        "slicing.replicas": 1,
        "inner.steps": arguments.steps,
        "inner.lr": arguments.lr,
        "outer.lr": outer_lr,
    }
    write_changed_manifest(path, rounds=arguments.rounds, seed=arguments.seed, values=values | HOME_TIMEOUTS)


def reached(curves: Iterable[Curve], target: float) -> float:
    """Seconds until half of the peers had seen the target; infinite if they never did."""
    first = [next((seconds for seconds, loss in curve if loss <= target), math.inf) for curve in curves]
    return sorted([*first, math.inf, math.inf])[PEERS // 2 - 1]  # no curve yet is not there yet


def wait(curves: Callable[[], list[Curve]], arguments: argparse.Namespace) -> list[Curve]:
    """The curves when the target is reached, or when the time is up."""
    deadline_s = time.monotonic() + arguments.limit_s
    while math.isinf(reached(found := curves(), arguments.target)) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    return found


def p2ptrain(network: HomeNetwork, folder: Path, arguments: argparse.Namespace, *, slices: int) -> list[Curve]:
    """Our own peers."""
    run = folder / "run.toml"
    manifest(run, arguments, slices=slices, outer_lr=arguments.outer_lr_1 if slices == 1 else arguments.outer_lr_4)
    with HomeSwarm(network, folder, run, [str(number % slices) for number in range(PEERS)]) as swarm:

        def curves() -> list[Curve]:
            peers = swarm.look()
            starts = [_first_step_s(records) for records in peers]
            if None in starts:
                return []
            began_s = max(start for start in starts if start is not None)
            return [
                [(r.time_s - began_s, r.event.loss_nats) for r in records if isinstance(r.event, Evaluated)]
                for records in peers
            ]

        return wait(curves, arguments)


def _first_step_s(records: list[Record]) -> float | None:
    """When the first inner step began."""
    first = next((r for r in records if isinstance(r.event, InnerStepDone)), None)
    return first and first.time_s - first.event.seconds if first and isinstance(first.event, InnerStepDone) else None


def baseline(network: HomeNetwork, folder: Path, arguments: argparse.Namespace, *, kind: str) -> list[Curve]:
    """``race_worker.py`` on each host."""
    run = folder / "run.toml"
    manifest(run, arguments, slices=1, outer_lr=arguments.outer_lr_1)
    shared = ["--run", run, "--every", arguments.steps, "--lr-scale", getattr(arguments, f"{kind}_lr_scale")]
    shared += ["--master", network.address(0), "--interface", "eth0", "--local-steps", arguments.steps]
    address = folder / "address"
    with ExitStack() as stack:
        children = []
        stack.callback(stop_children, children, 5.0)
        for rank in range(PEERS):
            own = ["--rank", rank, "--address", network.address(rank)]
            if kind == "hivemind":
                own += ["--address-file", address] if rank == 0 else ["--bootstrap", _text_of(address)]
            command = network.on(rank, [sys.executable, str(WORKER), kind, *map(str, [*shared, *own])])
            children.append(start_child(f"{kind}-{rank}", command, folder / f"{kind}-{rank}.log", ONE_THREAD))

        def curves() -> list[Curve]:
            return [_printed_curve(child.log) for child in children]

        return wait(curves, arguments)


def _text_of(file: Path) -> str:
    deadline_s = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline_s, f"{file} was never written"
        time.sleep(0.1)
    return file.read_text()


def _printed_curve(log: Path) -> Curve:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [(line["seconds"], line["loss_nats"]) for line in lines]


COMPETITORS: dict[str, Callable[[HomeNetwork, Path, argparse.Namespace], list[Curve]]] = {
    "p2ptrain-4": lambda network, folder, arguments: p2ptrain(network, folder, arguments, slices=4),
    "p2ptrain-1": lambda network, folder, arguments: p2ptrain(network, folder, arguments, slices=1),
    "hivemind": lambda network, folder, arguments: baseline(network, folder, arguments, kind="hivemind"),
    "ddp": lambda network, folder, arguments: baseline(network, folder, arguments, kind="ddp"),
}


def main() -> None:
    """Print a JSON line for each run, and at the end each competitor's median, spread and ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--target", type=float, default=2.2, help="nats per byte on held-out text")
    parser.add_argument("--limit-s", type=float, default=600)
    parser.add_argument("--rounds", type=int, default=40, help="with --steps, the length of the schedule")
    parser.add_argument("--steps", type=int, default=20, help="inner steps of a round")
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--outer-lr-1", type=float, default=0.7)
    parser.add_argument("--outer-lr-4", type=float, default=0.4)
    parser.add_argument("--ddp-lr-scale", type=float, default=1.0)
    parser.add_argument("--hivemind-lr-scale", type=float, default=1.0)
    parser.add_argument("--only", default=",".join(COMPETITORS), help="separated by commas")
    parser.add_argument("--keep", type=Path, help="folder for logs; a temporary one if not given")
    arguments = parser.parse_args()
    took: dict[str, list[float]] = {name: [] for name in arguments.only.split(",")}
    for repeat in range(arguments.repeats):
        for name, times in took.items():
            with tempfile.TemporaryDirectory() as temporary, HomeNetwork(PEERS + 1) as network:
                folder = (arguments.keep or Path(temporary)) / f"{name}-{repeat}"
                folder.mkdir(parents=True)
                curves = COMPETITORS[name](network, folder, arguments)
            times.append(reached(curves, arguments.target))
            last = [curve[-1] for curve in curves if curve]
            print(json.dumps({"competitor": name, "seconds": times[-1], "last": last}), flush=True)
    first = next(iter(took.values()))
    for name, times in took.items():
        ratio = statistics.median(times) / statistics.median(first)
        spread = f"{min(times):.0f} to {max(times):.0f}, n = {len(times)}"
        print(f"{name}: {statistics.median(times):.0f} s ({spread}), {ratio:.1f} times the first")


if __name__ == "__main__":
    main()
