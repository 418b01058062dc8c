"""The demo's processes: a bootstrap node and peers on this machine, each with a home and a log of its own."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2ptrain import clock
from p2ptrain.errors import P2PTrainError
from p2ptrain.events import Record, RoundCommitted
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.node.child_processes import Child, die_with_parent_prefix, start_child, stop_children

BOOTSTRAP = "bootstrap"
_LOG = "log.txt"
_JOURNAL = "events.jsonl"
_BOOTSTRAP_START_S = 180.0
"""It takes 3 s on 2 cores, nearly all of them importing torch; it and a peer after it took 38 s at a load of 12."""
_ANSWER_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 0.5
_LAST_GRACE_S = 0.8
"""Ctrl-C must have ended everything within 2 s, and this process needs some of them itself."""
_ADDRESS = re.compile(r"/ip[46]/\S+/p2p/[1-9A-HJ-NP-Za-km-z]+")


class DemoFailed(P2PTrainError):
    """A process of the demo ended, did not answer or did not get to work; the message says what is known of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceAnswer:
    """One slice as the swarm itself reports it."""

    id: SliceId
    version: Version
    owners: tuple[PeerId, ...]
    digests: dict[PeerId, Digest]
    """Of those owners that have this version."""

    @property
    def all_agree(self) -> bool:
        """Whether every owner has the version, with one digest."""
        return bool(self.owners) and set(self.digests) >= set(self.owners) and len(set(self.digests.values())) == 1


@dataclass(slots=True)
class DemoSwarm:
    """Real processes on 127.0.0.1; none survives this one."""

    folder: Path
    manifest: Path
    address: str = ""
    """The bootstrap node's, once it runs."""
    children: dict[str, Child] = field(default_factory=dict)

    def home(self, name: str) -> Path:
        """Where a process keeps its files."""
        return self.folder / name

    def journal(self, name: str) -> Path:
        """What a peer records."""
        return self.home(name) / _JOURNAL

    def start_bootstrap(self) -> None:
        """Start the node by which the peers find each other, and wait for its address.

        Raises:
            DemoFailed: it ended, or printed no address in time.
        """
        where = ["--home", str(self.home(BOOTSTRAP)), "--host", "127.0.0.1", "--port", "0"]
        child = self._start(BOOTSTRAP, ["bootstrap", *where])
        deadline_s = clock.monotonic_s() + _BOOTSTRAP_START_S
        while clock.monotonic_s() < deadline_s:
            found = _ADDRESS.search(child.log.read_text(errors="replace"))
            if found is not None:
                self.address = found.group()
                return
            self.check_running([BOOTSTRAP])
            time.sleep(0.05)
        raise DemoFailed(f"the bootstrap node printed no address within {_BOOTSTRAP_START_S:.0f} s; see {child.log}")

    def start_peer(self, name: str, slices: Sequence[SliceId] | None) -> None:
        """Start a peer that claims ``slices``, or chooses for itself where an owner is needed most."""
        where = ["--run", str(self.manifest), "--bootstrap", self.address, "--home", str(self.home(name))]
        which = [] if slices is None else ["--slices", ",".join(slices)]
        self._start(name, ["peer", *where, *which, "--threads", "1"])

    def check_running(self, names: Sequence[str]) -> None:
        """Nothing, if these processes run.

        Raises:
            DemoFailed: one has ended.
        """
        for name in names:
            child = self.children[name]
            status = child.exit_status()
            if status is not None:
                how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
                wrote = "\n  ".join(child.last_lines(5)) or "nothing"
                raise DemoFailed(f"{name} {how}; it wrote last:\n  {wrote}\nAll of it is in {child.log}")

    def records(self, name: str) -> Iterator[Record]:
        """What a peer has recorded so far; the last line may not be finished yet, or never be."""
        journal = self.journal(name)
        for line in journal.read_bytes().splitlines(keepends=True) if journal.exists() else ():
            with contextlib.suppress(ValueError):
                record = Record.from_json(line.decode()) if line.endswith(b"\n") else None
                if record is not None:
                    yield record

    def wait_until_all_average(self, names: Sequence[str], within_s: float) -> None:
        """Until each of these peers has committed a version of the common part: then all is as on every day.

        Raises:
            DemoFailed: a process ended, or the time is over.
        """
        deadline_s = clock.monotonic_s() + within_s
        waiting = set(names)
        while waiting:
            self.check_running([BOOTSTRAP, *names])
            waiting = {name for name in waiting if not any(map(_is_common_commit, self.records(name)))}
            if waiting and clock.monotonic_s() > deadline_s:
                who = ", ".join(sorted(waiting))
                raise DemoFailed(f"{who} committed nothing within {within_s:.0f} s; see the logs in {self.folder}")
            time.sleep(_LOOK_EVERY_S)

    def ask(self) -> list[SliceAnswer]:
        """What an outsider learns about the slices: the same command anybody can type.

        Raises:
            DemoFailed: no answer, or not the one agreed on.
        """
        command = _p2ptrain(["swarm", "--bootstrap", self.address, "--run", str(self.manifest), "--json"])
        try:
            done = subprocess.run(  # noqa: S603 - the command is ours
                [*die_with_parent_prefix(), *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_ANSWER_TIMEOUT_S,
                env=_environment(),
                check=True,
            )
            return parse_answer(json.loads(done.stdout))
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"p2ptrain swarm did not answer within {_ANSWER_TIMEOUT_S:.0f} s") from error
        except subprocess.CalledProcessError as error:
            raise DemoFailed(f"p2ptrain swarm ended with status {error.returncode}: {error.stderr.strip()}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DemoFailed(f"p2ptrain swarm --json printed something else than expected: {error!r}") from error

    def stop(self, grace_s: float) -> list[str]:
        """End all processes, the peers before the node they know each other by; returns who had to be killed."""
        peers = [child for name, child in self.children.items() if name != BOOTSTRAP]
        rest = [child for name, child in self.children.items() if name == BOOTSTRAP]
        return stop_children(peers, grace_s) + stop_children(rest, grace_s)

    def end(self) -> None:
        """Be rid of all processes within a second, politely only as far as that goes."""
        stop_children(self.children.values(), _LAST_GRACE_S)

    def _start(self, name: str, arguments: Sequence[str]) -> Child:
        home = self.home(name)
        home.mkdir(mode=0o700)
        child = start_child(name, _p2ptrain(arguments), home / _LOG, _environment())
        self.children[name] = child
        return child


def _is_common_commit(record: Record) -> bool:
    return isinstance(record.event, RoundCommitted) and record.event.slice == COMMON


def parse_answer(answer: dict[str, Any]) -> list[SliceAnswer]:
    """The slices in what ``p2ptrain swarm --json`` prints.

    Raises:
        KeyError, TypeError, ValueError: it has another form.
    """
    return [
        SliceAnswer(
            id=SliceId(str(one["id"])),
            version=Version(int(one["version"])),
            owners=tuple(PeerId(str(peer)) for peer in one["owners"]),
            digests={PeerId(str(peer)): Digest(str(digest)) for peer, digest in one["digests"].items()},
        )
        for one in answer["slices"]
    ]


def _p2ptrain(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "p2ptrain", *arguments]


def _environment() -> dict[str, str]:
    # Unbuffered, because the address is read while the process runs; one thread, because five share the machine.
    return {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
