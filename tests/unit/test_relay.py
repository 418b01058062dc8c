"""The relay's limits, spoken to as libp2p speaks to it, over sockets of this process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from p2ptrain.config.schema import RelayLimits
from p2ptrain.wire.framing import read_message, write_message
from p2ptrain.wire.relay import (
    CONNECTION_FAILED,
    MALFORMED_MESSAGE,
    NO_RESERVATION,
    OK,
    RESERVATION_REFUSED,
    RESERVATION_S,
    RESOURCE_LIMIT_EXCEEDED,
    Places,
    Relay,
    take_place,
)
from p2ptrain.wire.v1 import circuit_pb2 as pb

A, B, C = b"peer a", b"peer b", b"peer c"
LIMITS = RelayLimits(
    reservations=3, reservations_per_address=2, circuits=2, circuits_per_peer=1, circuit_bytes=1000, circuit_s=30.0
)


@dataclass
class Stream:
    """One end of a pipe."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def pipe() -> tuple[Stream, Stream]:
    ends = [Stream(*await asyncio.open_connection(sock=half)) for half in socket.socketpair()]
    return ends[0], ends[1]


class Net:
    """A relay, and the STOP streams that it has opened, by peer."""

    def __init__(self, limits: RelayLimits) -> None:
        self.stops: dict[bytes, Stream] = {}
        self.opened = asyncio.Event()
        self.relay = Relay(limits, self._open_stop)
        self.closing: list[Stream] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _open_stop(self, peer: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        near, far = await pipe()
        self.stops[peer] = far
        self.closing += [near, far]
        self.opened.set()
        return near.reader, near.writer

    async def hop(self, peer: bytes, address: str = "192.0.2.1") -> Stream:
        near, far = await pipe()
        self.closing += [near, far]
        self.tasks.append(asyncio.create_task(self.relay.on_hop(peer, address, far.reader, far.writer)))
        return near

    async def place(self, peer: bytes, address: str = "192.0.2.1") -> bool:
        stream = await self.hop(peer, address)
        try:
            return await take_place(stream.reader, stream.writer)
        finally:
            stream.writer.close()

    async def call(self, caller: bytes, callee: bytes, *, answer: int = OK) -> tuple[int, Stream]:
        """Ask for a circuit, with the callee's answer; the relay's status, and the caller's end."""
        stream = await self.hop(caller)
        self.stops.pop(callee, None)
        self.opened.clear()
        peer = pb.CircuitPeer(id=callee)
        write_message(stream.writer, pb.HopMessage(type=pb.HopMessage.CONNECT, peer=peer))
        reply = asyncio.create_task(read_message(stream.reader, pb.HopMessage, 4096))
        opened = asyncio.create_task(self.opened.wait())
        await asyncio.wait({reply, opened}, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        if callee in self.stops:
            stop = self.stops[callee]
            asked = await read_message(stop.reader, pb.StopMessage, 4096)
            assert asked.peer.id == caller
            assert asked.limit.data == LIMITS.circuit_bytes
            write_message(stop.writer, pb.StopMessage(type=pb.StopMessage.STATUS, status=answer))
        return (await reply).status, stream


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    made = Net(LIMITS)
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    for stream in made.closing:
        stream.writer.close()
        with contextlib.suppress(OSError):
            await stream.writer.wait_closed()


async def test_circuit_carries_both_ways_to_who_has_a_place(net: Net) -> None:
    assert await net.place(B)
    status, a = await net.call(A, B)
    assert status == OK
    a.writer.write(b"to b")
    assert await net.stops[B].reader.readexactly(4) == b"to b"
    net.stops[B].writer.write(b"to a")
    assert await a.reader.readexactly(4) == b"to a"
    assert net.relay.usage.carried_bytes == 8


async def test_nobody_is_called_without_a_place(net: Net) -> None:
    assert (await net.call(A, B))[0] == NO_RESERVATION
    assert net.relay.usage.refused == 1


async def test_circuit_ends_when_it_has_carried_all_that_it_may(net: Net) -> None:
    await net.place(B)
    _, a = await net.call(A, B)
    a.writer.write(bytes(1001))
    assert len(await net.stops[B].reader.read()) <= 1000
    assert net.relay.usage.cut == 1


async def test_one_peer_cannot_take_all_circuits(net: Net) -> None:
    await net.place(B)
    await net.place(C)
    assert (await net.call(A, B))[0] == OK
    assert (await net.call(A, C))[0] == RESOURCE_LIMIT_EXCEEDED
    assert (await net.call(C, B))[0] == RESOURCE_LIMIT_EXCEEDED


async def test_ended_circuit_makes_room_for_another(net: Net) -> None:
    await net.place(B)
    _, a = await net.call(A, B)
    a.writer.close()
    await net.tasks[-1]
    assert net.relay.usage.circuits == 0
    assert (await net.call(A, B))[0] == OK


async def test_callee_that_declines_is_not_connected(net: Net) -> None:
    await net.place(B)
    assert (await net.call(A, B, answer=RESERVATION_REFUSED))[0] == CONNECTION_FAILED
    assert net.relay.usage.circuits == 0


async def test_nonsense_is_refused(net: Net) -> None:
    stream = await net.hop(A)
    stream.writer.write(b"\x03\xff\xff\xff")
    assert (await read_message(stream.reader, pb.HopMessage, 4096)).status == MALFORMED_MESSAGE


def test_places_are_bounded_in_all_and_for_each_address() -> None:
    places = Places(LIMITS)
    assert places.reserve(A, "192.0.2.1", 0.0)
    assert places.reserve(B, "192.0.2.1", 0.0)
    assert not places.reserve(C, "192.0.2.1", 0.0), "two of one household"
    assert places.reserve(C, "192.0.2.2", 0.0)
    assert not places.reserve(b"d", "192.0.2.3", 0.0), "three in all"
    assert places.reserve(A, "192.0.2.1", 1.0), "a renewal is no second place"


def test_place_ends_unless_it_is_renewed() -> None:
    places = Places(LIMITS)
    places.reserve(A, "192.0.2.1", 0.0)
    assert places.has(A, RESERVATION_S - 1)
    assert not places.has(A, RESERVATION_S)
    for peer in (B, C):
        assert places.reserve(peer, "192.0.2.1", RESERVATION_S)
    assert A not in places.held


async def test_draining_relay_begins_no_circuit_and_is_idle_when_the_last_one_has_ended(net: Net) -> None:
    await net.place(B)
    await net.place(C)
    _, a = await net.call(A, B)
    assert not net.relay.is_idle.is_set()
    net.relay.places.is_open = False
    assert (await net.call(b"peer d", C))[0] == RESOURCE_LIMIT_EXCEEDED
    assert not await net.place(b"peer d")
    a.writer.close()
    await net.relay.is_idle.wait()


def test_closed_relay_gives_no_places_and_keeps_those_it_gave() -> None:
    places = Places(LIMITS)
    places.reserve(A, "192.0.2.1", 0.0)
    places.is_open = False
    assert not places.reserve(B, "192.0.2.2", 1.0)
    assert places.has(A, 1.0)
