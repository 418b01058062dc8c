"""Whose bytes go out next: those of rounds at once, those of states in turn and only while no round needs the line.

A newcomer's download of a state may take minutes, a round's part must take seconds, and a donor has one line. So states
are sent a chunk at a time: at most two chunks are on their way, whoever waits longest is next, and while a part of a
round is being sent they wait. However many peers join at once, a round then loses at most the time of two chunks.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

_PATIENT_AT_ONCE = 2
"""Chunks of states on their way at once: one in the daemon's hands while the next is being handed over."""
_LONGEST_WAIT_S = 5.0
"""After this a chunk goes out beside a round's parts: a donor that always averages would serve no state at all."""


class UploadQueue:
    """The order in which one peer serves its blobs; for one event loop."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_PATIENT_AT_ONCE)  # first come, first served, so streams alternate by chunk
        self._urgent = 0
        self._no_urgent = asyncio.Event()
        self._no_urgent.set()

    @contextlib.asynccontextmanager
    async def urgent(self) -> AsyncIterator[None]:
        """Around everything that is sent of a round's blob."""
        self._urgent += 1
        self._no_urgent.clear()
        try:
            yield
        finally:
            self._urgent -= 1
            if self._urgent == 0:
                self._no_urgent.set()

    @contextlib.asynccontextmanager
    async def patient_chunk(self) -> AsyncIterator[None]:
        """Around one chunk of a state."""
        async with self._slots:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT_S):
                    await self._no_urgent.wait()
            yield
