"""Shifts a process's wall clock by what a file says at the moment, for tests; the monotonic clock stays as it is.

Python imports this module at its start when its folder is in PYTHONPATH, so that hivemind's clock is shifted, too.
"""

import os
import time

_true_time = time.time
_FILE = os.environ.get("SHIFTED_CLOCK_FILE", "")


def _shifted_time() -> float:
    try:
        with open(_FILE) as file:
            return _true_time() + float(file.read() or 0)
    except (OSError, ValueError):
        return _true_time()


if _FILE:
    time.time = _shifted_time
