"""AdamW's memory slice by slice, so that a peer may change what it owns and keep the memory of what stays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from p2ptrain.ids import SliceId
from p2ptrain.model.slicing import SlicePlan


@dataclass(frozen=True, slots=True)
class LeafMoments:
    """AdamW's memory of one owned parameter."""

    mean: Tensor
    """Of past gradients, of the parameter's shape, float32."""
    square: Tensor
    """Of their squares."""
    steps: float


@dataclass(frozen=True, slots=True)
class SliceMoments:
    """AdamW's memory of one slice, in the order of ``SlicePlan.regions``."""

    mean: np.ndarray
    """[numel], float32."""
    square: np.ndarray
    """[numel], float32."""
    steps: float
    """Updates that it has seen; the most where regions differ."""


def slice_moments(
    plan: SlicePlan, owned: frozenset[SliceId], leaves: Sequence[LeafMoments], slice_id: SliceId
) -> SliceMoments:
    """A copy of one owned slice's memory.

    Args:
        plan: of the run.
        owned: what the optimizer's parameters belong to.
        leaves: in the order of ``Transformer.owned_parameters``.
        slice_id: one of ``owned``.
    """
    numel = plan.numel(slice_id)
    moments = SliceMoments(np.zeros(numel, np.float32), np.zeros(numel, np.float32), 0.0)
    steps = 0.0
    for leaf, rows, begin, end in _regions(plan, owned, leaves, slice_id):
        torch.from_numpy(moments.mean[begin:end]).copy_(leaf.mean[rows].flatten())
        torch.from_numpy(moments.square[begin:end]).copy_(leaf.square[rows].flatten())
        steps = max(steps, leaf.steps)
    return SliceMoments(moments.mean, moments.square, steps)


def fill_moments(
    plan: SlicePlan,
    owned: frozenset[SliceId],
    leaves: Sequence[LeafMoments],
    moments: Mapping[SliceId, SliceMoments],
) -> list[LeafMoments]:
    """The leaves with the memory of these slices in them.

    Neighbouring rows of two slices are one parameter with one count of steps. It is the larger of the two, so that a
    kept slice goes on as before; a new one beside it starts from zero moments without AdamW's correction for that. With
    the usual betas of 0.9 and 0.99 its first step has the same length, with 0.9 and 0.999 up to three times that.
    """
    steps = [leaf.steps for leaf in leaves]
    indices = {id(leaf): index for index, leaf in enumerate(leaves)}
    for slice_id, known in moments.items():
        for leaf, rows, begin, end in _regions(plan, owned, leaves, slice_id):
            shape = leaf.mean[rows].shape
            leaf.mean[rows] = torch.from_numpy(known.mean[begin:end]).view(shape)
            leaf.square[rows] = torch.from_numpy(known.square[begin:end]).view(shape)
            index = indices[id(leaf)]
            steps[index] = max(steps[index], known.steps)
    return [LeafMoments(leaf.mean, leaf.square, count) for leaf, count in zip(leaves, steps, strict=True)]


def _regions(
    plan: SlicePlan, owned: frozenset[SliceId], leaves: Sequence[LeafMoments], slice_id: SliceId
) -> Iterator[tuple[LeafMoments, slice, int, int]]:
    """Per region of the slice its leaf, the rows in it, and its place in the slice's flat form."""
    find = _leaf_finder(plan, owned)
    for region, begin, end in plan.layout(slice_id):
        index, first = find(region.tensor, region.first)
        yield leaves[index], slice(region.first - first, region.stop - first), begin, end


def _leaf_finder(plan: SlicePlan, owned: frozenset[SliceId]) -> Callable[[str, int], tuple[int, int]]:
    """Maps a tensor and one of its owned rows to the leaf's index and the leaf's first row."""
    ranges = [(name, first, stop) for name in plan.shapes for first, stop in plan.owned_rows(name, owned)]

    def find(tensor: str, row: int) -> tuple[int, int]:
        return next(
            (index, first) for index, (name, first, stop) in enumerate(ranges) if name == tensor and first <= row < stop
        )

    return find
