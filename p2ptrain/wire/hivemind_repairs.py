"""What hivemind 1.1.12 gets wrong inside, made good by what ``wire/libp2p_start.py`` puts in its place.

Nothing here imports hivemind: these are tables and functions of the shape that its control client
(hivemind/p2p/p2p_daemon_bindings/control.py) and its search (hivemind/dht/traverse.py) expect.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

_Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_FAREWELL_S = 3.0
"""Time that a daemon has to answer, and to end, before it is killed."""

_open_sockets: ContextVar[list[asyncio.StreamWriter] | None] = ContextVar("open_sockets", default=None)
_search: ContextVar[set["asyncio.Task[Any]"] | None] = ContextVar("search", default=None)
"""Unfinished tasks of the search through the DHT that this code is part of."""


def repair(control: Any) -> None:
    """Make a ``ControlClient`` safe against late answers and cancelled calls, and its sockets known; before its use."""
    control._pending_calls = PendingCalls()
    control._handler_tasks = HandlerTasks()
    control.daemon_connector.open_connection = _noticed(control.daemon_connector.open_connection)


def repair_search(traverse: Any, node: Any) -> None:
    """Make a search through the DHT that is cancelled end what it began, in these modules of ``hivemind.dht``.

    hivemind leaves its questions running, and tasks that wait for the end of the search, for ever: asyncio complains
    when Python comes upon them (hivemind 1.1.12, traverse.py, ``traverse_dht``).
    """
    if traverse.asyncio is not asyncio:
        return  # they are repaired
    search = traverse.traverse_dht
    traverse.asyncio = SimpleNamespace(**{**vars(asyncio), "create_task": _task_of_a_search})

    async def search_and_tidy_up(*args: Any, **kwargs: Any) -> Any:
        tasks: set[asyncio.Task[Any]] = set()
        _search.set(tasks)
        try:
            return await search(*args, **kwargs)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise

    node.traverse_dht = search_and_tidy_up


def _task_of_a_search(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """``asyncio.create_task``, so that ``repair_search`` knows what is to be ended."""
    task = asyncio.create_task(work)
    if (tasks := _search.get()) is not None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return task


async def shut_down(dht: Any, p2p: Any) -> None:
    """End a ``DHTNode`` and its ``P2P``, whatever state their daemon is in.

    hivemind waits for ever for the answers of a daemon that has died, and for one that is frozen to end. And it never
    ends the task that refreshes what was looked up, of which asyncio complains as the process ends.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            await dht.shutdown()
    if (refreshing := dht.cache_refresh_task) is not None:
        # It swallows a cancellation that comes together with what it waits for, but looks then whether the DHT lives.
        refreshing.cancel()
        await asyncio.wait([refreshing], timeout=_FAREWELL_S)
    try:
        async with asyncio.timeout(_FAREWELL_S):
            await p2p.shutdown()
    except TimeoutError:
        p2p._child.kill()
        await p2p._child.wait()
    # Of what they failed with asyncio would complain, too.
    await asyncio.wait(tasks := control_tasks(p2p), timeout=_FAREWELL_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()


def control_tasks(p2p: Any) -> "list[asyncio.Task[None]]":
    """What reads and writes the one connection over which our daemon is asked; they end only when that breaks."""
    return [p2p._client.control._read_task, p2p._client.control._write_task]


@contextlib.contextmanager
def closes_its_sockets() -> Iterator[list[asyncio.StreamWriter]]:
    """Close what is opened inside the block, however the block ends; to keep a socket, empty the list that is given.

    hivemind's questions to p2pd (``list_peers``, ``disconnect``, ``connect``, ``identify``, ``stream_open``) open a
    socket each and leave it open when they are cancelled. Closing does not wait, so whoever cancels gets on at once.
    """
    opened: list[asyncio.StreamWriter] = []
    token = _open_sockets.set(opened)
    try:
        yield opened
    finally:
        _open_sockets.reset(token)
        for writer in opened:
            writer.close()


def _noticed(open_connection: Callable[[], Awaitable[_Opened]]) -> Callable[[], Awaitable[_Opened]]:
    """``DaemonConnector.open_connection``, so that ``closes_its_sockets`` knows what it opened."""

    async def open_and_notice() -> _Opened:
        reader, writer = await open_connection()
        if (opened := _open_sockets.get()) is not None:
            opened.append(writer)
        return reader, writer

    return open_and_notice


class _Answer(asyncio.Future[Any]):
    """An answer that may come after its caller has given up."""

    def set_result(self, result: Any) -> None:
        if not self.done():
            super().set_result(result)

    def set_exception(self, exception: type | BaseException) -> None:
        if not self.done():
            super().set_exception(exception)


class PendingCalls(dict[Any, "asyncio.Future[Any]"]):
    """hivemind's table of unanswered calls, made safe against late answers.

    Its reader sets the result of a call whose deadline has just passed, which raises and ends the reader: no call of
    this process is ever answered again (hivemind 1.1.12, control.py, _read_from_persistent_conn). A process that was
    frozen hits this when it goes on, because then deadlines and answers are all due at once.
    """

    def __setitem__(self, call: Any, answer: "asyncio.Future[Any]") -> None:
        super().__setitem__(call, _Answer(loop=answer.get_loop()))


class HandlerTasks(dict[Any, "asyncio.Task[Any]"]):
    """hivemind's table of calls being answered, which forgets those that their caller has cancelled.

    hivemind removes an entry at the end of its handler, which a cancelled one does not reach: who calls and cancels
    would fill the table (hivemind 1.1.12, control.py, _handle_persistent_request).
    """

    def __setitem__(self, call: Any, task: "asyncio.Task[Any]") -> None:
        super().__setitem__(call, task)
        task.add_done_callback(lambda _: self.pop(call, None))
