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
from p2ptrain.wire import strikes
from p2ptrain.wire.blobs import STREAM
from p2ptrain.wire.messages import BlobRef
from p2ptrain.wire.v1 import peer_pb2 as pb
from tests.support.live_swarm import PATIENCE_S
from tests.swarm.test_wire_over_libp2p import MEGABYTE, Party, parties

# hivemind leaves the socket of a stream that is cancelled while it opens to the garbage collector.
pytestmark = [pytest.mark.swarm, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


async def fetch_from_all(asker: Party, ref: BlobRef, holders: list[Party]) -> memoryview:
    """A blob to which each holder contributes: they are slow until all have begun, with the two pieces asked of each.

    Otherwise one of them may be done before the others have begun.
    """
    for holder in holders:
        holder.node.upload.mbps = 0.5
    peers = [holder.peer for holder in holders]
    task = asyncio.create_task(asker.blobs.fetch(ref, peers, silence_timeout_s=PATIENCE_S, what="data"))
    async with asyncio.timeout(PATIENCE_S):
        while not all(holder.node.traffic.recent[asker.peer] for holder in holders):  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.01)
    for holder in holders:
        holder.node.upload.mbps = None
    received, _ = await task
    return received


async def test_a_large_blob_comes_from_all_holders_and_every_byte_once(tmp_path: Path) -> None:
    async with parties(tmp_path, 4) as (asker, *holders):
        data = os.urandom(48 * MEGABYTE)
        refs = [holder.blobs.store.hold("test", data) for holder in holders]
        assert BlobRef.of(await fetch_from_all(asker, refs[0], holders)) == refs[0]
        assert all(h.node.traffic.sent_bytes > 8 * MEGABYTE for h in holders)
        assert asker.node.traffic.received_bytes < len(data) + MEGABYTE


async def test_who_of_several_donors_lied_is_found_out_and_he_alone_is_accused(tmp_path: Path) -> None:
    async with parties(tmp_path, 4) as (asker, *holders):
        data = os.urandom(24 * MEGABYTE)
        refs = [holder.blobs.store.hold("test", data) for holder in holders]
        forged = bytes(byte ^ 1 for byte in data[:MEGABYTE]) * 24
        liar = holders[1]
        liar.blobs.store._data[refs[0].sha256] = memoryview(forged)
        assert BlobRef.of(await fetch_from_all(asker, refs[0], holders)) == refs[0]
        assert asker.liars == [liar.peer]


async def test_a_transfer_that_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (asker, holder):
        data = os.urandom(24 * MEGABYTE)
        ref = holder.blobs.store.hold("test", data)
        holder.node.upload.mbps = 200.0

        def fetch() -> "asyncio.Task[tuple[memoryview, PeerId]]":
            return asyncio.create_task(asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data"))

        failing = fetch()
        async with asyncio.timeout(PATIENCE_S):
            while asker.node.traffic.received_bytes < 9 * MEGABYTE:  # noqa: ASYNC110 - a counter
                await asyncio.sleep(0.01)
        holder.blobs.store.release("test")
        with pytest.raises(BlobUnavailable, match="does not have it"):
            await failing
        assert ref in asker.blobs._unfinished
        holder.blobs.store.hold("test", data)
        assert BlobRef.of((await fetch())[0]) == ref
        assert asker.node.traffic.received_bytes < len(data) + MEGABYTE


async def test_two_who_want_the_same_blob_share_one_transfer(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (asker, holder):
        ref = holder.blobs.store.hold("test", os.urandom(3 * MEGABYTE))

        def fetch() -> "asyncio.Task[tuple[memoryview, PeerId]]":
            return asyncio.create_task(asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data"))

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
        again, _ = await asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data")
        assert BlobRef.of(again) == ref
        assert not asker.blobs._in_flight


async def test_caps_hold_within_five_percent_over_any_ten_seconds(tmp_path: Path) -> None:
    """Never more, and no less as soon as the machine lets the bytes through for ten seconds."""
    async with parties(tmp_path, 4) as (holder, free, capped, other):
        holder.node.upload.mbps = 20
        capped.node.download.mbps = 8
        slow, fast = holder.blobs.store.hold("a", bytes(150 * MEGABYTE)), other.blobs.store.hold("b", bytes(61_000_000))
        began_s = time.monotonic()
        tasks = [
            asyncio.create_task(free.blobs.fetch(slow, [holder.peer], silence_timeout_s=PATIENCE_S, what="up")),
            asyncio.create_task(capped.blobs.fetch(fast, [other.peer], silence_timeout_s=PATIENCE_S, what="down")),
        ]
        samples: list[tuple[float, int, int, int, int]] = []
        is_full = False
        while not is_full or time.monotonic() - began_s < 12.0:
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in tasks), "in a minute there were no ten seconds at the cap"
            # Where they are capped, and at the other end, where what was under way for long may come at once.
            up, down = holder.node.traffic.sent_bytes, capped.node.traffic.received_bytes
            seen_up, seen_down = free.node.traffic.received_bytes, other.node.traffic.sent_bytes
            samples.append((time.monotonic(), up, down, seen_up, seen_down))
            ten_ago = next((s for s in reversed(samples[5:]) if samples[-1][0] - s[0] >= 10.0), None)
            if ten_ago is not None:
                seconds, *num_bytes = (now - then for now, then in zip(samples[-1], ten_ago, strict=True))
                up_mbps, down_mbps, *seen_mbps = (8e-6 * count / seconds for count in num_bytes)
                assert up_mbps < 1.05 * 20
                assert down_mbps < 1.05 * 8
                is_full = is_full or seen_mbps == pytest.approx([20, 8], rel=0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_cap_can_be_lifted_while_bytes_flow(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        holder.node.upload.mbps = 1
        ref = holder.blobs.store.hold("test", os.urandom(5 * MEGABYTE))
        began_s = time.monotonic()
        task = asyncio.create_task(asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data"))
        await asyncio.sleep(0.5)
        assert asker.node.traffic.received_bytes < 125_000 * (time.monotonic() - began_s + 1.0)
        holder.node.upload.mbps = None
        async with asyncio.timeout(PATIENCE_S):
            await task


async def test_garbage_floods_and_silent_streams_are_turned_away_and_others_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strikes, "PENALTY_S", 3600.0)  # a slow machine gets to the end of this within the penalty
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
            await hostile.node.call(victim.peer, "status", pb.StatusRequest(), pb.StatusReply, timeout_s=PATIENCE_S)
        with pytest.raises(BlobUnavailable):
            await hostile.blobs.fetch(ref, [victim.peer], silence_timeout_s=2.0, what="data")
        reply = await honest.node.call(victim.peer, "status", pb.StatusRequest(), pb.StatusReply, timeout_s=PATIENCE_S)
        assert reply.peer == victim.peer
        received, _ = await honest.blobs.fetch(ref, [victim.peer], silence_timeout_s=PATIENCE_S, what="data")
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
        async with asyncio.timeout(PATIENCE_S):
            while len(tasks) > before:  # noqa: ASYNC110 - hivemind tells nobody
                await asyncio.sleep(0.01)


def _id(party: Party) -> object:
    return PeerID.from_base58(party.peer)
