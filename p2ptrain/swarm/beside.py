"""Work that goes on beside everything else, in a task group that may be ending."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def begin_beside(group: asyncio.TaskGroup, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
    """Begin ``work`` in the group, or nothing where the group ends: messages may still come while a peer does."""
    try:
        return group.create_task(work)
    except RuntimeError:
        work.close()
        return None
