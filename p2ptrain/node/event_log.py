"""Events of this peer from any sequence number on: the newest from memory, older ones from the journal's files.

Watchers keep no queue of their own. Each asks for what follows the last record it has, and waits when there is nothing;
one that is slow, or comes back after hours, reads from disk what memory no longer has. So nothing is missed, and no
watcher can make the peer grow.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from p2ptrain.events import Record
from p2ptrain.node.journal import journal_files

_IN_MEMORY = 4096
"""Records, each well below a kilobyte: some minutes of a peer's life."""
_BATCH = 256
"""Records read from disk at a time: below 10 ms."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as watchers get it."""

    sequence: int
    time_s: float
    kind: str
    line: str
    """A sentence; empty for a kind that this version does not know."""
    json: str

    @classmethod
    def of(cls, record: Record) -> "Entry":
        """The entry of a record of this process."""
        kind = type(record.event).__name__
        return cls(record.sequence, record.time_s, kind, record.event.line(), record.to_json())

    @classmethod
    def parse(cls, text: str) -> "Entry | None":
        """The entry in a journal's line; None when it is damaged."""
        try:
            if record := Record.from_json(text):
                return cls.of(record)
            body = json.loads(text)
            return cls(int(body["sequence"]), float(body["time_s"]), str(body["kind"]), "", text)
        except (ValueError, KeyError, TypeError):
            return None


class EventLog:
    """A sink for ``EventBus``, to be placed after the journal's.

    Args:
        path: the journal that the bus writes.
        last_sequence: number of the newest record when this process began.
    """

    def __init__(self, path: Path, last_sequence: int) -> None:
        self._path = path
        self.last_sequence = last_sequence
        self._recent: deque[Entry] = deque(maxlen=_IN_MEMORY)
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_closed = False

    def __call__(self, record: Record) -> None:
        """Keep ``record`` and wake who waits; called in the event loop."""
        self._recent.append(Entry.of(record))
        self.last_sequence = record.sequence
        self._wake()

    def close(self) -> None:
        """Let watchers end when they have seen everything."""
        self._is_closed = True
        self._wake()

    async def follow(self, after: int, *, stop_at_present: bool = False) -> AsyncIterator[Entry]:
        """Entries with a sequence number above ``after``, in order, for ever or until ``close``.

        Args:
            after: 0 gives all that the journal still has.
            stop_at_present: end when the newest entry has been given.
        """
        while True:
            batch = self._from_memory(after)
            if batch is None:
                batch = await asyncio.to_thread(read_after, self._path, after, _BATCH)
                if not batch and self._recent:  # the disk was full: what memory has is all there is
                    batch = [entry for entry in self._recent if entry.sequence > after]
            for entry in batch:
                yield entry
                after = entry.sequence
            if batch:
                continue
            if stop_at_present or self._is_closed:
                return
            await self._next()

    def _from_memory(self, after: int) -> list[Entry] | None:
        """What follows ``after``; None when memory does not reach back so far."""
        if after >= self.last_sequence:
            return []
        if not self._recent or self._recent[0].sequence > after + 1:
            return None
        skip = after + 1 - self._recent[0].sequence
        count = len(self._recent)
        return [self._recent[i] for i in range(skip, min(count, skip + _BATCH))]

    async def _next(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def read_after(path: Path, after: int, limit: int) -> list[Entry]:
    """Up to ``limit`` entries above ``after`` from a journal and the older files that it was rotated into."""
    entries: list[Entry] = []
    for text in _lines_after(path, after):
        entry = Entry.parse(text)
        if entry is not None and entry.sequence > after:
            entries.append(entry)
            if len(entries) == limit:
                break
    return entries


def first_sequence(path: Path) -> int:
    """Number of the oldest entry that ``read_after`` can give; 0 when there is none."""
    return next((_sequence(text) for text in _lines_after(path, 0)), 0)


def _lines_after(path: Path, after: int) -> Iterator[str]:
    """Lines that may have a number above ``after``, oldest first; those before are passed over quickly."""
    files = journal_files(path)
    # A file whose successor begins at or below what we look for has nothing for us.
    firsts = [_first_sequence_of(file) for file in files]
    begin = max((i for i, first in enumerate(firsts) if 0 < first <= after + 1), default=0)
    for file in files[begin:]:
        try:
            with file.open("rb") as lines:
                _seek(lines, file.stat().st_size, after)
                for line in lines:
                    if line.endswith(b"\n") and _sequence(line.decode(errors="replace")) > after:
                        yield line.decode(errors="replace").rstrip("\n")
        except FileNotFoundError:  # rotated away meanwhile
            continue


def _seek(file: BufferedReader, size: int, after: int) -> None:
    """Move a journal open for reading to a line start shortly before the first number above ``after``."""
    low, high = 0, size  # the line that begins at or after ``low`` is not past what we look for
    while high - low > 1 << 16:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        number = _sequence(file.readline().decode(errors="replace"))
        if 0 < number <= after:
            low = middle
        else:
            high = middle
    file.seek(low)
    if low:
        file.readline()


def _first_sequence_of(file: Path) -> int:
    try:
        with file.open("rb") as lines:
            return _sequence(lines.readline().decode(errors="replace"))
    except FileNotFoundError:
        return 0


def _sequence(line: str) -> int:
    """The number in a journal's line, which begins with it; 0 when the line is something else."""
    head, _, rest = line.partition(":")
    number = rest.partition(",")[0]
    return int(number) if head == '{"sequence"' and number.isdigit() else 0
