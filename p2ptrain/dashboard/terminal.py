"""A terminal as a full screen: entered, painted with what changed, and always given back as it was.

No curses: it cannot run beside asyncio, and its colours would have to be set up per terminal. What is used here
(alternate screen, cursor addressing, SGR) terminals of the last decades have; synchronised output is passed over by
those that do not know it.
"""

import codecs
import contextlib
import os
import re
import signal
import termios
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""Alternate screen, no cursor, no wrapping at the right edge, cleared."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[0m\x1b[?1049l"
_BEGIN_FRAME, _END_FRAME = "\x1b[?2026h", "\x1b[?2026l"
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~])")
_NAMES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[5~": "page-up",
    "\x1b[6~": "page-down",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x1b": "escape",
}


def decode_keys(text: str) -> list[str]:
    """The keys in what a terminal sent: characters as they are, others by name; unknown sequences are passed over."""
    keys = []
    place = 0
    while place < len(text):
        sequence = _SEQUENCE.match(text, place)
        raw = sequence.group() if sequence else text[place]
        place += len(raw)
        if raw in _NAMES:
            keys.append(_NAMES[raw])
        elif len(raw) == 1 and raw.isprintable():
            keys.append(raw)
    return keys


class Terminal:
    """The terminal on two descriptors, as a full screen within ``with``.

    Args:
        source: descriptor that keys come from.
        target: descriptor that is painted on.
    """

    def __init__(self, source: int = 0, target: int = 1) -> None:
        self._source = source
        self._target = target
        self._before: list[Any] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._painted: list[str] = []

    def size(self) -> tuple[int, int]:
        """Columns and lines, now.

        Raises:
            EOFError: the terminal is gone.
        """
        try:
            size = os.get_terminal_size(self._target)
        except OSError as error:
            raise EOFError from error
        return size.columns, size.lines

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def enter(self) -> None:
        """Take the terminal over."""
        self._before = termios.tcgetattr(self._source)
        tty.setcbreak(self._source, termios.TCSANOW)
        self._write(_ENTER)
        self._painted = []

    def leave(self) -> None:
        """Give the terminal back as it was; may be called again."""
        if self._before is None:
            return
        before, self._before = self._before, None
        with contextlib.suppress(EOFError, termios.error):  # it is gone
            self._write(_LEAVE)
            # Keys that were typed but not read are for us, not for the shell.
            termios.tcsetattr(self._source, termios.TCSAFLUSH, before)

    def stop_like_a_job(self) -> None:
        """Ctrl-Z: give the terminal back, stop, and take it over again when continued."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()

    def read_keys(self) -> list[str]:
        """What has been typed; call when the source is readable.

        Raises:
            EOFError: the terminal is gone.
        """
        try:
            raw = os.read(self._source, 4096)
        except OSError as error:
            raise EOFError from error
        if not raw:
            raise EOFError
        return decode_keys(self._decoder.decode(raw))

    def forget(self) -> None:
        """Paint everything next time: the terminal has another size, or somebody wrote on it."""
        self._painted = []

    def paint(self, lines: Sequence[str]) -> int:
        """Bring the screen up to date with ``lines``; returns the bytes written.

        Raises:
            EOFError: the terminal is gone.
        """
        parts = []
        if len(self._painted) != len(lines):
            parts.append("\x1b[2J")
            self._painted = [""] * len(lines)
        for row, (before, line) in enumerate(zip(self._painted, lines, strict=True)):
            if before != line:
                parts.append(f"\x1b[{row + 1};1H{line}")
        self._painted = list(lines)
        if not parts:
            return 0
        return self._write(_BEGIN_FRAME + "".join(parts) + _END_FRAME)

    def _write(self, text: str) -> int:
        raw = text.encode(errors="replace")
        rest = memoryview(raw)
        try:
            while rest:
                rest = rest[os.write(self._target, rest) :]
        except OSError as error:
            raise EOFError from error
        return len(raw)
