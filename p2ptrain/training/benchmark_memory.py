"""FLOPs and peak memory of a training step, counted without doing it: no GPU and no memory needed.

Tensors are fake: they have a shape and a type and no values. Counted are all storages that are alive at a time, as a
GPU's allocator would see them without fragmentation or workspaces, and all matrix products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from p2ptrain.config.schema import EngineConfig, InnerConfig, ModelConfig, Recompute, SlicedParts, SlicingConfig
from p2ptrain.ids import COMMON, SliceId, numbered_slices
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.backward import batch_gradients, clip_scale, gradient_norm
from p2ptrain.training.benchmark_models import PlainTransformer
from p2ptrain.training.engine import DTYPES, engine_transformer
from p2ptrain.training.optimizer import inner_optimizer

GIB = 1 << 30
_INNER = InnerConfig(steps=1, batch=1, lr=1e-4)


def _attention_flop(q: Sequence[int], *_: object, **__: object) -> int:
    batch, heads, tokens, head_size = q
    return 4 * batch * heads * tokens * tokens * head_size


def _attention_backward_flop(dy: Sequence[int], *_: object, **__: object) -> int:
    # Scores are computed again, then four products; torch's own formula for CUDA's kernels.
    return _attention_flop(dy) * 5 // 2


_NOT_COUNTED_BY_TORCH: dict[Any, Any] = {
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """What one optimizer step takes."""

    tflop: float
    """Matrix products with weights."""
    attention_tflop: float
    """Products inside attention, counted without the causal mask's half, as is usual."""
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRow:
    """One line of ``p2ptrain bench memory``."""

    variant: Literal["plain", "sliced"]
    slices: int
    sliced_parts: tuple[SlicedParts, ...]
    micro_batch: int
    recompute: Recompute
    tflop: float
    peak_gib: float
    flops_ratio: float
    """To the plain step of the same report."""
    memory_ratio: float
    attention_tflop: float
    flops_ratio_with_attention: float


def plain_cost(model: ModelConfig, *, batch: int, engine: EngineConfig) -> StepCost:
    """The step as people do it today: see ``PlainTransformer``; AdamW on float32 masters, fused."""

    def prepare() -> Callable[[], None]:
        plain = PlainTransformer(model, dtype=DTYPES[engine.precision])
        adamw = torch.optim.AdamW(plain.parameters(), lr=_INNER.lr, fused=True)
        windows = _windows(model, batch)

        def step() -> None:
            adamw.zero_grad(set_to_none=True)
            plain.loss(windows).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(plain.parameters(), _INNER.clip)
            adamw.step()

        return step

    return _counted(prepare, warm_up=True)


def sliced_cost(
    model: ModelConfig, slicing: SlicingConfig, owned: frozenset[SliceId], *, batch: int, engine: EngineConfig
) -> StepCost:
    """The step of our engine, as ``InnerLoop`` does it.

    Args:
        model: sizes.
        slicing: how it is cut.
        owned: what trains.
        batch: windows in the step.
        engine: its device is not used; nothing is computed.

    Raises:
        SlicingError: the model cannot be cut so.
    """
    plan = SlicePlan.of(model, slicing)
    owned = plan.fragments(owned)

    def prepare() -> Callable[[], None]:
        transformer = engine_transformer(model, plan, owned, replace(engine, device="cpu", compile=False))
        optimizer = inner_optimizer(transformer, _INNER)
        windows = _windows(model, batch)

        def step() -> None:
            _, gradients = batch_gradients(transformer, windows, engine.micro_batch)
            optimizer.update(gradients, _INNER.lr, clip_scale(gradient_norm(gradients), _INNER.clip))

        return step

    return _counted(prepare, warm_up=engine.precision == "float32")


def memory_rows(
    model: ModelConfig,
    *,
    slices: Sequence[int],
    parts: Sequence[SlicedParts],
    batch: int,
    recomputes: Sequence[Recompute],
    engine: EngineConfig,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> list[MemoryRow]:
    """The two baselines, plain and N = 1, and for each N the step of a peer that owns the common part and one slice.

    ``report`` is told how many of the rows are done.

    Raises:
        SlicingError: the model cannot be cut so.
    """
    slices = sorted({1, *slices})
    num_rows = 1 + len(slices) * len(recomputes)
    report(0, num_rows)
    plain = plain_cost(model, batch=batch, engine=engine)
    rows = [_row(plain, plain, variant="plain", slices=1, parts=(), batch=batch, recompute="nothing")]
    for number in slices:
        slicing = SlicingConfig(slices=number, parts=tuple(parts))
        owned = frozenset({COMMON, numbered_slices(number)[0]})
        for recompute in recomputes:
            report(len(rows), num_rows)
            cost = sliced_cost(model, slicing, owned, batch=batch, engine=replace(engine, recompute=recompute))
            cut = parts if number > 1 else ()
            rows.append(_row(cost, plain, variant="sliced", slices=number, parts=cut, batch=batch, recompute=recompute))
    return rows


def _row(
    cost: StepCost,
    plain: StepCost,
    *,
    variant: Literal["plain", "sliced"],
    slices: int,
    parts: Sequence[SlicedParts],
    batch: int,
    recompute: Recompute,
) -> MemoryRow:
    return MemoryRow(
        variant=variant,
        slices=slices,
        sliced_parts=tuple(parts),
        micro_batch=batch,
        recompute=recompute,
        tflop=cost.tflop,
        peak_gib=cost.peak_bytes / GIB,
        flops_ratio=cost.tflop / plain.tflop,
        memory_ratio=cost.peak_bytes / plain.peak_bytes,
        attention_tflop=cost.attention_tflop,
        flops_ratio_with_attention=(cost.tflop + cost.attention_tflop) / (plain.tflop + plain.attention_tflop),
    )


def _windows(model: ModelConfig, batch: int) -> Tensor:
    return torch.zeros((batch, model.context + 1), dtype=torch.int64)


def _counted(prepare: Callable[[], Callable[[], None]], *, warm_up: bool) -> StepCost:
    """Count one step; ``warm_up`` does another before, which makes an optimizer's state and leaves gradients behind."""
    # Loads torch's compiler. Peers import this module and, where memory is plentiful, count nothing.
    from torch.distributed._tools.mem_tracker import MemTracker

    flops = FlopCounterMode(display=False, custom_mapping=_NOT_COUNTED_BY_TORCH)
    tracker = MemTracker()
    with FakeTensorMode(), tracker:
        step = prepare()
        if warm_up:
            step()
        with flops:
            step()
        del step
    counts = flops.get_flop_counts()["Global"]
    attention = sum(count for op, count in counts.items() if "scaled_dot_product" in str(op))
    peak = tracker.get_tracker_snapshot("peak")
    return StepCost(
        tflop=(sum(counts.values()) - attention) / 1e12,
        attention_tflop=attention / 1e12,
        peak_bytes=max(device["Total"] for device in peak.values()),
    )
