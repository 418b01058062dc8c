"""The state of a slice as others can fetch it: the newest, and what is being fetched while rounds go on."""

from collections.abc import Sequence

from p2ptrain.ids import SliceId, Version
from p2ptrain.swarm.state import OwnedState, PublishedState
from p2ptrain.wire.blob_store import BlobStore

_KEPT_S = 30.0
"""A state of which nobody has asked for a piece for so long is fetched by nobody; 4 MiB take a second at 32 Mbit/s."""
_MAX_OLD = 2
"""Older states kept at once: each costs 10 bytes a parameter, and newcomers that come together take the same one."""


class ServedState:
    """Holds a slice's state in the store, and an older one as long as somebody is fetching it.

    A whole state may take longer to fetch than a round takes to commit. Without this a newcomer behind a slow line
    would begin again with each round and never be done.
    """

    def __init__(self, store: BlobStore, slice_id: SliceId) -> None:
        self._store = store
        self._slice = slice_id
        self._labels: list[str] = []
        """Oldest first; the last one is the present state."""

    def serve(self, version: Version, states: Sequence[OwnedState | PublishedState], now_s: float) -> None:
        """Serve these as the present state from now on; monotonic time."""
        fetched = [label for label in self._labels if self._is_being_fetched(label, now_s)]
        # The oldest first: whoever fetches it is the closest to having all of it.
        kept = fetched[:_MAX_OLD]
        label = f"slice {self._slice} state v{version}"
        for old in self._labels:
            if old not in kept and old != label:
                self._store.release(old)
        for state in states:
            self._store.hold(label, state.blob, sha256=state.digest, is_patient=True)
        self._labels = [*(old for old in kept if old != label), label]

    def stop(self) -> None:
        """Serve nothing any more."""
        for label in self._labels:
            self._store.release(label)
        self._labels = []

    def _is_being_fetched(self, label: str, now_s: float) -> bool:
        served_s = self._store.last_served_s(label)
        return served_s is not None and now_s - served_s < _KEPT_S
