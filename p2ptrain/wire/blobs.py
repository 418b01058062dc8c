"""Bulk bytes, named by their SHA-256: contributions, averages, updates and whole states all travel this one way.

A blob is fetched from any holder, resumed at the next one where the last one stopped, and used only when its hash is
the announced one. Stream: the request is the hash (32 bytes) and an offset (8 bytes, big endian); the answer is the
blob's length (8 bytes, big endian; all ones for "not here") and its bytes from the offset on.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2ptrain.errors import BlobUnavailable, PeerUnreachable
from p2ptrain.ids import Digest, PeerId, short
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.messages import BlobRef

STREAM = "p2ptrain/1/blob"
_NOT_HERE = 2**64 - 1
_CHUNK_BYTES = 256 * 1024
"""hivemind's streams carry 286 MB/s in pieces of this size and no more in larger ones (measured on loopback)."""


_MAX_STREAMS = 32
"""Fetched at once: a holder's p2pd refuses streams when more than 100 wait to be accepted (seen with 300 at once)."""


@dataclass
class BlobStore:
    """Blobs that this peer serves, in memory, each held under labels and dropped with the last of them."""

    _data: dict[Digest, memoryview] = field(default_factory=dict)
    _labels: dict[Digest, set[str]] = field(default_factory=dict)

    def hold(self, label: str, data: bytes | memoryview) -> BlobRef:
        """Serve ``data``, which must not change any more, until ``label`` is released."""
        ref = BlobRef.of(data)
        self._data.setdefault(ref.sha256, memoryview(data).cast("B"))
        self._labels.setdefault(ref.sha256, set()).add(label)
        return ref

    def get(self, sha256: Digest) -> memoryview | None:
        """The blob's bytes, if they are here."""
        return self._data.get(sha256)

    def release(self, label: str) -> None:
        """Drop every blob that is held under ``label`` alone."""
        for sha256 in [sha256 for sha256, labels in self._labels.items() if label in labels]:
            self._labels[sha256].discard(label)
            if not self._labels[sha256]:
                del self._labels[sha256], self._data[sha256]


class BlobExchange:
    """Serves this peer's blobs and fetches other peers'."""

    def __init__(self, node: Libp2pNode, on_wrong_hash: Callable[[PeerId, str], None]) -> None:
        self.store = BlobStore()
        self._node = node
        self._on_wrong_hash = on_wrong_hash
        self._streams = asyncio.Semaphore(_MAX_STREAMS)

    async def start(self) -> None:
        """Begin to serve."""
        await self._node.serve_streams(STREAM, self._serve)

    async def fetch(
        self, ref: BlobRef, holders: Sequence[PeerId], *, silence_timeout_s: float, what: str
    ) -> tuple[memoryview, PeerId]:
        """The blob's bytes and the holder that completed them.

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
        others = [holder for holder in holders if holder != self._node.peer]
        data = bytearray(ref.size_bytes)
        received, failures = 0, []
        # Twice: a link that breaks at once under load carries the same bytes a moment later.
        for holder in [*others, *others]:
            try:
                async with self._streams:
                    received = await self._fetch_from(holder, ref, data, received, silence_timeout_s)
            except _Interrupted as error:
                received = error.received
                failures.append(f"{short(holder)} {error}")
                continue
            if (await asyncio.to_thread(hashlib.sha256, data)).hexdigest() == ref.sha256:
                return memoryview(data), holder
            # Which of several holders sent the wrong part is not known; the last one is the likeliest.
            self._on_wrong_hash(holder, f"{what} has another hash than announced")
            failures.append(f"{short(holder)} sent bytes with another hash")
            received = 0
        reasons = "; ".join(dict.fromkeys(failures)) or "nobody holds it"
        raise BlobUnavailable(f"{what} ({ref.size_bytes} bytes): {reasons}")

    async def _fetch_from(
        self, holder: PeerId, ref: BlobRef, data: bytearray, received: int, silence_timeout_s: float
    ) -> int:
        try:
            async with asyncio.timeout(silence_timeout_s) as silence, self._node.open_stream(holder, STREAM) as stream:
                reader, writer = stream
                writer.write(bytes.fromhex(ref.sha256) + received.to_bytes(8, "big"))
                await writer.drain()
                size = int.from_bytes(await reader.readexactly(8), "big")
                if size != ref.size_bytes:
                    raise _Interrupted(received, "does not have it" if size == _NOT_HERE else f"offers {size} bytes")
                while received < size:
                    chunk = await reader.read(min(_CHUNK_BYTES, size - received))
                    if not chunk:
                        raise _Interrupted(received, f"stopped after {received} bytes")
                    data[received : received + len(chunk)] = chunk
                    received += len(chunk)
                    self._node.traffic.received_bytes += len(chunk)
                    silence.reschedule(asyncio.get_running_loop().time() + silence_timeout_s)
        except TimeoutError:
            raise _Interrupted(received, f"was silent for {silence_timeout_s:.1f} s") from None
        except PeerUnreachable as error:
            raise _Interrupted(received, str(error)) from None
        return received

    async def _serve(self, remote: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sha256 = Digest((await reader.readexactly(32)).hex())
        offset = int.from_bytes(await reader.readexactly(8), "big")
        data = self.store.get(sha256)
        if data is None or offset > len(data):
            writer.write(_NOT_HERE.to_bytes(8, "big"))
            await writer.drain()
            return
        writer.write(len(data).to_bytes(8, "big"))
        traffic = self._node.traffic
        for start in range(offset, len(data), _CHUNK_BYTES):
            chunk = data[start : start + _CHUNK_BYTES]
            writer.write(chunk)
            await writer.drain()
            traffic.sent_bytes += len(chunk)
            traffic.recent[remote] += len(chunk)


class _Interrupted(Exception):
    """A holder stopped; ``received`` bytes are good so far, and the next holder goes on from there."""

    def __init__(self, received: int, what: str) -> None:
        super().__init__(what)
        self.received = received
