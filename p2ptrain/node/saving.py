"""Writing to a disk that may be full or read-only: training goes on, everybody is told, and it is tried again."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

from p2ptrain import clock
from p2ptrain.errors import StorageError
from p2ptrain.events import DiskRecovered, DiskTrouble, EventBus

_TELL_EVERY_S = 60.0
_RETRY_FROM_S = 1.0
_RETRY_AT_MOST_S = 30.0


def retry_after_s(failures: int) -> float:
    """Pause after so many failures in a row: doubled each time, up to half a minute."""
    return min(_RETRY_AT_MOST_S, _RETRY_FROM_S * 2.0 ** min(failures - 1, 10))


class Saving:
    """One peer's writes to its home, one at a time, with their failures told once a minute.

    Failures of different kinds of files count together: they share a disk. Only, where there was no room for a
    checkpoint, smaller files that find some are no sign that the next one will.
    """

    def __init__(self, events: EventBus) -> None:
        self.failures = 0
        """In a row."""
        self.trouble = ""
        """Why the last write failed; empty when it did not."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """That of ``events``, once it runs; its thread makes this object."""
        self._thread = threading.current_thread()
        self._events = events
        self._lacks_checkpoint = False
        """The last one was refused, and nothing stands in for it: nothing is promised or voted for meanwhile."""
        self._since_s = 0.0
        self._told_s = 0.0
        self._writing = threading.Lock()

    async def attempt(self, write: Callable[[], None], *, is_checkpoint: bool = False) -> bool:
        """Run ``write`` outside the event loop; False if the disk did not take it."""
        try:
            await asyncio.to_thread(self._alone, write)
        except StorageError as error:
            self._lacks_checkpoint |= is_checkpoint
            self._failed(error)
            return False
        self._lacks_checkpoint &= not is_checkpoint
        self._succeeded()
        return True

    async def try_once(self, write: Callable[[], None]) -> str:
        """Run a ``write`` that nothing depends on; why the disk did not take it, or nothing."""
        try:
            await asyncio.to_thread(self._alone, write)
        except StorageError as error:
            return str(error)
        return ""

    def all_is_kept(self) -> None:
        """The newest state can be had from the disk, whichever files it is in."""
        self._lacks_checkpoint = False
        self._succeeded()

    def must(self, write: Callable[[], None]) -> None:
        """Run a small ``write`` at once, in a worker thread, for what may not be said before it is on disk.

        Raises:
            StorageError: the disk did not take it, or what it stands for could not be saved; either has been told.
        """
        if self._lacks_checkpoint:
            raise StorageError(self.trouble)
        try:
            write()
        except StorageError as error:
            self._in_loop(partial(self._failed, error))
            raise
        self._in_loop(self._succeeded)

    def _in_loop(self, call: Callable[[], None]) -> None:
        """Events are told by the event loop's thread alone."""
        if threading.current_thread() is self._thread:
            call()
        elif self.loop is not None:
            self.loop.call_soon_threadsafe(call)

    def _alone(self, write: Callable[[], None]) -> None:
        # A cancelled task leaves its thread writing; the next write must not meet it in the same file.
        with self._writing:
            write()

    def _failed(self, error: StorageError) -> None:
        now_s = clock.monotonic_s()
        if self.failures == 0:
            self._since_s = now_s
        self.failures += 1
        if not self.trouble or now_s > self._told_s + _TELL_EVERY_S:
            self._told_s = now_s
            self._events.emit(DiskTrouble(reason=str(error)))
        self.trouble = str(error)

    def _succeeded(self) -> None:
        if self._lacks_checkpoint:
            return
        if self.failures:
            self._events.emit(DiskRecovered(seconds=clock.monotonic_s() - self._since_s))
        self.failures, self.trouble = 0, ""
