"""Sixteen newcomers at one donor: its rounds hardly notice, and all newcomers get their turn."""

import asyncio
from collections import Counter

from p2ptrain.wire.upload_queue import UploadQueue
from tests.support.fake_time_loop import run_in_fake_time

CHUNK_BYTES = 256 * 1024
LINE_BYTES_PER_S = 20e6 / 8
"""An uplink of 20 Mbit/s."""
ROUND_BYTES = 5_000_000
"""2 s of sending in each round."""
TRAINING_S = 8.0


class Line:
    """One uplink: bytes leave in the order in which they were handed over."""

    def __init__(self) -> None:
        self._free = asyncio.Lock()
        self.sent: Counter[str] = Counter()

    async def send(self, whose: str, size: int) -> None:
        async with self._free:
            await asyncio.sleep(size / LINE_BYTES_PER_S)
            self.sent[whose] += size


async def rounds(queue: UploadQueue, line: Line, count: int) -> float:
    """Seconds that so many rounds take at the donor."""
    now_s = asyncio.get_running_loop().time
    started_s = now_s()
    for _ in range(count):
        await asyncio.sleep(TRAINING_S)
        async with queue.urgent():
            for _ in range(ROUND_BYTES // CHUNK_BYTES):
                await line.send("round", CHUNK_BYTES)
    return now_s() - started_s


async def joiner(name: str, queue: UploadQueue, line: Line) -> None:
    while True:
        async with queue.patient_chunk():
            await line.send(name, CHUNK_BYTES)


async def measured(joiners: int) -> tuple[float, Counter[str]]:
    queue, line = UploadQueue(), Line()
    tasks = [asyncio.create_task(joiner(f"joiner {n}", queue, line)) for n in range(joiners)]
    seconds = await rounds(queue, line, 20)
    for task in tasks:
        task.cancel()
    return seconds, line.sent


def test_sixteen_newcomers_cost_the_others_rounds_less_than_five_percent() -> None:
    alone, _ = run_in_fake_time(measured(0))
    crowded, sent = run_in_fake_time(measured(16))
    assert alone < crowded < 1.05 * alone
    served = [size for name, size in sent.items() if name != "round"]
    assert len(served) == 16
    assert max(served) - min(served) <= CHUNK_BYTES, "whoever waits longest is next"
    idle_s = 20 * TRAINING_S
    assert sum(served) > 0.9 * idle_s * LINE_BYTES_PER_S, "the line is not idle while somebody waits"


def test_a_donor_that_sends_round_after_round_still_serves_newcomers() -> None:
    async def busy() -> Counter[str]:
        queue, line = UploadQueue(), Line()
        task = asyncio.create_task(joiner("newcomer", queue, line))
        async with queue.urgent():
            for _ in range(300):
                await line.send("round", CHUNK_BYTES)
        task.cancel()
        return line.sent

    assert run_in_fake_time(busy())["newcomer"] >= 5 * CHUNK_BYTES
