import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from p2ptrain.config.schema import InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.errors import SlicingError
from p2ptrain.ids import COMMON, SliceId
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer

RUN = RunConfig(
    name="model",
    seed=1,
    rounds=1,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_hidden=48, context=16),
    slicing=SlicingConfig(slices=2, parts=("mlp", "heads")),
    inner=InnerConfig(steps=1, batch=1, lr=0.1),
    outer=OuterConfig(lr=1.0, momentum=0.0),
)
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
TOKENS = torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(1))


def model(owned: frozenset[SliceId] = frozenset()) -> Transformer:
    built = Transformer(RUN.model, PLAN, owned)
    built.load(initial_values(RUN, PLAN))
    return built


def test_an_untrained_model_knows_nothing() -> None:
    logits = model()(TOKENS[:, :-1])
    assert logits.shape == (2, 16, 256)
    assert float(model().loss(TOKENS)) == pytest.approx(math.log(256), abs=0.1)


def test_no_position_sees_a_later_token() -> None:
    changed = TOKENS[:, :-1].clone()
    changed[:, 9:] = 7
    before, after = model()(TOKENS[:, :-1]), model()(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_position_matters() -> None:
    # Without rotary positions, attention could not tell these apart at the last token.
    tokens = torch.tensor([[1, 2, 3, 4, 5], [2, 1, 4, 3, 5]])
    loud = model()
    for tensor in loud.tensors().values():
        if tensor.ndim > 1:
            tensor.mul_(10)
    first, second = loud(tokens)[:, -1]
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_forward_pass_is_that_of_a_llama_written_out_by_hand() -> None:
    torch.manual_seed(0)
    small = ModelConfig(layers=1, width=8, heads=2, kv_heads=1, mlp_hidden=6, vocabulary=5, context=4, rope_theta=100.0)
    plan = SlicePlan.of(small, SlicingConfig(slices=1))
    built = Transformer(small, plan, frozenset(), dtype=torch.float64)
    for tensor in built.tensors().values():
        tensor.copy_(torch.randn(tensor.shape, dtype=torch.float64))
    w = {name.rpartition(".")[2]: tensor.numpy() for name, tensor in built.tensors().items()}
    tokens = [3, 0, 4, 1]

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + small.norm_eps) * scale

    def turn(x: np.ndarray, position: int) -> np.ndarray:
        turned = x.copy()
        for i in range(2):
            angle = position * 100.0 ** (-2 * i / 4)
            turned[i] = x[i] * math.cos(angle) - x[i + 2] * math.sin(angle)
            turned[i + 2] = x[i + 2] * math.cos(angle) + x[i] * math.sin(angle)
        return turned

    x = [w["embedding"][token] for token in tokens]
    inputs = [norm(row, w["attention_norm"]) for row in x]
    for t in range(4):
        mixed = []
        for head in range(2):
            query = turn(w["q"][head * 4 : head * 4 + 4] @ inputs[t], t)
            scores = np.array([query @ turn(w["k"] @ inputs[s], s) / 2 for s in range(t + 1)])
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed.append(sum(weight * (w["v"] @ inputs[s]) for s, weight in enumerate(weights)))
        after = x[t] + np.concatenate(mixed) @ w["o"]
        hidden = norm(after, w["mlp_norm"])
        gate = w["gate"] @ hidden
        after = after + (gate / (1 + np.exp(-gate)) * (w["up"] @ hidden)) @ w["down"]
        logits = w["embedding"] @ norm(after, w["final_norm"])
        np.testing.assert_allclose(built(torch.tensor([tokens]))[0, t].numpy(), logits, rtol=1e-9)


def test_memory_for_gradients_exists_for_what_is_owned() -> None:
    owned = frozenset({COMMON, SliceId("1")})
    built = model(owned)
    built.loss(TOKENS).backward()
    assert sum(p.numel() for p in built.owned_parameters()) == PLAN.numel(COMMON) + PLAN.numel(SliceId("1"))
    assert all(p.grad is not None for p in built.owned_parameters())
    assert all(not tensor.requires_grad and tensor.grad is None for tensor in built.tensors().values())


def test_a_model_that_owns_nothing_builds_no_graph() -> None:
    assert model().owned_parameters() == []
    assert not model().loss(TOKENS).requires_grad


def test_moving_a_model_is_refused_because_its_owned_views_would_part_from_it() -> None:
    with pytest.raises(TypeError, match="build another"):
        model(frozenset({COMMON})).to(torch.float64)


@pytest.mark.parametrize(
    ("model_changes", "slicing", "message"),
    [
        ({"width": 30}, {}, r"width = 30 does not divide into model.heads = 4 heads; choose heads from 1, 2, 3, 5"),
        ({"kv_heads": 3}, {}, r"heads = 4 do not divide among model.kv_heads = 3 .* choose kv_heads from 1, 2, 4"),
        ({"width": 12}, {}, "width / model.heads = 3 is odd"),
        ({"layers": 0}, {}, "model.layers = 0; it must be at least 1"),
        ({}, {"parts": ("mlp", "norms")}, "slicing.parts names norms"),
        ({}, {"parts": ()}, "slicing.parts is empty"),
        (
            {},
            {"slices": 5},
            r"slices = 5 cannot cut model.mlp_hidden = 48 and .*kv_heads = 2 .* can: 1, 2, 4$",
        ),
        ({}, {"slices": 0}, "slices = 0 cannot cut"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_those_that_would(
    model_changes: dict[str, int], slicing: dict[str, object], message: str
) -> None:
    with pytest.raises(SlicingError, match=message):
        SlicePlan.of(replace(RUN.model, **model_changes), replace(RUN.slicing, **slicing))
