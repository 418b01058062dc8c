"""The last versions of a slice as this peer can pass them on: certificates, and the blobs that they name.

Whoever missed a few rounds replays them from here; who missed more fetches the current state. Of many more versions
it is known which they were, so that whoever stood on another can be told that it was on a branch that lost.
"""

from collections import deque

from p2ptrain.ids import Digest, SliceId, Version
from p2ptrain.wire.blobs import BlobStore
from p2ptrain.wire.messages import Certificate

_REMEMBERED = 10_000
"""Versions of which the hash is kept: about 2 MB."""


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
        for blob in blobs:
            self._store.hold(self._label(certificate), blob)
        while len(self._certificates) > self._length:
            self._store.release(self._label(self._certificates.popleft()))

    def clear(self) -> None:
        """Forget everything: the slice went to a version that these do not lead to."""
        self._decided.clear()
        while self._certificates:
            self._store.release(self._label(self._certificates.popleft()))

    def since(self, version: Version) -> list[Certificate]:
        """Certificates after ``version``: all of them when they are kept without a gap, else the newest alone."""
        newer = [c for c in self._certificates if c.value.version > version]
        if newer and newer[0].value.version > version + 1:
            return newer[-1:]
        return newer

    def decided_otherwise(self, version: Version, value_hash: Digest | None) -> bool:
        """Whether another value than this is known to be what the version was decided to be."""
        return self._decided.get(version, value_hash) != value_hash

    def recent_digests(self) -> dict[Version, str]:
        """Digest of each version that is kept."""
        return {c.value.version: c.value.digest for c in self._certificates}

    def _label(self, certificate: Certificate) -> str:
        return f"slice {self._slice} v{certificate.value.version} {certificate.value.value_hash}"
