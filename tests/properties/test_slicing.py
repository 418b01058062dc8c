import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.config.schema import ModelConfig, SlicedParts, SlicingConfig
from p2ptrain.errors import SlicingError
from p2ptrain.ids import COMMON, SliceId, slice_of, slice_order
from p2ptrain.model.slicing import SlicePlan

PARTS: list[tuple[SlicedParts, ...]] = [("mlp",), ("heads",), ("mlp", "heads")]


@st.composite
def plans(draw: st.DrawFn) -> SlicePlan:
    slices = draw(st.integers(1, 5))
    kv_heads = slices * draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 2))
    layers = draw(st.integers(1, 3))
    model = ModelConfig(
        layers=layers,
        width=heads * draw(st.sampled_from([2, 4])),
        heads=heads,
        kv_heads=kv_heads,
        mlp_hidden=slices * draw(st.integers(1, 4)),
        vocabulary=draw(st.integers(2, 9)),
    )
    fragments = draw(st.integers(1, layers))
    return SlicePlan.of(model, SlicingConfig(slices=slices, parts=draw(st.sampled_from(PARTS)), fragments=fragments))


def numbered_tensors(plan: SlicePlan) -> dict[str, torch.Tensor]:
    tensors, begin = {}, 0
    for name, shape in plan.shapes.items():
        count = int(np.prod(shape))
        tensors[name] = torch.arange(begin, begin + count, dtype=torch.float32).view(shape)
        begin += count
    return tensors


@settings(deadline=None, max_examples=40)
@given(plan=plans())
def test_each_parameter_belongs_to_exactly_one_slice(plan: SlicePlan) -> None:
    tensors = numbered_tensors(plan)
    total = sum(tensor.numel() for tensor in tensors.values())
    gathered = [plan.gather(tensors, slice_id) for slice_id in plan.slice_ids]
    assert [len(values) for values in gathered] == [plan.numel(slice_id) for slice_id in plan.slice_ids]
    assert np.array_equal(np.sort(np.concatenate(gathered)), np.arange(total, dtype=np.float32))


@settings(deadline=None, max_examples=40)
@given(plan=plans())
def test_slices_have_equal_sizes(plan: SlicePlan) -> None:
    sizes = Counter[SliceId]()
    for slice_id in plan.slice_ids:
        sizes[slice_of(slice_id)] += plan.numel(slice_id)
    assert len({size for slice_id, size in sizes.items() if slice_id != COMMON}) == 1


@settings(deadline=None, max_examples=40)
@given(plan=plans())
def test_who_owns_all_fragments_of_a_slice_trains_the_same_tensors_as_who_owns_the_slice(plan: SlicePlan) -> None:
    assert list(plan.slice_ids) == sorted(plan.slice_ids, key=slice_order)
    for slice_id in {slice_of(one) for one in plan.slice_ids}:
        owned = plan.fragments({slice_id})
        assert {slice_of(one) for one in owned} == {slice_id}
        assert all(len(plan.owned_rows(name, owned)) <= 1 for name in plan.shapes)


def test_a_fragment_has_whole_layers_and_its_share_of_what_is_in_no_layer() -> None:
    model = ModelConfig(layers=5, width=8, heads=2, kv_heads=2, mlp_hidden=4, vocabulary=256)
    plan = SlicePlan.of(model, SlicingConfig(slices=2, fragments=2))
    assert plan.slice_ids == ("common.0", "common.1", "0.0", "0.1", "1.0", "1.1")
    assert {r.tensor.split(".")[1] for r in plan.regions(SliceId("1.0"))} == {"0", "2", "4"}
    assert {r.tensor.split(".")[1] for r in plan.regions(SliceId("1.1"))} == {"1", "3"}
    outside = {r for r in plan.regions(SliceId("common.1")) if not r.tensor.startswith("layers.")}
    assert outside == {("embedding", 128, 256), ("final_norm", 4, 8)}
    for fragments in (0, 6):
        with pytest.raises(SlicingError, match=r"fragments = \d with model.layers = 5: .* choose 1 to 5"):
            SlicePlan.of(model, SlicingConfig(slices=2, fragments=fragments))


