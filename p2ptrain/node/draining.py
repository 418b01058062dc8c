"""Asking a bootstrap node to end once it carries nothing: a signal, since the node listens to no commands."""

import os
import signal
from pathlib import Path

from p2ptrain.errors import HomeError
from p2ptrain.node.home import FolderLock

DRAIN = signal.SIGUSR1


def ask_to_drain(folder: Path) -> int:
    """Have the bootstrap node of a folder end as soon as it carries nothing, a minute later at most.

    Returns:
        Its process id.

    Raises:
        HomeError: no node of this folder is running.
    """
    try:
        with FolderLock.acquire(folder):
            pass
    except HomeError:
        pid = int((folder / "lock").read_text())
        os.kill(pid, DRAIN)
        return pid
    raise HomeError(f"no bootstrap node of {folder} is running; nothing to drain")
