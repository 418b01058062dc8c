"""The doctor as a process of its own; short programs stand for it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from p2ptrain.control.doctor_process import findings_of
from p2ptrain.errors import ControlError


def program(text: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", text]


async def test_findings_are_what_the_doctor_prints_whatever_its_status_is() -> None:
    found = await findings_of(program("""print('{"findings": [{"check": "disk"}]}'); raise SystemExit(1)"""))
    assert found == [{"check": "disk"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import sys; sys.exit('home x is not a peer')", "the doctor found nothing: home x is not a peer"),
        ("print('[]'); raise SystemExit(3)", "the doctor found nothing: it ended with status 3"),
        ("print('{}')", "the doctor found nothing: it ended with status 0"),
    ],
)
async def test_a_doctor_without_findings_is_quoted(text: str, sentence: str) -> None:
    with pytest.raises(ControlError) as error:
        await findings_of(program(text))
    assert str(error.value) == sentence


async def test_the_doctor_ends_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    fifo = tmp_path / "open while it lives"
    os.mkfifo(fifo)
    seen = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(seen), os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb")
    )
    text = f"import time; lives = open({str(fifo)!r}, 'wb', buffering=0); lives.write(b'x'); time.sleep(3600)"
    question = asyncio.ensure_future(findings_of(program(text)))
    assert await seen.readexactly(1) == b"x"
    question.cancel()
    await asyncio.wait([question])
    assert await seen.read() == b"", "the other end is closed: the process is gone"
    pipe.close()
