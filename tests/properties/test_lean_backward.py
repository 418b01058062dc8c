"""The lean engine's gradients are plain autograd's, for any shape, cut and owned set."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2ptrain.config.schema import ModelConfig, Recompute, SlicedParts, SlicingConfig
from p2ptrain.ids import SliceId
from p2ptrain.model import lean_ops
from p2ptrain.model.sliced_linear import SlicedTensor
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.training.backward import batch_gradients
from p2ptrain.training.benchmark_models import PlainTransformer

pytestmark = pytest.mark.usefixtures("one_thread")
RECOMPUTES: list[Recompute] = ["nothing", "mlp", "blocks"]
CUTS: list[tuple[int, tuple[SlicedParts, ...]]] = [(1, ("mlp",)), (2, ("heads",)), (3, ("mlp",)), (4, ("mlp", "heads"))]


@pytest.fixture(autouse=True, params=["whole", "in chunks"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in chunks":
        monkeypatch.setattr(lean_ops, "_LOSS_CHUNK_ELEMENTS", 40)
        monkeypatch.setattr(lean_ops, "_WIDE_CHUNK_ELEMENTS", 60)


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    kv_heads = draw(st.sampled_from([4, 8]))
    heads = kv_heads * draw(st.sampled_from([1, 2]))
    return ModelConfig(
        layers=draw(st.integers(1, 2)),
        width=heads * draw(st.sampled_from([2, 4])),
        heads=heads,
        kv_heads=kv_heads,
        mlp_hidden=12 * draw(st.integers(1, 3)),
        vocabulary=draw(st.integers(2, 23)),
        context=draw(st.integers(1, 9)),
    )


def filled(plan: SlicePlan, dtype: torch.dtype) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(5)
    return {n: (torch.randn(s, generator=chance, dtype=torch.float64) * 0.3).to(dtype) for n, s in plan.shapes.items()}


def random_windows(config: ModelConfig, batch: int) -> Tensor:
    chance = torch.Generator().manual_seed(6)
    return torch.randint(0, config.vocabulary, (batch, config.context + 1), generator=chance)


def plain_gradients(
    config: ModelConfig, weights: dict[str, Tensor], windows: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of a model in plain autograd whose parameters and arithmetic have the weights' dtype."""
    dtype = next(iter(weights.values())).dtype
    plain = PlainTransformer(config, dtype=dtype, norm=lambda x, w, eps: F.rms_norm(x, w.shape, w, eps)).to(dtype)
    own = dict(plain.named_parameters())
    turned = {name: name.rpartition(".")[2] in ("o", "down") for name in weights}
    with torch.no_grad():
        for name, weight in weights.items():
            own[name.replace(".", "_")].copy_(weight.t() if turned[name] else weight)
    loss = plain.loss(windows)
    loss.backward()
    found = {}
    for name in weights:
        gradient = own[name.replace(".", "_")].grad
        assert gradient is not None
        found[name] = gradient.t() if turned[name] else gradient
    return loss.detach(), found


def lean_gradients(
    config: ModelConfig,
    plan: SlicePlan,
    owned: frozenset[SliceId],
    weights: dict[str, Tensor],
    windows: Tensor,
    *,
    recompute: Recompute,
    micro_batch: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Laid out as the full tensors, NaN where there is no gradient."""
    dtype = next(iter(weights.values())).dtype
    model = Transformer(config, plan, owned, dtype=dtype, lean=True, recompute=recompute)
    for name, tensor in model.tensors().items():
        tensor.copy_(weights[name])
    loss, gradients = batch_gradients(model, windows, micro_batch)
    leaves = iter(gradients)
    full = {}
    for name, shape in plan.shapes.items():
        full[name] = torch.full(shape, torch.nan, dtype=torch.float64)
        for first, stop in plan.owned_rows(name, owned):
            full[name][first:stop] = next(leaves)
    return loss, full


@settings(deadline=None, max_examples=30)
@given(config=models(), cut=st.sampled_from(CUTS), recompute=st.sampled_from(RECOMPUTES), data=st.data())
def test_gradients_are_plain_autograds_for_any_shape_cut_ownership_and_micro_batch(
    config: ModelConfig, cut: tuple[int, tuple[SlicedParts, ...]], recompute: Recompute, data: st.DataObject
) -> None:
    plan = SlicePlan.of(config, SlicingConfig(slices=cut[0], parts=cut[1]))
    owned = data.draw(st.frozensets(st.sampled_from(plan.slice_ids), min_size=1))
    batch = data.draw(st.integers(1, 3))
    windows = torch.randint(
        0, config.vocabulary, (batch, config.context + 1), generator=torch.Generator().manual_seed(6)
    )
    weights = filled(plan, torch.float64)
    expected_loss, expected = plain_gradients(config, weights, windows)
    loss, found = lean_gradients(
        config, plan, owned, weights, windows, recompute=recompute, micro_batch=data.draw(st.integers(0, 2))
    )
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-10)
    for slice_id in plan.slice_ids:
        for name, first, stop in plan.regions(slice_id):
            if slice_id in owned:
                torch.testing.assert_close(found[name][first:stop], expected[name][first:stop], rtol=1e-10, atol=1e-10)
            else:
                assert found[name][first:stop].isnan().all()


@settings(deadline=None, max_examples=10)
@given(config=models(), recompute=st.sampled_from(RECOMPUTES))
def test_in_bfloat16_gradients_are_as_close_to_the_exact_ones_as_plain_autograds(
    config: ModelConfig, recompute: Recompute
) -> None:
    plan = SlicePlan.of(config, SlicingConfig(slices=4, parts=("mlp", "heads")))
    owned = frozenset(plan.slice_ids)
    windows = random_windows(config, 3)
    weights = filled(plan, torch.bfloat16)
    _, exact = plain_gradients(config, {name: weight.double() for name, weight in weights.items()}, windows)
    _, plain = plain_gradients(config, weights, windows)
    _, found = lean_gradients(config, plan, owned, weights, windows, recompute=recompute)

    def distance(gradients: dict[str, Tensor]) -> float:
        return float(torch.cat([(gradients[name].double() - exact[name]).flatten() for name in exact]).norm())

    size = float(torch.cat([gradient.flatten() for gradient in exact.values()]).norm())
    assert distance(found) <= 1.2 * distance(plain) + 0.004 * size


def test_a_frequent_tokens_gradient_is_not_lost_to_bfloat16_rounding() -> None:
    table = SlicedTensor(torch.zeros(2, 4, dtype=torch.bfloat16), ((0, 2),))
    lean_ops.embedding(torch.zeros(1000, dtype=torch.int64), table).sum().backward()
    gradient = table.owned[0].grad
    assert gradient is not None
    assert gradient[0].tolist() == [1000.0] * 4


def test_a_lean_model_evaluates_without_a_graph_and_with_the_same_loss() -> None:
    config = ModelConfig(layers=1, width=16, heads=4, kv_heads=4, mlp_hidden=12, vocabulary=7, context=6)
    plan = SlicePlan.of(config, SlicingConfig(slices=2))
    windows = torch.randint(0, 7, (3, 7))
    losses = []
    for lean in (False, True):
        model = Transformer(config, plan, frozenset(plan.slice_ids), dtype=torch.float64, lean=lean)
        for name, weight in filled(plan, torch.float64).items():
            model.tensors()[name].copy_(weight)
        with torch.no_grad():
            losses.append(model.loss(windows))
        assert not losses[-1].requires_grad
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
