"""Transport, blobs and directory between real libp2p nodes of one process."""

import asyncio
import contextlib
import gc
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from p2ptrain import clock
from p2ptrain.errors import BlobUnavailable, DialledTooSoon, PeerUnreachable
from p2ptrain.identity.keys import Identity, load_or_create
from p2ptrain.ids import Digest, PeerId, RunId, SliceId
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.swarm.directory import Claim, DhtDirectory, _encode, _record_name, is_valid_record
from p2ptrain.wire.blob_store import OnDisk
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import NodeOptions
from p2ptrain.wire.messages import BlobRef
from p2ptrain.wire.v1 import peer_pb2 as pb
from tests.support.live_swarm import PATIENCE_S, descendants, is_running

pytestmark = pytest.mark.swarm
RUN = RunId("ab" * 32)
MEGABYTE = 1_000_000
_T = TypeVar("_T")


class Party:
    """A node with its identity and blobs."""

    def __init__(self, node: Libp2pNode, identity: Identity, key: Path) -> None:
        self.node = node
        self.key = key
        self.identity = identity
        self.liars: list[PeerId] = []
        self.blobs = BlobExchange(node, lambda peer, _: self.liars.append(peer))

    @property
    def peer(self) -> PeerId:
        return self.node.peer


@contextlib.asynccontextmanager
async def parties(
    folder: Path, count: int, bootstraps: Sequence[str] = (), port: int = 0
) -> AsyncIterator[list[Party]]:
    """Nodes that know each other, the first as bootstrap unless others are given."""
    running: list[Party] = []
    try:
        for number in range(count):
            key = folder / f"{number}.key"
            identity = load_or_create(key)
            node = await Libp2pNode.start(
                NodeOptions(
                    identity=key,
                    peer=identity.peer_id,
                    host="127.0.0.1",
                    port=port,
                    bootstraps=running[0].node.addresses if running else bootstraps,
                    check_record=is_valid_record,
                    launcher=die_with_parent_prefix(),
                    sockets=folder / f"{number}.sockets",
                )
            )
            party = Party(node, identity, key)
            await party.blobs.start()
            running.append(party)
        yield running
    finally:
        for party in running:
            await party.node.stop()


