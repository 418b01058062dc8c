"""Where a dashboard's picture comes from: a peer's journal, an old journal, or an observer of the swarm."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from p2ptrain.dashboard.device import pid_in_lock
from p2ptrain.dashboard.follow import JournalTail
from p2ptrain.dashboard.scene import Link, RunFacts, Seen
from p2ptrain.errors import ConfigError, UsageError
from p2ptrain.events import Record
from p2ptrain.report import SwarmReport

if TYPE_CHECKING:
    from p2ptrain.dashboard.attach import ControlLink

_POLL_EVERY_S = 0.25
_CHUNK_BYTES = 1 << 17
"""About 800 records, which take 30 ms to fold: keys are answered in between."""
_LIVE_TAIL_BYTES = 16 << 20
"""How far back the journal of a running peer is read: some 100,000 events."""
_RESTART_AFTER_S = 2.0
_LONGEST_JSON_BYTES = 16 << 20
_USAGE_STATUS = 2
"""With which a command ends that cannot work as it was asked."""
"""A report of some ten thousand peers."""


@dataclass(slots=True)
class Inbox:
    """What sources bring; the application takes it out when it draws."""

    records: Callable[[Sequence[tuple[str, Record]]], None]
    report: Callable[[SwarmReport], None]
    link: Callable[[Link], None]
    facts: Callable[[RunFacts], None]
    seen: Callable[[Seen], None]
    peer_pid: Callable[[int | None], None]
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    """What was there when we came has been read."""


class Source(Protocol):
    """Brings news until cancelled."""

    mine: str
    """Name of the journal of the peer whose seat this is; empty for none."""
    is_replay: bool

    async def run(self, inbox: Inbox) -> None:
        """Fill the inbox; ends when nothing more can come."""


class HomeSource:
    """A peer on this machine, by the journal in its home; works while it runs, between runs, and across restarts.

    Args:
        home: the peer's folder.
        link: asks the running peer for what its journal does not say.

    Raises:
        UsageError: there is no such folder.
    """

    is_replay = False

    def __init__(self, home: Path, link: "ControlLink | None" = None) -> None:
        if not home.is_dir():
            raise UsageError(
                f"--home {home} is no folder; name the one that you gave to p2ptrain peer --home, or start a peer first"
            )
        self._home = home
        self._link = link
        self.mine = home.resolve().name or "peer"
        self._tail = JournalTail(home / "events.jsonl", _LIVE_TAIL_BYTES)
        self._has_facts = False

    async def run(self, inbox: Inbox) -> None:
        """Follow the journal, and ask the peer while there is one."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(inbox))
            if self._link is not None:
                group.create_task(self._link.run(inbox, tells_link=False))

    async def _follow(self, inbox: Inbox) -> None:
        while True:
            self._read_facts(inbox)
            read_bytes = 0
            while records := self._tail.new_records(_CHUNK_BYTES):
                inbox.records([(self.mine, record) for record in records])
                read_bytes += _CHUNK_BYTES
                if not inbox.caught_up.is_set():
                    percent = 100 * read_bytes / (read_bytes + self._tail.unread_bytes())
                    inbox.link(Link(detail=f"reading its past, {percent:.0f} %"))
                await asyncio.sleep(0)
            inbox.caught_up.set()
            pid = pid_in_lock(self._home / "lock")
            inbox.peer_pid(pid)
            inbox.link(Link(word="live") if pid is not None else self._not_running())
            await asyncio.sleep(_POLL_EVERY_S)

    def _not_running(self) -> Link:
        return Link(
            word="ended",
            detail=f"no peer is running; start it with p2ptrain peer --home {self._home} (this is what it did last)",
        )

    def _read_facts(self, inbox: Inbox) -> None:
        if not self._has_facts and (facts := facts_beside(self._home / "events.jsonl")) is not None:
            self._has_facts = True
            inbox.facts(facts)


