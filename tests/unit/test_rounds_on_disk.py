"""The last rounds of a slice on disk: written once, checked when read, and given up before anything that matters."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from p2ptrain.config.load import parse_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.errors import HomeError, UsageError
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.disk_budget import (
    StoredFile,
    Worth,
    check_budget,
    check_room,
    checkpoint_bytes,
    keep_within,
    least_bytes,
    to_drop,
)
from p2ptrain.node.home import Home
from p2ptrain.node.rounds_on_disk import drop_rounds, load_rounds, replay_rounds, round_files, save_rounds
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.history import History, PastRound
from p2ptrain.swarm.state import PublishedState
from p2ptrain.wire.blob_store import BlobStore, OnDisk
from p2ptrain.wire.messages import Ballot, BlobRef, Certificate, PartResult, Value

A = PeerId("12D3KooWaaaaaa")
ZERO = SliceId("0")
RUN = parse_run(preset_text("nano"), "nano")
PLAN = SlicePlan.of(RUN.model, RUN.slicing)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    text = preset_text("nano")
    return Home.open(tmp_path / "home", text, run_id(parse_run(text, "nano")))


def rounds(count: int, *, is_owner: bool = True) -> list[PastRound]:
    """A chain from version 1 on, with two averages and an update each."""
    chain: list[PastRound] = []
    for version in range(1, count + 1):
        blobs = [bytes([version, kind]) * (100 + kind) for kind in range(3)]
        value = Value(
            run="ab" * 32,
            slice=ZERO,
            version=Version(version),
            previous=chain[-1].certificate.value.value_hash if chain else None,
            digest=Digest("0" * 64),
            published_digest=Digest("1" * 64),
            update=BlobRef.of(blobs[2]),
            results=tuple(PartResult(part, BlobRef.of(blobs[part]), (A,)) for part in range(2)),
            contributions=(),
            owners=(A,),
            tokens=version,
            weight=version,
        )
        chain.append(PastRound(Certificate(value, Ballot(1, 0, (A,)), ()), blobs if is_owner else blobs[2:]))
    return chain


def at(one: PastRound) -> dict[SliceId, Replica]:
    """Our replica at the version of a round."""
    version = one.certificate.value.version
    return {ZERO: Replica(one.certificate, PublishedState.of(version, np.zeros(4, np.uint16)), None)}


def bytes_of(found: list[PastRound]) -> list[list[bytes]]:
    return [[bytes(blob) for blob in one.blobs] for one in found]


def test_a_fragments_rounds_are_not_taken_for_those_of_its_slice(home: Home) -> None:
    chain = rounds(3)
    save_rounds(home, {SliceId("0.2"): chain[:2], SliceId("common.10"): chain})
    assert {(file.slice, file.version) for file in round_files(home)} == {
        *((SliceId("0.2"), version) for version in (1, 2)),
        *((SliceId("common.10"), version) for version in (1, 2, 3)),
    }


@pytest.mark.parametrize("is_owner", [True, False])
def test_what_was_kept_is_passed_on_after_a_restart(home: Home, is_owner: bool) -> None:
    chain = rounds(5, is_owner=is_owner)
    save_rounds(home, {ZERO: chain[1:]})
    found = load_rounds(home, at(chain[-1]))[ZERO]
    assert [one.certificate for one in found] == [one.certificate for one in chain[1:]]
    assert bytes_of(found) == bytes_of(chain[1:])
    store = BlobStore()
    history = History(ZERO, store, 8)
    history.restore(found)
    assert [c.value.version for c in history.since(Version(1))] == [2, 3, 4, 5]
    assert bytes_of(history.rounds()) == bytes_of(chain[1:]), "and can be saved again"


def test_a_chain_that_leads_beyond_our_state_is_cut_and_one_of_another_branch_is_none(home: Home) -> None:
    chain = rounds(4)
    save_rounds(home, {ZERO: chain})
    found = load_rounds(home, at(chain[2]))[ZERO]
    assert [one.certificate.value.version for one in found] == [1, 2, 3]
    assert load_rounds(home, {ZERO: Replica(None, at(chain[0])[ZERO].published, None)}) == {}
    assert [file.version for file in round_files(home)] == [1, 2, 3, 4], "dropped with the next checkpoint"


def test_a_damaged_file_ends_the_chain_and_nothing_older_is_passed_on(home: Home) -> None:
    chain = rounds(4)
    save_rounds(home, {ZERO: chain})
    victim = round_files(home)[1].path
    data = bytearray(victim.read_bytes())
    for position in (3, 40, len(data) // 2, len(data) - 1):
        drop_rounds(home, lambda _, __: False)
        save_rounds(home, {ZERO: chain})
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        victim.write_bytes(damaged)
        found = load_rounds(home, at(chain[-1])).get(ZERO, [])
        assert [one.certificate.value.version for one in found] == [3, 4], position
    drop_rounds(home, lambda _, __: False)
    assert load_rounds(home, at(chain[-1])) == {}


def test_a_file_that_the_disk_does_not_give_back_ends_what_is_passed_on(home: Home) -> None:
    chain = rounds(3)
    save_rounds(home, {ZERO: chain})
    victim = round_files(home)[1].path
    victim.unlink()
    victim.mkdir()  # reading it raises an OSError, as it does for a bad sector
    found = load_rounds(home, at(chain[-1]))[ZERO]
    assert [one.certificate.value.version for one in found] == [3]
    assert replay_rounds(home, PLAN, at(chain[-1]))[ZERO].published.version == 3, "nobody needs it to go on"
    with pytest.raises(HomeError, match=r"0\.2\.bin cannot be read: Is a directory; .*: p2ptrain peer --refetch"):
        replay_rounds(home, PLAN, at(chain[0]))
    assert replay_rounds(home, PLAN, at(chain[0]), refetch=True)[ZERO].published.version == 1


def test_no_more_is_read_than_is_passed_on(home: Home) -> None:
    chain = rounds(RUN.exchange.history + 3)
    save_rounds(home, {ZERO: chain})
    found = load_rounds(home, at(chain[-1]))[ZERO]
    assert [one.certificate for one in found] == [one.certificate for one in chain[3:]]


def test_a_round_that_has_left_memory_for_its_file_does_not_replace_it(home: Home) -> None:
    chain = rounds(2)
    save_rounds(home, {ZERO: chain})
    left = PastRound(chain[1].certificate, [])
    save_rounds(home, {ZERO: [chain[0], left]}, unwritten=lambda _: {2})
    assert bytes_of(load_rounds(home, at(chain[-1]))[ZERO]) == bytes_of(chain)


def test_rounds_are_written_once_and_a_gap_stays(home: Home) -> None:
    chain = rounds(6)
    save_rounds(home, {ZERO: chain[:3]})
    written = {file.version: file.path.stat().st_mtime_ns for file in round_files(home)}
    save_rounds(home, {ZERO: chain[1:5]})
    now = {file.version: file.path.stat().st_mtime_ns for file in round_files(home)}
    assert list(now) == [1, 2, 3, 4, 5]
    assert (now[2], now[3]) == (written[2], written[3])
    drop_rounds(home, lambda slice_id, version: slice_id == ZERO and version > 2)
    save_rounds(home, {ZERO: chain[1:6]})
    assert [file.version for file in round_files(home)] == [3, 4, 5, 6], "what was given up is not written again"
    before = {file.version: file.path.stat().st_ino for file in round_files(home)}
    save_rounds(home, {ZERO: chain}, unwritten=lambda _: {4})
    after = {file.version: file.path.stat().st_ino for file in round_files(home)}
    assert [version for version in before if after[version] != before[version]] == [4]


def large_rounds(count: int) -> list[PastRound]:
    """As ``rounds``, with blobs that are worth a file: the last one's certificate is real, their names are."""
    chain: list[PastRound] = []
    for one in rounds(count):
        value = one.certificate.value
        blobs = [np.full(3 << 20, 16 * value.version + kind, np.uint8).data for kind in range(3)]
        refs = [BlobRef.of(blob) for blob in blobs]
        results = tuple(PartResult(part, refs[part], (A,)) for part in range(2))
        previous = chain[-1].certificate.value.value_hash if chain else None
        value = replace(value, update=refs[2], results=results, previous=previous)
        chain.append(PastRound(Certificate(value, Ballot(1, 0, (A,)), ()), blobs))
    return chain


