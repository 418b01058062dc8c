"""The journal: one line of JSON for each event, for screens, tests and whoever asks what happened last night."""

import contextlib
import errno
import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from p2ptrain.events import Record

logger = logging.getLogger(__name__)

_ROTATE_BYTES = 32 << 20
"""Some 150,000 events: a day of a peer that takes a step a second."""
_KEPT_FILES = 8
"""Older files, so that a journal takes at most 288 MiB."""
_TAIL_BYTES = 1 << 16
"""How much of the file's end is searched at a time for its last line; records are far shorter."""


class Journal:
    """A sink for ``EventBus`` that appends each record to a file before it returns.

    A killed process loses at most the record that it was writing, a power cut perhaps the last seconds (no fsync: the
    journal is not state); a line cut off by either is removed when the file is opened again. A disk that is full costs
    records and never the process: whoever watches sees the gap in the sequence numbers. A file that has become large is
    renamed, after its last record's number, and a new one begun.

    Args:
        path: the file that is written; older ones lie beside it, see ``journal_files``.
        rotate_bytes: size from which on a file is renamed.

    Raises:
        OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path, rotate_bytes: int = _ROTATE_BYTES) -> None:
        self.path = path
        self._rotate_bytes = rotate_bytes
        self._fd = _open(path)
        self._end, self.last_sequence = _mend(self._fd)
        if not self.last_sequence and (older := _older_files(path)):  # killed right after a file was renamed
            self.last_sequence = _number(older[-1])
        self.num_lost = 0

    def __call__(self, record: Record) -> None:
        """Append ``record``."""
        line = record.to_json().encode() + b"\n"
        try:
            # One system call, so that readers see the line at once. A kill can still cut it at a page boundary: Linux
            # looks for a fatal signal between the pages of a write.
            written = os.write(self._fd, line)
        except OSError as error:
            self._lose(str(error.strerror))
            return
        if written < len(line):
            self._lose(os.strerror(errno.ENOSPC))
            return
        if self.num_lost:
            logger.warning("%s: recording again; %d events are missing", self.path, self.num_lost)
            self.num_lost = 0
        self._end += len(line)
        self.last_sequence = record.sequence
        if self._end >= self._rotate_bytes:
            self._rotate()

    def _rotate(self) -> None:
        try:
            self.path.rename(self.path.with_name(f"{self.path.stem}.{self.last_sequence:012d}{self.path.suffix}"))
            fresh = _open(self.path)
        except OSError as error:
            logger.warning("%s: cannot be rotated: %s; it goes on growing", self.path, error.strerror)
            self._rotate_bytes += _ROTATE_BYTES
            return
        os.close(self._fd)
        self._fd, self._end = fresh, 0
        for file in _older_files(self.path)[:-_KEPT_FILES]:
            file.unlink(missing_ok=True)

    def _lose(self, reason: str) -> None:
        if self.num_lost == 0:
            logger.warning("%s: %s; events are not recorded until that changes", self.path, reason)
        self.num_lost += 1
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._end)

    def close(self) -> None:
        """Close the file; later records would fail."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def journal_files(path: Path) -> list[Path]:
    """The files of the journal at ``path``, oldest first, ``path`` itself last."""
    return [*_older_files(path), path]


def _older_files(path: Path) -> list[Path]:
    found = path.parent.glob(f"{path.stem}.*{path.suffix}")
    return sorted((file for file in found if _number(file)), key=_number)


def _number(file: Path) -> int:
    """Number of the last record in a file that was rotated away; 0 for any other file."""
    number = file.stem.rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _mend(fd: int) -> tuple[int, int]:
    """Cut off what a crash left of a last line; returns the file's size then, and its last record's sequence number."""
    size = os.fstat(fd).st_size
    tail, start = b"", size
    # Two newlines enclose the last whole line; without them go on to the start of the file.
    while start and tail.count(b"\n") < 2:
        start, before = max(0, start - _TAIL_BYTES), start
        tail = os.pread(fd, before - start, start) + tail
    end = start + tail.rfind(b"\n") + 1
    if end < size:
        os.ftruncate(fd, end)
    for line in reversed(tail[: end - start].splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            # Of a record of a later version, whose kind is unknown here, the number counts all the same.
            return end, int(json.loads(line)["sequence"])
    return end, 0
