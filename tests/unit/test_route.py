"""A peer that was away takes the way with fewer bytes."""

import pytest

from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.swarm.route import Route, route
from p2ptrain.wire.codec import encoded_bytes
from p2ptrain.wire.messages import Ballot, BlobRef, Certificate, PartResult, Value

NUMEL = 100_000
ME = PeerId("a")


def missed(rounds: int) -> list[Certificate]:
    encoded = encoded_bytes("int8", NUMEL // 2)
    values = [
        Value(
            run=RunId("r"),
            slice=SliceId("0"),
            version=Version(version),
            previous=None,
            digest=Digest("d"),
            published_digest=Digest("p"),
            update=BlobRef(Digest("u"), 2 * encoded),
            results=tuple(PartResult(part, BlobRef(Digest("x"), encoded), (ME,)) for part in (0, 1)),
            contributions=(),
            owners=(ME,),
            tokens=0,
            weight=0,
        )
        for version in range(1, rounds + 1)
    ]
    return [Certificate(value, Ballot(1, 0, (ME,)), ()) for value in values]


@pytest.mark.parametrize(
    ("rounds", "is_owner", "is_replay"), [(1, False, True), (2, False, False), (9, True, True), (10, True, False)]
)
def test_the_way_with_fewer_bytes_is_taken(rounds: int, is_owner: bool, is_replay: bool) -> None:
    way = route(missed(rounds), NUMEL, is_owner=is_owner)
    assert way.whole_bytes == (2 * NUMEL + 8 + 8 * NUMEL if is_owner else 2 * NUMEL)
    assert way.replay_bytes == rounds * 2 * encoded_bytes("int8", NUMEL // 2)
    assert way.is_replay is is_replay
    assert is_replay is (way.replay_bytes <= way.whole_bytes)


def test_rounds_are_replayed_on_a_tie_because_they_can_be_passed_on() -> None:
    assert Route(replay_bytes=5, whole_bytes=5).is_replay
