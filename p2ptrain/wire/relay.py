"""A circuit relay with limits of its own: it carries connections between peers that cannot dial each other.

The protocol is libp2p's circuit relay v2, so p2pd's clients use it as any other. p2pd has a relay, too, but starts a
second one with libp2p's default limits beside the one that its flags describe, and which of the two is asked is chance:
half of the runs cut every circuit after 128 KiB (docs/results/nat.md). What is carried is encrypted between the two
ends; the relay sees who talks with whom, and how much.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from p2ptrain import clock
from p2ptrain.config.schema import RelayLimits
from p2ptrain.errors import BadMessage
from p2ptrain.wire.framing import read_message, write_message
from p2ptrain.wire.rate_limit import RateLimit
from p2ptrain.wire.v1 import circuit_pb2 as pb

HOP, STOP = "/libp2p/circuit/relay/0.2.0/hop", "/libp2p/circuit/relay/0.2.0/stop"

OK, RESERVATION_REFUSED, RESOURCE_LIMIT_EXCEEDED = 100, 200, 201
CONNECTION_FAILED, NO_RESERVATION, MALFORMED_MESSAGE, UNEXPECTED_MESSAGE = 203, 204, 400, 401
"""Answers that the specification knows."""

RESERVATION_S = 3600.0
"""As libp2p's own relays; our peers renew every few seconds, so that they notice a relay that was started anew."""
_MAX_MESSAGE_BYTES = 4096
"""The specification's limit."""
_HANDSHAKE_S = 15.0
"""To hear what is wanted, and to reach the other end: half of what libp2p's clients wait."""
_CHUNK_BYTES = 64 * 1024
_DRAIN_S = 10.0
"""When one end has closed, for the other to have received what was on its way."""

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
OpenStop = Callable[[bytes], Awaitable[tuple[Reader, Writer]]]
"""Opens a STOP stream to the peer with this id, or raises what a broken link raises."""


async def take_place(reader: Reader, writer: Writer) -> bool:
    """Ask the relay at the other end of a HOP stream for a place, or to keep ours; whether we have one.

    p2pd would ask, too, but after a relay was away for a moment it waits for an hour, so it is not told to.

    Raises:
        OSError, EOFError, BadMessage: the stream broke, or it is no relay.
    """
    write_message(writer, pb.HopMessage(type=pb.HopMessage.RESERVE))
    await writer.drain()
    reply = await read_message(reader, pb.HopMessage, _MAX_MESSAGE_BYTES)
    return reply.type == pb.HopMessage.STATUS and reply.status == OK


