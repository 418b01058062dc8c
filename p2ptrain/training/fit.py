"""What fits a device: slices, micro-batch and recomputation, chosen by the same counting as ``bench memory``."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from p2ptrain.config.schema import EngineConfig, ModelConfig, Recompute, SlicingConfig
from p2ptrain.errors import DoesNotFit
from p2ptrain.ids import COMMON, SliceId, numbered_slices
from p2ptrain.training.benchmark_memory import GIB, sliced_cost
from p2ptrain.training.engine import describe

_USABLE = 0.92
"""Share of a budget that is planned with. The rest is for what is not counted: fragments of the allocator, a GPU
library's workspace, the process itself."""
_SMALL_LAYERS = (2, 4)
"""Depths that are counted while searching; memory grows evenly with depth, and the choice is counted at full depth."""
_RECOMPUTES: tuple[Recompute, ...] = ("nothing", "mlp", "blocks")
_TWICE = {
    "nothing": "one slice with nothing computed twice",
    "mlp": "one slice with MLPs computed twice",
    "blocks": "one slice with blocks computed twice",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What to do with a memory budget."""

    engine: EngineConfig
    owned: frozenset[SliceId]
    """The common part and as many numbered slices as fit."""
    accumulation: int
    """Micro-batches in an inner step."""
    predicted_bytes: int
    budget_bytes: int
    reason: str
    """The choice and what stood against more, in a sentence or two."""


def fit(
    model: ModelConfig, slicing: SlicingConfig, *, batch: int, budget_bytes: int, engine: EngineConfig | None = None
) -> Fit:
    """Choose how to train within a budget.

    As many slices as fit without computing anything twice, then the largest micro-batch (a power of two, or the whole
    batch) with that many. Only if not even one slice fits, MLPs and then blocks are computed twice.

    Args:
        model: sizes.
        slicing: of the run.
        batch: windows of an inner step.
        budget_bytes: memory of the device that is free for training.
        engine: device, precision and compilation to plan for; bfloat16 on the CPU if not given.

    Raises:
        SlicingError: the model cannot be cut so.
        DoesNotFit: nothing does; the message says the smallest budget that would.
    """
    wanted = replace(engine or EngineConfig(precision="bfloat16"), lean=True)
    usable_bytes = int(budget_bytes * _USABLE)
    refused = ""
    for recompute in _RECOMPUTES:
        task = _Task(model, slicing, batch, replace(wanted, recompute=recompute))
        chosen = _most(task, usable_bytes)
        if chosen is None:
            refused = f"; {_TWICE[recompute]} needs {_gib(task.estimate(1, 1))}"
            continue
        slices, micro_batch, peak_bytes = chosen
        limits = [
            f"{what} would need {_gib(task.estimate(*larger))}"
            for what, larger in _larger(task, slices, micro_batch).items()
        ]
        against = f"; {' and '.join(limits)}" if limits else "; that is all there is to take"
        return Fit(
            engine=task.engine_for(micro_batch),
            owned=_owned(slices),
            accumulation=math.ceil(batch / micro_batch),
            predicted_bytes=peak_bytes,
            budget_bytes=budget_bytes,
            reason=f"{slices} of {slicing.slices} slices, {describe(task.engine_for(micro_batch))}: {_gib(peak_bytes)}"
            f" of {_gib(usable_bytes)} usable ({_USABLE:.0%} of {_gib(budget_bytes)}){against}{refused}",
        )
    least = _Task(model, slicing, batch, replace(wanted, recompute="blocks")).count(1, 1)
    smallest_gib = math.ceil(least / _USABLE / GIB * 10) / 10
    raise DoesNotFit(
        f"{_gib(budget_bytes)} are too little for one slice of {slicing.slices}, one window at a time and blocks"
        f" computed twice; the smallest budget that would do is {smallest_gib:.1f} GiB."
        " More slices in the run make each smaller"
    )


def device_memory_bytes(device: str) -> int:
    """Memory that a device has free for training: a GPU's free memory, or half of the machine's for the CPU."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True, slots=True)
class _Task:
    model: ModelConfig
    slicing: SlicingConfig
    batch: int
    engine: EngineConfig

    @property
    def micro_batches(self) -> list[int]:
        """What is tried: powers of two and the whole batch."""
        return sorted({*(1 << i for i in range(self.batch.bit_length())), self.batch})

    def engine_for(self, micro_batch: int) -> EngineConfig:
        return replace(self.engine, micro_batch=0 if micro_batch >= self.batch else micro_batch)

    def count(self, slices: int, micro_batch: int) -> int:
        """Peak bytes, exactly."""
        # Two micro-batches have the memory of any number of them: both have the sums beside the gradients.
        windows = min(self.batch, 2 * micro_batch)
        engine = self.engine_for(micro_batch)
        return sliced_cost(self.model, self.slicing, _owned(slices), batch=windows, engine=engine).peak_bytes

    def estimate(self, slices: int, micro_batch: int) -> int:
        """Peak bytes, from two shallower models."""
        few, more = _SMALL_LAYERS
        if self.model.layers <= more:
            return self.count(slices, micro_batch)
        low, high = (
            replace(self, model=replace(self.model, layers=layers)).count(slices, micro_batch) for layers in (few, more)
        )
        return high + (high - low) * (self.model.layers - more) // (more - few)


def _most(task: _Task, usable_bytes: int) -> tuple[int, int, int] | None:
    """The most slices, then the largest micro-batch that fit, and the exact peak in bytes; None if nothing fits."""
    slices = _largest(range(1, task.slicing.slices + 1), lambda k: task.estimate(k, 1) <= usable_bytes)
    if slices is None:
        return None
    sizes = task.micro_batches
    micro_batch = _largest(sizes, lambda size: task.estimate(slices, size) <= usable_bytes) or 1
    # The estimate is of shallower models; where it was too low, the count at full depth decides.
    while (peak_bytes := task.count(slices, micro_batch)) > usable_bytes:
        if micro_batch > 1:
            micro_batch = max(size for size in sizes if size < micro_batch)
        elif slices > 1:
            slices -= 1
        else:
            return None
    return slices, micro_batch, peak_bytes


def _larger(task: _Task, slices: int, micro_batch: int) -> dict[str, tuple[int, int]]:
    """In words and numbers, the next larger choices that the model and the batch allow."""
    larger = {}
    if slices < task.slicing.slices:
        larger[f"{slices + 1} slices"] = (slices + 1, 1)
    sizes = [size for size in task.micro_batches if size > micro_batch]
    if sizes:
        larger[f"micro-batches of {sizes[0]}"] = (slices, sizes[0])
    return larger


def _owned(slices: int) -> frozenset[SliceId]:
    return frozenset({COMMON, *numbered_slices(slices)})


def _largest(options: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The last option that fits, when all before it fit too; by bisection, since each count takes seconds."""
    low, high = 0, len(options)
    while low < high:
        middle = (low + high) // 2
        if fits(options[middle]):
            low = middle + 1
        else:
            high = middle
    return options[low - 1] if low else None


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
