"""Blobs from several donors, shared transfers, caps, and what a hostile caller can do to a serving peer."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PHandlerError

from p2ptrain.errors import BlobUnavailable, PeerUnreachable
from p2ptrain.ids import PeerId
from p2ptrain.wire.blobs import STREAM
from p2ptrain.wire.messages import BlobRef
from p2ptrain.wire.v1 import peer_pb2 as pb
from tests.swarm.test_wire_over_libp2p import MEGABYTE, Party, parties

# hivemind leaves the socket of a stream that is cancelled while it opens to the garbage collector.
pytestmark = [pytest.mark.swarm, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


async def test_a_large_blob_comes_from_all_holders_and_every_byte_once(tmp_path: Path) -> None:
    async with parties(tmp_path, 4) as (asker, *holders):
        data = os.urandom(48 * MEGABYTE)
        refs = [holder.blobs.store.hold("test", data) for holder in holders]
        for holder in holders:  # equal links, or one of them may be done before the others have begun
            holder.node.upload.mbps = 200
        received, _ = await asker.blobs.fetch(refs[0], [h.peer for h in holders], silence_timeout_s=30.0, what="data")
        assert BlobRef.of(received) == refs[0]
        assert all(h.node.traffic.sent_bytes > 8 * MEGABYTE for h in holders)
        assert asker.node.traffic.received_bytes < len(data) + MEGABYTE


async def test_who_of_several_donors_lied_is_found_out_and_he_alone_is_accused(tmp_path: Path) -> None:
    async with parties(tmp_path, 4) as (asker, *holders):
        data = os.urandom(24 * MEGABYTE)
        refs = [holder.blobs.store.hold("test", data) for holder in holders]
        forged = bytes(byte ^ 1 for byte in data[:MEGABYTE]) * 24
        liar = holders[1]
        liar.blobs.store._data[refs[0].sha256] = memoryview(forged)
        for holder in holders:
            holder.node.upload.mbps = 200
        received, _ = await asker.blobs.fetch(refs[0], [h.peer for h in holders], silence_timeout_s=30.0, what="data")
        assert BlobRef.of(received) == refs[0]
        assert asker.liars == [liar.peer]


async def test_two_who_want_the_same_blob_share_one_transfer(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (asker, holder):
        ref = holder.blobs.store.hold("test", os.urandom(3 * MEGABYTE))

        def fetch() -> "asyncio.Task[tuple[memoryview, PeerId]]":
            return asyncio.create_task(asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=30.0, what="data"))

        gives_up, *others = [fetch() for _ in range(5)]
        await asyncio.sleep(0)
        gives_up.cancel()
        results = await asyncio.gather(*others)
        assert {BlobRef.of(data) for data, _ in results} == {ref}
        assert asker.node.traffic.received_bytes < 3 * MEGABYTE + 1000
        # Nobody waits any more: the transfer ends, and the next one is a new one.
        alone = fetch()
        await asyncio.sleep(0.001)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        again, _ = await asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=30.0, what="data")
        assert BlobRef.of(again) == ref
        assert not asker.blobs._in_flight


async def test_caps_hold_within_five_percent_over_any_ten_seconds(tmp_path: Path) -> None:
    async with parties(tmp_path, 4) as (holder, free, capped, other):
        holder.node.upload.mbps = 20
        capped.node.download.mbps = 8
        blobs = [os.urandom(30 * MEGABYTE) for _ in range(2)]
        slow, fast = holder.blobs.store.hold("a", blobs[0]), other.blobs.store.hold("b", blobs[1])
        tasks = [
            asyncio.create_task(free.blobs.fetch(slow, [holder.peer], silence_timeout_s=30.0, what="up")),
            asyncio.create_task(capped.blobs.fetch(fast, [other.peer], silence_timeout_s=30.0, what="down")),
        ]
        samples = []
        began_s = time.monotonic()
        while time.monotonic() - began_s < 12.0:
            up, down = free.node.traffic.received_bytes, other.node.traffic.sent_bytes
            samples.append((time.monotonic(), up, down))
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        checked = 0
        for at_s, up, down in samples[5:]:
            for later_s, later_up, later_down in samples:
                if 10.0 <= later_s - at_s < 10.1:
                    seconds = later_s - at_s
                    assert (later_up - up) * 8e-6 / seconds == pytest.approx(20, rel=0.05)
                    assert (later_down - down) * 8e-6 / seconds == pytest.approx(8, rel=0.05)
                    checked += 1
        assert checked


async def test_a_cap_can_be_lifted_while_bytes_flow(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        holder.node.upload.mbps = 1
        ref = holder.blobs.store.hold("test", os.urandom(5 * MEGABYTE))
        task = asyncio.create_task(asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=30.0, what="data"))
        await asyncio.sleep(0.5)
        assert asker.node.traffic.received_bytes < 200_000
        holder.node.upload.mbps = None
        async with asyncio.timeout(60.0):
            await task


async def test_garbage_floods_and_silent_streams_are_turned_away_and_others_served(tmp_path: Path) -> None:
    async with parties(tmp_path, 3) as (victim, hostile, honest):
        accused: list[tuple[PeerId, str]] = []
        victim.node.door.on_cut_off = lambda peer, reason: accused.append((peer, reason))

        async def answer(sender: PeerId, request: pb.StatusRequest) -> pb.StatusReply:
            return pb.StatusReply(peer=victim.peer)

        await victim.node.serve("status", pb.StatusRequest, answer)
        ref = victim.blobs.store.hold("test", os.urandom(MEGABYTE))
        # Streams that ask for nothing, more than anybody may have.
        idle = [await hostile.node._p2p.call_binary_stream_handler(_id(victim), STREAM) for _ in range(90)]
        # What is no message at all.
        for size in (1, 100, 10_000, 1_000_000):
            for _ in range(4):
                with pytest.raises(P2PHandlerError):
                    await hostile.node._p2p._client.call_unary_handler(_id(victim), "status", b"\xff" * size)
        assert {peer for peer, _ in accused} == {hostile.peer}
        # Well-formed calls are not heard any more either; others' are.
        with pytest.raises(PeerUnreachable, match="not listened to"):
            await hostile.node.call(victim.peer, "status", pb.StatusRequest(), pb.StatusReply, timeout_s=30.0)
        with pytest.raises(BlobUnavailable):
            await hostile.blobs.fetch(ref, [victim.peer], silence_timeout_s=2.0, what="data")
        reply = await honest.node.call(victim.peer, "status", pb.StatusRequest(), pb.StatusReply, timeout_s=30.0)
        assert reply.peer == victim.peer
        received, _ = await honest.blobs.fetch(ref, [victim.peer], silence_timeout_s=30.0, what="data")
        assert BlobRef.of(received) == ref
        for _, _, writer in idle:
            writer.close()


async def test_calls_that_are_cancelled_leave_nothing_behind(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (victim, hostile):

        async def never(sender: PeerId, request: pb.StatusRequest) -> pb.Ack:
            await asyncio.sleep(3600)
            return pb.Ack()

        await victim.node.serve("never", pb.StatusRequest, never)
        tasks = victim.node._p2p._client.control._handler_tasks
        before = len(tasks)
        for _ in range(20):
            with pytest.raises(PeerUnreachable):
                await hostile.node.call(victim.peer, "never", pb.StatusRequest(), pb.Ack, timeout_s=0.05)
        async with asyncio.timeout(60.0):
            while len(tasks) > before:  # noqa: ASYNC110 - hivemind tells nobody
                await asyncio.sleep(0.01)


def _id(party: Party) -> object:
    return PeerID.from_base58(party.peer)
