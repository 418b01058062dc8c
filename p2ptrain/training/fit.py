"""What fits a device: slices, micro-batch and recomputation, chosen by the same counting as ``bench memory``."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from p2ptrain.config.schema import EngineConfig, ModelConfig, Recompute, SlicingConfig
from p2ptrain.errors import DoesNotFit
from p2ptrain.ids import COMMON, SliceId, numbered_slices
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.benchmark_memory import GIB, sliced_cost
from p2ptrain.training.engine import describe

USABLE = 0.92
"""Share of a budget that is planned with. The rest is for what is not counted: fragments of the allocator, a GPU
library's workspace, the process itself."""
_SMALL_LAYERS = (2, 4)
"""Depths that are counted while searching; memory grows evenly with depth, and the choice is counted at full depth."""
_RECOMPUTES: tuple[Recompute, ...] = ("nothing", "mlp", "blocks")
_TWICE = {
    "nothing": "nothing computed twice",
    "mlp": "MLPs computed twice",
    "blocks": "blocks computed twice",
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """What is not to be chosen, because somebody has chosen it already."""

    slices: int | None = None
    micro_batch: int | None = None
    recompute: Recompute | None = None


def fit(
    model: ModelConfig,
    slicing: SlicingConfig,
    *,
    batch: int,
    budget_bytes: int,
    engine: EngineConfig | None = None,
    fixed: Fixed = Fixed(),
    reserved_bytes: int = 0,
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
        fixed: what must be so.
        reserved_bytes: of the budget, for what is not counted here, like the swarm's state on a CPU.

    Raises:
        SlicingError: the model cannot be cut so.
        DoesNotFit: nothing does; the message says the smallest budget that would.
    """
    wanted = replace(engine or EngineConfig(precision="bfloat16"), lean=True)
    usable_bytes = int(budget_bytes * USABLE) - reserved_bytes
    refused = ""
    reserved = f" less {_gib(reserved_bytes)}" if reserved_bytes else ""
    fewest = fixed.slices or 1
    recomputes = (fixed.recompute,) if fixed.recompute else _RECOMPUTES
    for recompute in recomputes:
        task = _Task(model, slicing, batch, replace(wanted, recompute=recompute), fixed)
        chosen = _most(task, usable_bytes)
        if chosen is None:
            needed_bytes = task.estimate(fewest, task.lightest(fewest))
            refused = f"; {_slices(fewest)} with {_TWICE[recompute]} needs {_gib(needed_bytes)}"
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
            f" of {_gib(usable_bytes)} usable ({USABLE:.0%} of {_gib(budget_bytes)}{reserved}){against}{refused}",
        )
    last = _Task(model, slicing, batch, replace(wanted, recompute=recomputes[-1]), fixed)
    windows = last.lightest(fewest)
    smallest_gib = smallest_budget_gib(last.count(fewest, windows) + reserved_bytes)
    raise DoesNotFit(
        f"{_gib(budget_bytes)} are too little for {_slices(fewest)} of {slicing.slices}, {_windows(windows)} and"
        f" {_TWICE[recomputes[-1]]}; the smallest budget that would do is {smallest_gib:.1f} GiB."
        " More slices in the run make each smaller"
    )


def slices_that_fit(
    model: ModelConfig,
    slicing: SlicingConfig,
    *,
    batch: int,
    budget_bytes: int,
    engine: EngineConfig,
    reserved_bytes: int = 0,
) -> int:
    """How many numbered slices a peer can own at once, beside the common part; 0 if not even one.

    Pure, and some seconds of one core for a large model: ask once, not in every round.

    Args:
        model: sizes.
        slicing: of the run.
        batch: windows of an inner step.
        budget_bytes: memory of the device that is free for training.
        engine: as it would train; its micro-batch and recomputation are taken as they are.
        reserved_bytes: of the budget, for what is not counted here.

    Raises:
        SlicingError: the model cannot be cut so.
    """
    usable_bytes = int(budget_bytes * USABLE) - reserved_bytes
    if most_bytes(model, batch=batch) <= usable_bytes:
        return slicing.slices
    fixed = Fixed(micro_batch=engine.micro_batch or batch, recompute=engine.recompute)
    chosen = _most(_Task(model, slicing, batch, replace(engine, lean=True), fixed), usable_bytes)
    return chosen[0] if chosen else 0


def least_bytes(model: ModelConfig, slicing: SlicingConfig, *, batch: int, engine: EngineConfig) -> int:
    """What a step takes that owns one slice, with as few windows at a time as saves memory; from shallower models.

    Args:
        model: sizes.
        slicing: of the run.
        batch: windows of an inner step.
        engine: device, precision and recomputation to plan for.

    Raises:
        SlicingError: the model cannot be cut so.
    """
    task = _Task(model, slicing, batch, replace(engine, lean=True), Fixed())
    return task.estimate(1, task.lightest(1))


def most_bytes(model: ModelConfig, *, batch: int) -> int:
    """More than a step can take that owns everything and keeps everything, in float32, from sizes alone.

    For models that are small beside the device: counting takes half a second, and this nothing.
    """
    plan = SlicePlan.of(model, SlicingConfig(slices=1))
    tokens = batch * model.context
    # A weight, its gradient, AdamW's two moments and a temporary; what autograd keeps in a block and the head, and as
    # much again for gradients under way. The weights' part is exact, the activations' is about twice what was counted.
    weights = 5 * sum(plan.numel(slice_id) for slice_id in plan.slice_ids)
    block = 32 * model.width + 12 * model.mlp_hidden + 2 * model.heads * model.context
    return 4 * (weights + tokens * (model.layers * block + 8 * model.vocabulary))


def smallest_budget_gib(peak_bytes: int) -> float:
    """The budget to name to somebody for a step with this peak."""
    return math.ceil(peak_bytes / USABLE / GIB * 10) / 10


@dataclass(frozen=True, slots=True)
class _Task:
    model: ModelConfig
    slicing: SlicingConfig
    batch: int
    engine: EngineConfig
    fixed: Fixed

    @property
    def slice_counts(self) -> list[int]:
        """What is tried."""
        return [self.fixed.slices] if self.fixed.slices else list(range(1, self.slicing.slices + 1))

    @property
    def micro_batches(self) -> list[int]:
        """What is tried: powers of two and the whole batch."""
        if self.fixed.micro_batch:
            return [min(self.fixed.micro_batch, self.batch)]
        return sorted({*(1 << i for i in range(self.batch.bit_length())), self.batch})

    def lightest(self, slices: int) -> int:
        """The micro-batch with the least memory: one window, unless the sums over micro-batches outweigh the others."""
        return min(self.micro_batches[0], self.micro_batches[-1], key=lambda size: self.estimate(slices, size))

    def engine_for(self, micro_batch: int) -> EngineConfig:
        return replace(self.engine, micro_batch=0 if micro_batch >= self.batch else micro_batch)

    def count(self, slices: int, micro_batch: int) -> int:
        """Peak bytes, exactly."""
        # Two micro-batches have the memory of any number of them: both have the sums beside the gradients.
        windows = min(self.batch, 2 * micro_batch)
        engine = self.engine_for(micro_batch)
        return _peak_bytes(self.model, self.slicing, slices, windows, engine)

    def estimate(self, slices: int, micro_batch: int) -> int:
        """Peak bytes, from two shallower models."""
        few, more = _SMALL_LAYERS
        if self.model.layers <= more:
            return self.count(slices, micro_batch)
        low, high = (
            replace(self, model=replace(self.model, layers=layers)).count(slices, micro_batch) for layers in (few, more)
        )
        return high + (high - low) * (self.model.layers - more) // (more - few)


@lru_cache(maxsize=256)
def _peak_bytes(model: ModelConfig, slicing: SlicingConfig, slices: int, windows: int, engine: EngineConfig) -> int:
    return sliced_cost(model, slicing, _owned(slices), batch=windows, engine=engine).peak_bytes


def _most(task: _Task, usable_bytes: int) -> tuple[int, int, int] | None:
    """The most slices, then the largest micro-batch that fit, and the exact peak in bytes; None if nothing fits."""
    sizes, counts = task.micro_batches, task.slice_counts
    least = task.lightest(counts[0])
    most = _largest(counts, lambda k: task.estimate(k, least) <= usable_bytes)
    for slices in range(most or 0, counts[0] - 1, -1):
        for micro_batch in reversed(sizes):
            # The estimate is of shallower models; where it is too low, the count at full depth decides.
            if task.estimate(slices, micro_batch) <= usable_bytes:
                peak_bytes = task.count(slices, micro_batch)
                if peak_bytes <= usable_bytes:
                    return slices, micro_batch, peak_bytes
    return None


def _larger(task: _Task, slices: int, micro_batch: int) -> dict[str, tuple[int, int]]:
    """In words and numbers, the next larger choices that the model and the batch allow."""
    larger = {}
    if slices < task.slice_counts[-1]:
        larger[f"{slices + 1} slices"] = (slices + 1, task.micro_batches[0])
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


def _slices(number: int) -> str:
    return "one slice" if number == 1 else f"{number} slices"


def _windows(number: int) -> str:
    return "one window at a time" if number == 1 else f"{number} windows at a time"