async def soon(attempt: Callable[[], Awaitable[_T]], what: str) -> _T:
    """The first truthy answer: hivemind takes a node that misses one deadline of 3 s for gone, and asks again later."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (answer := await attempt()):
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:.0f} s: {what}"
        await asyncio.sleep(0.1)
    return answer


async def test_blob_arrives_whole_and_is_counted(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        data = os.urandom(5 * MEGABYTE)
        ref = holder.blobs.store.hold("test", data)
        received, donor = await asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data")
        assert bytes(received) == data
        assert donor == holder.peer
        assert asker.node.traffic.received_bytes >= len(data)
        assert len(data) <= holder.node.traffic.sent_bytes < len(data) + 1000


async def test_a_blob_on_disk_is_served_from_there_and_one_whose_file_is_gone_is_not_here(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        data, before = os.urandom(9 * MEGABYTE), b"what comes first in the file"
        ref = holder.blobs.store.hold("test", data)
        path = tmp_path / "round.bin"
        path.write_bytes(before + data)
        holder.blobs.store.move_to_disk("test", ref.sha256, OnDisk(path, len(before), len(data)))

        async def fetched() -> bytes:
            received, _ = await asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data")
            return bytes(received)

        assert await fetched() == data
        assert len(data) <= holder.node.traffic.sent_bytes < len(data) + 1000
        path.write_bytes(before + data[: 6 * MEGABYTE])
        with pytest.raises(BlobUnavailable):
            await fetched()
        path.unlink()
        with pytest.raises(BlobUnavailable):
            await fetched()
        assert await soon(lambda: fetched_whole(asker, holder), "it serves other blobs as ever")


async def fetched_whole(asker: Party, holder: Party) -> bool:
    data = os.urandom(1000)
    ref = holder.blobs.store.hold("test", data)
    received, _ = await asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data")
    return bytes(received) == data


async def test_the_next_blob_comes_on_the_stream_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        opened = 0
        opens_stream = holder.node.door.opens_stream

        def counted(peer: PeerId) -> bool:
            nonlocal opened
            opened += 1
            return opens_stream(peer)

        monkeypatch.setattr(holder.node.door, "opens_stream", counted)
        for _ in range(3):
            assert await fetched_whole(asker, holder)
        assert opened == 1


async def test_who_hung_up_meanwhile_is_called_anew(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        assert await fetched_whole(asker, holder)
        await holder.node.hang_up()
        assert await fetched_whole(asker, holder)


async def test_many_small_blobs_arrive_at_once(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        refs = [holder.blobs.store.hold("test", os.urandom(6000)) for _ in range(300)]
        fetched = await asyncio.gather(
            *(asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data") for ref in refs)
        )
        assert [BlobRef.of(data) for data, _ in fetched] == refs


async def test_holder_of_other_bytes_is_named_and_the_next_one_is_asked(tmp_path: Path) -> None:
    async with parties(tmp_path, 3) as (liar, honest, asker):
        data = os.urandom(MEGABYTE)
        ref = honest.blobs.store.hold("test", data)
        forged = bytearray(data)
        forged[7] ^= 1
        liar.blobs.store._data[ref.sha256] = memoryview(bytes(forged))
        received, donor = await asker.blobs.fetch(
            ref, [liar.peer, honest.peer], silence_timeout_s=PATIENCE_S, what="data"
        )
        assert bytes(received) == data
        assert donor == honest.peer
        assert asker.liars == [liar.peer]


async def test_blob_of_another_length_than_announced_is_not_read(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        ref = holder.blobs.store.hold("test", bytes(1000))
        wrong = BlobRef(ref.sha256, 10)
        with pytest.raises(BlobUnavailable, match="offers 1000 bytes"):
            await asker.blobs.fetch(wrong, [holder.peer], silence_timeout_s=PATIENCE_S, what="data")


async def test_transfer_goes_on_at_the_next_holder_where_a_frozen_one_stopped(tmp_path: Path) -> None:
    async with parties(tmp_path, 3) as (dies, stays, asker):
        data = os.urandom(60 * MEGABYTE)
        ref = dies.blobs.store.hold("test", data)
        stays.blobs.store.hold("test", data)
        daemon = _daemon_of(dies)
        task = asyncio.create_task(asker.blobs.fetch(ref, [dies.peer, stays.peer], silence_timeout_s=4.0, what="data"))
        while asker.node.traffic.received_bytes < 5 * MEGABYTE:
            await asyncio.sleep(0.001)
            assert not task.done()
        os.kill(daemon, signal.SIGSTOP)
        try:
            received, donor = await task
        finally:
            os.kill(daemon, signal.SIGCONT)
        assert donor == stays.peer
        assert BlobRef.of(received) == ref
        # Every byte was received once: what came before the freeze was kept.
        assert asker.node.traffic.received_bytes < len(data) + MEGABYTE


def _daemon_of(party: Party) -> int:
    """Process id of a party's p2pd, told by its identity file on the command line."""
    for pid in descendants(os.getpid()):
        if f"-id={party.key}" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise AssertionError("no such daemon")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_node_whose_daemon_died_or_froze_can_be_stopped(tmp_path: Path, blow: signal.Signals) -> None:
    async with parties(tmp_path, 1) as (party,):
        daemon = _daemon_of(party)
        os.kill(daemon, blow)
    assert not is_running(daemon)


