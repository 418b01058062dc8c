"""Time: the only module that reads a clock.

Deadlines use ``monotonic_s`` and stay on this machine. Wall time appears only where other peers read it, in leases and
journals, because other people's clocks lie.
"""

import time


def monotonic_s() -> float:
    """Seconds since some fixed moment; never goes back. For deadlines and durations."""
    return time.monotonic()


def wall_s() -> float:
    """Seconds since 1970 by this machine's clock. For leases and journals only."""
    return time.time()


def boot_s() -> float:
    """Seconds since this machine started, those asleep included, which ``monotonic_s`` leaves out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
