"""What a peer serves: held under labels, gone with the last of them; and whom it asks how often for what it lacks."""

import asyncio
import contextlib
import gc
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from p2ptrain.errors import BlobUnavailable, DialledTooSoon, PeerUnreachable
from p2ptrain.ids import Digest, PeerId
from p2ptrain.wire import blobs
from p2ptrain.wire.blob_store import BlobStore
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.messages import BlobRef


def test_a_blob_is_named_by_its_hash_and_length() -> None:
    assert BlobStore().hold("state", b"abc") == BlobRef(hashlib.sha256(b"abc").hexdigest(), 3)  # type: ignore[arg-type]


def test_a_blob_whose_hash_is_known_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"abc"
    ref = BlobRef.of(data)

    def again(data: bytes) -> BlobRef:
        raise AssertionError("hashing a large slice would hold everything else up")

    monkeypatch.setattr(BlobRef, "of", again)
    store = BlobStore()
    assert store.hold("state", data, sha256=ref.sha256) == ref
    assert store.get(ref.sha256) == data


def test_a_blob_stays_until_its_last_label_is_released() -> None:
    store = BlobStore()
    ref = store.hold("state", b"abc")
    assert store.hold("history", b"abc") == ref
    store.release("state")
    assert store.get(ref.sha256) == b"abc"
    store.release("history")
    assert store.get(ref.sha256) is None


def test_a_blob_that_is_here_can_be_kept_under_one_more_label() -> None:
    store = BlobStore()
    ref = store.hold("round", b"abc")
    store.keep("vote", ref.sha256)
    store.release("round")
    assert store.get(ref.sha256) == b"abc"
    store.release("vote")
    store.keep("vote", ref.sha256)
    assert store.get(ref.sha256) is None, "what is gone is not brought back"


def test_releasing_a_label_drops_all_that_it_alone_held_and_nothing_else() -> None:
    store = BlobStore()
    first, second, other = store.hold("round", b"1"), store.hold("round", b"2"), store.hold("state", b"3")
    store.release("round")
    store.release("never held")
    assert [store.get(ref.sha256) for ref in (first, second)] == [None, None]
    assert store.get(other.sha256) == b"3"


def test_arrays_are_served_as_their_bytes_without_a_copy() -> None:
    values = np.arange(4, dtype="<u2")
    store = BlobStore()
    ref = store.hold("state", values.data)
    held = store.get(ref.sha256)
    assert held is not None
    assert (ref.size_bytes, held.nbytes) == (8, 8)
    assert np.shares_memory(np.frombuffer(held, "<u2"), values)


class Donors:
    """A node whose calls fail, each donor's with its errors one after the other, the last one for ever."""

    peer = PeerId("me")
    door = SimpleNamespace(is_out=lambda peer: False)

    def __init__(self, **errors: list[PeerUnreachable]) -> None:
        self._errors = errors
        self.asked: list[str] = []

    @contextlib.asynccontextmanager
    async def open_stream(self, donor: PeerId, name: str, **_: object) -> AsyncIterator[None]:
        self.asked.append(donor)
        errors = self._errors[donor]
        raise errors.pop(0) if len(errors) > 1 else errors[0]
        yield


async def why_not(donors: Donors, monkeypatch: pytest.MonkeyPatch, silence_timeout_s: float) -> list[str]:
    """Whom a fetch that fails asked, with "pause" for each pause."""

    async def pause(seconds: float) -> None:
        donors.asked.append("pause")
        assert donors.asked.count("pause") < 100

    monkeypatch.setattr(blobs, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause}))
    exchange = BlobExchange(cast(Libp2pNode, donors), lambda peer, reason: None)
    ref, holders = BlobRef(Digest("00" * 32), 10), [PeerId(name) for name in donors._errors]
    with pytest.raises(BlobUnavailable):
        await exchange.fetch(ref, holders, silence_timeout_s=silence_timeout_s, what="data")
    return donors.asked


async def test_a_donor_that_was_dialled_in_vain_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    donors = Donors(gone=[PeerUnreachable("connection refused"), DialledTooSoon("dial backoff")])
    assert await why_not(donors, monkeypatch, 60.0) == ["gone", "gone"]


