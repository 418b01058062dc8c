"""A cap on bytes per second, decided purely: when may these bytes go?

Reservations queue up one behind the other (the generic cell rate algorithm): over any time T at most ``rate * (T +
BURST_S)`` bytes and one chunk pass, and nothing that was not used is saved up for longer than ``BURST_S``.
"""

import asyncio
from collections import deque

from p2ptrain import clock

BURST_S = 0.1
"""What an idle link may catch up on. Small against the seconds over which people look at their router."""
_CHUNK_S = 0.1
"""Time that one chunk takes at the cap: 2 % of ten seconds, with the burst."""
_MIN_CHUNK_BYTES = 1024
_WINDOW_S = 1.0
_WINDOWS = 16


class RateLimit:
    """One direction of one peer; all its transfers share it.

    Args:
        mbps: megabits a second; None is no cap.
    """

    def __init__(self, mbps: float | None = None) -> None:
        self._next_s = 0.0
        """When everything that was let through is over, at the cap."""
        self.mbps = mbps

    @property
    def mbps(self) -> float | None:
        """The cap in megabits a second, None without one; takes effect with the next chunk."""
        return self._mbps

    @mbps.setter
    def mbps(self, mbps: float | None) -> None:
        assert mbps is None or mbps > 0
        self._mbps = mbps
        self._next_s = 0.0  # debts at the old rate are forgotten

    def chunk_bytes(self, most: int) -> int:
        """How many bytes to ask for at once, so that the cap holds over short times too; ``most`` without a cap."""
        if self._mbps is None:
            return most
        return min(most, max(_MIN_CHUNK_BYTES, int(self._mbps * 125_000 * _CHUNK_S)))

    def reserve(self, num_bytes: int, now_s: float) -> float:
        """Seconds to wait before these bytes may go; they count as gone."""
        if self._mbps is None:
            return 0.0
        start_s = max(self._next_s, now_s - BURST_S)
        self._next_s = start_s + num_bytes / (self._mbps * 125_000)
        return max(0.0, start_s - now_s)

    async def admit(self, num_bytes: int) -> None:
        """Wait until these bytes may go."""
        if wait_s := self.reserve(num_bytes, clock.monotonic_s()):
            await asyncio.sleep(wait_s)

    def count(self, num_bytes: int) -> None:
        """Bytes that cannot wait, small messages: what comes after them waits for them."""
        self.reserve(num_bytes, clock.monotonic_s())


class UplinkMeter:
    """How fast blobs left this peer while any were wanted, in the best of the last windows.

    The best, because a window may be slow for the receivers' sake; of the last ones, because lines change.
    """

    def __init__(self) -> None:
        self._sending = 0
        self._since_s = 0.0
        self._busy_s = 0.0
        self._bytes = 0
        self._windows_mbps: deque[float] = deque(maxlen=_WINDOWS)

    @property
    def mbps(self) -> float:
        """Megabits a second; 0 is not measured."""
        return max(self._windows_mbps, default=0.0)

    def begins(self, now_s: float) -> None:
        """A transfer wants to send."""
        if self._sending == 0:
            self._since_s = now_s
        self._sending += 1

    def sent(self, num_bytes: int, now_s: float) -> None:
        """So many bytes of it have left."""
        self._bytes += num_bytes
        self._busy_s += now_s - self._since_s
        self._since_s = now_s
        if self._busy_s >= _WINDOW_S:
            self._windows_mbps.append(self._bytes * 8e-6 / self._busy_s)
            self._bytes, self._busy_s = 0, 0.0

    def ends(self, now_s: float) -> None:
        """It is over."""
        self._sending -= 1
        self._busy_s += now_s - self._since_s
        self._since_s = now_s
