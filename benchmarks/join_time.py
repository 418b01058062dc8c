"""How long a newcomer behind a slow line needs until a commit contains its work, against the bytes that it fetches.

Two network namespaces, joined by a pair of virtual links that are shaped to --mbps in both directions: a bootstrap node
and two peers on one side, the newcomer on the other. Needs root. The bar: 1.25 times the bytes that it fetched before
its first contribution, over the line's rate, plus one round.

Example: sudo python benchmarks/join_time.py --mbps 8 --runs 3
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.dashboard.follow import JournalTail
from p2ptrain.events import PeerStarted, Record, RoundCommitted, StateChanged, StateFetched, UpdateApplied

DONORS, NEWCOMER = "p2pt-donors", "p2pt-new"
ADDRESS = {DONORS: "10.77.0.1", NEWCOMER: "10.77.0.2"}


@contextmanager
def shaped_namespaces(mbps: float) -> Iterator[None]:
    """Two namespaces and a shaped link between them; both are gone afterwards."""
    shape = f"tbf rate {int(mbps * 1000)}kbit burst 32kbit latency 200ms"
    commands = [
        *(f"ip netns add {name}" for name in ADDRESS),
        f"ip link add v0 netns {DONORS} type veth peer name v0 netns {NEWCOMER}",
        *(
            f"ip -n {name} {command}"
            for name, address in ADDRESS.items()
            for command in (f"addr add {address}/24 dev v0", "link set v0 up", "link set lo up")
        ),
        *(f"tc -n {name} qdisc add dev v0 root {shape}" for name in ADDRESS),
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield
    finally:
        for name in ADDRESS:
            subprocess.run(["ip", "netns", "del", name], check=False)


def start(stack: ExitStack, namespace: str, log: Path, *arguments: str) -> None:
    """A ``p2ptrain`` process in a namespace, ended with the stack."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "p2ptrain", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment)

    def end() -> None:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    stack.callback(end)


def wait_for(condition: Callable[[], Any], what: str, within_s: float = 300.0) -> Any:
    """The first truthy answer."""
    deadline_s = time.monotonic() + within_s
    while not (answer := condition()):
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.05)
    return answer


_Kind = TypeVar("_Kind")


class Watched:
    """A peer and all that it has recorded."""

    def __init__(self, home: Path) -> None:
        self._tail = JournalTail(home / "events.jsonl")
        self._records: list[Record] = []

    def records(self) -> list[Record]:
        """Everything so far."""
        self._records += self._tail.new_records()
        return self._records

    def of(self, kind: type[_Kind]) -> list[tuple[float, _Kind]]:
        """When events of one kind were recorded, and they."""
        return [(record.time_s, record.event) for record in self.records() if isinstance(record.event, kind)]


def measure(folder: Path, mbps: float, preset: str) -> dict[str, float]:
    """One run."""
    manifest = folder / "run.toml"
    write_manifest(preset, manifest, ManifestChanges(seed=1))
    with ExitStack() as stack:
        stack.enter_context(shaped_namespaces(mbps))
        log = folder / "bootstrap.log"
        where = ["--home", str(folder / "bootstrap"), "--host", ADDRESS[DONORS], "--port", "0"]
        start(stack, DONORS, log, "bootstrap", *where)
        found = wait_for(lambda: re.search(r"/ip4/\S+/p2p/\w+", log.read_text()), "the bootstrap node listens")

        def peer(name: str, namespace: str, slices: str) -> Watched:
            common = ["--run", str(manifest), "--bootstrap", found.group(), "--threads", "1", "--slices", slices]
            home = folder / name
            start(
                stack, namespace, folder / f"{name}.log",
                "peer", *common, "--home", str(home), "--host", ADDRESS[namespace],
            )  # fmt: skip
            return Watched(home)

        donors = [peer("a", DONORS, "0"), peer("b", DONORS, "1")]
        wait_for(lambda: all(len(donor.of(RoundCommitted)) >= 8 for donor in donors), "the donors commit")
        newcomer = peer("new", NEWCOMER, "0")
        me = wait_for(lambda: newcomer.of(PeerStarted), "the newcomer listens")[0][1].peer

        def contributed() -> list[float]:
            commits = (commit for donor in donors for commit in donor.of(RoundCommitted))
            return [at_s for at_s, event in commits if event.slice == "0" and me in event.contributors]

        first_s = wait_for(contributed, "its work is in a commit")[0]
        states = newcomer.of(StateChanged)
        began_s = next(at_s for at_s, event in states if event.reason.startswith("fetching"))
        trains_s = next(at_s for at_s, event in states if event.state == "TRAINING")
        before = [r for r in newcomer.records() if r.time_s <= first_s]
        fetched = sum(r.event.size_bytes for r in before if isinstance(r.event, StateFetched | UpdateApplied))
        of_slice = [at_s for at_s, event in donors[0].of(RoundCommitted) if event.slice == "0"]
        commits = [at_s for at_s in of_slice if at_s < began_s]
        round_s = statistics.median(after - earlier for earlier, after in pairwise(commits))
    bar_s = 1.25 * fetched * 8 / (mbps * 1e6) + round_s
    took_s = first_s - began_s
    return {
        "fetched_mb": fetched / 1e6,
        "round_s": round_s,
        "trains_after_s": trains_s - began_s,
        "in_a_commit_after_s": took_s,
        "bar_s": bar_s,
        "of_bar": took_s / bar_s,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object a run and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbps", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--keep", type=Path, help="folder for logs; a temporary one if not given")
    chosen = parser.parse_args(arguments)
    results = []
    for run in range(chosen.runs):
        with tempfile.TemporaryDirectory() as temporary:
            folder = (chosen.keep or Path(temporary)) / f"run-{run}"
            folder.mkdir(parents=True)
            results.append(measure(folder, chosen.mbps, chosen.preset))
        sys.stdout.write(json.dumps({key: round(value, 2) for key, value in results[-1].items()}) + "\n")
        sys.stdout.flush()
    ratios = [result["of_bar"] for result in results]
    sys.stdout.write(f"of the bar: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})\n")


if __name__ == "__main__":
    main()