@settings(deadline=None, max_examples=40)
@given(plan=plans(), data=st.data())
def test_scatter_writes_what_gather_reads_and_nothing_else(plan: SlicePlan, data: st.DataObject) -> None:
    slice_id = data.draw(st.sampled_from(plan.slice_ids))
    tensors = numbered_tensors(plan)
    before = {other: plan.gather(tensors, other) for other in plan.slice_ids}
    values = -1 - before[slice_id]
    plan.scatter(tensors, slice_id, values)
    for other in plan.slice_ids:
        assert np.array_equal(plan.gather(tensors, other), values if other == slice_id else before[other])


@settings(deadline=None, max_examples=20)
@given(plan=plans())
def test_assemble_inverts_gathering_all_slices(plan: SlicePlan) -> None:
    tensors = numbered_tensors(plan)
    assembled = plan.assemble({slice_id: plan.gather(tensors, slice_id) for slice_id in plan.slice_ids})
    assert all(torch.equal(assembled[name], tensors[name]) for name in plan.shapes)


@settings(deadline=None, max_examples=40)
@given(plan=plans(), data=st.data())
def test_owned_rows_are_the_union_of_the_regions_with_neighbours_merged(plan: SlicePlan, data: st.DataObject) -> None:
    owned = data.draw(st.frozensets(st.sampled_from(plan.slice_ids)))
    for name, shape in plan.shapes.items():
        expected = {
            row
            for slice_id in owned
            for region in plan.regions(slice_id)
            if region.tensor == name
            for row in range(region.first, region.stop)
        }
        ranges = plan.owned_rows(name, owned)
        assert {row for first, stop in ranges for row in range(first, stop)} == expected
        assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(ranges))
        assert plan.owned_rows(name, frozenset(plan.slice_ids)) == ((0, shape[0]),)


@settings(deadline=None, max_examples=40)
@given(hidden=st.integers(1, 60), kv_heads=st.integers(1, 12), slices=st.integers(-1, 14), parts=st.sampled_from(PARTS))
def test_only_numbers_that_divide_are_accepted_and_the_error_names_them(
    hidden: int, kv_heads: int, slices: int, parts: tuple[SlicedParts, ...]
) -> None:
    model = ModelConfig(layers=1, width=kv_heads * 2, heads=kv_heads, kv_heads=kv_heads, mlp_hidden=hidden)
    counts = [hidden] * ("mlp" in parts) + [kv_heads] * ("heads" in parts)
    if slices >= 1 and all(count % slices == 0 for count in counts):
        assert len(SlicePlan.of(model, SlicingConfig(slices=slices, parts=parts)).slice_ids) == slices + 1
        return
    with pytest.raises(SlicingError) as caught:
        SlicePlan.of(model, SlicingConfig(slices=slices, parts=parts))
    offered = [int(n) for n in str(caught.value).partition("these numbers can: ")[2].split(", ")]
    assert offered == [n for n in range(1, 61) if all(count % n == 0 for count in counts)]


def test_a_key_value_group_stays_with_its_query_heads() -> None:
    model = ModelConfig(layers=1, width=16, heads=8, kv_heads=4, mlp_hidden=8)
    plan = SlicePlan.of(model, SlicingConfig(slices=2, parts=("heads",)))
    rows = {r.tensor.rpartition(".")[2]: (r.first, r.stop) for r in plan.regions(SliceId("1"))}
    assert rows == {"q": (8, 16), "k": (4, 8), "v": (4, 8), "o": (8, 16)}


def test_more_slices_than_key_value_groups_share_a_groups_rows_and_keep_query_heads_whole() -> None:
    model = ModelConfig(layers=1, width=32, heads=8, kv_heads=2, mlp_hidden=8)
    plan = SlicePlan.of(model, SlicingConfig(slices=4, parts=("heads",)))
    rows = {r.tensor.rpartition(".")[2]: (r.first, r.stop) for r in plan.regions(SliceId("1"))}
    assert rows == {"q": (8, 16), "k": (2, 4), "v": (2, 4), "o": (8, 16)}
    with pytest.raises(SlicingError, match=r"these numbers can: 1, 2, 4, 8$"):
        SlicePlan.of(model, SlicingConfig(slices=3, parts=("heads",)))
