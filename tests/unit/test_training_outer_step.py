import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from p2ptrain.config.schema import OuterConfig
from p2ptrain.errors import NonFiniteUpdate
from p2ptrain.ids import SliceId, Version
from p2ptrain.training.outer_step import OuterState, lr_of, outer_rule, outer_step
from p2ptrain.training.pseudo_gradient import pseudo_gradient

ZERO = SliceId("0")


def numbers(seed: int, count: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_the_pseudo_gradient_points_from_the_anchor_to_the_local_weights() -> None:
    anchor, local = numbers(1), numbers(2)
    assert np.array_equal(pseudo_gradient(anchor, local), anchor - local)
    assert pseudo_gradient(anchor, local).dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pseudo_gradient_that_is_not_finite_is_withheld(bad: float) -> None:
    local = numbers(2)
    local[[3, 7]] = bad
    with pytest.raises(NonFiniteUpdate, match="2 of 1000 elements"):
        pseudo_gradient(numbers(1), local)


def test_a_difference_that_overflows_is_withheld() -> None:
    with pytest.raises(NonFiniteUpdate, match="1 of 1 elements"):
        pseudo_gradient(np.array([3e38], dtype=np.float32), np.array([-3e38], dtype=np.float32))


def test_plain_sgd_with_lr_one_moves_the_anchor_onto_the_local_weights() -> None:
    anchor, local = numbers(1), numbers(2)
    state = outer_step(OuterState.initial(anchor), pseudo_gradient(anchor, local), lr=1.0, momentum=0.0)
    np.testing.assert_allclose(state.anchor, local, atol=1e-6)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_outer_step_is_torchs_sgd_up_to_rounding(nesterov: bool) -> None:
    state = OuterState.initial(numbers(1))
    weights = torch.nn.Parameter(torch.from_numpy(numbers(1)))
    sgd = torch.optim.SGD([weights], lr=0.7, momentum=0.9, nesterov=nesterov)
    for seed in range(2, 7):
        state = outer_step(state, numbers(seed), lr=0.7, momentum=0.9, nesterov=nesterov)
        weights.grad = torch.from_numpy(numbers(seed))
        sgd.step()
    np.testing.assert_allclose(state.anchor, weights.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_each_multiplication_and_addition_is_rounded_on_its_own() -> None:
    state, gradient = OuterState(numbers(1, 50), numbers(2, 50)), numbers(3, 50)
    after = outer_step(state, gradient, lr=0.7, momentum=0.9)
    lr, mu = np.float32(0.7), np.float32(0.9)
    for i in range(50):
        momentum = mu * state.momentum[i] + gradient[i]
        assert after.momentum[i] == momentum
        assert after.anchor[i] == state.anchor[i] - lr * (gradient[i] + mu * momentum)
    heavy = outer_step(state, gradient, lr=0.7, momentum=0.9, nesterov=False)
    assert np.array_equal(heavy.momentum, after.momentum)
    assert np.array_equal(heavy.anchor, state.anchor - lr * after.momentum)


@pytest.mark.parametrize(("nesterov", "bears"), [(True, 1.5), (False, 3.0)])
def test_a_heavy_ball_bears_twice_the_overshoot(nesterov: bool, bears: float) -> None:
    """On a quadratic whose pseudo-gradient is ``overshoot`` times the way to its minimum, with momentum 0.5."""
    for overshoot, converges in ((0.95 * bears, True), (1.05 * bears, False)):
        state = OuterState.initial(np.ones(1, np.float32))
        for _ in range(400):
            gradient = state.anchor * np.float32(overshoot)
            state = outer_step(state, gradient, lr=1.0, momentum=0.5, nesterov=nesterov)
            if not abs(state.anchor[0]) < 1e6:
                break
        assert (abs(state.anchor[0]) < 1e-3) == converges


def test_a_step_returns_new_arrays_and_leaves_the_old_state_as_it_was() -> None:
    anchor = numbers(1)
    state = OuterState.initial(anchor)
    assert not np.shares_memory(state.anchor, anchor)
    digest, gradient = state.digest(Version(0)), numbers(2)
    before = gradient.copy()
    after = outer_step(state, gradient, lr=0.7, momentum=0.9)
    assert state.digest(Version(0)) == digest
    assert np.array_equal(gradient, before)
    for array in (after.anchor, after.momentum):
        assert not any(np.shares_memory(array, other) for other in (state.anchor, state.momentum, gradient))


def test_the_digest_covers_version_anchor_and_momentum() -> None:
    state = OuterState(numbers(1), numbers(2))
    expected = hashlib.sha256((4).to_bytes(8, "little") + numbers(1).tobytes() + numbers(2).tobytes()).hexdigest()
    assert state.digest(Version(4)) == expected
    assert state.digest(Version(5)) != expected
    assert OuterState(numbers(3), numbers(2)).digest(Version(4)) != expected
    assert OuterState(numbers(1), numbers(3)).digest(Version(4)) != expected


def test_the_learning_rate_goes_evenly_from_the_first_version_to_the_last_and_then_stays() -> None:
    rising = OuterConfig(lr=0.2, momentum=0.9, last_lr=0.6)
    lrs = [lr_of(rising, Version(number), 5, ZERO) for number in range(1, 8)]
    assert lrs == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6])
    assert lr_of(replace(rising, last_lr=0.1), Version(5), 5, ZERO) == pytest.approx(0.1)
    assert lr_of(rising, Version(1), 1, ZERO) == 0.2
    assert {lr_of(replace(rising, last_lr=0.0), Version(number), 5, ZERO) for number in range(1, 8)} == {0.2}


