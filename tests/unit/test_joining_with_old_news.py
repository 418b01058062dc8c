"""Who begins to own a slice that it has followed before, and finds nobody with its owners' state."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from p2ptrain.identity.keys import Identity
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.swarm import joining
from p2ptrain.swarm.certificates import sign_vote
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.joining import Joining
from p2ptrain.swarm.state import PublishedState, genesis
from p2ptrain.wire.messages import Ballot, BlobRef, Certificate, Value

ONE = SliceId("1")
OWNER = Identity.generate()
ME, OTHER = PeerId("me"), PeerId("other")
INITIAL = np.zeros(4, np.float32)


def followed(version: int) -> Replica:
    """Published weights with a certificate of another peer's."""
    value = Value(
        run=RunId("ab" * 32),
        slice=ONE,
        version=Version(version),
        previous=None,
        digest=Digest("0" * 64),
        published_digest=Digest("1" * 64),
        update=BlobRef.of(b"update"),
        results=(),
        contributions=(),
        owners=(OWNER.peer_id,),
        tokens=100 * version,
        weight=100 * version,
    )
    ballot = Ballot(1, 0, (OWNER.peer_id,))
    certificate = Certificate(value, ballot, (sign_vote(OWNER, ballot, value),))
    return Replica(certificate, PublishedState.of(Version(version), np.zeros(4, np.uint16)), None)


def from_the_beginning() -> Replica:
    owned, published = genesis(INITIAL)
    return Replica(None, published, owned)


async def joined(
    holders: set[PeerId], answer: dict[SliceId, Replica] | None, on_disk: Mapping[SliceId, Replica]
) -> tuple[Replica, list[Replica]]:
    """The replica to begin with, and what was to be fetched from owners or taken over for it."""
    taken: list[Replica] = []
    answers = [answer] if answer else []

    async def catch_up_all(*_: object) -> dict[SliceId, Replica] | None:
        return answers.pop() if answers else answer and {}

    async def look() -> None:
        pass

    async def fetch_or_take_over(_: SliceId, found: Replica) -> Replica:
        taken.append(found)
        return found

    stand_in: Any = SimpleNamespace(
        _context=SimpleNamespace(me=ME, holders=lambda _: frozenset(holders), exchange=SimpleNamespace(lease_s=0.01)),
        _one_pass=catch_up_all,
        _fetch_or_take_over=fetch_or_take_over,
        _roster=SimpleNamespace(look=look),
    )
    begin = {ONE: from_the_beginning()}
    current, _ = await Joining.catch_up_with_all(stand_in, frozenset({ONE}), begin, {}, on_disk)
    return current[ONE], taken


@pytest.mark.parametrize(
    ("holders", "answer"),
    [
        pytest.param({ME}, {}, id="nobody else holds it"),
        pytest.param({ME, OTHER}, None, id="its holder does not answer"),
        pytest.param({ME, OTHER}, {}, id="its holder has just begun"),
        pytest.param({ME, OTHER}, {ONE: followed(2)}, id="its holder has less"),
    ],
)
async def test_what_was_followed_is_gone_on_from(
    monkeypatch: pytest.MonkeyPatch, holders: set[PeerId], answer: dict[SliceId, Replica] | None
) -> None:
    monkeypatch.setattr(joining, "_ASK_AGAIN_S", 0.001)
    old = followed(6)
    replica, taken = await joined(holders, answer, {ONE: old})
    assert replica is old
    assert taken == [old]


async def test_what_others_have_counts_if_it_is_newer() -> None:
    newer = followed(9)
    replica, taken = await joined({ME, OTHER}, {ONE: newer}, {ONE: followed(6)})
    assert replica is newer
    assert taken == []


async def test_a_slice_that_was_never_followed_begins_at_version_0() -> None:
    replica, taken = await joined({ME}, {}, {})
    assert replica.published.version == 0
    assert replica.owned is not None
    assert taken == []
