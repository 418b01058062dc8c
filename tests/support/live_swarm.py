"""A swarm of real processes on loopback for tests: started through the command line, watched through its journals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.dashboard.follow import JournalTail
from p2ptrain.events import Event, PeerStarted, Record, RoundCommitted, StateChanged
from p2ptrain.ids import PeerId, SliceId
from p2ptrain.node.child_processes import Child, start_child, stop_children

PATIENCE_S = 180.0
"""How long a test waits for what must happen. It takes seconds on two idle cores, and what is promised in seconds is
measured elsewhere (docs/results): here only what never happens is a failure, however busy the machine is."""
ENDLESS = 1_000_000
"""Rounds: quick machines did the preset's 1000 while a test still waited for a peer."""
_E = TypeVar("_E", bound=Event)


def eventually(condition: Callable[[], Any], *, what: str | Callable[[], str], within_s: float = PATIENCE_S) -> Any:
    """The first truthy answer of ``condition``, asked often; fails the test with ``what`` when time is up."""
    deadline_s = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.02)


class LivePeer:
    """One peer process and what it has recorded since it started."""

    child: Child

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        self._tail = JournalTail(home / "events.jsonl")
        self._tail.new_records()  # a home that was used before has a past
        self._records: list[Record] = []

    def records(self) -> list[Record]:
        """All that it has recorded so far, in order."""
        self._records += self._tail.new_records()
        return self._records

    def events(self, kind: type[_E]) -> list[_E]:
        """All events of a kind so far, in order."""
        return [record.event for record in self.records() if isinstance(record.event, kind)]

    def committed(self, slice_id: str) -> list[RoundCommitted]:
        """Versions of a slice that this peer took part in committing."""
        return [event for event in self.events(RoundCommitted) if event.slice == slice_id]

    def reached(self, slice_id: str) -> int:
        """The newest version of a slice that this peer took part in committing, once there is one."""
        return eventually(lambda: self.committed(slice_id), what=f"{self.name} commits slice {slice_id}")[-1].version

    @property
    def id(self) -> PeerId:
        """Its peer id, once it listens."""

        def started() -> list[PeerStarted]:
            self.check()
            return self.events(PeerStarted)

        return eventually(started, what=f"{self.name} listens")[-1].peer

    def state(self) -> str:
        """What it is doing."""
        states = self.events(StateChanged)
        return states[-1].state if states else ""

    def wait_for_version(self, slice_id: str, version: int, within_s: float = PATIENCE_S) -> None:
        """Until this peer has committed ``version`` of a slice."""

        def reached() -> bool:
            self.check()
            return any(event.version >= version for event in self.committed(slice_id))

        eventually(
            reached,
            within_s=within_s,
            what=lambda: f"{self.name} commits slice {slice_id} v{version}\n{self.log()}",
        )

    def freeze(self) -> None:
        """Stop it where it is, until SIGCONT: no thread of it runs any more, not even one that waited for its disk."""
        assert self.child.freeze(PATIENCE_S), f"{self.name} is not stopped\n{self.log()}"

    def check(self) -> None:
        """Fails the test if the process has ended."""
        status = self.child.exit_status()
        assert status is None, f"{self.name} ended with status {status}\n{self.log()}"

    def log(self) -> str:
        """The end of what it printed."""
        return "\n".join(self.child.last_lines(25))

    def daemons(self) -> list[int]:
        """Process ids of its libp2p daemons."""
        return descendants(self.child.pid)


