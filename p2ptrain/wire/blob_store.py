"""The blobs that a peer serves to others, by their SHA-256: in memory, or where they lie on its disk."""

from dataclasses import dataclass, field
from pathlib import Path

from p2ptrain.ids import Digest
from p2ptrain.wire.messages import BlobRef


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Where a blob lies in a file, which may be gone by the time that somebody asks for it."""

    path: Path
    offset: int
    size_bytes: int


@dataclass
class BlobStore:
    """Blobs that this peer serves, in memory or on disk, each held under labels and dropped with the last of them."""

    _data: dict[Digest, memoryview | OnDisk] = field(default_factory=dict)
    _labels: dict[Digest, set[str]] = field(default_factory=dict)
    _patient: set[Digest] = field(default_factory=set)
    _served_s: dict[Digest, float] = field(default_factory=dict)

    def hold(
        self, label: str, data: bytes | memoryview, *, sha256: Digest | None = None, is_patient: bool = False
    ) -> BlobRef:
        """Serve ``data``, which must not change any more, until ``label`` is released.

        Args:
            label: what to release it by.
            data: the bytes.
            sha256: their hash, where it has been computed or checked already: a GB takes nearly a second, and all
                else waits meanwhile.
            is_patient: whoever wants it can wait while rounds need the line: states.
        """
        ref = BlobRef(sha256, memoryview(data).nbytes) if sha256 else BlobRef.of(data)
        if is_patient:
            self._patient.add(ref.sha256)
        if not isinstance(self._data.get(ref.sha256), memoryview):
            self._data[ref.sha256] = memoryview(data).cast("B")
        self._labels.setdefault(ref.sha256, set()).add(label)
        return ref

    def keep(self, label: str, sha256: Digest) -> None:
        """Hold a blob that is here under one more label."""
        if sha256 in self._labels:
            self._labels[sha256].add(label)

    def move_to_disk(self, label: str, sha256: Digest, place: OnDisk) -> None:
        """Read a blob from now on where it has been written, if nobody but ``label`` holds it."""
        if self._labels.get(sha256) == {label}:
            self._data[sha256] = place

    def find(self, sha256: Digest) -> memoryview | OnDisk | None:
        """The blob's bytes, or where they are, if they are here."""
        return self._data.get(sha256)

    def get(self, sha256: Digest) -> memoryview | None:
        """The blob's bytes, if they are here; one that is on disk is read."""
        found = self._data.get(sha256)
        if not isinstance(found, OnDisk):
            return found
        try:
            with found.path.open("rb") as file:
                file.seek(found.offset)
                data = file.read(found.size_bytes)
        except OSError:
            return None
        return memoryview(data) if len(data) == found.size_bytes else None

    def is_patient(self, sha256: Digest) -> bool:
        """Whether a blob waits for those of rounds."""
        return sha256 in self._patient

    def note_served(self, sha256: Digest, now_s: float) -> None:
        """Somebody asked for some of it at this monotonic time."""
        self._served_s[sha256] = now_s

    def last_served_s(self, label: str) -> float | None:
        """When somebody last asked for a blob under this label; None for never."""
        times = [self._served_s[d] for d, labels in self._labels.items() if label in labels and d in self._served_s]
        return max(times, default=None)

    def release(self, label: str) -> None:
        """Drop every blob that is held under ``label`` alone."""
        for sha256 in [sha256 for sha256, labels in self._labels.items() if label in labels]:
            self._labels[sha256].discard(label)
            if not self._labels[sha256]:
                del self._labels[sha256], self._data[sha256]
                self._patient.discard(sha256)
                self._served_s.pop(sha256, None)