def names(one: PastRound) -> list[Digest]:
    value = one.certificate.value
    return [*(result.average.sha256 for result in value.results), value.update.sha256]


def test_large_rounds_leave_memory_once_they_are_on_disk_and_are_read_from_there(home: Home) -> None:
    store, chain = BlobStore(), large_rounds(3)
    history = History(ZERO, store, 2)
    for one in chain[:2]:
        history.add(one.certificate, list(one.blobs))
    store.keep("a vote", names(chain[1])[0])  # its averages must not go when the file does
    for slice_id, value_hash, place in save_rounds(home, {ZERO: history.rounds()}):
        assert slice_id == ZERO
        history.saved(value_hash, place)
    found = [store.find(name) for one in chain[:2] for name in names(one)]
    assert [isinstance(one, OnDisk) for one in found] == [True, True, True, False, True, True]
    for one in chain[:2]:
        assert [store.get(name) for name in names(one)] == list(one.blobs)

    history.add(chain[2].certificate, list(chain[2].blobs))
    assert [len(one.blobs) for one in history.rounds()] == [0, 3], "what is on disk is not read to be written again"
    written = save_rounds(home, {ZERO: history.rounds()})
    assert [value_hash for _, value_hash, _ in written] == [chain[2].certificate.value.value_hash]
    assert [file.version for file in round_files(home)] == [1, 2, 3]
    drop_rounds(home, lambda _, version: version > 1)
    assert store.get(names(chain[0])[2]) is None, "the history has dropped it"
    assert store.get(names(chain[1])[2]) == chain[1].blobs[2]
    for file in round_files(home):
        file.path.unlink()
    assert store.get(names(chain[1])[2]) is None, "a full disk took it"
    store.hold("the same, computed again", chain[1].blobs[2])
    assert store.get(names(chain[1])[2]) == chain[1].blobs[2]
    assert store.get(names(chain[1])[0]) == chain[1].blobs[0]