class LiveSwarm:
    """A bootstrap node and peers; leaving the ``with`` block ends them all."""

    def __init__(
        self,
        folder: Path,
        preset: str = "nano",
        inside: Mapping[str, Sequence[str]] | None = None,
        lease_s: int | None = None,
        **changes: Any,
    ) -> None:
        """Write the manifest.

        Args:
            folder: for everything.
            preset: what to change.
            inside: by process, what goes before its command line, to run it on another host.
            lease_s: instead of the preset's, which is so short that owners are soon counted out where a test kills
                them; on a busy machine those who live are counted out, too, and two who count each other out make two
                branches. Long where everybody lives.
            changes: of the manifest.
        """
        self.folder = folder
        self._inside = inside or {}
        self.manifest = folder / "run.toml"
        self.peers: dict[str, LivePeer] = {}
        self.children: list[Child] = []
        self.address = ""
        write_manifest(preset, self.manifest, ManifestChanges(seed=1, **{"rounds": ENDLESS} | changes))
        if lease_s is not None:
            (before,) = re.findall(r"^lease_s = \d+", self.manifest.read_text(), re.MULTILINE)
            self.change_manifest(before, f"lease_s = {lease_s}")

    def change_manifest(self, old: str, new: str) -> None:
        """Put ``new`` in the place of ``old``, which stands there once, before anybody starts."""
        text = self.manifest.read_text()
        assert text.count(old) == 1, old
        self.manifest.write_text(text.replace(old, new))

    def __enter__(self) -> "LiveSwarm":
        self.address = self.start_bootstrap("bootstrap")
        return self

    def start_bootstrap(self, name: str, host: str = "127.0.0.1", port: int = 0, *arguments: str) -> str:
        """Start a bootstrap node; returns its address once it listens."""
        home = ["--home", str(self.folder / name)]
        child = self._start(name, ["bootstrap", *home, "--host", host, "--port", str(port), *arguments])

        def printed_address() -> re.Match[str] | None:
            assert child.exit_status() is None, "\n".join(child.last_lines(20))
            return re.search(rf"/ip4/{re.escape(host)}/\S+/p2p/\w+(?=\s)", child.log.read_text())

        return eventually(printed_address, what="the bootstrap prints its address").group()

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:  # pytest shows what a failed test printed
            for child in self.children:
                status = child.exit_status()
                sys.stdout.write(f"\n{child.name}, {'running' if status is None else f'ended with {status}'}:\n")
                sys.stdout.writelines(f"  {line[:300]}\n" for line in child.last_lines(6))
        stop_children(self.children, grace_s=5.0)

    def start_peer(
        self,
        name: str,
        slices: str = "auto",
        *arguments: str,
        home: Path | None = None,
        manifest: Path | None = None,
        environment: Mapping[str, str] | None = None,
        orders: Path | None = None,
    ) -> LivePeer:
        """Start a peer, one that goes wrong on ``orders`` (faulty_peer.py); it is up when its journal says so."""
        home = home or self.folder / name
        by = [] if "--bootstrap" in arguments else ["--bootstrap", self.address]
        command = ["peer", "--run", str(manifest or self.manifest), *by, "--home", str(home)]
        starting = [*command, "--threads", "1", "--slices", slices, *arguments]
        peer = LivePeer(name, home)
        program = ["p2ptrain"] if orders is None else ["tests.support.faulty_peer", str(orders)]
        peer.child = self._start(name, starting, environment, program)
        self.peers[name] = peer
        return peer

    def report(self) -> dict[str, Any]:
        """What ``p2ptrain swarm --json`` says."""
        command = p2ptrain("swarm", "--run", str(self.manifest), "--bootstrap", self.address, "--json")

        def answer() -> str:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
            return done.stdout if done.returncode == 0 else ""  # a bootstrap node may be too busy to answer once

        return json.loads(eventually(answer, what="the swarm says how it is"))

    def slice_report(self, slice_id: str) -> dict[str, Any]:
        """One slice in ``report``."""
        return next(one for one in self.report()["slices"] if one["id"] == slice_id)

    def digests(self, slice_id: str, owners: int) -> set[str]:
        """What so many owners of a slice computed at one version, asked until all of them have answered in time."""

        def all_answered() -> dict[str, str]:
            found = self.slice_report(slice_id)["digests"]
            return found if len(found) == owners else {}

        return set(eventually(all_answered, what=f"{owners} owners of slice {slice_id} answer").values())

    def assert_same_digests(self, among: Sequence[LivePeer] = ()) -> None:
        """Every version of every slice that two of all peers, or of these, committed has one digest."""
        seen: dict[tuple[SliceId, int], dict[str, str]] = {}
        for peer in among or self.peers.values():
            for event in peer.events(RoundCommitted):
                seen.setdefault((event.slice, event.version), {})[peer.name] = event.digest
        assert seen, "nothing was committed"
        for (slice_id, version), digests in seen.items():
            assert len(set(digests.values())) == 1, f"slice {slice_id} v{version}: {digests}"

    def _start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("p2ptrain",),
    ) -> Child:
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **(environment or {})}
        command = [*self._inside.get(name, ()), sys.executable, "-m", *program, *arguments]
        child = start_child(name, command, self.folder / f"{name}.log", variables)
        self.children.append(child)
        return child


def p2ptrain(*arguments: str) -> list[str]:
    """The command line of ``p2ptrain``, with this interpreter."""
    return [sys.executable, "-m", "p2ptrain", *arguments]


def descendants(pid: int) -> list[int]:
    """Process ids of a process's children and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # it has ended
        return []
    found = [int(child) for child in children.split()]
    return found + [grandchild for child in found for grandchild in descendants(child)]


def is_running(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop_gently(peers: Sequence[LivePeer]) -> dict[str, int | None]:
    """SIGTERM, and the exit status of each peer when all have ended."""
    for peer in peers:
        peer.child.send(signal.SIGTERM)
    eventually(
        lambda: all(peer.child.exit_status() is not None for peer in peers),
        what="the peers end after SIGTERM",
    )
    return {peer.name: peer.child.exit_status() for peer in peers}
