"""A state that somebody is fetching outlives the rounds that follow it; nobody's old states are dropped."""

import numpy as np
import pytest

from p2ptrain.ids import SliceId, Version
from p2ptrain.swarm.served_state import ServedState
from p2ptrain.swarm.state import PublishedState
from p2ptrain.wire.blob_store import BlobStore
from p2ptrain.wire.messages import BlobRef

STATES = [PublishedState.of(Version(version), np.full(50, version, np.uint16)) for version in range(10)]


def here(store: BlobStore, version: int) -> bool:
    return store.get(STATES[version].digest) == STATES[version].blob


def test_only_the_newest_state_and_those_being_fetched_are_kept() -> None:
    store = BlobStore()
    served = ServedState(store, SliceId("0"))
    for version in (1, 2):
        served.serve(Version(version), [STATES[version]], 0.0)
    assert (here(store, 1), here(store, 2)) == (False, True)
    store.note_served(STATES[2].digest, 10.0)
    served.serve(Version(3), [STATES[3]], 20.0)
    assert (here(store, 2), here(store, 3)) == (True, True)
    store.note_served(STATES[2].digest, 30.0)
    served.serve(Version(4), [STATES[4]], 50.0)
    assert (here(store, 2), here(store, 3), here(store, 4)) == (True, False, True)
    served.serve(Version(5), [STATES[5]], 61.0)
    assert (here(store, 2), here(store, 4), here(store, 5)) == (False, False, True)


def test_a_state_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(data: bytes) -> BlobRef:
        raise AssertionError("the slice's digest is the blob's hash")

    monkeypatch.setattr(BlobRef, "of", again)
    store = BlobStore()
    ServedState(store, SliceId("0")).serve(Version(1), [STATES[1]], 0.0)
    assert here(store, 1)


def test_newcomers_that_never_end_cost_two_old_states_at_most() -> None:
    store = BlobStore()
    served = ServedState(store, SliceId("0"))
    for version in range(1, 8):
        served.serve(Version(version), [STATES[version]], float(version))
        store.note_served(STATES[version].digest, float(version))
    assert [version for version in range(1, 8) if here(store, version)] == [1, 2, 7]
    served.stop()
    assert not any(here(store, version) for version in range(1, 8))


def test_states_wait_for_rounds_and_parts_of_rounds_do_not() -> None:
    store = BlobStore()
    ServedState(store, SliceId("0")).serve(Version(1), [STATES[1]], 0.0)
    store.hold("slice 0 round", STATES[2].blob)
    assert store.is_patient(STATES[1].digest)
    assert not store.is_patient(STATES[2].digest)