class ControlSource:
    """A peer that is somewhere else, by its control interface alone.

    Args:
        link: to the peer.
    """

    is_replay = False
    mine = "peer"

    def __init__(self, link: "ControlLink") -> None:
        self._link = link

    async def run(self, inbox: Inbox) -> None:
        """Watch events, and ask for the rest."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._link.watch(inbox, self.mine))
            group.create_task(self._link.run(inbox, tells_link=True))


class ReplaySource:
    """Journals of the past, of one peer or several, as one story.

    Args:
        paths: the journals; the first one's peer has the seat.

    Raises:
        UsageError: a file is missing.
    """

    is_replay = True

    def __init__(self, paths: Sequence[Path]) -> None:
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise UsageError(f"--replay {missing[0]}: no such file; a peer's journal is events.jsonl in its --home")
        self._paths = list(paths)
        self._names = _names(paths)
        self.mine = self._names[0]

    async def run(self, inbox: Inbox) -> None:
        """Read everything, then hand it over in the order of time."""
        facts = facts_beside(self._paths[0])
        if facts is not None:
            inbox.facts(facts)
        inbox.link(Link(word="replay", detail="reading the journal"))
        records: list[tuple[float, str, Record]] = []
        whole_bytes, read_bytes = sum(path.stat().st_size for path in self._paths), 0
        for name, path in zip(self._names, self._paths, strict=True):
            tail, latest_s = JournalTail(path), float("-inf")
            while chunk := tail.new_records(_CHUNK_BYTES):
                read_bytes += _CHUNK_BYTES
                percent = min(100, 100 * read_bytes // max(1, whole_bytes))
                inbox.link(Link(word="replay", detail=f"reading the journal, {percent} %"))
                for record in chunk:
                    # A journal's own order is kept even if its clock was set back meanwhile.
                    latest_s = max(latest_s, record.time_s)
                    records.append((latest_s, name, record))
                await asyncio.sleep(0)
        if not records:
            raise UsageError(f"--replay {self._paths[0]}: no event in it; is it a peer's events.jsonl?")
        records.sort(key=lambda moment: moment[0])
        for start in range(0, len(records), 512):
            inbox.records([(name, record) for _, name, record in records[start : start + 512]])
            await asyncio.sleep(0)
        inbox.caught_up.set()


class ObserverSource:
    """A swarm seen from outside: another process asks all peers, since that takes libraries which start slowly.

    Args:
        command: prints one JSON object a line: the run's manifest, then reports of the swarm.
    """

    is_replay = False
    mine = ""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._status: int | None = None
        """With which the last one ended."""

    async def run(self, inbox: Inbox) -> None:
        """Run the observer, and run it again when it ends.

        Raises:
            UsageError: it cannot work with what it was given.
        """
        was_live = False
        while True:
            inbox.link(Link(word="opening", detail="asking the bootstrap node who is there"))
            said = ""
            async for line in self._lines():
                try:
                    body = json.loads(line)
                    if "manifest" in body:
                        inbox.facts(RunFacts.of_manifest(body["manifest"]))
                        continue
                    report = SwarmReport.from_json(body)
                except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
                    said = line.decode(errors="replace").strip()[:300]
                    continue
                inbox.report(report)
                inbox.link(Link(word="live"))
                inbox.caught_up.set()
                was_live = True
            said = said.removeprefix("p2ptrain: ")
            if self._status == _USAGE_STATUS and not was_live:
                raise UsageError(said)
            inbox.link(Link(word="lost", detail=said or "the observer ended; trying again"))
            inbox.caught_up.set()
            await asyncio.sleep(_RESTART_AFTER_S)

    async def _lines(self) -> AsyncIterator[bytes]:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LONGEST_JSON_BYTES,
        )
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                yield line
            # It ends by itself. To terminate it now would take its own status away, even if it has ended already.
            await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            self._status = await process.wait()


def facts_beside(journal: Path) -> RunFacts | None:
    """What the manifest in the same folder says; None without one that can be read."""
    try:
        return RunFacts.of_manifest((journal.parent / "manifest.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError):
        return None


def _names(paths: Sequence[Path]) -> list[str]:
    """A different name for each journal: its folder's, with a number when two have the same."""
    names: list[str] = []
    for path in paths:
        name = path.resolve().parent.name or "peer"
        same = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{same + 1}" if same else name)
    return names