def test_after_a_restart_large_rounds_are_on_disk_from_the_beginning(home: Home) -> None:
    chain = large_rounds(2)
    save_rounds(home, {ZERO: chain})
    store = BlobStore()
    History(ZERO, store, 8).restore(load_rounds(home, at(chain[-1]))[ZERO])
    assert all(isinstance(store.find(name), OnDisk) for one in chain for name in names(one))
    assert [store.get(name) for one in chain for name in names(one)] == [blob for one in chain for blob in one.blobs]


async def test_rounds_whose_files_have_to_go_are_passed_on_from_memory_again(home: Home) -> None:
    chain = large_rounds(3)
    save_rounds(home, {ZERO: chain})
    store = BlobStore()
    history = History(ZERO, store, 2)
    history.restore(load_rounds(home, at(chain[-1]))[ZERO])
    await history.recall()
    for file in round_files(home):
        file.path.unlink()
    assert [store.get(name) for one in chain[1:] for name in names(one)] == [b for one in chain[1:] for b in one.blobs]
    history.clear()
    assert not any(store.find(name) for one in chain for name in names(one)), "and is dropped with the history"


async def test_a_round_that_is_dropped_while_it_is_read_back_does_not_stay(home: Home) -> None:
    chain = large_rounds(1)
    save_rounds(home, {ZERO: chain})
    store = BlobStore()
    history = History(ZERO, store, 2)
    history.restore(load_rounds(home, at(chain[-1]))[ZERO])
    recalling = asyncio.create_task(history.recall())
    await asyncio.sleep(0)  # it waits for its first file
    history.clear()
    await recalling
    assert not any(store.find(name) for name in names(chain[0]))


