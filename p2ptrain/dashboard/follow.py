"""Reading journals while they are written."""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from p2ptrain.events import Record

_LONGEST_LINE_BYTES = 1 << 16
"""Records are far shorter."""


class JournalTail:
    """What has been appended to one journal since it was last asked. The file need not exist yet.

    Only whole lines are read: what a writer has not finished, or a crash cut off and the restarted writer removed, is
    looked at again next time. A journal that is put aside for a new one is read to its end first.

    Args:
        path: the journal.
        last_bytes: begin so far before its present end; None begins at its beginning.
    """

    def __init__(self, path: Path, last_bytes: int | None = None) -> None:
        self.path = path
        self._last_bytes = last_bytes
        self._inode: int | None = None
        self._offset = 0
        self.num_unreadable = 0
        """Whole lines that are not records. Events of later versions are not counted: they are passed over."""

    def new_records(self, at_most_bytes: int | None = None) -> list[Record]:
        """The records since the last call, in their order; with a limit, the oldest of them."""
        lines = b""
        if self._inode is not None:
            lines = self._read(self._present_path(), at_most_bytes)
        if not lines:
            lines = self._read(self.path, at_most_bytes)
        return self._parsed(lines)

    def unread_bytes(self) -> int:
        """What the file has beyond what was read."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0
        return max(0, found.st_size - (self._offset if found.st_ino == self._inode else 0))

    def _present_path(self) -> Path:
        """Where the file that we read is now: a full journal is put aside under a name that begins like its own."""
        for path in (self.path, *self.path.parent.glob(f"{self.path.stem}.*{self.path.suffix}")):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == self._inode:
                    return path
        return self.path

    def _read(self, path: Path, at_most_bytes: int | None) -> bytes:
        """Whole lines that we have not seen of the file at ``path``, which becomes the one that we read."""
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:
                    self._offset = self._start(file, found.st_size) if self._inode is None else 0
                    self._inode = found.st_ino
                file.seek(self._offset)
                appended = file.read(-1 if at_most_bytes is None else max(at_most_bytes, _LONGEST_LINE_BYTES))
        except FileNotFoundError:
            return b""
        whole_lines = appended[: appended.rfind(b"\n") + 1]
        self._offset += len(whole_lines)
        return whole_lines

    def _start(self, file: BinaryIO, size: int) -> int:
        """Where the first line begins that is to be read."""
        if self._last_bytes is None or size <= self._last_bytes:
            return 0
        offset = size - self._last_bytes
        file.seek(offset - 1)
        return offset + max(0, file.read(_LONGEST_LINE_BYTES).find(b"\n"))

    def _parsed(self, lines: bytes) -> list[Record]:
        records = []
        for line in lines.splitlines():
            try:
                record = Record.from_json(line.decode())
            except (ValueError, KeyError, TypeError):
                self.num_unreadable += 1
                continue
            if record is not None:
                records.append(record)
        return records


class JournalFollower:
    """Several journals as one stream."""

    def __init__(self) -> None:
        self._tails: dict[str, JournalTail] = {}

    def add(self, name: str, path: Path) -> None:
        """Follow the journal at ``path`` from its beginning, as ``name``."""
        self._tails[name] = JournalTail(path)

    def new_records(self) -> list[tuple[str, Record]]:
        """What all journals have gained since the last call, each with its journal's name, in the order of wall time.

        Each journal's own order is kept even if its clock was set back meanwhile.
        """
        gained = []
        for name, tail in self._tails.items():
            latest_s = float("-inf")
            for record in tail.new_records():
                latest_s = max(latest_s, record.time_s)
                gained.append((latest_s, name, record))
        return [(name, record) for _, name, record in sorted(gained, key=lambda moment: moment[0])]

    @property
    def num_unreadable(self) -> int:
        """Whole lines in any of the journals that are not records."""
        return sum(tail.num_unreadable for tail in self._tails.values())
