import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from p2ptrain.config.schema import ModelConfig, SlicedParts, SlicingConfig
from p2ptrain.ids import COMMON, SliceId
from p2ptrain.model.sliced_linear import SlicedTensor, rows_as_inputs, rows_as_outputs
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = ModelConfig(layers=2, width=16, heads=8, kv_heads=4, mlp_hidden=24, vocabulary=17, context=8)
CUTS: list[tuple[int, tuple[SlicedParts, ...]]] = [(1, ("mlp",)), (2, ("heads",)), (3, ("mlp",)), (4, ("mlp", "heads"))]


def plan_of(slices: int, parts: tuple[SlicedParts, ...]) -> SlicePlan:
    return SlicePlan.of(MODEL, SlicingConfig(slices=slices, parts=parts))


def filled(plan: SlicePlan, owned: frozenset[SliceId], dtype: torch.dtype = torch.float64) -> Transformer:
    """The same random weights for every plan."""
    model = Transformer(MODEL, plan, owned, dtype=dtype)
    chance = torch.Generator().manual_seed(5)
    for tensor in model.tensors().values():
        tensor.copy_(torch.randn(tensor.shape, generator=chance, dtype=torch.float64) * 0.3)
    return model


def windows() -> Tensor:
    return torch.randint(0, MODEL.vocabulary, (3, MODEL.context + 1), generator=torch.Generator().manual_seed(6))


def gradients_in_full(model: Transformer, owned: frozenset[SliceId]) -> dict[str, Tensor]:
    """Gradients laid out as the full tensors, NaN where there is none."""
    model.loss(windows()).backward()
    leaves = iter(model.owned_parameters())
    full = {}
    for name, shape in model.plan.shapes.items():
        full[name] = torch.full(shape, torch.nan, dtype=torch.float64)
        for first, stop in model.plan.owned_rows(name, owned):
            gradient = next(leaves).grad
            assert gradient is not None
            full[name][first:stop] = gradient
    return full


@settings(deadline=None, max_examples=25)
@given(cut=st.sampled_from(CUTS), data=st.data())
def test_gradients_of_owned_slices_are_the_full_models_and_there_are_no_others(
    cut: tuple[int, tuple[SlicedParts, ...]], data: st.DataObject
) -> None:
    whole = plan_of(1, ("mlp",))
    reference = filled(whole, frozenset(whole.slice_ids))
    expected = gradients_in_full(reference, frozenset(whole.slice_ids))

    plan = plan_of(*cut)
    owned = data.draw(st.frozensets(st.sampled_from(plan.slice_ids), min_size=1))
    model = filled(plan, owned)
    found = gradients_in_full(model, owned)

    assert sum(p.numel() for p in model.owned_parameters()) == sum(plan.numel(slice_id) for slice_id in owned)
    for slice_id in plan.slice_ids:
        for region in plan.regions(slice_id):
            rows = found[region.tensor][region.first : region.stop]
            if slice_id in owned:
                wanted = expected[region.tensor][region.first : region.stop]
                torch.testing.assert_close(rows, wanted, rtol=1e-10, atol=1e-10)
            else:
                assert rows.isnan().all()


@settings(deadline=None, max_examples=15)
@given(cut=st.sampled_from(CUTS), data=st.data())
def test_forward_is_bit_equal_for_any_slicing_and_ownership(
    cut: tuple[int, tuple[SlicedParts, ...]], data: st.DataObject
) -> None:
    whole = plan_of(1, ("mlp",))
    plan = plan_of(*cut)
    owned = data.draw(st.frozensets(st.sampled_from(plan.slice_ids)))
    tokens = windows()[:, :-1]
    expected = filled(whole, frozenset(whole.slice_ids), torch.float32)(tokens)
    assert torch.equal(filled(plan, owned, torch.float32)(tokens), expected)


