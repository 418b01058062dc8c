"""A peer that changes its slices keeps AdamW's memory of those that stay, to the bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2ptrain.config.schema import (
    EngineConfig,
    InnerConfig,
    ModelConfig,
    OuterConfig,
    Precision,
    RunConfig,
    SlicingConfig,
)
from p2ptrain.data.corpus import Corpus
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.inner_loop import InnerLoop

ZERO, ONE, TWO = SliceId("0"), SliceId("1"), SliceId("2")
RUN = RunConfig(
    name="moments",
    seed=1,
    rounds=10,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=4, mlp_hidden=64, context=32),
    slicing=SlicingConfig(slices=4, parts=("mlp", "heads")),
    inner=InnerConfig(steps=5, batch=4, lr=5e-3),
    outer=OuterConfig(lr=0.7, momentum=0.9),
)
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)
CORPUS = Corpus(train=TEXT[1000:], validation=TEXT[:1000], fingerprint=Digest("0" * 64))


def loop(*owned: SliceId, precision: Precision = "float32") -> InnerLoop:
    engine = EngineConfig(precision=precision)
    values = initial_values(RUN, PLAN)
    return InnerLoop(RUN, PLAN, frozenset({COMMON, *owned}), values, CORPUS, PeerId("a"), engine)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_stays_owned_goes_on_with_the_same_bits(precision: Precision) -> None:
    changed, stays = loop(ZERO, TWO, precision=precision), loop(ZERO, TWO, precision=precision)
    for _ in range(3):
        changed.step(Version(0))
        stays.step(Version(0))
    changed = changed.owning(frozenset({COMMON, ZERO, TWO}))
    assert (changed.round, changed.inner_step) == (0, 3)
    for _ in range(2):
        assert replace(changed.step(Version(0)), seconds=0.0) == replace(stays.step(Version(0)), seconds=0.0)
    for slice_id in PLAN.slice_ids:
        assert np.array_equal(changed.local_values(slice_id), stays.local_values(slice_id))


def test_a_new_slice_starts_without_memory_and_a_slice_given_up_stands_still() -> None:
    trained = loop(ZERO, TWO)
    for _ in range(3):
        trained.step(Version(0))
    kept, given_up = trained.moments(ZERO), trained.local_values(TWO)
    trained = trained.owning(frozenset({COMMON, ZERO, ONE}))  # 0 and 1 are neighbours: one parameter from now on
    assert trained.owned == {COMMON, ZERO, ONE}
    assert np.array_equal(trained.moments(ZERO).mean, kept.mean)
    assert np.array_equal(trained.moments(ZERO).square, kept.square)
    assert trained.moments(ZERO).steps == kept.steps == 3
    assert not trained.moments(ONE).mean.any()
    before = trained.local_values(ONE)
    trained.step(Version(0))
    assert np.array_equal(trained.local_values(TWO), given_up)
    moved = np.abs(trained.local_values(ONE) - before)
    assert 0 < moved.max() < 3 * RUN.inner.lr, "the first step of a new slice is not a leap"


def test_memory_that_was_carried_over_is_what_the_donor_had() -> None:
    donor, heir = loop(ZERO), loop(TWO)
    donor.step(Version(0))
    heir.step(Version(0))
    heir = heir.owning(frozenset({COMMON, ZERO, TWO}))
    heir.remember({ZERO: donor.moments(ZERO)})
    assert np.array_equal(heir.moments(ZERO).mean, donor.moments(ZERO).mean)
    assert donor.moments(ZERO).mean.any()
