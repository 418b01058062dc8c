"""A bar for what takes more than two seconds: on a terminal only, on standard error, and gone when it is done."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

_SHOWN_AFTER_S = 1.0
"""What is done by then needs no bar."""

Report = Callable[[int, int], None]
"""Told how much is done, and of how much."""


@contextlib.contextmanager
def working(what: str, *, in_bytes: bool = False) -> Iterator[Report]:
    """Show that ``what`` goes on while the block runs; with a bar once something is reported.

    Args:
        what: in a few words.
        in_bytes: what is reported are bytes.
    """
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    bar = _Bar(what, in_bytes=in_bytes)
    timer = threading.Timer(_SHOWN_AFTER_S, bar.show)
    timer.daemon = True
    timer.start()
    try:
        yield bar.report
    finally:
        timer.cancel()
        bar.hide()


class _Bar:
    """Shown by the timer's thread and hidden by the main one, whichever comes first."""

    def __init__(self, what: str, *, in_bytes: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._lock = threading.Lock()
        self._is_over = False
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # lines go above the bar; but what a file is to get must get there
        )
        self._task = self._progress.add_task(what, total=None)

    def report(self, done: int, of: int) -> None:
        self._progress.update(self._task, completed=done, total=of)

    def show(self) -> None:
        with self._lock:
            if not self._is_over:
                self._progress.start()

    def hide(self) -> None:
        with self._lock:
            self._is_over = True
            self._progress.stop()
