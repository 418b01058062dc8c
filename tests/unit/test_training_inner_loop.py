import hashlib
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from p2ptrain.config.schema import EngineConfig, InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import DataError, NonFiniteUpdate, StepBrokenOff
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.inner_loop import InnerLoop, learning_rate
from p2ptrain.training.optimizer import AdamW

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = SliceId("1")
RUN = RunConfig(
    name="loop",
    seed=1,
    rounds=10,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_hidden=64, context=32),
    slicing=SlicingConfig(slices=2, parts=("mlp", "heads")),
    inner=InnerConfig(steps=5, batch=4, lr=5e-3, warmup_steps=3),
    outer=OuterConfig(lr=0.7, momentum=0.9),
)
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
VALUES = initial_values(RUN, PLAN)
TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)
CORPUS = Corpus(train=TEXT[1000:], validation=TEXT[:1000], fingerprint=Digest("0" * 64))


def loop(owned: frozenset[SliceId] = frozenset({COMMON, ONE}), peer: str = "a", run: RunConfig = RUN) -> InnerLoop:
    return InnerLoop(run, PLAN, owned, VALUES, CORPUS, PeerId(peer))


def state(trained: InnerLoop) -> str:
    return hashlib.sha256(b"".join(trained.local_values(slice_id).tobytes() for slice_id in PLAN.slice_ids)).hexdigest()


