"""A vote on disk: what a peer voted for, and the averages without which nobody could commit it."""

from pathlib import Path

import pytest

from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.config.load import load_run, run_id
from p2ptrain.errors import HomeError
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.node.home import Home
from p2ptrain.node.saved_state import load_past, save_accepted
from p2ptrain.wire.messages import Accepted, Ballot, BlobRef, Contribution, PartResult, Value

SLICE = SliceId("0")
PEER = PeerId("12D3KooWVoter")
AVERAGES = [b"first average", b"second"]


def digest(byte: str) -> Digest:
    return Digest(byte * 64)


ACCEPTED = Accepted(
    Ballot(1, 2, (PEER,)),
    Value(
        run=RunId("ab" * 32),
        slice=SLICE,
        version=Version(3),
        previous=digest("1"),
        digest=digest("2"),
        published_digest=digest("3"),
        update=BlobRef(digest("4"), 5),
        results=tuple(PartResult(part, BlobRef.of(data), (PEER,)) for part, data in enumerate(AVERAGES)),
        contributions=(Contribution(PEER, 7, 1.0, ()),),
        owners=(PEER,),
        tokens=70,
        weight=70,
    ),
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    manifest = tmp_path / "run.toml"
    write_manifest("nano", manifest, ManifestChanges(seed=1))
    return Home.open(tmp_path / "home", manifest.read_text(), run_id(load_run(manifest)))


def test_a_vote_comes_back_with_its_averages(home: Home) -> None:
    save_accepted(home, SLICE, ACCEPTED, AVERAGES)
    past = load_past(home, [SLICE])[SLICE]
    assert past.accepted == ACCEPTED
    assert [bytes(average) for average in past.averages] == AVERAGES


@pytest.mark.parametrize("place", [0, -1])
def test_a_damaged_vote_is_refused_with_its_file_named(home: Home, place: int) -> None:
    save_accepted(home, SLICE, ACCEPTED, AVERAGES)
    path = home.accepted_path(SLICE)
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(HomeError, match=path.name):
        load_past(home, [SLICE])