def test_the_learning_rate_falls_to_three_tenths_of_itself_in_the_cooldown() -> None:
    cooled = OuterConfig(lr=0.2, momentum=0.9, cooldown=0.4)
    lrs = [lr_of(cooled, Version(number), 10, ZERO) for number in range(5, 13)]
    assert lrs == pytest.approx([0.2, 0.2, 0.165, 0.13, 0.095, 0.06, 0.06, 0.06])
    rising = replace(cooled, last_lr=0.4)
    assert lr_of(rising, Version(10), 10, ZERO) == pytest.approx(0.12)
    assert lr_of(replace(cooled, cooldown=1.0), Version(10), 10, ZERO) == pytest.approx(0.06)
    assert lr_of(cooled, Version(1), 1, ZERO) == pytest.approx(0.06), "one round is its own end"


@pytest.mark.parametrize("slice_id", ["common", "common.1"])
def test_the_common_part_may_have_a_learning_rate_of_its_own(slice_id: str) -> None:
    config = OuterConfig(lr=0.2, momentum=0.9, last_lr=0.6, common_lr_ratio=1.5)
    assert lr_of(config, Version(3), 5, SliceId(slice_id)) == pytest.approx(0.6)
    assert lr_of(config, Version(3), 5, ZERO) == pytest.approx(0.4)


def test_the_rule_of_a_run_takes_the_learning_rate_of_the_version() -> None:
    before = OuterState(numbers(1), numbers(2))
    for version, lr, nesterov in ((1, 0.2, True), (3, 0.4, True), (3, 0.4, False)):
        rule = outer_rule(OuterConfig(lr=0.2, momentum=0.9, last_lr=0.6, nesterov=nesterov), 5, ZERO)
        anchor, momentum = rule(Version(version), before.anchor, before.momentum, numbers(3))
        expected = outer_step(before, numbers(3), lr=lr, momentum=0.9, nesterov=nesterov)
        np.testing.assert_allclose(anchor, expected.anchor, rtol=1e-6)
        assert np.array_equal(momentum, expected.momentum)


PROGRAM = """
import hashlib
import numpy as np
from p2ptrain.config.schema import InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.ids import Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.outer_step import OuterState, outer_step

run = RunConfig(
    name="bits",
    seed=1,
    rounds=1,
    model=ModelConfig(layers=2, width=24, heads=2, kv_heads=2, mlp_hidden=42),
    slicing=SlicingConfig(slices=2),
    inner=InnerConfig(steps=1, batch=1, lr=0.1),
    outer=OuterConfig(lr=0.7, momentum=0.9),
)
values = initial_values(run, SlicePlan.of(run.model, run.slicing))
for slice_id in sorted(values):
    state = OuterState.initial(values[slice_id])
    for step in range(5):
        gradient = np.roll(state.anchor, step + 1) * np.float32(0.37) + np.float32(0.001)
        state = outer_step(state, gradient, lr=0.7, momentum=0.9)
    print(slice_id, state.digest(Version(5)))
"""


def test_initial_weights_and_outer_steps_have_the_same_bits_with_and_without_fused_instructions() -> None:
    processors = [
        {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX X86_V3 X86_V4"},
        {"ATEN_CPU_CAPABILITY": "avx2"},
    ]
    running = [
        # numpy warns about names that it does not know: they changed between its versions.
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM], env=os.environ | env, stdout=subprocess.PIPE, text=True
        )
        for env in processors
    ]
    outputs = [process.communicate(timeout=50)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0].count("\n") == 3
    assert outputs[0] == outputs[1]
    assert hashlib.sha256(outputs[0].encode()).hexdigest()[:16] == "697864205852946e"