class _Refused(Exception):
    """A request that is answered with a status other than OK."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class Usage:
    """What the relay has done since it started, for status pages."""

    circuits: int = 0
    """Open now."""
    circuits_so_far: int = 0
    carried_bytes: int = 0
    refused: int = 0
    cut: int = 0
    """Circuits that reached their limit of bytes or time."""


@dataclass(slots=True)
class Places:
    """Who may be connected through us; a pure table. Times are monotonic seconds."""

    limits: RelayLimits
    is_open: bool = True
    """False: nobody gets or renews a place, and no circuit begins; those that are open go on."""
    held: dict[bytes, tuple[str, float]] = field(default_factory=dict)
    """By peer id: the address it came from, and the end of its reservation."""

    def reserve(self, peer: bytes, address: str, now_s: float) -> bool:
        """Give a peer a place, or renew it."""
        self.held = {p: place for p, place in self.held.items() if place[1] > now_s}
        neighbours = sum(from_address == address for p, (from_address, _) in self.held.items() if p != peer)
        is_full = peer not in self.held and len(self.held) >= self.limits.reservations
        if not self.is_open or is_full or neighbours >= self.limits.reservations_per_address:
            return False
        self.held[peer] = (address, now_s + RESERVATION_S)
        return True

    def has(self, peer: bytes, now_s: float) -> bool:
        """Whether a peer may be connected to."""
        return peer in self.held and self.held[peer][1] > now_s


class Relay:
    """Answers HOP streams.

    Args:
        limits: what it carries at most.
        open_stop: reaches those who have a place.
        addresses: our own as multiaddresses in bytes, told to those who reserve.
    """

    def __init__(self, limits: RelayLimits, open_stop: OpenStop, addresses: Iterable[bytes] = ()) -> None:
        self.limits = limits
        self.places = Places(limits)
        self.usage = Usage()
        self.is_idle = asyncio.Event()
        """No circuit is open."""
        self.is_idle.set()
        self._open_stop = open_stop
        self._addresses = list(addresses)
        self._circuits: Counter[bytes] = Counter()
        self._rate = RateLimit(limits.total_mbps or None)

    async def on_hop(self, peer: bytes, address: str, reader: Reader, writer: Writer) -> None:
        """Serve one stream of a peer, and close it.

        Args:
            peer: who asks; libp2p has authenticated it.
            address: the IP address that it calls from.
            reader: from it.
            writer: to it.
        """
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                request = await read_message(reader, pb.HopMessage, _MAX_MESSAGE_BYTES)
            await self._serve(request, peer, address, reader, writer)
        except _Refused as refusal:
            self.usage.refused += 1
            write_message(writer, pb.HopMessage(type=pb.HopMessage.STATUS, status=refusal.status))
        except BadMessage:
            self.usage.refused += 1
            write_message(writer, pb.HopMessage(type=pb.HopMessage.STATUS, status=MALFORMED_MESSAGE))
        except (OSError, EOFError, TimeoutError):
            pass  # whoever asked is gone, and knows it
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await writer.drain()
                    # p2pd drops what is on its way when the serving end closes first
                    writer.write_eof()
                    await reader.read(1)
            writer.close()

    async def _serve(self, request: pb.HopMessage, peer: bytes, address: str, reader: Reader, writer: Writer) -> None:
        if request.type == pb.HopMessage.RESERVE:
            self._reserve(peer, address, writer)
        elif request.type == pb.HopMessage.CONNECT:
            await self._connect(peer, request.peer.id, reader, writer)
        else:
            raise _Refused(UNEXPECTED_MESSAGE)

    def _reserve(self, peer: bytes, address: str, writer: Writer) -> None:
        if not self.places.reserve(peer, address, clock.monotonic_s()):
            raise _Refused(RESERVATION_REFUSED)
        expire = int(clock.wall_s() + RESERVATION_S)
        reservation = pb.CircuitReservation(expire=expire, addrs=self._addresses)
        reply = pb.HopMessage(type=pb.HopMessage.STATUS, reservation=reservation, limit=self._limit(), status=OK)
        write_message(writer, reply)

    async def _connect(self, caller: bytes, callee: bytes, reader: Reader, writer: Writer) -> None:
        if not self.places.has(callee, clock.monotonic_s()):
            raise _Refused(NO_RESERVATION)
        if not self.places.is_open or self.usage.circuits >= self.limits.circuits:
            raise _Refused(RESOURCE_LIMIT_EXCEEDED)
        if max(self._circuits[caller], self._circuits[callee]) >= self.limits.circuits_per_peer:
            raise _Refused(RESOURCE_LIMIT_EXCEEDED)
        self.usage.circuits += 1
        self.is_idle.clear()
        ends = Counter((caller, callee))
        self._circuits += ends
        try:
            far_reader, far_writer = await self._reach(caller, callee)
            try:
                write_message(writer, pb.HopMessage(type=pb.HopMessage.STATUS, limit=self._limit(), status=OK))
                self.usage.circuits_so_far += 1
                await self._carry((reader, far_writer), (far_reader, writer))
            finally:
                far_writer.close()
        finally:
            self.usage.circuits -= 1
            if not self.usage.circuits:
                self.is_idle.set()
            self._circuits -= ends

    async def _reach(self, caller: bytes, callee: bytes) -> tuple[Reader, Writer]:
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                reader, writer = await self._open_stop(callee)
                try:
                    peer = pb.CircuitPeer(id=caller)
                    write_message(writer, pb.StopMessage(type=pb.StopMessage.CONNECT, peer=peer, limit=self._limit()))
                    answer = await read_message(reader, pb.StopMessage, _MAX_MESSAGE_BYTES)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, EOFError, TimeoutError, BadMessage) as error:
            raise _Refused(CONNECTION_FAILED) from error
        if answer.type != pb.StopMessage.STATUS or answer.status != OK:
            writer.close()
            raise _Refused(CONNECTION_FAILED)
        return reader, writer

    async def _carry(self, *ways: tuple[Reader, Writer]) -> None:
        """Both ways until both ends have closed, an end breaks, or a limit is reached."""
        try:
            async with asyncio.timeout(self.limits.circuit_s), asyncio.TaskGroup() as group:
                for way in ways:
                    group.create_task(self._carry_one_way(*way))
        except* TimeoutError:  # before OSError, which it is, too
            self.usage.cut += 1
        except* (OSError, EOFError):
            pass

    async def _carry_one_way(self, reader: Reader, writer: Writer) -> None:
        left = self.limits.circuit_bytes
        while data := await reader.read(_CHUNK_BYTES):
            left -= len(data)
            if left < 0:
                raise TimeoutError("this circuit has carried all that it may")
            self.usage.carried_bytes += len(data)
            await self._rate.admit(len(data))
            writer.write(data)
            await writer.drain()
        raise EOFError

    def _limit(self) -> pb.CircuitLimit:
        return pb.CircuitLimit(duration=int(self.limits.circuit_s), data=self.limits.circuit_bytes)
