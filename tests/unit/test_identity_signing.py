"""Signed records: for one purpose each."""

import dataclasses

import pytest

from p2ptrain.errors import BadRecord
from p2ptrain.identity import signing
from p2ptrain.identity.keys import Identity
from p2ptrain.identity.signing import Signed
from p2ptrain.ids import PeerId

ALICE = Identity.from_seed(b"a" * 32)
MALLORY = Identity.from_seed(b"m" * 32)


def test_record_verifies_for_what_it_was_signed_for():
    signing.verify(signing.sign(ALICE, "claim", b"slice 1"), "claim")


def test_vote_cannot_be_replayed_as_a_claim():
    with pytest.raises(BadRecord, match="did not sign this claim"):
        signing.verify(signing.sign(ALICE, "vote", b"slice 1"), "claim")


def test_start_of_the_body_cannot_be_moved_into_the_purpose():
    signed = signing.sign(ALICE, "claim", b"s of slice 1")
    moved = dataclasses.replace(signed, body=b" of slice 1")
    with pytest.raises(BadRecord):
        signing.verify(moved, "claims")


def test_signature_without_a_purpose_is_not_one():
    bare = Signed(body=b"slice 1", signer=ALICE.peer_id, signature=ALICE.sign(b"slice 1"))
    with pytest.raises(BadRecord):
        signing.verify(bare, "claim")


@pytest.mark.parametrize(
    "changes",
    [
        {"body": b"slice 2"},
        {"signer": MALLORY.peer_id},
        {"signer": PeerId("nobody\x1b[2J")},
        {"signature": b""},
        {"signature": bytes(64)},
    ],
)
def test_altered_record_is_refused(changes):
    signed = dataclasses.replace(signing.sign(ALICE, "claim", b"slice 1"), **changes)
    with pytest.raises(BadRecord) as caught:
        signing.verify(signed, "claim")
    assert str(caught.value).isprintable()
