"""Bulk bytes, named by their SHA-256: contributions, averages, updates and whole states all travel this one way.

A blob is fetched from any holder, a large one from several at once, resumed at the next one where the last one stopped,
and used only when its hash is the announced one. Stream: a request is the hash (32 bytes), an offset and a number of
bytes (8 bytes each, big endian); the answer is the blob's length (8 bytes; all ones for "not here") and so many of its
bytes from the offset on. Requests follow each other until the caller closes the stream.
"""

import asyncio
import contextlib
import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from p2ptrain import clock
from p2ptrain.errors import BlobUnavailable, DialledTooSoon, PeerUnreachable
from p2ptrain.ids import Digest, PeerId, short
from p2ptrain.wire.blob_store import BlobStore, OnDisk
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.messages import BlobRef
from p2ptrain.wire.upload_queue import UploadQueue

STREAM = "p2ptrain/1/blob"
_NOT_HERE = 2**64 - 1
_CHUNK_BYTES = 256 * 1024
"""hivemind's streams carry 286 MB/s in pieces of this size and no more in larger ones (measured on loopback)."""
_REQUEST_BYTES = 48
_PIECE_BYTES = 4 * 1024 * 1024
"""Blobs above this come from several donors, so much of each at a time: a second at 32 Mbit/s."""
_DONORS_AT_ONCE = 4
_ASKED_AT_ONCE = 2
"""Pieces under way from one donor: the next is asked for before the first has come, so no round trip is idle."""
_IDLE_S = 60.0
"""A caller that neither asks nor reads for so long is hung up on."""
_TURN_S = 2.0
"""A caller that has not read its chunk by then waits outside of the queue: a chunk takes so long at 1 Mbit/s."""
WRONG_HASH_STRIKES = 4
"""Bytes with a wrong hash weigh as much as so many malformed messages: they were made up, or the memory is broken."""
_DIAL_AGAIN_S = 1.0
"""After a donor that libp2p did not even dial."""
_PATIENCE = 2.0
"""Silence timeouts that one piece may take while another donor could be asked: who sends a byte now and then is not
silent, and would hold the blob up for ever."""
_GOOD_FOR_MORE_BYTES = 256 * 1024
"""A donor that sent so much before its stream broke may be asked as often again: a line that breaks every minute moves
forward, too."""
_MAX_REASONS = 8
"""Of a failure, the last ones."""
_UNFINISHED_KEPT_S = 300.0
"""How long what has come of a blob outlives the fetch that failed, for whoever wants it again: a router that restarts
costs no byte twice."""
_MAX_UNFINISHED = 16
"""Blobs; a newcomer fetches all slices at once."""
_MAX_STREAMS = 32
"""Fetched at once: a holder's p2pd refuses streams when more than 100 wait to be accepted (seen with 300 at once)."""