def test_training_lowers_the_loss_on_held_out_text() -> None:
    trained = loop(frozenset(PLAN.slice_ids))
    before = trained.validation_loss(8)
    assert before == pytest.approx(math.log(256), abs=0.1)
    for step in range(40):
        trained.step(Version(step // 5))
    assert trained.validation_loss(8) < before - 1.5


def test_text_shorter_than_a_window_is_refused_before_training() -> None:
    for train, validation in ((TEXT[:32], TEXT), (TEXT, TEXT[:32])):
        short = Corpus(train=train, validation=validation, fingerprint=Digest("0" * 64))
        with pytest.raises(DataError, match="32 tokens and one window needs 33"):
            InnerLoop(RUN, PLAN, frozenset({COMMON}), VALUES, short, PeerId("a"))


def test_steps_change_every_owned_slice_and_no_bit_of_the_others() -> None:
    trained = loop()
    for _ in range(3):
        trained.step(Version(0))
    assert np.array_equal(trained.local_values(SliceId("0")), VALUES[SliceId("0")])
    for slice_id in (COMMON, ONE):
        assert (trained.local_values(slice_id) != VALUES[slice_id]).mean() > 0.9


def test_two_loops_of_the_same_peer_go_the_same_way_and_another_peer_goes_elsewhere() -> None:
    first, second, other = loop(), loop(), loop(peer="b")
    for _ in range(3):
        reports = [trained.step(Version(0)) for trained in (first, second, other)]
        assert reports[0].loss_nats == reports[1].loss_nats != reports[2].loss_nats
    assert state(first) == state(second) != state(other)


def test_a_report_says_what_the_step_did() -> None:
    trained = loop()
    trained.step(Version(2))
    report = trained.step(Version(2))
    assert (report.round, report.inner_step, report.tokens) == (2, 1, 4 * 32)
    assert report.loss_nats == pytest.approx(math.log(256), abs=0.3)
    assert report.lr == learning_rate(RUN, 2 * 5 + 1)
    assert report.grad_norm > 0
    assert 0 < report.seconds < 5


def test_the_inner_step_starts_again_only_with_another_round() -> None:
    trained = loop()
    assert [trained.step(Version(r)).inner_step for r in (0, 0, 1, 1, 1)] == [0, 1, 0, 1, 2]
    trained.begin_round(Version(1))
    assert trained.inner_step == 3
    trained.begin_round(Version(2))
    assert trained.inner_step == 0


@pytest.mark.parametrize("slice_id", [COMMON, SliceId("0"), ONE])
def test_a_slice_swapped_in_is_what_the_next_step_computes_with(slice_id: SliceId) -> None:
    plain, swapped = loop(), loop()
    plain.step(Version(0))
    swapped.step(Version(0))
    values = VALUES[slice_id] * np.float32(1.5)
    swapped.replace(slice_id, values)
    assert np.array_equal(swapped.local_values(slice_id), values)
    assert plain.step(Version(0)).loss_nats != swapped.step(Version(0)).loss_nats


def test_local_values_are_a_copy() -> None:
    trained = loop()
    held = trained.local_values(ONE)
    trained.step(Version(0))
    assert np.array_equal(held, VALUES[ONE])


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(poison: str) -> None:
    spoiled, untouched = loop(), loop()
    for trained in (spoiled, untouched):
        trained.step(Version(0))
    good = spoiled.local_values(COMMON)
    # NaN spoils the loss; 1e30 in the last norm leaves it finite, and the squares in the gradient overflow.
    bad = good.copy()
    bad[-RUN.model.width :] = np.nan if poison == "loss" else 1e30
    assert PLAN.regions(COMMON)[-1].tensor == "final_norm"
    spoiled.replace(COMMON, bad)
    with pytest.raises(NonFiniteUpdate, match=f"round 0 inner step 1: the .*{poison}.* changed nothing"):
        spoiled.step(Version(0))
    assert np.array_equal(spoiled.local_values(COMMON), bad, equal_nan=True)
    spoiled.replace(COMMON, good)
    assert spoiled.step(Version(0)).inner_step == untouched.step(Version(0)).inner_step == 1
    assert state(spoiled) == state(untouched)


def test_the_gradient_is_clipped_to_the_norm_that_the_run_says() -> None:
    # AdamW forgets the scale of a constant gradient, so its first moment is what shows the clipping.
    trained = loop(run=replace(RUN, inner=replace(RUN.inner, clip=0.01)))
    assert trained.step(Version(0)).grad_norm > 0.01
    means = [leaf.mean for leaf in trained._optimizer.moments()]
    norm = math.sqrt(sum(float(mean.square().sum()) for mean in means)) / (1 - RUN.inner.beta1)
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_norms_do_not_decay_and_matrices_do() -> None:
    matrix, norm = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(3))
    adamw = AdamW([matrix, norm], RUN.inner)
    adamw.update([torch.zeros_like(matrix), torch.zeros_like(norm)], 0.5, torch.ones(()))
    assert torch.equal(norm, torch.ones(3))
    torch.testing.assert_close(matrix.detach(), torch.full((2, 3), 1 - 0.5 * RUN.inner.weight_decay))


def test_the_learning_rate_warms_up_and_falls_to_a_tenth_at_the_end() -> None:
    rates = [learning_rate(RUN, step) for step in range(60)]
    assert rates[:3] == pytest.approx([5e-3 / 3, 5e-3 * 2 / 3, 5e-3])
    assert rates[3] == pytest.approx(5e-3)
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[3:51]))
    assert rates[50:] == pytest.approx([5e-4] * 10)
    assert learning_rate(replace(RUN, inner=replace(RUN.inner, warmup_steps=0)), 0) == 5e-3


def test_a_step_that_is_broken_off_between_two_micro_batches_is_as_if_it_had_not_begun() -> None:
    def small() -> InnerLoop:
        owned = frozenset({COMMON, ONE})
        return InnerLoop(RUN, PLAN, owned, VALUES, CORPUS, PeerId("a"), EngineConfig(micro_batch=1))

    asked = iter([True, False])
    trained, undisturbed = small(), small()
    for one in (trained, undisturbed):
        one.step(Version(0))
    with pytest.raises(StepBrokenOff):
        trained.step(Version(0), is_wanted=lambda: next(asked))
    assert next(asked, None) is None, "two of three micro-batches were begun"
    assert trained.step(Version(0)).loss_nats == undisturbed.step(Version(0)).loss_nats
    assert state(trained) == state(undisturbed)