@st.composite
def row_ranges(draw: st.DrawFn, rows: int) -> tuple[tuple[int, int], ...]:
    edges = sorted(draw(st.sets(st.integers(0, rows), max_size=6)))
    return tuple(zip(edges[0::2], edges[1::2], strict=False))


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 12), rows_are_inputs=st.booleans(), data=st.data())
def test_a_products_gradients_are_those_of_plain_autograd_for_any_rows(
    rows: int, rows_are_inputs: bool, data: st.DataObject
) -> None:
    chance = torch.Generator().manual_seed(rows)
    ranges = data.draw(row_ranges(rows))
    full = torch.randn(rows, 5, generator=chance, dtype=torch.float64)
    x = torch.randn(2, 3, rows if rows_are_inputs else 5, generator=chance, dtype=torch.float64, requires_grad=True)
    weight = SlicedTensor(full, ranges)
    plain_x, plain_full = x.detach().clone().requires_grad_(), full.clone().requires_grad_()

    y = rows_as_inputs(x, weight) if rows_are_inputs else rows_as_outputs(x, weight)
    plain_y = plain_x @ plain_full if rows_are_inputs else plain_x @ plain_full.t()
    assert torch.equal(y, plain_y)
    dy = torch.randn(y.shape, generator=chance, dtype=torch.float64)
    y.backward(dy)
    plain_y.backward(dy)
    assert plain_full.grad is not None
    torch.testing.assert_close(x.grad, plain_x.grad, rtol=1e-12, atol=1e-12)
    for (first, stop), leaf in zip(ranges, weight.owned, strict=True):
        torch.testing.assert_close(leaf.grad, plain_full.grad[first:stop], rtol=1e-12, atol=1e-12)
    assert full.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows_are_inputs", [False, True])
def test_a_matrix_owned_whole_has_plain_autograds_bits(dtype: torch.dtype, rows_are_inputs: bool) -> None:
    chance = torch.Generator().manual_seed(1)
    full = torch.randn(96, 64, generator=chance).to(dtype)
    x = torch.randn(4, 33, 96 if rows_are_inputs else 64, generator=chance).to(dtype).requires_grad_()
    weight = SlicedTensor(full, ((0, 96),))
    plain_x, plain_full = x.detach().clone().requires_grad_(), full.clone().requires_grad_()
    y = rows_as_inputs(x, weight) if rows_are_inputs else rows_as_outputs(x, weight)
    plain_y = plain_x @ plain_full if rows_are_inputs else plain_x @ plain_full.t()
    y.square().sum().backward()
    plain_y.square().sum().backward()
    assert torch.equal(y, plain_y)
    assert x.grad is not None
    assert plain_x.grad is not None
    assert torch.equal(x.grad, plain_x.grad)
    assert torch.equal(weight.owned[0].grad, plain_full.grad)


def test_only_the_owned_columns_of_an_input_are_kept_for_the_backward_pass() -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    full = torch.randn(40, 6)
    x = torch.randn(10, 40, requires_grad=True)
    for ranges, num_columns in ((((4, 8), (20, 23)), 7), ((), 0)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            y = rows_as_inputs(x, SlicedTensor(full, ranges))
        activations = [tensor for tensor in kept if tensor.data_ptr() != full.data_ptr()]
        assert sum(tensor.untyped_storage().nbytes() for tensor in activations) == 10 * num_columns * 4
        assert y.shape == (10, 6)


def test_an_input_is_kept_only_if_some_row_of_its_matrix_is_owned() -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    full = torch.randn(6, 40)
    x = torch.randn(10, 40, requires_grad=True)
    for ranges, num_kept in ((((0, 2), (3, 4)), 1), ((), 0)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            rows_as_outputs(x, SlicedTensor(full, ranges))
        assert len([tensor for tensor in kept if tensor.data_ptr() != full.data_ptr()]) == num_kept


def test_an_optimizer_on_the_leaves_moves_the_model() -> None:
    weight = SlicedTensor(torch.zeros(5, 2), ((1, 3),))
    rows_as_outputs(torch.ones(1, 2), weight).sum().backward()
    torch.optim.SGD(weight.owned, lr=1.0).step()
    assert weight.full[:, 0].tolist() == [0.0, -1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("cut", CUTS)
def test_backward_costs_two_flops_for_inputs_and_two_for_owned_weights(
    cut: tuple[int, tuple[SlicedParts, ...]],
) -> None:
    slices, parts = cut
    plan = plan_of(slices, parts)
    owned = frozenset({COMMON, SliceId("0")})
    model = filled(plan, owned, torch.float32)
    tokens = 3 * MODEL.context
    counter = FlopCounterMode(display=False)
    with counter:
        loss = model.loss(windows())
        forward = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
        loss.backward()
    total = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))

    # Norms are no products, and the tied embedding is one only as the head.
    matrices = {name: rows * columns for name, (rows, columns) in two_dimensional(plan).items()}
    owned_elements = sum(
        (stop - first) * shape[1]
        for name, shape in two_dimensional(plan).items()
        for first, stop in plan.owned_rows(name, owned)
    )
    assert forward == 2 * tokens * sum(matrices.values())
    assert total - forward == 2 * tokens * (sum(matrices.values()) + owned_elements)


def two_dimensional(plan: SlicePlan) -> dict[str, tuple[int, int]]:
    return {name: (shape[0], shape[1]) for name, shape in plan.shapes.items() if len(shape) == 2}
