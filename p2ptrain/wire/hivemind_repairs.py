"""What hivemind 1.1.12 gets wrong inside, made good by what ``wire/libp2p.py`` puts in its place.

Nothing here imports hivemind: these are tables and functions of the shape that its control client
(hivemind/p2p/p2p_daemon_bindings/control.py) expects. Each says which function of it can be trusted again when
hivemind does better.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar

_Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_open_sockets: ContextVar[list[asyncio.StreamWriter] | None] = ContextVar("open_sockets", default=None)


@contextlib.contextmanager
def closes_its_sockets() -> Iterator[list[asyncio.StreamWriter]]:
    """Close what is opened inside the block, however the block ends; to keep a socket, empty the list that is given.

    hivemind's questions to p2pd (``list_peers``, ``disconnect``, ``connect``, ``identify``, ``stream_open``) open a
    socket each and leave it open when they are cancelled. Closing does not wait, so whoever cancels gets on at once.
    Works for what ``noticed`` was wrapped around.
    """
    opened: list[asyncio.StreamWriter] = []
    token = _open_sockets.set(opened)
    try:
        yield opened
    finally:
        _open_sockets.reset(token)
        for writer in opened:
            writer.close()


def noticed(open_connection: Callable[[], Awaitable[_Opened]]) -> Callable[[], Awaitable[_Opened]]:
    """``DaemonConnector.open_connection``, so that ``closes_its_sockets`` knows what it opened."""

    async def open_and_notice() -> _Opened:
        reader, writer = await open_connection()
        if (opened := _open_sockets.get()) is not None:
            opened.append(writer)
        return reader, writer

    return open_and_notice
