"""Punching a hole through two routers that keep ports, arranged over a relay.

libp2p does this, too (DCUtR), but believes where it is seen only when four others say so, so never in a run with one
bootstrap node. Our bootstraps tell each peer where it is seen (``callback.py``). One of two peers asks the other, and
both call each other at once, each from the port that it listens on: each router takes the other one's first packet for
an answer, and TCP makes one connection of two calls. p2pd can be the end that calls, but not the other one: it would
be a client at both ends. So the peer that was asked calls from Python, and passes the bytes on to its own daemon, which
sees somebody come in. What is passed on is encrypted between the two daemons.
"""

import asyncio
import contextlib
import ipaddress
import math
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypeAlias

from p2ptrain.errors import BadMessage
from p2ptrain.ids import PeerId
from p2ptrain.wire.framing import read_message, write_message
from p2ptrain.wire.v1 import reach_pb2 as pb

PUNCH = "p2ptrain/1/punch"
_MAX_MESSAGE_BYTES = 1024
COST = 4000.0
"""In calls, for the doorkeeper: one attempt in ten seconds, and four at once."""

MAX_BRIDGES = 64

_HOPS = 5
"""How far the first packet goes: past our own router and one of the provider, but hardly to the other one's. It would
be too early there, and a router that refuses it, where others are silent, would close the hole."""
_WAIT_S = 3.0
"""For the other one's call: a relay's round trip, and one more packet after a lost one. Bounds what we send to an
address that somebody made up: two packets."""
_CHUNK_BYTES = 64 * 1024
_AGAIN_AFTER_S = (60.0, 600.0, math.inf)
"""Each attempt breaks the relayed connection once, so what does not work is soon left alone."""

Place: TypeAlias = tuple[str, int]
"""IPv4 address and TCP port."""
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


def place_of(text: str) -> Place | None:
    """What ``ip:port`` says; None if it is no IPv4 address that the whole internet knows."""
    ip, _, port = text.rpartition(":")
    return checked_place(ip, int(port)) if port.isdecimal() else None


def checked_place(ip: str, port: int) -> Place | None:
    """A place that others claim to be at, or None if nobody can be there."""
    try:
        address = ipaddress.IPv4Address(ip)
    except ValueError:
        return None
    is_somebody = address.is_global and not address.is_multicast
    return (ip, port) if is_somebody and 0 < port < 65536 else None


async def ask(own: Place, reader: Reader, writer: Writer) -> Place | None:
    """Have the other end open its router for us; where to call it, or None if it cannot.

    Args:
        own: where we are seen, and shall call from.
        reader: from the other end.
        writer: to it.

    Raises:
        OSError, EOFError, BadMessage: it broke off, or talks nonsense.
    """
    write_message(writer, pb.PunchRequest(ip=own[0], port=own[1]))
    await writer.drain()
    reply = await read_message(reader, pb.PunchReply, _MAX_MESSAGE_BYTES)
    return None if reply.refusal else checked_place(reply.ip, reply.port)


async def answer(
    seen: Place | None, listening: Place, reader: Reader, writer: Writer, *, is_relayed: bool
) -> socket.socket | None:
    """Serve one stream; returns the call that was begun, for ``bridge``, if there is one.

    Args:
        seen: where everybody sees us; None if that is not known, or our router shows each another port.
        listening: where our daemon listens.
        reader: from the peer that will call.
        writer: to it.
        is_relayed: whether the stream comes through a relay.

    Raises:
        OSError, EOFError, BadMessage: the caller broke off, or talks nonsense, or no packet can be sent.
    """
    request = await read_message(reader, pb.PunchRequest, _MAX_MESSAGE_BYTES)
    theirs = checked_place(request.ip, request.port)
    if theirs is None:
        raise BadMessage(f"nobody can be called at {request.ip[:64]!r} port {request.port}")
    begun = None
    if not is_relayed:
        write_message(writer, pb.PunchReply(refusal="we are connected directly"))
    elif seen is None:
        write_message(writer, pb.PunchReply(refusal="no hole can be punched through my router"))
    else:
        begun = call(listening, theirs)
        write_message(writer, pb.PunchReply(ip=seen[0], port=seen[1]))
    return begun


def call(listening: Place, towards: Place) -> socket.socket:
    """Begin to call somebody from the port that our daemon listens on.

    Raises:
        OSError: the machine does not let us.
    """
    hole = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the daemon listens there, with the same option
        hole.setblocking(False)
        hole.bind(listening)
        hops = hole.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
        hole.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _HOPS)
        with contextlib.suppress(BlockingIOError):
            hole.connect(towards)  # sends the first packet
        hole.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    except OSError:
        hole.close()
        raise
    return hole


async def bridge(begun: socket.socket, listening: Place) -> None:
    """Wait for the call to become a connection, and pass it on to our daemon until it ends. Closes it."""
    host, port = listening
    try:
        async with asyncio.timeout(_WAIT_S):
            await _connected(begun)
            near_reader, near_writer = await asyncio.open_connection("127.0.0.1" if host == "0.0.0.0" else host, port)  # noqa: S104
            far_reader, far_writer = await asyncio.open_connection(sock=begun)
    except BaseException as error:
        begun.close()
        if isinstance(error, OSError):  # TimeoutError is one
            return
        raise
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(near_reader, far_writer))
            group.create_task(_pass_on(far_reader, near_writer))
    except* (OSError, EOFError):
        pass
    finally:
        near_writer.close()
        far_writer.close()


async def _connected(begun: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    is_decided = asyncio.Event()
    loop.add_writer(begun, is_decided.set)
    try:
        await is_decided.wait()
    finally:
        loop.remove_writer(begun)
    if code := begun.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, os.strerror(code))


async def _pass_on(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    raise EOFError


@dataclass(slots=True)
class Attempts:
    """Which peers to try next. Pure: times are monotonic seconds, given."""

    own: PeerId
    _next: dict[PeerId, tuple[int, float]] = field(default_factory=dict)
    """Of peers that were tried: how often, and when they may be tried again."""

    def due(self, relayed: Collection[PeerId], now_s: float) -> list[PeerId]:
        """Those to be tried now, which counts as an attempt. One of two peers tries: the one whose id is smaller.

        Args:
            relayed: all peers that are reached by a relay only, and can only be reached so.
            now_s: of this look.
        """
        self._next = {peer: tried for peer, tried in self._next.items() if peer in relayed}
        found = [p for p in sorted(relayed) if self.own < p and now_s >= self._next.get(p, (0, 0.0))[1]]
        for peer in found:
            times = self._next.get(peer, (0, 0.0))[0]
            self._next[peer] = times + 1, now_s + _AGAIN_AFTER_S[min(times, len(_AGAIN_AFTER_S) - 1)]
        return found