async def test_nobody_having_the_blob_says_who_was_asked(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (holder, asker):
        ref = BlobRef(Digest("00" * 32), 10)
        with pytest.raises(BlobUnavailable, match=f"{holder.peer[-6:]} does not have it"):
            await asker.blobs.fetch(ref, [holder.peer], silence_timeout_s=PATIENCE_S, what="data")


async def test_a_blob_is_waited_for_while_libp2p_does_not_dial_its_holder(tmp_path: Path) -> None:
    async with parties(tmp_path, 1) as (asker,):
        (tmp_path / "once").mkdir()
        async with parties(tmp_path / "once", 1) as (once,):
            address, key = once.node.addresses[0], once.key

        async def call() -> None:
            await asker.node.dial(address)
            async with asker.node.open_stream(once.peer, "p2ptrain/1/blob"):
                pass

        with pytest.raises(PeerUnreachable):  # nobody listens there now
            await call()
        with pytest.raises(DialledTooSoon):
            await call()
        (tmp_path / "again").mkdir()
        shutil.copy2(key, tmp_path / "again" / "0.key")
        async with parties(tmp_path / "again", 1, port=int(address.split("/")[4])) as (again,):
            assert again.peer == once.peer
            assert await fetched_whole(asker, again)


async def test_call_to_a_frozen_peer_ends_at_its_deadline(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (frozen, caller):
        await frozen.node.serve("slow", pb.StatusRequest, _never)
        started_s = time.monotonic()
        with pytest.raises(PeerUnreachable):
            await caller.node.call(frozen.peer, "slow", pb.StatusRequest(), pb.Ack, timeout_s=0.5)
        assert 0.4 < time.monotonic() - started_s < PATIENCE_S


async def test_an_answer_that_is_none_is_told_from_no_answer_and_ends_nothing(tmp_path: Path) -> None:
    async def answer(sender: PeerId, request: pb.StatusRequest) -> pb.BlobRef:
        return pb.BlobRef(sha256=b"\xff\xff")  # where the caller expects a sentence

    async with parties(tmp_path, 2) as (liar, caller):
        await liar.node.serve("nonsense", pb.StatusRequest, answer)
        with pytest.raises(PeerUnreachable, match="something else"):
            await caller.node.call(liar.peer, "nonsense", pb.StatusRequest(), pb.Ack, timeout_s=PATIENCE_S)


async def test_answers_that_come_just_at_their_deadline_do_not_deafen_the_caller(tmp_path: Path) -> None:
    async def answer(sender: PeerId, request: pb.StatusRequest) -> pb.Ack:
        await asyncio.sleep(float(request.run))
        return pb.Ack()

    with answering_thread(tmp_path, "late", answer) as (address, server):
        async with parties(tmp_path, 1, bootstraps=[address]) as (caller,):

            async def call(answer_s: float, timeout_s: float) -> bool:
                request = pb.StatusRequest(run=str(answer_s))
                try:
                    await caller.node.call(server, "late", request, pb.Ack, timeout_s=timeout_s)
                except PeerUnreachable:
                    return False
                return True

            assert await call(0.0, PATIENCE_S)
            for _ in range(9):
                # As after a freeze: this loop is busy while answers and deadlines fall due, then sees all at once.
                calls = [asyncio.create_task(call(0.05, 0.1)) for _ in range(50)]
                await asyncio.sleep(0.01)
                time.sleep(0.4)  # noqa: ASYNC251 - blocking is the point
                if is_some_late := not all(await asyncio.gather(*calls)):
                    break
            assert is_some_late
            assert await call(0.0, PATIENCE_S)


@contextlib.contextmanager
def answering_thread(
    folder: Path, name: str, answer: Callable[[PeerId, pb.StatusRequest], Awaitable[pb.Ack]]
) -> Iterator[tuple[str, PeerId]]:
    """A node in an event loop of its own, so that it answers while the test's loop is busy; its address and peer."""
    started: queue.Queue[tuple[str, PeerId, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        (folder / "thread").mkdir()
        async with parties(folder / "thread", 1) as (party,):
            await party.node.serve(name, pb.StatusRequest, answer)
            end = asyncio.Event()
            started.put((party.node.addresses[0], party.peer, asyncio.get_running_loop(), end))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    address, peer, loop, end = started.get(timeout=PATIENCE_S)
    try:
        yield address, peer
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


async def _never(sender: PeerId, request: pb.StatusRequest) -> pb.Ack:
    await asyncio.sleep(3600)
    return pb.Ack()


def _claim(identity: Identity, lease_s: float = 500.0) -> Claim:
    return Claim(run=RUN, peer=identity.peer_id, ready=(SliceId("0"),), expires_s=clock.wall_s() + lease_s)


async def test_claims_are_found_by_others_and_expire(tmp_path: Path) -> None:
    async with parties(tmp_path, 3) as (node, one, other):
        directory = DhtDirectory(other.node, other.identity, RUN)
        published = DhtDirectory(one.node, one.identity, RUN)
        await soon(lambda: published.publish(_claim(one.identity)), "a claim is stored")
        for lease_s in (2.0, 10.0, 60.0):  # the first is too short where it takes longer to publish and look
            await DhtDirectory(node.node, node.identity, RUN).publish(_claim(node.identity, lease_s))
            found = await directory.claims()
            if {node.peer, one.peer} <= found.keys():
                break
        assert found[node.peer].ready == found[one.peer].ready == ("0",)
        assert await DhtDirectory(other.node, other.identity, RunId("cd" * 32)).claims() == {}

        async def is_past() -> bool:
            return node.peer not in await directory.claims()

        await soon(is_past, "the short claim expires")
        assert (await soon(directory.claims, "the long one is found")).keys() == {one.peer}


async def test_forged_and_prolonged_records_are_not_stored(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (_, liar):
        victim = Identity.generate()
        honest = _claim(victim)
        about_the_victim = _encode(liar.identity, honest)
        name = _record_name(RUN)
        store = liar.node.store
        assert not await store(name, subkey=victim.peer_id, value=about_the_victim, expires_s=honest.expires_s)
        own = _claim(liar.identity)
        value = _encode(liar.identity, own)
        assert not await store(name, subkey=liar.peer, value=value, expires_s=own.expires_s + 60), "prolonged"
        assert not await store(name, subkey=victim.peer_id, value=value, expires_s=own.expires_s), "another's place"
        assert not await store("other", subkey=liar.peer, value=value, expires_s=own.expires_s), "another run's key"
        assert not await store(name, subkey=liar.peer, value=b"garbage", expires_s=own.expires_s)
        long = _claim(liar.identity, lease_s=7200.0)
        assert not await store(name, subkey=liar.peer, value=_encode(liar.identity, long), expires_s=long.expires_s)

        async def store_own() -> bool:  # another one each time: who has it already does not take it again
            own = _claim(liar.identity)
            value = _encode(liar.identity, own)
            return await store(name, subkey=liar.peer, value=value, expires_s=own.expires_s)

        await soon(store_own, "its own claim is stored")


async def test_claims_elsewhere_are_those_that_other_nodes_keep_also_after_all_of_them_were_forgotten(
    tmp_path: Path,
) -> None:
    async with parties(tmp_path, 3) as (_, one, other):
        directories = [DhtDirectory(party.node, party.identity, RUN) for party in (one, other)]
        assert await directories[0].claims(elsewhere=True) == {}
        for party, directory in zip((one, other), directories, strict=True):
            await soon(lambda p=party, d=directory: d.publish(_claim(p.identity)), "a claim is stored")

        async def finds_both(directory: DhtDirectory, elsewhere: bool = True) -> bool:
            return set(await directory.claims(elsewhere=elsewhere)) == {one.peer, other.peer}

        for party, directory in zip((one, other), directories, strict=True):
            await soon(lambda directory=directory: finds_both(directory), "both claims are elsewhere")
            table = party.node._dht.protocol.routing_table
            for node_id in list(table.uid_to_peer_id):  # what hivemind does with whoever misses one deadline
                del table[node_id]
            await soon(lambda directory=directory: finds_both(directory), "they are found when nobody is known")
        one.node._dht.protocol.storage.clear()
        await soon(lambda: finds_both(directories[0], elsewhere=False), "they are found by who has lost them")


async def test_a_question_to_p2pd_that_is_cancelled_leaves_no_socket_open(tmp_path: Path) -> None:
    async with parties(tmp_path, 2) as (asker, other):

        async def open_a_stream() -> None:
            async with asker.node.open_stream(other.peer, "nobody/serves/this"):
                pass

        questions: list[Callable[[], Awaitable[object]]] = [
            asker.node.connections,
            asker.node.paths,
            asker.node.current_addresses,
            lambda: asker.node.dial(*other.node.addresses),
            open_a_stream,
            lambda: asker.node.hang_up(other.peer),
        ]
        for turns in range(9):
            for ask in questions:
                question = asyncio.ensure_future(ask())
                for _ in range(turns):
                    await asyncio.sleep(0)
                question.cancel()
                await asyncio.wait([question])
                if not question.cancelled():
                    question.exception()  # the daemon was faster than we, and may have refused
        gc.collect()  # a socket that nobody closed complains now, which pytest makes an error
