"""A p2ptrain swarm whose peers sit behind home connections: real processes in ``home_network.py``'s namespaces."""

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from home_network import HomeNetwork

from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.dashboard.follow import JournalTail
from p2ptrain.events import Record, RoundCommitted, SlicesClaimed, StateChanged
from p2ptrain.node.child_processes import Child, start_child, stop_children

HOME_TIMEOUTS: Mapping[str, object] = {
    "exchange.lease_s": 60,
    "exchange.gather_timeout_s": 60,
    "exchange.reduce_timeout_s": 60,
    "exchange.vote_timeout_s": 30,
}
NOT_NOW = '[limits]\ncompute_hours = ["Mon 03:00-03:01"]\n'
"""Of a profile: rest, as a part of the swarm, until it says otherwise."""
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def write_changed_manifest(path: Path, *, rounds: int, seed: int, values: Mapping[str, object], end: str = "") -> None:
    """``tiny`` with the values of some keys (``section.key``) replaced, and ``end`` behind it."""
    write_manifest("tiny", path, ManifestChanges(seed=seed, rounds=rounds))
    parts = re.split(r"(?m)^\[(\w+)\]", path.read_text())
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name, value in values.items():
        section, _, key = name.partition(".")
        sections[section], count = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {value}  ", sections[section])
        assert count == 1, f"{name} is {count} times in the preset"
    path.write_text(parts[0] + "".join(f"[{section}]{text}" for section, text in sections.items()) + end)


class HomeSwarm:
    """A bootstrap node on the network's last host and a peer on each other one.

    Args:
        network: with one host more than there are peers.
        folder: for homes and logs.
        run: the manifest.
        slices: what each peer owns.
    """

    def __init__(self, network: HomeNetwork, folder: Path, run: Path, slices: Sequence[str]) -> None:
        self._network, self._folder, self._run, self._slices = network, folder, run, slices
        self._children: list[Child] = []
        self._journals = [JournalTail(folder / f"peer-{number}" / "events.jsonl") for number in range(len(slices))]
        self.records: list[list[Record]] = [[] for _ in slices]
        """What each peer has recorded, as of the last ``look``."""

    def __enter__(self) -> Self:
        try:
            host = len(self._slices)
            at = ["--home", str(self._folder / "bootstrap"), "--host", self._network.address(host)]
            bootstrap = self._start("bootstrap", host, ["bootstrap", *at])
            while not (found := re.search(r"/ip4/\S+/p2p/\w+", bootstrap.log.read_text())):
                assert bootstrap.exit_status() is None, bootstrap.last_lines(20)
                time.sleep(0.1)
            for number, owned in enumerate(self._slices):
                what = ["--run", str(self._run), "--bootstrap", found.group(), "--slices", owned, "--threads", "1"]
                at = ["--home", str(self._folder / f"peer-{number}"), "--host", self._network.address(number)]
                self._profile(number).touch()
                at += ["--profile", str(self._profile(number))]
                self._start(f"peer-{number}", number, ["peer", *what, *at])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_children(self._children, grace_s=5.0)

    def _start(self, name: str, host: int, arguments: Sequence[str]) -> Child:
        command = self._network.on(host, [sys.executable, "-m", "p2ptrain", *arguments])
        child = start_child(name, command, self._folder / f"{name}.log", ONE_THREAD)
        self._children.append(child)
        return child

    def _profile(self, number: int) -> Path:
        return self._folder / f"peer-{number}.toml"

    def start_together(self, within_s: float) -> None:
        """Let each peer rest from its claim on, until all have joined."""
        deadline_s = time.monotonic() + within_s
        resting: set[int] = set()
        while len(resting) < len(self.records):
            assert time.monotonic() < deadline_s, f"{len(resting)} peers joined within {within_s} s"
            time.sleep(0.1)
            for number, records in enumerate(self.look()):
                if not self._profile(number).read_text() and any(isinstance(r.event, SlicesClaimed) for r in records):
                    self._profile(number).write_text(NOT_NOW)
                states = [r.event.state for r in records if isinstance(r.event, StateChanged)]
                if states and states[-1] == "PAUSED":
                    resting.add(number)
        assert not any(isinstance(r.event, RoundCommitted) for records in self.records for r in records)
        for number in resting:
            self._profile(number).write_text("")

    def look(self) -> list[list[Record]]:
        """Everything that the peers have recorded so far."""
        for child in self._children:
            assert child.exit_status() is None, "\n".join([child.name, *child.last_lines(20)])
        for records, journal in zip(self.records, self._journals, strict=True):
            records += journal.new_records()
        return self.records

    def is_complete(self) -> bool:
        """Whether the run is over for all peers."""
        states = [[r.event.state for r in records if isinstance(r.event, StateChanged)] for records in self.look()]
        return all(of_peer and of_peer[-1] == "COMPLETE" for of_peer in states)
