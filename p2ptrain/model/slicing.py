"""Which parameters belong to which slice: an exact partition, cut across the width of every block.

A hidden unit of an MLP is one row of ``gate``, ``up`` and ``down``; a key/value group of an attention is some rows of
``q``, ``k``, ``v`` and ``o``, and where there are more slices than groups, a group's rows are shared out among several
slices. All of them are stored with the sliced dimension first, so that a slice is a block of
contiguous rows: copying it is cheap, and the optimizer can update it in place.

Where the manifest has fragments, each slice is divided once more: fragment f has every layer l with l % F == f, and
every F-th part of the rows of what belongs to no layer. Slices are what peers own; fragments are what they agree on.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from p2ptrain.config.schema import ModelConfig, SlicingConfig
from p2ptrain.errors import SlicingError
from p2ptrain.ids import COMMON, SliceId, fragments_of, numbered_slices, slice_of

MLP_TENSORS = ("gate", "up", "down")
HEAD_TENSORS = ("q", "k", "v", "o")
_LAYERS = "layers."
"""Begins the names of what belongs to a layer; its number follows."""


class Region(NamedTuple):
    """Rows ``first`` to ``stop - 1`` of one tensor."""

    tensor: str
    first: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class SlicePlan:
    """The exact partition of a model's parameters into the common part and N slices."""

    slice_ids: tuple[SliceId, ...]
    """What is agreed on: the common part first, then ``"0"`` to ``"N-1"``, or the fragments of each."""
    shapes: Mapping[str, tuple[int, ...]]
    """Every parameter of the model by name; the first dimension is the sliced one."""
    regions_of: Mapping[SliceId, tuple[Region, ...]]
    """What each of them consists of, in the order of its flat form."""

    @classmethod
    def of(cls, model: ModelConfig, slicing: SlicingConfig) -> Self:
        """Cut ``model`` as ``slicing`` says.

        Raises:
            SlicingError: the numbers do not divide; the message names those that would.
        """
        _check(model, slicing)
        shapes = parameter_shapes(model)
        numbered = numbered_slices(slicing.slices)
        sliced = (MLP_TENSORS if "mlp" in slicing.parts else ()) + (HEAD_TENSORS if "heads" in slicing.parts else ())
        pieces = {slice_id: fragments_of(slice_id, slicing.fragments) for slice_id in (COMMON, *numbered)}
        regions: dict[SliceId, list[Region]] = {piece: [] for listed in pieces.values() for piece in listed}
        for name, shape in shapes.items():
            rows = shape[0]
            if name.rpartition(".")[2] not in sliced:
                for fragment, region in _divided(Region(name, 0, rows), pieces[COMMON]):
                    regions[fragment].append(region)
                continue
            share = rows // slicing.slices
            for index, slice_id in enumerate(numbered):
                whole = Region(name, index * share, (index + 1) * share)
                for fragment, region in _divided(whole, pieces[slice_id]):
                    regions[fragment].append(region)
        return cls(
            slice_ids=tuple(regions),
            shapes=shapes,
            regions_of={slice_id: tuple(listed) for slice_id, listed in regions.items()},
        )

    def fragments(self, slices: Collection[SliceId]) -> frozenset[SliceId]:
        """Of ``slice_ids`` those that whoever owns these slices owns."""
        return frozenset(slice_id for slice_id in self.slice_ids if slice_of(slice_id) in slices)

    def regions(self, slice_id: SliceId) -> tuple[Region, ...]:
        """The slice's rows, tensor by tensor."""
        return self.regions_of[slice_id]

    def numel(self, slice_id: SliceId) -> int:
        """Elements of the slice."""
        return sum(self._count(region) for region in self.regions_of[slice_id])

    def is_cut(self, tensor: str) -> bool:
        """Whether the tensor's rows belong to the numbered slices; otherwise the common part has it whole."""
        return all(
            region.tensor != tensor for s in self.slice_ids if slice_of(s) == COMMON for region in self.regions(s)
        )

    def owned_rows(self, tensor: str, owned: frozenset[SliceId]) -> tuple[tuple[int, int], ...]:
        """The rows of ``tensor`` that belong to ``owned``, as (first, stop) in order, neighbours merged."""
        pairs = sorted(
            (region.first, region.stop)
            for slice_id in owned
            for region in self.regions_of[slice_id]
            if region.tensor == tensor
        )
        merged: list[tuple[int, int]] = []
        for first, stop in pairs:
            if merged and merged[-1][1] == first:
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((first, stop))
        return tuple(merged)

    def gather(self, tensors: Mapping[str, Tensor], slice_id: SliceId) -> np.ndarray:
        """Copy a slice out of the model.

        Args:
            tensors: full tensors by name, shaped as in ``shapes``, any float dtype, on any device.
            slice_id: which slice.

        Returns:
            The slice's elements, shape [numel], float32, in the order of ``regions``.
        """
        flat = np.empty(self.numel(slice_id), dtype=np.float32)
        for region, begin, end in self.layout(slice_id):
            torch.from_numpy(flat[begin:end]).copy_(
                tensors[region.tensor].detach()[region.first : region.stop].flatten()
            )
        return flat

    def scatter(self, tensors: Mapping[str, Tensor], slice_id: SliceId, values: np.ndarray) -> None:
        """Write a slice into the model, in place; the inverse of ``gather``.

        Args:
            tensors: full tensors by name, shaped as in ``shapes``, any float dtype, on any device.
            slice_id: which slice.
            values: its elements, shape [numel], float32.
        """
        assert values.shape == (self.numel(slice_id),), f"slice {slice_id} has {self.numel(slice_id)} elements"
        assert values.dtype == np.float32, f"slice {slice_id} must be float32, not {values.dtype}"
        source = torch.from_numpy(values if values.flags.writeable else values.copy())
        for region, begin, end in self.layout(slice_id):
            rows = tensors[region.tensor].detach()[region.first : region.stop]
            rows.copy_(source[begin:end].view(rows.shape))

    def assemble(self, values: Mapping[SliceId, np.ndarray]) -> dict[str, Tensor]:
        """Full float32 tensors by name from all slices, for example to export a model without training it."""
        tensors = {name: torch.empty(shape) for name, shape in self.shapes.items()}
        for slice_id in self.slice_ids:
            self.scatter(tensors, slice_id, values[slice_id])
        return tensors

    def layout(self, slice_id: SliceId) -> Iterator[tuple[Region, int, int]]:
        """Where each region of a slice lies in its flat form, as (region, first element, stop)."""
        begin = 0
        for region in self.regions_of[slice_id]:
            end = begin + self._count(region)
            yield region, begin, end
            begin = end

    def _count(self, region: Region) -> int:
        return (region.stop - region.first) * math.prod(self.shapes[region.tensor][1:])


