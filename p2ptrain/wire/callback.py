"""Being called back: a node that is asked says where it sees the caller, and whether it can open a connection to it.

It dials no address but the one that the call comes from, so nobody can make it knock at other people's doors.
"""

import asyncio
import ipaddress
from typing import TypeAlias

from p2ptrain.errors import BadMessage
from p2ptrain.ids import PeerId
from p2ptrain.wire.framing import read_message, write_message
from p2ptrain.wire.reach import Sighting, is_relayed
from p2ptrain.wire.v1 import reach_pb2 as pb

CALL_BACK = "p2ptrain/1/callback"

_DIAL_TIMEOUT_S = 3.0
"""Ten times a bad home line's round trip; a router that drops what it does not know never answers."""
ASK_TIMEOUT_S = _DIAL_TIMEOUT_S + 3.0
_MAX_MESSAGE_BYTES = 1024
_GREETING = b"/multistream/1.0.0\n"
"""What a libp2p listener says first, after one byte of length."""

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


async def answer(address: str, reader: Reader, writer: Writer) -> None:
    """Serve one stream.

    Args:
        address: multiaddress from which the caller's connection comes.
        reader: from it.
        writer: to it.

    Raises:
        OSError, EOFError, BadMessage: the caller broke off, or talks nonsense.
    """
    request = await read_message(reader, pb.CallBackRequest, _MAX_MESSAGE_BYTES)
    seen = _ip_and_port(address)
    if seen is None:
        reply = pb.CallBackReply(refusal="your call comes through a relay, so nobody sees where you are")
    elif not 0 < request.port < 65536:
        raise BadMessage(f"port {request.port}")
    else:
        ip, port = seen
        reply = pb.CallBackReply(ip=ip, port=port, could_dial=await can_dial(ip, request.port))
    write_message(writer, reply)
    await writer.drain()


async def ask(by: PeerId, port: int, reader: Reader, writer: Writer) -> Sighting | None:
    """What the other end of a stream sees of us; None if it cannot tell.

    Raises:
        OSError, EOFError, BadMessage: it broke off, or talks nonsense.
    """
    write_message(writer, pb.CallBackRequest(port=port))
    await writer.drain()
    reply = await read_message(reader, pb.CallBackReply, _MAX_MESSAGE_BYTES)
    if reply.refusal or not _is_ip(reply.ip):
        return None
    return Sighting(by=by, ip=reply.ip, port=reply.port, could_dial=reply.could_dial)


async def can_dial(ip: str, port: int) -> bool:
    """Whether something that speaks libp2p listens there."""
    try:
        async with asyncio.timeout(_DIAL_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(ip, port)
            try:
                writer.write(bytes((len(_GREETING),)) + _GREETING)
                return (await reader.readexactly(1 + len(_GREETING)))[1:] == _GREETING
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError):
        return False


def _ip_and_port(address: str) -> tuple[str, int] | None:
    """Of a multiaddress like /ip4/192.0.2.1/tcp/4001; None through a relay."""
    parts = address.split("/")
    if is_relayed(address) or len(parts) < 5 or parts[1] not in ("ip4", "ip6") or not parts[4].isdecimal():
        return None
    return parts[2], int(parts[4])


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