async def test_a_donor_that_is_not_dialled_is_waited_for_as_long_as_a_silent_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times_s = iter(range(100))
    monkeypatch.setattr(blobs.clock, "monotonic_s", lambda: float(next(times_s)))
    donors = Donors(later=[DialledTooSoon("dial backoff")], gone=[PeerUnreachable("connection refused")])
    asked = await why_not(donors, monkeypatch, 5.0)
    assert asked[:4] == ["later", "gone", "later", "gone"], "nobody waits while there are others to ask"
    assert 2 <= asked.count("pause") <= 5


class SteadyDonors:
    """A node whose donors send what they have, in chunks with pauses in between."""

    peer = PeerId("me")
    door = SimpleNamespace(is_out=lambda peer: False, accuse=lambda *args, **kwargs: None)
    traffic = SimpleNamespace(received_bytes=0)

    def __init__(self, data: bytes, *, breaks_after: int | None = None, **pace: tuple[int, float]) -> None:
        """Donors.

        Args:
            data: what all of them have.
            breaks_after: bytes after which every stream ends.
            pace: of each donor its bytes in a chunk and the seconds before each.
        """
        self._data = data
        self.breaks_after = breaks_after
        self._pace = pace
        self.sent: dict[str, int] = dict.fromkeys(pace, 0)
        self.streams = 0
        self.download = SimpleNamespace(admit=self._admit, chunk_bytes=lambda most: most)

    async def _admit(self, num_bytes: int) -> None:
        pass

    @contextlib.asynccontextmanager
    async def open_stream(self, donor: PeerId, name: str, **_: object) -> AsyncIterator[tuple[object, object]]:
        chunk_bytes, pause_s = self._pace[donor]
        self.streams += 1
        wanted: list[tuple[int, int]] = []
        left = len(self._data) if self.breaks_after is None else self.breaks_after

        def write(request: bytes) -> None:
            wanted.append((int.from_bytes(request[32:40], "big"), int.from_bytes(request[40:48], "big")))

        async def readexactly(_: int) -> bytes:
            return len(self._data).to_bytes(8, "big")

        async def read(most: int) -> bytes:
            nonlocal left
            await asyncio.sleep(pause_s)
            start, length = wanted[0]
            chunk = self._data[start : start + min(most, chunk_bytes, left)]
            left -= len(chunk)
            if not chunk:
                return b""
            wanted[0] = (start + len(chunk), length - len(chunk))
            if not wanted[0][1]:
                del wanted[0]
            self.sent[donor] += len(chunk)
            return chunk

        async def drain() -> None:
            pass

        yield SimpleNamespace(readexactly=readexactly, read=read), SimpleNamespace(write=write, drain=drain)


async def fetched(donors: SteadyDonors, data: bytes, **options: float) -> bytes:
    exchange = BlobExchange(cast(Libp2pNode, donors), lambda peer, reason: None)
    ref, holders = BlobRef(Digest(hashlib.sha256(data).hexdigest()), len(data)), [PeerId(d) for d in donors.sent]
    async with asyncio.timeout(20):
        return bytes((await exchange.fetch(ref, holders, what="data", silence_timeout_s=0.2))[0])


async def test_a_donor_that_sends_a_byte_now_and_then_does_not_hold_a_blob_up() -> None:
    data = bytes(range(256)) * 40
    donors = SteadyDonors(data, dripping=(1, 0.05), good=(1000, 0.0))
    assert await fetched(donors, data) == data
    assert donors.sent["dripping"] < 20
    assert donors.sent["good"] == len(data) - donors.sent["dripping"], "what the slow one sent is not sent again"


async def test_whoever_comes_to_wait_for_a_blob_brings_the_holders_that_it_knows() -> None:
    """A peer that fetches something early, from the one who has it then, must not wait for that one alone later."""
    data = bytes(range(256)) * 40
    ref = BlobRef(Digest(hashlib.sha256(data).hexdigest()), len(data))
    for first in ({"dripping": (1, 0.05)}, {"silent": (1, 60.0)}):
        donors = SteadyDonors(data, good=(1000, 0.0), **first)
        exchange = BlobExchange(cast(Libp2pNode, donors), lambda peer, reason: None)

        def fetch(*holders: str, exchange: BlobExchange = exchange) -> Awaitable[tuple[memoryview, PeerId]]:
            return exchange.fetch(ref, [PeerId(one) for one in holders], what="data", silence_timeout_s=0.2)

        early = asyncio.ensure_future(fetch(*first))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(20):
            late, _ = await fetch(*first, "good")
            assert bytes(late) == data
            assert (await early)[0] == data, "who was there first gets it, too"
        assert donors.sent["good"] <= len(data)


