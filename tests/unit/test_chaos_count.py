"""Counting slice rounds from journals: started, committed, void, interrupted."""

import json
import math

from p2ptrain.events import BranchLost, Evaluated, Event, Record, RoundCommitted, RoundStage, RoundVoid
from p2ptrain.ids import Digest, SliceId, Version
from p2ptrain.node.chaos import ChaosReport
from p2ptrain.node.chaos_count import RoundCounts, count_rounds, diverged_owners, first_and_last_loss, tries_of

SLICE = SliceId("0")


def journal(*moments: tuple[float, Event]) -> list[Record]:
    return [Record(sequence=i, time_s=time_s, event=event) for i, (time_s, event) in enumerate(moments, 1)]


def enters(version: int, stage: str = "gathering", attempt: int = 0) -> RoundStage:
    return RoundStage(slice=SLICE, version=Version(version), attempt=attempt, stage=stage, detail="")


def commits(version: int, digest: str = "d") -> RoundCommitted:
    return RoundCommitted(
        slice=SLICE,
        version=Version(version),
        epoch=1,
        digest=Digest(digest),
        members=[],
        contributors=[],
        owners=[],
        tokens=1,
        seconds=1.0,
    )


def void(version: int) -> RoundVoid:
    return RoundVoid(slice=SLICE, version=Version(version), attempt=0, reason="too few")


def count(
    journals: dict[str, list[Record]], ended_s: dict[str, float], from_s: float = 0, until_s: float = 100
) -> RoundCounts:
    tries, voids = [], []
    for name, records in journals.items():
        of_peer, void_here = tries_of(name, records, ended_s.get(name, 100.0))
        tries += of_peer
        voids += void_here
    return count_rounds(tries, voids, from_s=from_s, until_s=until_s)


def test_a_round_counts_once_whoever_took_part_and_however_many_ballots_it_took() -> None:
    a = journal((1, enters(1)), (4, enters(1, attempt=1)), (5, commits(1)), (6, enters(2)), (9, commits(2)))
    b = journal((2, enters(1)), (5.1, commits(1)), (6.5, enters(2)), (9, commits(2)))
    counts = count({"a": a, "b": b}, {})
    assert (counts.started, counts.committed, counts.void) == (2, 2, 0)


def test_a_void_round_counts_beside_the_one_that_commits_its_version_later() -> None:
    a = journal((1, enters(1)), (4, void(1)), (5, enters(1)), (8, commits(1)))
    b = journal((2, enters(1)), (4.5, void(1)), (5, enters(1)), (8, commits(1)))
    counts = count({"a": a, "b": b}, {})
    assert (counts.started, counts.committed, counts.void_reasons) == (2, 1, {"too few": 2})


def test_a_second_try_that_overlaps_the_first_of_a_late_peer_is_a_round_of_its_own() -> None:
    a = journal((1, enters(1)), (4, void(1)), (5, enters(1)), (8, commits(1)))
    b = journal((2, enters(1)), (6, void(1)))
    assert count({"a": a, "b": b}, {}).started == 2


def test_a_round_whose_owners_all_died_is_interrupted_even_if_others_commit_its_version() -> None:
    dead = journal((1, enters(1)))
    heir = journal((20, enters(1)), (22, commits(1)))
    counts = count({"dead": dead, "heir": heir}, {"dead": 3.0})
    assert (counts.started, counts.committed) == (2, 1)


def test_a_round_that_a_survivor_commits_is_committed_though_one_of_its_owners_died() -> None:
    dead, survivor = journal((1, enters(1))), journal((1, enters(1)), (6, commits(1)))
    counts = count({"dead": dead, "survivor": survivor}, {"dead": 3.0})
    assert (counts.started, counts.committed, counts.committed_percent) == (1, 1, 100)


def test_rounds_that_start_outside_the_time_of_the_experiment_do_not_count() -> None:
    a = journal((1, enters(1)), (4, commits(1)), (11, enters(2)), (31, commits(2)), (30.5, enters(3)), (33, commits(3)))
    assert count({"a": a}, {}, from_s=10, until_s=30).started == 1


def test_an_owner_with_other_bits_and_one_that_left_its_branch_have_diverged() -> None:
    same = {name: journal((1, commits(1))) for name in "abc"}
    assert diverged_owners(same) == 0
    assert diverged_owners({**same, "x": journal((1, commits(1, "other")))}) == 1
    lost = BranchLost(slice=SLICE, version=Version(1), followed=Version(1), tokens=1, followed_tokens=2)
    assert diverged_owners({**same, "x": journal((2, lost))}) == 1


def test_losses_are_the_earliest_measured_and_the_survivors_median() -> None:
    journals = {
        name: journal(
            (at, Evaluated(round=Version(0), loss_nats=first)), (9, Evaluated(round=Version(1), loss_nats=last))
        )
        for name, at, first, last in [("a", 2.0, 5.1, 3.0), ("b", 1.0, 5.2, 2.0), ("c", 3.0, 5.3, 4.0)]
    }
    assert first_and_last_loss(journals, ["a", "c"]) == (5.2, 3.5)


def test_what_could_not_be_measured_is_null_in_json() -> None:
    counts = {"slice_rounds_started": 0, "slice_rounds_committed": 0, "slice_rounds_void": 0, "diverged_owners": 0}
    losses = {"val_loss_first": math.nan, "val_loss_last": 2.0}
    plan = {"peers": 8, "kill_every_s": 15.0, "minutes": 0.1, "kills": 0}
    report = ChaosReport(**plan, **counts, committed_percent=math.nan, **losses)  # type: ignore[arg-type]
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (read["committed_percent"], read["val_loss_first"], read["val_loss_last"]) == (None, None, 2.0)
