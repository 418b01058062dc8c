"""A peer that goes wrong on command: real signals, wrong bytes and a bad line, at the stage that a test names.

    python -m tests.support.faulty_peer ORDERS peer --run ...

``ORDERS`` is a file to which the test appends lines ``STAGE:SLICE:FAULT:SECONDS``; they are followed one after the
other. When one strikes, its line goes into ``ORDERS.struck`` first. The program itself is p2ptrain's, with wrappers
around the places where bytes leave and arrive; nothing of this is in the product.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

STAGES = ("training", "gathering", "sending", "reducing", "agreeing", "committing", "disseminating", "receiving")
"""In the order of a round; receiving is a non-owner's part of disseminating."""
FAULTS = ("kill", "stop", "cut", "slow", "corrupt", "lie", "forge", "repeat", "ahead", "behind", "apart")
"""``lie`` names bytes that nobody has; ``forge`` averages to something else, and delivers that under its right hash;
``apart`` cuts the common part off once without the slices."""
SLOW_MBPS = 1.0
CLOCK_OFF_S = 30.0

_real_time = time.time
_until_s: dict[str, float] = {}


def _is_on(fault: str) -> bool:
    return time.monotonic() < _until_s.get(fault, 0.0)


def _wall_s() -> float:
    return _real_time() + CLOCK_OFF_S * (_is_on("ahead") - _is_on("behind"))


class Orders:
    """What to do wrong, and when."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._done = 0
        self._next: list[str] | None = None

    def reached(self, stage: str, slice_id: str) -> None:
        """A stage of a slice's round begins; strikes if it is the one that is waited for."""
        with contextlib.suppress(FileNotFoundError):
            if (size := self._path.stat().st_size) != self._size:
                self._size = size
                self._load()
        if self._next is None or self._next[0] != stage or self._next[1] not in ("*", slice_id):
            return
        _, _, fault, seconds = self._next
        self._done += 1
        self._load()
        with self._path.with_suffix(".struck").open("a") as file:
            file.write(f"{stage}:{slice_id}:{fault}:{seconds}\n")
        strike(fault, float(seconds))

    def _load(self) -> None:
        lines = self._path.read_text().splitlines()
        self._next = lines[self._done].split(":") if len(lines) > self._done else None


def strike(fault: str, seconds: float) -> None:
    """Go wrong now."""
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "stop":
        # Nobody who is stopped can wake himself, and who is woken before he is stopped sleeps for ever.
        me, state = os.getpid(), f"open('/proc/{os.getpid()}/stat').read().rpartition(')')[2].split()[0]"
        waker = f"import os, time\nwhile {state} != 'T': time.sleep(0.01)\n"
        waker += f"time.sleep({seconds}); os.kill({me}, {int(signal.SIGCONT)})"
        subprocess.Popen([sys.executable, "-I", "-S", "-c", waker])
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "cut":
        # The daemon is the only way in and out: the connections stay, and nothing comes or goes.
        daemons = _daemons()
        for pid in daemons:
            os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(seconds, lambda: [os.kill(pid, signal.SIGCONT) for pid in daemons])
        timer.daemon = True
        timer.start()
    else:
        _until_s[fault] = time.monotonic() + seconds


def _daemons() -> list[int]:
    pids = []
    for task in Path("/proc/self/task").iterdir():
        pids += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in pids if "p2pd" in Path(f"/proc/{pid}/comm").read_text()]