async def test_whoever_comes_before_a_fetch_has_begun_brings_its_holders_and_too_late_it_brings_nobody() -> None:
    data = bytes(1000)
    ref = BlobRef(Digest(hashlib.sha256(data).hexdigest()), len(data))
    donors = SteadyDonors(data, silent=(1, 60.0), good=(1000, 0.0))
    exchange = BlobExchange(cast(Libp2pNode, donors), lambda peer, reason: None)
    fetches = [exchange.fetch(ref, [PeerId(one)], what="data", silence_timeout_s=0.2) for one in donors.sent]
    async with asyncio.timeout(20):
        found = await asyncio.gather(*fetches)
    assert [bytes(one) for one, _ in found] == [data, data]
    assert donors.streams == 2, "one from each, for both"
    transfer = blobs._Transfer(cast(Libp2pNode, donors), ref, asyncio.Semaphore(1), lambda peer, reason: None)
    await transfer.run([PeerId("good")], 0.2, "data")
    assert transfer.also_ask([PeerId("good")])
    assert not transfer.also_ask([PeerId("silent")])


async def test_who_comes_when_a_fetch_has_failed_asks_its_own_holders() -> None:
    data = bytes(1000)
    ref = BlobRef(Digest(hashlib.sha256(data).hexdigest()), len(data))
    donors = SteadyDonors(data, breaks_after=0, gone=(1000, 0.0))
    exchange = BlobExchange(cast(Libp2pNode, donors), lambda peer, reason: None)
    early = asyncio.ensure_future(exchange.fetch(ref, [PeerId("gone")], what="data", silence_timeout_s=0.2))
    with pytest.raises(BlobUnavailable):
        await early
    donors.breaks_after, donors._pace["good"], donors.sent["good"] = None, (1000, 0.0), 0
    data_again, _ = await exchange.fetch(ref, [PeerId("good")], what="data", silence_timeout_s=0.2)
    assert bytes(data_again) == data


async def test_the_only_donor_may_be_as_slow_as_it_is() -> None:
    data = bytes(60)
    donors = SteadyDonors(data, slow=(1, 0.03))
    assert await fetched(donors, data) == data
    assert donors.streams <= 2, "it is asked anew after a stall of this machine, not whenever it was slow"


async def test_a_line_that_breaks_again_and_again_but_moves_forward_is_asked_again() -> None:
    data = random.Random(1).randbytes(3_000_000)
    donors = SteadyDonors(data, breaks_after=300_000, flaky=(100_000, 0.0))
    assert await fetched(donors, data) == data
    assert donors.streams == 10
    assert donors.sent["flaky"] == len(data), "no byte twice"


async def test_a_donor_whose_streams_break_at_once_is_given_up() -> None:
    data = bytes(300_000)
    donors = SteadyDonors(data, breaks_after=1000, broken=(1000, 0.0))
    with pytest.raises(BlobUnavailable, match="stopped after 2000 bytes"):
        await fetched(donors, data)
    assert donors.streams == 2


class Interrupted:
    """A large blob of which a fetch has got some pieces before it failed."""

    def __init__(self) -> None:
        self.data = random.Random(1).randbytes(9_000_000)
        self.ref = BlobRef(Digest(hashlib.sha256(self.data).hexdigest()), len(self.data))
        self.donors = SteadyDonors(self.data, breaks_after=200_000, flaky=(100_000, 0.0))
        self.exchange = BlobExchange(cast(Libp2pNode, self.donors), lambda peer, reason: None)

    async def fetch(self) -> bytes:
        fetching = self.exchange.fetch(self.ref, [PeerId("flaky")], silence_timeout_s=0.2, what="data")
        return bytes((await fetching)[0])

    async def cancel_one(self) -> None:
        """Begin a fetch, and cancel it when half of the blob is here."""
        self.donors.breaks_after = None
        task = asyncio.create_task(self.fetch())
        while self.donors.sent["flaky"] < len(self.data) // 2:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


