"""What a peer serves: held under labels, gone with the last of them."""

import hashlib

import numpy as np

from p2ptrain.wire.blobs import BlobStore
from p2ptrain.wire.messages import BlobRef


def test_a_blob_is_named_by_its_hash_and_length() -> None:
    assert BlobStore().hold("state", b"abc") == BlobRef(hashlib.sha256(b"abc").hexdigest(), 3)  # type: ignore[arg-type]


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
