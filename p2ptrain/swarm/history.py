"""The last versions of a slice as this peer can pass them on: certificates, and the blobs that they name.

Whoever missed a few rounds replays them from here; who missed more fetches the current state. Of many more versions
it is known which they were, so that whoever stood on another can be told that it was on a branch that lost.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2ptrain.ids import Digest, SliceId, Version
from p2ptrain.wire.blob_store import BlobStore, OnDisk
from p2ptrain.wire.messages import BlobRef, Certificate

_REMEMBERED = 10_000
"""Versions of which the hash is kept: about 2 MB."""
_LEAVES_MEMORY_BYTES = 4 << 20
"""Of a round's blobs; smaller ones are not worth a file that is opened for each."""


@dataclass(frozen=True, slots=True)
class PastRound:
    """One committed version, and of the blobs that its certificate names those that are here."""

    certificate: Certificate
    blobs: Sequence[bytes | memoryview]
    """The averages in the order of parts and the update, the update alone, or nothing."""
    place: OnDisk | None = None
    """Where they lie, one after the other, if they will stay there."""


class History:
    """Keeps the certificates of the newest versions of one slice, and their blobs in the store."""

    def __init__(self, slice_id: SliceId, store: BlobStore, length: int) -> None:
        self._slice = slice_id
        self._store = store
        self._certificates: deque[Certificate] = deque()
        self._length = length
        self._decided: dict[Version, Digest] = {}

    def add(self, certificate: Certificate, blobs: list[bytes | memoryview]) -> None:
        """The newest version, with the averages and update that led to it; drops the oldest."""
        if self._certificates and certificate.value.previous != self._certificates[-1].value.value_hash:
            self.clear()
        self._certificates.append(certificate)
        self._decided[certificate.value.version] = certificate.value.value_hash
        if len(self._decided) > _REMEMBERED:
            del self._decided[next(iter(self._decided))]
        for blob, ref in zip(blobs, _blobs_of(certificate)[-len(blobs) :], strict=True) if blobs else ():
            self._store.hold(self._label(certificate), blob, sha256=ref.sha256)
        while len(self._certificates) > self._length:
            self._store.release(self._label(self._certificates.popleft()))

    def clear(self) -> None:
        """Forget everything: the slice went to a version that these do not lead to."""
        self._decided.clear()
        while self._certificates:
            self._store.release(self._label(self._certificates.popleft()))

    def restore(self, rounds: Iterable[PastRound]) -> None:
        """Go on with what ``rounds`` gave before a restart, oldest first."""
        for one in rounds:
            self.add(one.certificate, list(one.blobs))
            if one.place:
                self.saved(one.certificate.value.value_hash, one.place)

    def rounds(self) -> list[PastRound]:
        """Everything that is kept, oldest first, for the disk; without the blobs that are there already."""
        kept = []
        for certificate in self._certificates:
            value = certificate.value
            averages = [self._store.find(result.average.sha256) for result in value.results]
            update = self._store.find(value.update.sha256)
            whole = [blob for blob in (*averages, update) if isinstance(blob, memoryview)]
            alone = [update] if isinstance(update, memoryview) else []
            kept.append(PastRound(certificate, whole if len(whole) == len(averages) + 1 else alone))
        return kept

    def saved(self, value_hash: Digest, place: OnDisk) -> None:
        """The blobs of a round lie on disk, in the order of ``PastRound``: large ones are not kept in memory, too.

        Eight rounds are four times the published weights, and hardly anybody asks for them.
        """
        if place.size_bytes < _LEAVES_MEMORY_BYTES:
            return
        for certificate in self._certificates:
            if certificate.value.value_hash == value_hash:
                refs, offset = _blobs_of(certificate), place.offset
                for ref in refs if place.size_bytes > refs[-1].size_bytes else refs[-1:]:
                    self._store.move_to_disk(
                        self._label(certificate), ref.sha256, OnDisk(place.path, offset, ref.size_bytes)
                    )
                    offset += ref.size_bytes

    async def recall(self) -> None:
        """Read back into memory what is on disk: its files have to go."""
        for certificate in list(self._certificates):
            for ref in _blobs_of(certificate):
                if isinstance(self._store.find(ref.sha256), OnDisk):
                    data = await asyncio.to_thread(self._store.get, ref.sha256)
                    if data is not None and certificate in self._certificates:  # not dropped meanwhile
                        self._store.hold(self._label(certificate), data, sha256=ref.sha256)

    def since(self, version: Version) -> list[Certificate]:
        """Certificates after ``version``: all of them when they are kept without a gap, else the newest alone."""
        newer = [c for c in self._certificates if c.value.version > version]
        if newer and newer[0].value.version > version + 1:
            return newer[-1:]
        return newer

    def knows(self, version: Version, value_hash: Digest) -> bool:
        """Whether this is known to be what the version was decided to be."""
        return self._decided.get(version) == value_hash

    def decided_otherwise(self, version: Version, value_hash: Digest | None) -> bool:
        """Whether another value than this is known to be what the version was decided to be."""
        return self._decided.get(version, value_hash) != value_hash

    def recent_digests(self) -> dict[Version, str]:
        """Digest of each version that is kept."""
        return {c.value.version: c.value.digest for c in self._certificates}

    def _label(self, certificate: Certificate) -> str:
        return f"slice {self._slice} v{certificate.value.version} {certificate.value.value_hash}"


def _blobs_of(certificate: Certificate) -> list[BlobRef]:
    """The averages in the order of parts, and the update."""
    return [*(result.average for result in certificate.value.results), certificate.value.update]