def _divided(region: Region, fragments: tuple[SliceId, ...]) -> Iterator[tuple[SliceId, Region]]:
    """A slice's rows of one tensor, by fragment: a layer's go to one, all others to each in equal shares, or nearly."""
    name, first, stop = region
    count = len(fragments)
    if name.startswith(_LAYERS):
        yield fragments[int(name.split(".")[1]) % count], region
        return
    bounds = [first + (stop - first) * index // count for index in range(count + 1)]
    for fragment, begin, end in zip(fragments, bounds, bounds[1:], strict=False):
        if begin < end:
            yield fragment, Region(name, begin, end)


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape by name, in the order of the forward pass; the sliced dimension comes first."""
    head_size = model.width // model.heads
    shapes: dict[str, tuple[int, ...]] = {"embedding": (model.vocabulary, model.width)}
    for layer in range(model.layers):
        prefix = f"{_LAYERS}{layer}."
        shapes[prefix + "attention_norm"] = (model.width,)
        shapes[prefix + "q"] = (model.heads * head_size, model.width)
        shapes[prefix + "k"] = (model.kv_heads * head_size, model.width)
        shapes[prefix + "v"] = (model.kv_heads * head_size, model.width)
        shapes[prefix + "o"] = (model.heads * head_size, model.width)
        shapes[prefix + "mlp_norm"] = (model.width,)
        for name in MLP_TENSORS:
            shapes[prefix + name] = (model.mlp_hidden, model.width)
    shapes["final_norm"] = (model.width,)
    return shapes


def _check(model: ModelConfig, slicing: SlicingConfig) -> None:
    for name in ("layers", "width", "heads", "kv_heads", "mlp_hidden", "vocabulary", "context"):
        if getattr(model, name) < 1:
            raise SlicingError(f"model.{name} = {getattr(model, name)}; it must be at least 1")
    if model.width % model.heads:
        raise SlicingError(
            f"model.width = {model.width} does not divide into model.heads = {model.heads} heads;"
            f" choose heads from {_divisors(model.width)}"
        )
    if model.heads % model.kv_heads:
        raise SlicingError(
            f"model.heads = {model.heads} do not divide among model.kv_heads = {model.kv_heads} key/value heads;"
            f" choose kv_heads from {_divisors(model.heads)}"
        )
    if (model.width // model.heads) % 2:
        raise SlicingError(
            f"model.width / model.heads = {model.width // model.heads} is odd, and rotary positions turn pairs of"
            " elements; choose width and heads with an even ratio"
        )
    if not 1 <= slicing.fragments <= model.layers:
        raise SlicingError(
            f"slicing.fragments = {slicing.fragments} with model.layers = {model.layers}: a fragment is made of whole"
            f" layers; choose 1 to {model.layers}"
        )
    unknown = set(slicing.parts) - {"mlp", "heads"}
    if unknown:
        raise SlicingError(f"slicing.parts names {', '.join(sorted(unknown))}; what can be cut is 'mlp' and 'heads'")
    if not slicing.parts:
        raise SlicingError(
            "slicing.parts is empty, so the slices would have no parameters; name 'mlp', 'heads' or both"
            " (for plain DiLoCo set slicing.slices = 1)"
        )
    counts = {"mlp": ("model.mlp_hidden", model.mlp_hidden), "heads": ("model.kv_heads", model.kv_heads)}
    possible = [n for n in range(1, max(model.mlp_hidden, model.heads) + 1) if _divides(model, slicing.parts, n)]
    if slicing.slices not in possible:
        named = " and ".join(f"{name} = {count}" for name, count in (counts[part] for part in slicing.parts))
        raise SlicingError(
            f"slicing.slices = {slicing.slices} cannot cut {named} into equal slices; these numbers can:"
            f" {', '.join(map(str, possible))}"
        )


def _divides(model: ModelConfig, parts: Collection[str], slices: int) -> bool:
    if "mlp" in parts and model.mlp_hidden % slices:
        return False
    if "heads" not in parts or model.kv_heads % slices == 0:
        return True
    # More slices than key/value groups: whole query heads, and as many rows of their group's keys and values.
    kv_rows = model.kv_heads * (model.width // model.heads)
    return slices % model.kv_heads == 0 and model.heads % slices == 0 and kv_rows % slices == 0


def _divisors(number: int) -> str:
    found = [str(n) for n in range(1, number + 1) if number % n == 0]
    return ", ".join(found)