def test_a_file_of_another_branch_is_not_taken_for_ours(home: Home) -> None:
    ours, theirs = large_rounds(1)[0], large_rounds(2)[1]
    value = replace(theirs.certificate.value, version=ours.certificate.value.version, previous=None)
    rival = PastRound(replace(theirs.certificate, value=value), theirs.blobs)
    store = BlobStore()
    history = History(ZERO, store, 8)
    written = save_rounds(home, {ZERO: [rival]})  # while that was written we went over to the other branch
    history.add(ours.certificate, list(ours.blobs))
    for _, value_hash, place in written:
        history.saved(value_hash, place)
    assert [store.get(name) for name in names(ours)] == list(ours.blobs)


def test_small_rounds_stay_in_memory(home: Home) -> None:
    store, chain = BlobStore(), rounds(1)
    history = History(ZERO, store, 8)
    history.restore(chain)
    for _, value_hash, place in save_rounds(home, {ZERO: chain}):
        history.saved(value_hash, place)
    assert isinstance(store.find(names(chain[0])[0]), memoryview)


def stored(name: str, size_bytes: int, worth: Worth, age_rank: int = 0) -> StoredFile:
    return StoredFile(path=Path(name), size_bytes=size_bytes, worth=worth, age_rank=age_rank)


def test_what_is_least_missed_goes_first_and_what_is_needed_never() -> None:
    files = [
        stored("checkpoint", 100, Worth.NEEDED),
        stored("progress", 50, Worth.PROGRESS),
        stored("round 8", 10, Worth.ROUND, 8),
        stored("round 7", 10, Worth.ROUND, 7),
        stored("old journal", 30, Worth.OLD_JOURNAL),
        stored("corrupt", 100, Worth.DAMAGED),
    ]

    def dropped(budget_bytes: int) -> list[str]:
        return [str(file.path) for file in to_drop(files, budget_bytes, reserve_bytes=100)]

    assert dropped(400) == []
    assert dropped(399) == ["corrupt"]
    assert dropped(265) == ["corrupt", "old journal", "round 7"]
    assert dropped(200) == ["corrupt", "old journal", "round 7", "round 8", "progress"]
    assert "checkpoint" not in dropped(0)


def test_a_home_is_kept_to_its_budget_and_keeps_its_checkpoint(home: Home) -> None:
    save_rounds(home, {ZERO: rounds(5)})
    home.checkpoint_path.write_bytes(bytes(5000))
    home.path.joinpath("checkpoint.corrupt-1").write_bytes(bytes(5000))
    home.progress_path.write_bytes(bytes(300))

    def total_bytes() -> int:
        return sum(path.stat().st_size for path in home.path.rglob("*") if path.is_file())

    assert keep_within(home, None, 5000) == []
    budget_bytes = total_bytes() - 5000 + 5000 - 700
    removed = keep_within(home, budget_bytes, reserve_bytes=5000)
    assert [file.worth for file in removed][:2] == [Worth.DAMAGED, Worth.ROUND]
    assert total_bytes() + 5000 <= budget_bytes
    assert round_files(home)[-1].version == 5, "the oldest rounds went"
    keep_within(home, 0, reserve_bytes=5000)
    assert home.checkpoint_path.exists()
    assert home.manifest_path.exists()


def test_a_disk_without_room_for_a_first_checkpoint_is_refused_with_what_is_needed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, owned = SlicePlan.of(home.run.model, home.run.slicing), frozenset([ZERO, SliceId("common")])
    free = SimpleNamespace(free=checkpoint_bytes(plan, owned))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    check_room(home, plan, owned)
    free.free -= 1
    with pytest.raises(UsageError, match=r"MB free, and a checkpoint of this peer takes .* choose another --home"):
        check_room(home, plan, owned)


def test_a_budget_below_what_the_last_state_takes_is_refused_with_what_is_needed(home: Home) -> None:
    plan, owned = SlicePlan.of(home.run.model, home.run.slicing), frozenset([ZERO, SliceId("common")])
    needed = least_bytes(plan, owned)
    check_budget(None, plan, owned)
    check_budget(needed, plan, owned)
    with pytest.raises(UsageError, match=r"disk_gb = .* is too small: with slices 0, common .* needs"):
        check_budget(needed - 1, plan, owned)
    assert least_bytes(plan, frozenset([ZERO])) < needed