async def test_a_fetch_goes_on_where_the_last_one_failed() -> None:
    transfer = Interrupted()
    for attempt in (1, 2):
        with pytest.raises(BlobUnavailable):
            await transfer.fetch()
        assert transfer.ref in transfer.exchange._unfinished
        assert transfer.donors.sent["flaky"] == attempt * 400_000
    transfer.donors.breaks_after = None
    assert await transfer.fetch() == transfer.data
    assert transfer.donors.sent["flaky"] == len(transfer.data)
    assert not transfer.exchange._unfinished


async def test_what_has_come_is_kept_while_nobody_can_be_reached_but_no_longer_for_that() -> None:
    transfer = Interrupted()
    with pytest.raises(BlobUnavailable):
        await transfer.fetch()
    first = transfer.exchange._unfinished[transfer.ref].forgets
    forgotten_at = first.when()
    transfer.donors.breaks_after = 0
    for _ in range(3):
        with pytest.raises(BlobUnavailable):
            await transfer.fetch()
    assert transfer.exchange._unfinished[transfer.ref].forgets.when() == forgotten_at
    transfer.donors.breaks_after = 200_000
    with pytest.raises(BlobUnavailable):
        await transfer.fetch()
    assert transfer.exchange._unfinished[transfer.ref].forgets.when() > forgotten_at, "it moves forward"
    assert first.cancelled(), "or it would drop what is kept for longer"


async def test_what_has_come_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_UNFINISHED_KEPT_S", 0.01)
    transfer = Interrupted()
    with pytest.raises(BlobUnavailable):
        await transfer.fetch()
    async with asyncio.timeout(20):
        while transfer.exchange._unfinished:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)


async def test_a_fetch_that_is_cancelled_leaves_what_has_come() -> None:
    transfer = Interrupted()
    await transfer.cancel_one()
    while not transfer.exchange._unfinished:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0)
    assert await transfer.fetch() == transfer.data
    assert transfer.donors.sent["flaky"] <= len(transfer.data) + 200_000, "but for what was being read"
    assert not transfer.exchange._unfinished


async def test_a_fetch_that_begins_while_a_cancelled_one_ends_is_the_only_one_that_counts() -> None:
    transfer = Interrupted()
    await transfer.cancel_one()
    assert await transfer.fetch() == transfer.data
    assert not transfer.exchange._unfinished


async def test_what_came_of_few_blobs_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_MAX_UNFINISHED", 2)
    transfer = Interrupted()
    refs = [BlobRef(Digest(hashlib.sha256(bytes([n])).hexdigest()), len(transfer.data)) for n in range(5)]
    timers = []
    for ref in refs:
        with pytest.raises(BlobUnavailable):
            await transfer.exchange.fetch(ref, [PeerId("flaky")], silence_timeout_s=0.2, what="data")
        timers.append(transfer.exchange._unfinished[ref].forgets)
    assert [timer.cancelled() for timer in timers] == [True] * 3 + [False] * 2
    assert list(transfer.exchange._unfinished) == refs[-2:]
    gc.collect()
    alive = [thing for thing in gc.get_objects() if type(thing) is blobs._Transfer]
    assert len(alive) == 2, "nothing else holds the bytes"


async def test_nothing_is_kept_of_a_blob_with_another_hash() -> None:
    transfer = Interrupted()
    transfer.donors.breaks_after = None
    forged = BlobRef(Digest("00" * 32), len(transfer.data))
    with pytest.raises(BlobUnavailable, match="another hash"):
        await transfer.exchange.fetch(forged, [PeerId("flaky")], silence_timeout_s=0.2, what="data")
    assert not transfer.exchange._unfinished


async def test_a_donor_that_has_delivered_is_waited_for_anew_when_it_is_not_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blobs, "_DIAL_AGAIN_S", 0.0)
    data = bytes(500_000)

    class NotAlwaysDialled(SteadyDonors):
        outcomes = iter([False, True, False, False, True])

        @contextlib.asynccontextmanager
        async def open_stream(self, *arguments: Any, **named: object) -> AsyncIterator[tuple[object, object]]:
            if not next(self.outcomes):
                raise DialledTooSoon("dial backoff")
            async with super().open_stream(*arguments, **named) as stream:
                yield stream

    donors = NotAlwaysDialled(data, breaks_after=300_000, flaky=(100_000, 0.0))
    # Each of the two waits is short, the time from the first one on is not.
    monkeypatch.setattr(blobs.clock, "monotonic_s", lambda: 100.0 * (donors.sent["flaky"] > 0))
    assert await fetched(donors, data) == data
