"""Averaging among owners of whom some may lie."""

import numpy as np
import pytest

from p2ptrain.config.schema import Averaging
from p2ptrain.ids import PeerId
from p2ptrain.swarm.reduce import weighted_mean
from p2ptrain.swarm.robust import MAX_NORM_RATIO, centered_clip, combine
from p2ptrain.wire.codec import Float32

RULES: tuple[Averaging, ...] = ("mean", "trimmed", "clipped")
TRUTH = np.random.default_rng(0).standard_normal(1000).astype(np.float32)


def group(honest: int, *lies: Float32) -> dict[PeerId, tuple[int, Float32]]:
    """Honest owners that differ by some noise, and then those with lies."""
    noise = np.random.default_rng(1)
    values = [TRUTH + 0.5 * noise.standard_normal(1000).astype(np.float32) for _ in range(honest)]
    return {PeerId(f"p{i}"): (100, value) for i, value in enumerate([*values, *lies])}


def error(mean: Float32) -> float:
    return float(np.linalg.norm(mean - TRUTH) / np.linalg.norm(TRUTH))


def test_without_lies_every_rule_is_close_to_the_mean() -> None:
    parts = group(8)
    expected = error(weighted_mean(parts))
    for rule in RULES:
        combined = combine(rule, parts)
        assert error(combined.mean) < 1.2 * expected
        assert (combined.contributors, combined.left_out) == (tuple(sorted(parts)), {})


def test_the_mean_is_bitwise_the_mean_it_always_was() -> None:
    parts = {peer: (i + 1, v) for i, (peer, (_, v)) in enumerate(group(4).items())}
    assert combine("mean", parts).mean.tobytes() == weighted_mean(parts).tobytes()


LIES = {
    "sign": -TRUTH,
    "twice": -3 * TRUTH,
    "random": 3 * np.random.default_rng(2).standard_normal(1000).astype(np.float32),
}


@pytest.mark.parametrize("rule", ["trimmed", "clipped"])
@pytest.mark.parametrize("lie", LIES)
def test_two_of_eight_liars_move_a_robust_mean_little_and_a_plain_one_much(rule: Averaging, lie: str) -> None:
    parts = group(6, LIES[lie], LIES[lie])
    plain, robust = error(combine("mean", parts).mean), error(combine(rule, parts).mean)
    assert robust < 0.75 * plain
    assert robust < 0.45


@pytest.mark.parametrize("rule", RULES)
def test_a_part_far_larger_than_the_others_is_left_out_and_named(rule: Averaging) -> None:
    parts = group(3, 100 * TRUTH)
    combined = combine(rule, parts)
    assert combined.contributors == ("p0", "p1", "p2")
    assert "x the group's median" in combined.left_out[PeerId("p3")]
    assert error(combined.mean) < 0.5


def test_a_part_just_below_the_limit_stays() -> None:
    parts = group(4, (MAX_NORM_RATIO - 1) * TRUTH)
    assert combine("mean", parts).left_out == {}


def test_a_longer_round_excuses_a_larger_norm_within_reason() -> None:
    parts = group(4, 20 * TRUTH)
    longer = {**parts, PeerId("p4"): (400, 20 * TRUTH)}
    boastful = {**parts, PeerId("p4"): (10**9, 100 * TRUTH)}
    assert [list(combine("mean", found).left_out) for found in (parts, longer, boastful)] == [["p4"], [], ["p4"]]


@pytest.mark.parametrize("rule", RULES)
def test_nan_is_left_out_whoever_else_is_there(rule: Averaging) -> None:
    bad = TRUTH.copy()
    bad[7] = np.nan
    for honest in (1, 2, 5):
        combined = combine(rule, group(honest, bad))
        assert np.isfinite(combined.mean).all()
        assert list(combined.left_out) == [f"p{honest}"]


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_norms_are_compared_where_their_squares_do_not_fit_into_float32(scale: float) -> None:
    factor = np.float32(scale)
    parts = {peer: (tokens, values * factor) for peer, (tokens, values) in group(4, 100 * TRUTH).items()}
    left_out = combine("trimmed", parts).left_out
    assert list(left_out) == ["p4"]
    assert "x the group's median" in left_out[PeerId("p4")]


def test_two_owners_cannot_judge_each_other() -> None:
    combined = combine("trimmed", group(1, 100 * TRUTH))
    assert combined.left_out == {}


def test_announced_tokens_weigh_nothing_in_a_robust_mean() -> None:
    parts = group(5, -TRUTH)
    greedy = {peer: (10**12 if peer == "p5" else 1, value) for peer, (_, value) in parts.items()}
    for rule in ("trimmed", "clipped"):
        assert combine(rule, greedy).mean.tobytes() == combine(rule, parts).mean.tobytes()
    assert error(combine("mean", greedy).mean) > 1.9


def test_all_zero_parts_are_no_outliers() -> None:
    parts = {PeerId(f"p{i}"): (1, np.zeros(8, np.float32)) for i in range(4)}
    assert combine("clipped", parts).left_out == {}


def test_clipping_comes_back_from_the_median_to_the_mean_where_nobody_lies() -> None:
    # Skewed noise: the element-wise median, where clipping starts, is off the mean in every element the same way.
    values = np.random.default_rng(3).exponential(size=(8, 1000)).astype(np.float32)
    mean, median = values.mean(axis=0), np.median(values, axis=0)
    assert np.linalg.norm(centered_clip(values) - mean) < 0.2 * np.linalg.norm(median - mean)
