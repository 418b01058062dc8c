"""What is put in the place of hivemind's internals; a stand-in for its control client has the same tables."""

import asyncio
import gc
import types
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hivemind.dht import node, traverse
from hivemind.dht.routing import DHTID

from p2ptrain.wire.hivemind_repairs import closes_its_sockets, repair, repair_search

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[types.SimpleNamespace]:
    """Has what ``repair`` touches of a ControlClient; its daemon never answers."""
    path = tmp_path / "daemon.sock"

    async def open_connection() -> Opened:
        return await asyncio.open_unix_connection(path)

    connector = types.SimpleNamespace(open_connection=open_connection)
    async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
        found = types.SimpleNamespace(daemon_connector=connector)
        repair(found)
        yield found


async def test_an_answer_after_the_deadline_does_not_raise(control: types.SimpleNamespace) -> None:
    for is_error in (False, True):
        control._pending_calls["call"] = asyncio.get_running_loop().create_future()
        answer = control._pending_calls["call"]
        answer.cancel()
        if is_error:
            answer.set_exception(ConnectionError("too late"))
        else:
            answer.set_result(b"too late")
        assert answer.cancelled()


async def test_an_answer_in_time_reaches_its_caller(control: types.SimpleNamespace) -> None:
    control._pending_calls["call"] = asyncio.get_running_loop().create_future()
    control._pending_calls["call"].set_result(b"yes")
    assert await control._pending_calls["call"] == b"yes"


async def test_calls_that_were_cancelled_while_being_answered_are_forgotten(control: types.SimpleNamespace) -> None:
    tasks = control._handler_tasks
    tasks["cancelled"] = asyncio.ensure_future(asyncio.sleep(3600))
    tasks["answered"] = asyncio.ensure_future(asyncio.sleep(0))
    answered = tasks["answered"]
    tasks.pop("answered")  # as hivemind does at the end of a handler, before our callback
    tasks["cancelled"].cancel()
    await asyncio.wait([answered, *tasks.values()])
    await asyncio.sleep(0)
    assert not tasks


async def test_a_socket_is_closed_when_its_question_is_cancelled_and_kept_when_asked_to(
    control: types.SimpleNamespace,
) -> None:
    opened: list[Opened] = []
    is_asked = asyncio.Event()

    async def ask(*, keeps: bool) -> list[asyncio.StreamWriter]:
        with closes_its_sockets() as sockets:
            opened.append(await control.daemon_connector.open_connection())
            if keeps:
                sockets.clear()
            else:
                is_asked.set()
                await asyncio.Event().wait()
        return sockets

    question = asyncio.ensure_future(ask(keeps=False))
    await is_asked.wait()
    question.cancel()
    await asyncio.wait([question])
    remembered = await ask(keeps=True)
    opened.append(await control.daemon_connector.open_connection())
    assert not remembered  # what is opened outside of a question is nobody's business
    assert [writer.is_closing() for _, writer in opened] == [True, False, False]
    for _, writer in opened:
        writer.close()


async def test_a_search_that_is_cancelled_ends_its_questions_and_leaves_nothing_behind() -> None:
    repair_search(traverse, node)
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what["message"]))
    before, asked = asyncio.all_tasks(), asyncio.Event()

    async def never_answers(*_: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    search = asyncio.create_task(
        node.traverse_dht([DHTID.generate()], [DHTID.generate()], 20, 4, 1, get_neighbors=never_answers)
    )
    await asked.wait()
    search.cancel()
    await asyncio.wait([search])
    assert search.cancelled()
    async with asyncio.timeout(5):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)
    gc.collect()
    assert complaints == []


async def test_a_search_that_ends_by_itself_finds_what_is_near() -> None:
    repair_search(traverse, node)
    query, start, found = (DHTID.generate() for _ in range(3))

    async def knows_one(asked: DHTID, queries: Sequence[DHTID]) -> dict[DHTID, tuple[list[DHTID], bool]]:
        return {query: ([found] if asked == start else [], False) for query in queries}

    nearest, _ = await node.traverse_dht([query], [start], 20, 4, 1, get_neighbors=knows_one)
    assert set(nearest[query]) == {start, found}
