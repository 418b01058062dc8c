"""Progress, anchors and tokens: whatever comes in whatever order, nothing is lost and nothing counted twice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.config.schema import OverlapConfig
from p2ptrain.ids import Version
from p2ptrain.training.footing import MAX_SNAPSHOTS, Footing, Move, move, stretch

SHIFT = OverlapConfig(delay_steps=4)
WHOLE = ((0, 4),)
ZERO = np.zeros(4, np.float32)


def at(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def trained(footing: Footing, local: np.ndarray, by: float) -> tuple[Footing, np.ndarray]:
    """An inner step that moves every element by ``by``, counted as that many tokens."""
    return footing.trained(int(by)), local + np.float32(by)


def test_new_anchor_keeps_exactly_the_progress_made_since_the_cut_off() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    footing = footing.cut_off(local)
    footing, local = trained(footing, local, 2)
    moved = move(footing, local, Move(anchor=at(100), version=Version(1), tokens=8, contained=WHOLE), SHIFT)
    assert moved.local.tolist() == [102.0] * 4
    assert (moved.footing.tokens, moved.footing.version, moved.footing.snapshots) == (2, 1, ())


def test_anchor_without_our_contribution_keeps_all_progress_and_the_next_round_can_still_contain_it() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    footing = footing.cut_off(local)
    moved = move(footing, local, Move(anchor=at(100), version=Version(1)), SHIFT)
    assert (moved.local.tolist(), moved.footing.tokens) == ([108.0] * 4, 8)
    footing, local = trained(moved.footing, moved.local, 2)
    late = move(footing, local, Move(anchor=at(200), version=Version(2), tokens=8, contained=WHOLE), SHIFT)
    assert (late.local.tolist(), late.footing.tokens) == ([202.0] * 4, 2)


def test_parts_that_were_averaged_without_us_keep_their_progress() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    footing = footing.cut_off(local)
    moved = move(footing, local, Move(anchor=at(100), version=Version(1), tokens=8, contained=((0, 2),)), SHIFT)
    assert moved.local.tolist() == [100.0, 100.0, 108.0, 108.0]


def test_void_round_that_others_committed_is_told_from_the_one_after_it() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    footing, local = trained(footing.cut_off(local), local, 4)
    footing, local = trained(footing.cut_off(local), local, 1)
    first = move(footing, local, Move(anchor=at(100), version=Version(1), tokens=8, contained=WHOLE), SHIFT)
    assert (first.local.tolist(), first.footing.tokens) == ([105.0] * 4, 5)
    assert [(s.tokens, s.values.tolist()) for s in first.footing.snapshots] == [(4, [104.0] * 4)]
    second = move(footing, local, Move(anchor=at(100), version=Version(1), tokens=12, contained=WHOLE), SHIFT)
    assert (second.local.tolist(), second.footing.tokens) == ([101.0] * 4, 1)


def test_leap_over_versions_that_may_contain_a_contribution_does_not_count_it_twice() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    footing, local = trained(footing.cut_off(local), local, 1)
    moved = move(footing, local, Move(anchor=at(100), version=Version(3)), SHIFT)
    assert (moved.local.tolist(), moved.footing.tokens) == ([101.0] * 4, 1)


def test_progress_that_missed_too_many_versions_is_dropped_and_said_so() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    rule = replace(SHIFT, max_stale_rounds=2)
    for version in (1, 2):
        moved = move(footing, local, Move(anchor=at(10 * version), version=Version(version)), rule)
        footing, local = moved.footing, moved.local
        assert (local.tolist(), moved.dropped_tokens) == ([10 * version + 8.0] * 4, 0)
    moved = move(footing, local, Move(anchor=at(30), version=Version(3)), rule)
    assert (moved.local.tolist(), moved.dropped_tokens, moved.footing.tokens) == ([30.0] * 4, 8, 0)


def test_progress_for_which_a_round_had_no_place_is_dropped_at_once_and_what_was_contained_before_is_not() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    to = Move(anchor=at(10), version=Version(1), had_place=False)
    moved = move(footing, local, to, SHIFT)
    assert (moved.local.tolist(), moved.dropped_tokens, moved.footing.tokens) == ([10.0] * 4, 8, 0)
    assert move(Footing.on(ZERO, Version(0)), ZERO, to, SHIFT).dropped_tokens == 0
    contained = replace(to, tokens=8, contained=((0, 4),))
    footing, local = trained(footing.cut_off(local), local, 3)
    moved = move(footing, local, contained, SHIFT)
    assert (moved.local.tolist(), moved.dropped_tokens, moved.footing.tokens) == ([13.0] * 4, 0, 3)


def test_peer_that_had_nothing_to_contribute_for_long_is_not_called_stale() -> None:
    footing = Footing.on(ZERO, Version(0))
    moved = move(footing, ZERO, Move(anchor=at(1), version=Version(9)), SHIFT)
    footing, local = trained(moved.footing, moved.local, 3)
    assert move(footing, local, Move(anchor=at(2), version=Version(10)), SHIFT).local.tolist() == [5.0] * 4


def test_mixing_is_a_mean_of_local_weights_and_new_anchor() -> None:
    footing, local = trained(Footing.on(ZERO, Version(0)), ZERO, 8)
    footing, local = trained(footing.cut_off(local), local, 2)
    rule = OverlapConfig(delay_steps=4, merge="mix", mixing=0.25)
    moved = move(footing, local, Move(anchor=at(100), version=Version(1), tokens=8, contained=WHOLE), rule)
    assert moved.local.tolist() == [0.25 * 10 + 0.75 * 100] * 4
    other = move(footing, local, Move(anchor=at(100), version=Version(1), tokens=5, contained=WHOLE), rule)
    assert other.local.tolist() == [110.0] * 4, (
        "it contains a contribution of ours that we do not know: nothing is mixed"
    )


def test_what_agrees_with_the_group_is_not_contributed_again_by_mixing_however_far_it_went() -> None:
    footing, local = trained(Footing.on(at(1), Version(0)), at(1), 8)
    footing = footing.cut_off(local)
    to = Move(anchor=at(1 + 8 / 4), version=Version(1), tokens=8, contained=((0, 2),))
    moved = move(footing, local, to, OverlapConfig(merge="mix", mixing=0.5), amplification=4.0)
    assert moved.local.tolist() == [3.0, 3.0, 11.0, 11.0]


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_contribution_found_committed_after_the_slices_changed_is_counted_once(factor: float) -> None:
    footing, local = trained(Footing.on(at(1), Version(0)), at(1), 8)
    footing, local = trained(footing.cut_off(local), local, 2)
    footing, local = stretch(footing.cut_off(local), local, factor)
    moved = move(footing, local, Move(anchor=at(100), version=Version(1), tokens=8, contained=WHOLE), SHIFT)
    assert (moved.local.tolist(), moved.footing.tokens) == ([100 + factor * 2] * 4, 2)
    assert [(s.values.tolist(), s.tokens) for s in moved.footing.snapshots] == [([100 + factor * 2] * 4, 2)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["train", "cut off", "contained", "without us", "void"]), max_size=30))
def test_tokens_and_progress_are_conserved_in_any_order_of_events(happenings: list[str]) -> None:
    # Each anchor is the last one plus what it contains of us: so all of our steps, no more and no less, must be in the
    # weights at any moment, and the tokens that are in no anchor are those that the weights are away from it.
    footing, local, steps = Footing.on(ZERO, Version(0)), ZERO, 0
    rule = OverlapConfig(delay_steps=4, max_stale_rounds=1000)
    for happening in happenings:
        version = Version(footing.version + 1)
        if happening == "train":
            footing, local = trained(footing, local, 1)
            steps += 1
        elif happening == "cut off":
            footing = footing.cut_off(local)
            assert len(footing.snapshots) <= MAX_SNAPSHOTS
        elif happening == "without us":
            moved = move(footing, local, Move(anchor=footing.anchor, version=version), rule)
            footing, local = moved.footing, moved.local
        elif happening == "contained" and footing.snapshots:
            sent = footing.snapshots[-1]
            to = Move(anchor=sent.values, version=version, tokens=sent.tokens, contained=WHOLE)
            moved = move(footing, local, to, rule)
            footing, local = moved.footing, moved.local
        assert local.tolist() == [steps] * 4
        assert (local - footing.anchor).tolist() == [footing.tokens] * 4


@pytest.mark.parametrize("tokens", [0, 5])
def test_cut_off_keeps_the_weights_as_they_were(tokens: int) -> None:
    footing = Footing.on(ZERO, Version(0)).trained(tokens).cut_off(at(3))
    assert [(s.tokens, s.values.tolist()) for s in footing.snapshots] == [(tokens, [3.0] * 4)]
