"""A peer moves its slices further than it contributes, in place of those who train the others."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from p2ptrain.config.schema import (
    EngineConfig,
    ExchangeConfig,
    InnerConfig,
    ModelConfig,
    OuterConfig,
    OverlapConfig,
    RunConfig,
    SlicingConfig,
)
from p2ptrain.data.corpus import Corpus
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version, numbered_slices
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.lab import dealt_slices
from p2ptrain.node.trainer import Trainer
from p2ptrain.node.trainer_messages import TrainerListener
from p2ptrain.node.virtual_swarm import VirtualSwarm
from p2ptrain.training.amplification import amplification
from p2ptrain.training.footing import Footing, stretch, stretch_all
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.training.pseudo_gradient import pseudo_gradient

pytestmark = pytest.mark.usefixtures("one_thread")
ZERO, ONE = numbered_slices(2)
RUN = RunConfig(
    name="amplified",
    seed=1,
    rounds=16,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_hidden=64, context=32),
    slicing=SlicingConfig(slices=4, parts=("mlp",)),
    inner=InnerConfig(steps=5, batch=4, lr=5e-3, warmup_steps=3),
    outer=OuterConfig(lr=0.7, momentum=0.5),
)
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
VALUES = initial_values(RUN, PLAN)
TEXT = np.frombuffer(b"To be, or not to be: that is the question. Whether 'tis nobler " * 200, dtype=np.uint8)
CORPUS = Corpus(train=TEXT[1000:], validation=TEXT[:1000], fingerprint=Digest("0" * 64))


def amplified(by: float, last: float = 0.0) -> RunConfig:
    return replace(RUN, slicing=replace(RUN.slicing, amplification=by, last_amplification=last))


@pytest.mark.parametrize(
    ("owned", "expected"),
    [
        ({"common", "0"}, 4.0),
        ({"common", "0", "1"}, 2.0),
        ({"common.0", "common.1", "1.0", "1.1", "2.0", "2.1"}, 2.0),  # two slices in two fragments each
        ({"common", "0", "1", "2"}, 4 / 3),
        ({"common", "0", "1", "2", "3"}, 1.0),
        ({"common"}, 4.0),
    ],
)
def test_who_trains_several_slices_stands_in_for_fewer_others(owned: set[str], expected: float) -> None:
    slices = {SliceId(one) for one in owned}
    assert amplification(amplified(4.0), slices, Version(7)) == pytest.approx(expected)
    assert amplification(RUN, slices, Version(7)) == 1.0


def test_amplification_changes_evenly_from_the_first_round_to_the_last() -> None:
    run = amplified(2.0, last=4.0)
    owned = {COMMON, ONE}
    assert [amplification(run, owned, Version(round)) for round in (0, 3, 15, 16, 99)] == [2.0, 2.4, 4.0, 4.0, 4.0]
    assert amplification(replace(run, rounds=1), owned, Version(0)) == 2.0
    assert amplification(amplified(3.0, last=1.0), owned, Version(15)) == 1.0
    assert amplification(amplified(2.0, last=12.0), owned, Version(12)) == 4.0, "there are four slices to stand in for"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_numbered_slices_go_further_than_they_contribute_and_the_common_part_does_not(precision: str) -> None:
    engine = EngineConfig(precision=precision)  # type: ignore[arg-type]
    owned = frozenset({COMMON, ONE})
    plain, further = (InnerLoop(run, PLAN, owned, VALUES, CORPUS, PeerId("a"), engine) for run in (RUN, amplified(4.0)))
    anchors = {slice_id: plain.local_values(slice_id) for slice_id in owned}
    for one in (plain, further):
        one.step(Version(0))
    np.testing.assert_array_equal(further.local_values(COMMON), plain.local_values(COMMON))
    moved, further_moved = (one.local_values(ONE) - anchors[ONE] for one in (plain, further))
    np.testing.assert_allclose(further_moved, 4 * moved, rtol=1e-2, atol=1e-7)
    assert np.abs(moved).max() > 1e-4
    # What it contributes is what it would have without.
    gradients = [pseudo_gradient(anchors[ONE], o.local_values(ONE), o.amplification_of(ONE)) for o in (plain, further)]
    np.testing.assert_allclose(*gradients, rtol=1e-2, atol=1e-7)
    assert further.amplification_of(COMMON) == 1.0


def test_who_trains_everything_trains_the_same_bits_as_without() -> None:
    loops = [
        InnerLoop(run, PLAN, frozenset(PLAN.slice_ids), VALUES, CORPUS, PeerId("a")) for run in (RUN, amplified(4.0))
    ]
    for _ in range(3):
        for one in loops:
            one.step(Version(0))
    for slice_id in PLAN.slice_ids:
        np.testing.assert_array_equal(*(one.local_values(slice_id) for one in loops))


def test_progress_is_the_same_for_a_peer_that_goes_further_from_now_on() -> None:
    footing = Footing.on(np.array([1, 2], np.float32), Version(3)).trained(7)
    footing = footing.cut_off(np.array([1.5, 1], np.float32)).trained(5)
    local = np.array([2, 1], np.float32)
    further, values = stretch(footing, local, 2.0)
    assert values.tolist() == [3, 0]
    assert [(one.values.tolist(), one.tokens) for one in further.snapshots] == [([2, 0], 7)]
    assert (further.tokens, further.version, further.since) == (12, 3, 3)
    assert local.tolist() == [2, 1]
    before = pseudo_gradient(footing.anchor, local, 1.0)
    np.testing.assert_array_equal(pseudo_gradient(further.anchor, values, 2.0), before)


def test_what_a_peer_keeps_over_a_round_goes_along_when_amplification_changes() -> None:
    loop = InnerLoop(amplified(1.0, last=4.0), PLAN, frozenset({COMMON, ONE}), VALUES, CORPUS, PeerId("a"))
    footings = {s: Footing.on(VALUES[s], Version(0)).trained(1) for s in loop.owned}
    loop.step(Version(0))
    kept = {s: loop.local_values(s) for s in loop.owned}
    before = {s: loop.amplification_of(s) for s in loop.owned}
    loop.begin_round(Version(15))
    stretch_all(footings, loop, before)
    np.testing.assert_allclose(loop.local_values(ONE), VALUES[ONE] + 4 * (kept[ONE] - VALUES[ONE]), atol=1e-6)
    np.testing.assert_array_equal(loop.local_values(COMMON), kept[COMMON])


def test_the_rest_of_a_slice_that_a_version_contains_in_part_goes_along_without_tokens() -> None:
    loop = InnerLoop(amplified(1.0, last=4.0), PLAN, frozenset({COMMON, ONE}), VALUES, CORPUS, PeerId("a"))
    footings = {s: Footing.on(VALUES[s], Version(0)) for s in loop.owned}
    loop.step(Version(0))
    left = loop.local_values(ONE) - VALUES[ONE]
    before = {s: loop.amplification_of(s) for s in loop.owned}
    loop.begin_round(Version(15))
    stretch_all(footings, loop, before)
    np.testing.assert_allclose(loop.local_values(ONE) - VALUES[ONE], 4 * left, atol=1e-6)


def test_a_round_moves_slices_by_the_mean_of_what_is_contributed() -> None:
    # One step on the same weights has the same gradients, so that all that differs is how far it goes and comes back.
    one_step = replace(RUN.inner, steps=1, warmup_steps=0)
    anchors = []
    for by in (1.0, 4.0):
        run = replace(amplified(by), inner=one_step, exchange=ExchangeConfig(codec="float32"))
        swarm = VirtualSwarm(run, CORPUS, dealt_slices(4, 4))
        swarm.train_round()
        anchors.append(swarm.values(frozenset(PLAN.slice_ids)))
    plain, further = anchors
    for slice_id in PLAN.slice_ids:
        assert np.abs(plain[slice_id] - VALUES[slice_id]).max() > 1e-4
        np.testing.assert_allclose(further[slice_id], plain[slice_id], rtol=1e-5, atol=1e-6)


def test_a_lab_that_is_restored_goes_on_with_as_much_amplification() -> None:
    run = replace(amplified(1.0, last=4.0), overlap=OverlapConfig(delay_steps=3))
    whole, part, restored = (VirtualSwarm(run, CORPUS, dealt_slices(4, 4)) for _ in range(3))
    for _ in range(4):
        whole.train_round()
    for _ in range(2):
        part.train_round()
    restored.restore(part.save())
    for _ in range(2):
        restored.train_round()
    assert [restored.digest(s) for s in PLAN.slice_ids] == [whole.digest(s) for s in PLAN.slice_ids]


def test_a_loss_is_told_of_weights_as_far_as_what_would_be_contributed() -> None:
    async def test() -> None:
        loop = InnerLoop(amplified(4.0), PLAN, frozenset({COMMON, ONE}), VALUES, CORPUS, PeerId("a"))
        footings = {s: Footing.on(VALUES[s], Version(0)).trained(1) for s in loop.owned}
        ignore = TrainerListener(trained=print, phase=print, slices=print, event=print)
        trainer = Trainer(loop, footings, ignore, threads=1)
        loop.step(Version(0))
        before = {slice_id: loop.local_values(slice_id) for slice_id in loop.owned}
        with trainer._as_contributed():
            contributed = VALUES[ONE] + (before[ONE] - VALUES[ONE]) / 4
            np.testing.assert_allclose(loop.local_values(ONE), contributed, rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(loop.local_values(COMMON), before[COMMON])
        for slice_id, values in before.items():
            np.testing.assert_array_equal(loop.local_values(slice_id), values)

    asyncio.run(test())