def install(orders: Orders) -> None:
    """Wrap what carries bytes and messages."""
    from p2ptrain import events
    from p2ptrain.ids import COMMON, slice_of
    from p2ptrain.node import trainer
    from p2ptrain.node.fail_at import stage_of
    from p2ptrain.swarm import owner, part_averages, swarm
    from p2ptrain.wire import blobs, libp2p
    from p2ptrain.wire.messages import BlobRef, PartResult, Propose, Ready
    from p2ptrain.wire.rate_limit import RateLimit

    line_up, line_down = RateLimit(), RateLimit()
    line_up.mbps = line_down.mbps = SLOW_MBPS
    sent: deque[Any] = deque(maxlen=200)

    def false_ref(ref: BlobRef) -> BlobRef:
        return BlobRef(type(ref.sha256)(random.randbytes(32).hex()), ref.size_bytes)

    def lied(body: Any) -> Any:
        match body:
            case PartResult():
                return replace(body, average=false_ref(body.average))
            case Ready(contribution) if contribution:
                return replace(
                    body, contribution=replace(contribution, parts=tuple(map(false_ref, contribution.parts)))
                )
            case Propose(value):
                return Propose(replace(value, digest=false_ref(BlobRef(value.digest, 0)).sha256))
        return body

    emit = events.EventBus.emit

    def emit_and_strike(self: Any, event: Any) -> None:
        emit(self, event)
        if stage := stage_of(event):
            orders.reached("agreeing" if stage == "voting" else stage, getattr(event, "slice", "*"))

    send = blobs.BlobExchange._send

    async def send_badly(self: Any, remote: Any, writer: Any, data: memoryview, turn: Any) -> None:
        orders.reached("sending", "*")
        if _is_on("corrupt") and len(data):
            data = memoryview(bytes([data[0] ^ 0xFF]) + bytes(data[1:]))
        if not _is_on("slow"):
            await send(self, remote, writer, data, turn)
            return
        for start in range(0, len(data), 4096):
            await line_up.admit(len(data[start : start + 4096]))
            await send(self, remote, writer, data[start : start + 4096], turn)

    class SlowReader:
        def __init__(self, reader: asyncio.StreamReader) -> None:
            self._reader = reader

        async def read(self, size: int) -> bytes:
            data = await self._reader.read(min(size, 4096))
            await line_down.admit(len(data))
            return data

        async def readexactly(self, size: int) -> bytes:
            return await self._reader.readexactly(size)

    open_stream = libp2p.Libp2pNode.open_stream

    @contextlib.asynccontextmanager
    async def open_stream_slowly(self: Any, peer: Any, name: str, **kept: Any) -> AsyncIterator[Any]:
        async with open_stream(self, peer, name, **kept) as (reader, writer):
            yield (SlowReader(reader) if _is_on("slow") else reader), writer

    call = libp2p.Libp2pNode.call

    async def call_slowly(self: Any, peer: Any, name: str, request: Any, reply_type: Any, *, timeout_s: float) -> Any:
        if _is_on("slow"):
            await line_up.admit(request.ByteSize())
        return await call(self, peer, name, request, reply_type, timeout_s=timeout_s)

    deliver = owner.SliceOwner._deliver

    async def deliver_badly(self: Any, peer: Any, message: Any) -> None:
        if _is_on("lie"):
            message = replace(message, body=lied(message.body))
        sent.append(message)
        if _is_on("repeat"):
            for old in (message, message, random.choice(sent)):
                await deliver(self, peer, old)
        await deliver(self, peer, message)

    encode = part_averages.encode

    def encode_something_else(codec: Any, values: Any) -> Any:
        return encode(codec, -values if _is_on("forge") else values)

    part_averages.encode = encode_something_else

    vote = owner.SliceOwner._vote

    async def vote_or_strike(self: Any, *arguments: Any) -> None:
        orders.reached("agreeing", self.slice)
        await vote(self, *arguments)

    tell = swarm.Swarm._tell

    async def tell_or_strike(self: Any, peer: Any, message: Any) -> None:
        orders.reached("disseminating", message.slice)
        await tell(self, peer, message)

    cut_off = trainer.Trainer._cut_off

    def cut_off_apart(self: Any, *arguments: Any) -> None:
        if not _until_s.pop("apart", 0.0):
            cut_off(self, *arguments)
            return
        slices = [s for s in self._inner.owned if slice_of(s) != COMMON]
        asks = {s: self._asks.pop(s) for s in slices if s in self._asks}  # a slice that is asked for is never left out
        self._left_out = dict.fromkeys(slices, sys.maxsize)
        cut_off(self, *arguments)
        self._left_out, self._asks = {}, self._asks | asks

    patched: dict[Any, dict[str, Any]] = {
        events.EventBus: {"emit": emit_and_strike},
        blobs.BlobExchange: {"_send": send_badly},
        libp2p.Libp2pNode: {"open_stream": open_stream_slowly, "call": call_slowly},
        owner.SliceOwner: {"_deliver": deliver_badly, "_vote": vote_or_strike},
        swarm.Swarm: {"_tell": tell_or_strike},
        trainer.Trainer: {"_cut_off": cut_off_apart},
    }
    for owning_class, methods in patched.items():
        for name, method in methods.items():
            setattr(owning_class, name, method)


if __name__ == "__main__":
    time.time = _wall_s  # before hivemind is imported, which keeps a reference
    install(Orders(Path(sys.argv[1])))
    sys.argv = ["p2ptrain", *sys.argv[2:]]
    from p2ptrain.__main__ import main

    sys.exit(main())