class BlobExchange:
    """Serves this peer's blobs and fetches other peers'."""

    def __init__(self, node: Libp2pNode, on_wrong_hash: Callable[[PeerId, str], None]) -> None:
        self.store = BlobStore()
        self._node = node
        self._on_wrong_hash = on_wrong_hash
        self._streams = asyncio.Semaphore(_MAX_STREAMS)
        self._in_flight: dict[BlobRef, _Shared] = {}
        self._unfinished: dict[BlobRef, _Unfinished] = {}
        self._queue = UploadQueue()

    async def start(self) -> None:
        """Begin to serve."""
        await self._node.serve_streams(STREAM, self._serve)

    async def fetch(
        self, ref: BlobRef, holders: Sequence[PeerId], *, silence_timeout_s: float, what: str
    ) -> tuple[memoryview, PeerId]:
        """The blob's bytes and the holder that completed them; whoever asks meanwhile gets the same bytes.

        A blob of several pieces goes on where an earlier fetch of it has failed, or was cancelled, within five minutes.

        Args:
            ref: the hash and length to expect; the caller has checked that the length is plausible.
            holders: who may have it, best first.
            silence_timeout_s: a holder that sends nothing for so long is given up.
            what: the blob in words, for messages.

        Raises:
            BlobUnavailable: no holder delivered it; the message says what each one did.
        """
        if (own := self.store.get(ref.sha256)) is not None:
            return own, self._node.peer
        while (shared := self._in_flight.get(ref)) is not None and not shared.is_over:
            asks_ours = shared.transfer.also_ask(holders)
            try:
                return await shared.result()
            except BlobUnavailable:
                if asks_ours:
                    raise
        before = self._unfinished.pop(ref, None)
        transfer = before.transfer if before else _Transfer(self._node, ref, self._streams, self._on_wrong_hash)
        task = asyncio.create_task(self._fetch(ref, transfer, before, holders, silence_timeout_s, what))
        mine = self._in_flight[ref] = _Shared(task, transfer)
        task.add_done_callback(lambda _: self._in_flight.pop(ref) if self._in_flight.get(ref) is mine else None)
        return await mine.result()

    async def _fetch(
        self,
        ref: BlobRef,
        transfer: "_Transfer",
        before: "_Unfinished | None",
        holders: Sequence[PeerId],
        silence_timeout_s: float,
        what: str,
    ) -> tuple[memoryview, PeerId]:
        if before:
            before.forgets.cancel()
        try:
            return await transfer.run(holders, silence_timeout_s, what)
        except BaseException:
            if ref.size_bytes > _PIECE_BYTES and transfer.has_some and not self._is_fetched_by_another(ref):
                until_s = before.forgets.when() if before and not transfer.has_moved else None
                self._keep_unfinished(ref, transfer, until_s)
            raise

    def _is_fetched_by_another(self, ref: BlobRef) -> bool:
        """While a fetch that nobody waits for ends, the next one may have begun."""
        shared = self._in_flight.get(ref)
        return shared is not None and not shared.is_run_by(asyncio.current_task())

    def _keep_unfinished(self, ref: BlobRef, transfer: "_Transfer", until_s: float | None) -> None:
        """Until a time of the event loop; None is ``_UNFINISHED_KEPT_S`` from now on."""
        if len(self._unfinished) >= _MAX_UNFINISHED:
            self._unfinished.pop(next(iter(self._unfinished))).forgets.cancel()
        loop = asyncio.get_running_loop()
        when_s = loop.time() + _UNFINISHED_KEPT_S if until_s is None else until_s
        self._unfinished[ref] = _Unfinished(transfer, loop.call_at(when_s, self._unfinished.pop, ref, None))

    async def _serve(self, remote: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE_S):
                request = await reader.readexactly(_REQUEST_BYTES)
            if not self._node.door.admits_call(remote):
                return
            sha256 = Digest(request[:32].hex())
            offset, length = (int.from_bytes(request[at : at + 8], "big") for at in (32, 40))
            with _opened(self.store.find(sha256)) as blob:
                if blob is None or offset > blob.size_bytes:
                    writer.write(_NOT_HERE.to_bytes(8, "big"))
                    await writer.drain()
                    continue
                writer.write(blob.size_bytes.to_bytes(8, "big"))
                self.store.note_served(sha256, clock.monotonic_s())
                stop = min(offset + length, blob.size_bytes)
                if self.store.is_patient(sha256):
                    await self._send_from(blob, offset, stop, remote, writer, self._queue.patient_chunk)
                else:
                    async with self._queue.urgent():
                        await self._send_from(blob, offset, stop, remote, writer, contextlib.nullcontext)

    async def _send_from(
        self,
        blob: "_Opened",
        start: int,
        stop: int,
        remote: PeerId,
        writer: asyncio.StreamWriter,
        turn: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    ) -> None:
        while start < stop:
            data = await blob.read(start, stop)
            await self._send(remote, writer, data, turn)
            start += len(data)

    async def _send(
        self,
        remote: PeerId,
        writer: asyncio.StreamWriter,
        data: memoryview,
        turn: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    ) -> None:
        node, start = self._node, 0
        node.meter.begins(clock.monotonic_s())
        try:
            while start < len(data):
                chunk = data[start : start + node.upload.chunk_bytes(_CHUNK_BYTES)]
                async with turn():
                    await node.upload.admit(len(chunk))
                    writer.write(chunk)
                    drained = asyncio.ensure_future(writer.drain())
                    await asyncio.wait({drained}, timeout=_TURN_S)
                async with asyncio.timeout(_IDLE_S):
                    await drained
                start += len(chunk)
                node.traffic.sent_bytes += len(chunk)
                node.traffic.recent[remote] += len(chunk)
                node.meter.sent(len(chunk), clock.monotonic_s())
        finally:
            node.meter.ends(clock.monotonic_s())


