"""Punching holes: who tries when, what is answered, and a call that becomes the daemon's connection."""

import asyncio
import socket

import pytest

from p2ptrain.errors import BadMessage
from p2ptrain.ids import PeerId
from p2ptrain.wire import punch
from p2ptrain.wire.framing import read_message, write_message
from p2ptrain.wire.v1 import reach_pb2 as pb

A, B, C = (PeerId(f"12D3{name}") for name in "abc")
SEEN = ("44.77.0.20", 31000)


def test_of_two_peers_one_tries() -> None:
    assert punch.Attempts(A).due([B], 0.0) == [B]
    assert punch.Attempts(B).due([A], 0.0) == []


def test_what_does_not_work_is_tried_three_times_ever_more_seldom() -> None:
    attempts = punch.Attempts(A)
    tried_s = [now_s for now_s in range(0, 20_000, 5) if attempts.due([B], now_s)]
    assert tried_s == [0, 60, 660]


def test_who_was_reached_directly_for_a_while_is_tried_anew() -> None:
    attempts = punch.Attempts(A)
    assert attempts.due([B, C], 0.0) == [B, C]
    assert attempts.due([C], 5.0) == []
    assert attempts.due([B, C], 10.0) == [B]


@pytest.mark.parametrize("text", ["", "192.168.1.2:31337", "127.0.0.1:1", "44.77.0.20:0", "44.77.0.20:70000", "::1:5"])
def test_places_that_nobody_outside_can_call_are_none(text: str) -> None:
    assert punch.place_of(text) is None


class _Pipe:
    """A stream to ourselves: what is written is read."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()

    def write(self, data: bytes) -> None:
        self.reader.feed_data(data)

    async def drain(self) -> None:
        pass


async def answered(request: pb.PunchRequest, seen: punch.Place | None, *, is_relayed: bool) -> pb.PunchReply:
    there, back = _Pipe(), _Pipe()
    write_message(there, request)  # type: ignore[arg-type]
    begun = await punch.answer(seen, ("127.0.0.1", 0), there.reader, back, is_relayed=is_relayed)  # type: ignore[arg-type]
    assert begun is None
    return await read_message(back.reader, pb.PunchReply, 1024)


async def test_no_packet_is_sent_for_whom_it_does_not_help() -> None:
    request = pb.PunchRequest(ip="44.77.0.30", port=1000)
    assert "directly" in (await answered(request, SEEN, is_relayed=False)).refusal
    assert "router" in (await answered(request, None, is_relayed=True)).refusal


@pytest.mark.parametrize("ip", ["192.168.1.1", "127.0.0.1", "224.0.0.1", "nonsense", "::1", ""])
async def test_nobody_can_have_us_call_into_our_own_network(ip: str) -> None:
    with pytest.raises(BadMessage, match="nobody can be called"):
        await answered(pb.PunchRequest(ip=ip, port=22), SEEN, is_relayed=True)


async def test_a_call_from_the_daemons_port_becomes_a_connection_of_the_daemon() -> None:
    """Two calls that meet, as through two routers: each is from the port that the other one calls."""
    came_in: asyncio.Queue[tuple[punch.Reader, punch.Writer]] = asyncio.Queue()
    daemon = await asyncio.start_server(
        lambda reader, writer: came_in.put_nowait((reader, writer)), "127.0.0.1", 0, reuse_port=True
    )
    listening = daemon.sockets[0].getsockname()
    far = socket.create_server(("127.0.0.1", 0))
    begun = punch.call(listening, far.getsockname())
    bridging = asyncio.create_task(punch.bridge(begun, listening))
    loop = asyncio.get_running_loop()
    far.setblocking(False)
    async with asyncio.timeout(30):
        their_end, caller = await loop.sock_accept(far)
        assert caller == listening, "from the port that routers know"
        reader, writer = await came_in.get()
        await loop.sock_sendall(their_end, b"there")
        assert await reader.readexactly(5) == b"there"
        writer.write(b"back")
        assert await loop.sock_recv(their_end, 10) == b"back"
        their_end.close()
        assert await reader.read() == b"", "the daemon sees the end"
        await bridging
    writer.close()
    daemon.close()
    far.close()


async def test_a_call_that_nobody_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()
    begun = punch.call(("127.0.0.1", 0), nobody)
    async with asyncio.timeout(30):
        await punch.bridge(begun, ("127.0.0.1", nobody[1]))
    assert begun.fileno() == -1, "closed"
