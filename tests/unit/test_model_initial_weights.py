import hashlib
import math

import numpy as np
import pytest

from p2ptrain.config.schema import InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.ids import SliceId
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan


def run_with(*, slices: int = 1, seed: int = 3) -> RunConfig:
    return RunConfig(
        name="weights",
        seed=seed,
        rounds=1,
        model=ModelConfig(layers=2, width=32, heads=4, kv_heads=4, mlp_hidden=64),
        slicing=SlicingConfig(slices=slices, parts=("mlp", "heads")),
        inner=InnerConfig(steps=1, batch=1, lr=0.1),
        outer=OuterConfig(lr=1.0, momentum=0.0),
    )


def values_of(run: RunConfig) -> tuple[SlicePlan, dict[SliceId, np.ndarray]]:
    plan = SlicePlan.of(run.model, run.slicing)
    return plan, initial_values(run, plan)


def test_the_model_is_the_same_for_any_number_of_slices() -> None:
    one = SlicePlan.assemble(*values_of(run_with(slices=1)))
    four = SlicePlan.assemble(*values_of(run_with(slices=4)))
    assert all(np.array_equal(one[name], four[name]) for name in one)


def test_the_bits_are_those_of_the_first_release() -> None:
    _, values = values_of(run_with())
    whole = np.concatenate([values[slice_id] for slice_id in sorted(values)]).astype("<f4")
    assert hashlib.sha256(whole.tobytes()).hexdigest()[:16] == "97c4f5635c5673c7"


def test_matrices_are_nearly_normal() -> None:
    embedding = SlicePlan.assemble(*values_of(run_with()))["embedding"].double().numpy() / 0.02
    # The fourth moment is 3 for a normal distribution, 2.7 for a sum of four uniform ones, 1.8 for a single one.
    assert (embedding**4).mean() == pytest.approx(2.7, abs=0.2)


def test_another_seed_and_another_tensor_have_other_values() -> None:
    plan, values = values_of(run_with())
    tensors = plan.assemble(values)
    other = plan.assemble(values_of(run_with(seed=4))[1])
    assert not np.array_equal(tensors["layers.0.q"], other["layers.0.q"])
    assert not np.array_equal(tensors["layers.0.q"], tensors["layers.1.q"])


def test_matrices_have_their_standard_deviations_and_norms_are_one() -> None:
    plan, values = values_of(run_with())
    for name, tensor in plan.assemble(values).items():
        array = tensor.numpy()
        if name.endswith("norm"):
            assert (array == 1).all()
            continue
        std = 0.02 / math.sqrt(4) if name.endswith((".o", ".down")) else 0.02
        assert abs(array.std() / std - 1) < 0.05
        assert abs(array.mean()) < 4 * std / math.sqrt(array.size)
        assert np.abs(array).max() < 3.47 * std
