"""Deadlines follow what a group has measured, and never leave the manifest's bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.swarm.deadlines import MIN_MEASURED, NUM_REMEMBERED, StageDurations, adaptive_deadline

durations = st.lists(st.floats(0, 1e4), max_size=NUM_REMEMBERED)


def test_until_enough_is_measured_the_manifest_holds() -> None:
    limit = adaptive_deadline([0.1] * (MIN_MEASURED - 1), 20, 0)
    assert limit.seconds == 20
    assert limit.reason == "as in the manifest: 4 of 5 rounds measured"


def test_a_group_of_even_pace_waits_little_longer_than_it_takes() -> None:
    limit = adaptive_deadline([2.0, 2.1, 1.9, 2.0, 2.1, 1.9], 60, 0)
    assert limit.seconds == pytest.approx(2.0 + 8 * 0.1 + 1.0)
    assert limit.reason == "median 2.00 s, MAD 0.10 s of 6 rounds"


def test_one_frozen_member_in_the_past_does_not_lengthen_the_deadline() -> None:
    calm = [2.0, 2.1, 1.9, 2.0, 2.1, 1.9, 2.0]
    assert adaptive_deadline([*calm, 60.0], 60, 0).seconds < 2 * adaptive_deadline(calm, 60, 0).seconds


@given(durations, st.floats(0.1, 100), st.integers(0, 2000))
def test_a_deadline_is_positive_bounded_and_reaches_the_ceiling_by_doubling(
    measured: list[float], ceiling_s: float, failures: int
) -> None:
    limit = adaptive_deadline(measured, ceiling_s, failures)
    assert 0 < limit.seconds <= ceiling_s
    assert limit.seconds <= adaptive_deadline(measured, ceiling_s, failures + 1).seconds
    assert adaptive_deadline(measured, ceiling_s, 10).seconds == ceiling_s


def test_only_the_last_rounds_are_remembered() -> None:
    kept = StageDurations()
    for number in range(NUM_REMEMBERED + 3):
        kept = kept.after_round(gather_s=float(number), reduce_s=1.0, vote_s=2.0)
    assert kept.gather == tuple(map(float, range(3, NUM_REMEMBERED + 3)))
    assert len(kept.reduce) == len(kept.vote) == NUM_REMEMBERED


def test_what_transfers_need_by_plan_has_room_whatever_was_measured() -> None:
    calm = [0.2] * 10
    usual = adaptive_deadline(calm, 60, 0)
    assert adaptive_deadline(calm, 60, 0, planned_s=0.5 * usual.seconds) == usual
    slow = adaptive_deadline(calm, 60, 0, planned_s=5.0)
    assert slow.seconds == 10.0
    assert "5.0 s of transfers" in slow.reason
    assert adaptive_deadline(calm, 60, 0, planned_s=0.8 * usual.seconds).seconds == pytest.approx(1.6 * usual.seconds)
    assert adaptive_deadline(calm, 60, 9, planned_s=5.0).seconds == 60