@dataclass(frozen=True, slots=True)
class _Opened:
    """A blob that is being served; what is read from a file stays readable when the file is removed meanwhile."""

    size_bytes: int
    data: memoryview | None
    file: BinaryIO | None = None
    offset: int = 0
    """Of the blob in ``file``."""

    async def read(self, start: int, stop: int) -> memoryview:
        """Bytes of the blob from ``start`` on, up to ``stop`` or somewhat before.

        Raises:
            OSError: the disk fails, or the file was cut short.
        """
        if self.data is not None:
            return self.data[start:stop]
        assert self.file is not None
        wanted = min(stop - start, _PIECE_BYTES)
        data = await asyncio.to_thread(os.pread, self.file.fileno(), wanted, self.offset + start)
        if not data:
            raise OSError(f"{self.file.name} ends before its blob does")
        return memoryview(data)


@contextlib.contextmanager
def _opened(found: memoryview | OnDisk | None) -> Iterator[_Opened | None]:
    """None where there is nothing, or its file is gone."""
    if not isinstance(found, OnDisk):
        yield None if found is None else _Opened(len(found), found)
        return
    try:
        file = found.path.open("rb")
    except OSError:
        yield None
        return
    with file:
        yield _Opened(found.size_bytes, None, file, found.offset)


class _Shared:
    """One transfer that several wait for; it ends with the last of them."""

    def __init__(self, task: "asyncio.Task[tuple[memoryview, PeerId]]", transfer: "_Transfer") -> None:
        self._task = task
        self.transfer = transfer
        self._waiting = 0
        self._has_begun = False

    def is_run_by(self, task: "asyncio.Task[Any] | None") -> bool:
        """Whether this is the transfer's own task."""
        return self._task is task

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is about to without a result because nobody waits any more."""
        return self._task.done() or (self._has_begun and self._waiting == 0)

    async def result(self) -> tuple[memoryview, PeerId]:
        """What the transfer gives."""
        self._waiting += 1
        self._has_begun = True
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._task.cancel()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A range of the blob."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """What has come of a blob in fetches that failed."""

    transfer: "_Transfer"
    forgets: asyncio.TimerHandle
    """Drops it."""


class _Transfer:
    """One blob on its way here: which pieces are missing, and who is asked for them."""

    def __init__(
        self,
        node: Libp2pNode,
        ref: BlobRef,
        streams: asyncio.Semaphore,
        on_wrong_hash: Callable[[PeerId, str], None],
    ) -> None:
        self._node = node
        self._ref = ref
        self._streams = streams
        self._on_wrong_hash = on_wrong_hash
        self._arrived: Counter[PeerId] = Counter()
        self._last: PeerId = node.peer
        self._others: list[PeerId] = []
        self._donors: deque[PeerId] = deque()
        self._joined: list[PeerId] = []
        """Holders that are known to whoever came to wait for it later."""
        self._takes_more = True
        """Whether these will be asked."""
        self._begin()

    def _begin(self) -> None:
        self._data = bytearray(self._ref.size_bytes)
        self._missing = deque(_Piece(s, min(s + _PIECE_BYTES, len(self._data))) for s in self._piece_starts())
        self._came_from: list[tuple[_Piece, PeerId]] = []

    def _ask(self, donors: Sequence[PeerId]) -> None:
        # Twice: a link that breaks at once under load carries the same bytes a moment later.
        self._donors = deque([*donors, *donors])

    def _piece_starts(self) -> range:
        return range(0, max(1, self._ref.size_bytes), _PIECE_BYTES)

    @property
    def has_some(self) -> bool:
        """Whether anything has come, and is not known to be wrong."""
        return bool(self._came_from)

    @property
    def has_moved(self) -> bool:
        """Whether some of it came in the last run."""
        return bool(self._arrived)

    def also_ask(self, holders: Sequence[PeerId]) -> bool:
        """Ask these as well, after those that it asks already; False if it is too late for that."""
        new = [h for h in dict.fromkeys(holders) if h != self._node.peer and h not in self._others]
        if new and self._takes_more:
            self._joined += new
            if self._others:  # else it has not begun
                self._others += new
                self._donors.extend([*new, *new])
        return self._takes_more or not new

    async def run(self, holders: Sequence[PeerId], silence_timeout_s: float, what: str) -> tuple[memoryview, PeerId]:
        """The bytes and who sent the last of them; raises BlobUnavailable, after which it may be run again."""
        self._silence_timeout_s = silence_timeout_s
        self._what = what
        self._arrived = Counter()
        """Bytes by donor."""
        self._failures: list[str] = []
        self._undialled_s: dict[PeerId, float] = {}
        """By donor since when libp2p does not even dial it."""
        self._refused: set[PeerId] = set()
        """Donors that were dialled for this blob, in vain."""
        others = [holder for holder in dict.fromkeys([*holders, *self._joined]) if holder != self._node.peer]
        # Whoever is cut off for what it sent comes last, not never: it may be the only one.
        self._others = sorted(others, key=self._node.door.is_out)
        self._ask(self._others)
        self._takes_more = True
        await self._collect(_DONORS_AT_ONCE)
        self._takes_more = False
        if not self._missing and await self._has_right_hash():
            return memoryview(self._data), self._last
        if not self._missing:
            await self._collect_from_one_after_the_other()
        if self._missing:
            reasons = "; ".join(list(dict.fromkeys(self._failures))[-_MAX_REASONS:]) or "nobody holds it"
            raise BlobUnavailable(f"{self._what} ({self._ref.size_bytes} bytes): {reasons}")
        return memoryview(self._data), self._last

    async def _collect(self, at_once: int) -> None:
        workers = min(at_once, len(self._missing), len(set(self._donors)))
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, workers)):
                group.create_task(self._work())

    async def _collect_from_one_after_the_other(self) -> None:
        """Somebody sent wrong bytes: find out who, by comparing with what has the right hash."""
        wrong, came_from = self._data, self._came_from
        if len(senders := {sender for _, sender in came_from}) == 1:
            self._accuse(*senders)
            came_from = []
        for donor in [d for d in self._others if d not in senders or len(senders) > 1]:
            self._begin()
            self._ask([donor])
            await self._collect(1)
            if self._missing:
                continue
            if await self._has_right_hash():
                for piece, sender in came_from:
                    if wrong[piece.start : piece.stop] != self._data[piece.start : piece.stop]:
                        self._accuse(sender)
                return
            self._accuse(donor)
        self._begin()  # nothing that came is good

    def _accuse(self, sender: PeerId) -> None:
        failure = f"{short(sender)} sent bytes with another hash"
        if failure not in self._failures:
            self._failures.append(failure)
            self._on_wrong_hash(sender, f"{self._what} has another hash than announced")
            self._node.door.accuse(sender, "bytes with another hash than announced", weight=WRONG_HASH_STRIKES)

    async def _has_right_hash(self) -> bool:
        return (await asyncio.to_thread(hashlib.sha256, self._data)).hexdigest() == self._ref.sha256

    async def _work(self) -> None:
        """Take missing pieces from one donor, and when it fails from the next."""
        while self._missing and self._donors:
            donor = self._donors.popleft()
            asked: deque[_Piece] = deque()
            before_bytes = self._arrived[donor]
            try:
                async with self._streams:
                    await self._take_pieces(donor, asked)
                self._donors.appendleft(donor)  # it works: good for what another one fails to send
            except _Slow as error:
                self._failures.append(f"{short(donor)} {error}")
                self._donors.append(donor)  # the line may be slow, and the others' no faster
            except _Interrupted as error:
                self._failed(donor, str(error), before_bytes)
            except TimeoutError:
                self._failed(donor, f"was silent for {self._silence_timeout_s:.1f} s", before_bytes)
            except DialledTooSoon as error:
                self._failures.append(f"{short(donor)} {error}")
                await self._leave_for_later(donor)
            except PeerUnreachable as error:
                if not self._failed(donor, str(error), before_bytes):
                    self._refused.add(donor)
            finally:
                self._missing.extendleft(reversed(asked))
            if not self._missing:
                return

    def _failed(self, donor: PeerId, reason: str, before_bytes: int) -> bool:
        """Note why a donor sends no more; True if it had sent enough to be asked again."""
        self._failures.append(f"{short(donor)} {reason}")
        if self._arrived[donor] - before_bytes < _GOOD_FOR_MORE_BYTES:
            return False
        self._undialled_s.pop(donor, None)
        self._donors.append(donor)
        return True

    async def _leave_for_later(self, donor: PeerId) -> None:
        """Ask a donor again whom libp2p did not dial, since an earlier dial for something else had failed."""
        now_s = clock.monotonic_s()
        if donor in self._refused or now_s > self._undialled_s.setdefault(donor, now_s) + self._silence_timeout_s:
            return
        self._donors.append(donor)
        if self._undialled_s.keys() >= set(self._donors):  # there is nobody else to ask meanwhile
            await asyncio.sleep(_DIAL_AGAIN_S)

    async def _take_pieces(self, donor: PeerId, asked: deque[_Piece]) -> None:
        """Ask for pieces, two at a time, and read them; ``asked`` holds what is under way."""
        now_s = asyncio.get_running_loop().time
        async with (
            asyncio.timeout(self._silence_timeout_s) as silence,
            self._node.open_stream(donor, STREAM, is_kept=True) as (reader, writer),
        ):
            while True:
                while len(asked) < _ASKED_AT_ONCE and self._missing:
                    piece = self._next_piece()
                    asked.append(piece)
                    silence.reschedule(None)  # our own cap is not the donor's silence
                    await self._node.download.admit(piece.stop - piece.start)
                    silence.reschedule(now_s() + self._silence_timeout_s)
                    length = piece.stop - piece.start
                    writer.write(
                        bytes.fromhex(self._ref.sha256) + piece.start.to_bytes(8, "big") + length.to_bytes(8, "big")
                    )
                    await writer.drain()
                if not asked:
                    return
                size = int.from_bytes(await reader.readexactly(8), "big")
                if size != self._ref.size_bytes:
                    raise _Interrupted("does not have it" if size == _NOT_HERE else f"offers {size} bytes")
                begin = at = asked[0].start
                patient_until_s = now_s() + _PATIENCE * self._silence_timeout_s
                try:
                    while at < asked[0].stop:
                        chunk = await reader.read(min(_CHUNK_BYTES, asked[0].stop - at))
                        if not chunk:
                            raise _Interrupted(f"stopped after {at} bytes")
                        self._data[at : at + len(chunk)] = chunk
                        at += len(chunk)
                        self._node.traffic.received_bytes += len(chunk)
                        silence.reschedule(now_s() + self._silence_timeout_s)
                        if now_s() > patient_until_s and any(other != donor for other in self._donors):
                            raise _Slow(f"sent {at - begin} bytes in {_PATIENCE * self._silence_timeout_s:.1f} s")
                finally:
                    if at > begin:
                        self._arrived[donor] += at - begin
                        self._came_from.append((_Piece(begin, at), donor))
                        self._last = donor
                    rest = asked.popleft()
                    if at < rest.stop:
                        asked.appendleft(_Piece(at, rest.stop))

    def _next_piece(self) -> _Piece:
        """The first missing piece, or so much of it as our cap on downloads lets through at once."""
        piece = self._missing.popleft()
        stop = min(piece.stop, piece.start + self._node.download.chunk_bytes(_PIECE_BYTES))
        if stop < piece.stop:
            self._missing.appendleft(_Piece(stop, piece.stop))
        return _Piece(piece.start, stop)


class _Slow(Exception):
    """A holder takes long; another one goes on, and this one is asked again after all others."""


class _Interrupted(Exception):
    """A holder stopped; what has come so far is good, and the next holder goes on from there."""
