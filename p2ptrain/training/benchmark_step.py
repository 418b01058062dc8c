"""Seconds of a whole optimizer step on this machine: plain autograd beside our engine, in turns."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from p2ptrain import clock
from p2ptrain.config.schema import EngineConfig, InnerConfig, ModelConfig, SlicedParts, SlicingConfig
from p2ptrain.ids import COMMON, numbered_slices
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.backward import batch_gradients, clip_scale, gradient_norm
from p2ptrain.training.benchmark_models import PlainTransformer
from p2ptrain.training.engine import DTYPES, engine_transformer
from p2ptrain.training.optimizer import inner_optimizer

_INNER = InnerConfig(steps=1, batch=1, lr=1e-4)
_WARM_UP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """One line of ``p2ptrain bench step``."""

    variant: Literal["plain", "sliced"]
    slices: int
    sliced_parts: tuple[SlicedParts, ...]
    n: int
    seconds_median: float
    seconds_min: float
    seconds_max: float
    speedup: float
    """The plain step's median over this one's; both were measured in turns, so that other load hits both."""
    speedup_min: float
    """Over the pairs of steps done one after the other, the lower quartile of their ratio."""
    speedup_max: float
    """The upper quartile."""


def step_rows(
    model: ModelConfig,
    *,
    slices: Sequence[int],
    parts: Sequence[SlicedParts],
    batch: int,
    repeats: int,
    engine: EngineConfig,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> list[StepRow]:
    """Time the plain step and the step of a peer with the common part and one slice, for each N.

    Args:
        model: sizes.
        slices: each N to time.
        parts: what is cut.
        batch: windows in a step.
        repeats: measured steps of each variant, after two that are not.
        engine: where and how; both variants have its device and precision, and both are compiled or neither.
        report: told how many of the turns are over.

    Raises:
        SlicingError: the model cannot be cut so.
    """
    plans = [SlicePlan.of(model, SlicingConfig(slices=number, parts=tuple(parts))) for number in slices]
    windows = torch.randint(0, model.vocabulary, (batch, model.context + 1)).to(engine.device)
    steps = [_plain_step(model, windows, engine)]
    steps += [_sliced_step(model, plan, windows, engine) for plan in plans]
    seconds: list[list[float]] = [[] for _ in steps]
    for turn in range(_WARM_UP + repeats):
        report(turn, _WARM_UP + repeats)
        for step, measured in zip(steps, seconds, strict=True):
            started_s = clock.monotonic_s()
            step()
            _wait_for(engine.device)
            if turn >= _WARM_UP:
                measured.append(clock.monotonic_s() - started_s)
    rows = [_row("plain", 1, (), seconds[0], seconds[0])]
    for number, own in zip(slices, seconds[1:], strict=True):
        rows.append(_row("sliced", number, parts if number > 1 else (), own, seconds[0]))
    return rows


def _wait_for(device: str) -> None:
    """Until what was given to a device is computed."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def _row(
    variant: Literal["plain", "sliced"],
    slices: int,
    parts: Sequence[SlicedParts],
    seconds: list[float],
    plain: list[float],
) -> StepRow:
    ratios = [theirs / own for theirs, own in zip(plain, seconds, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return StepRow(
        variant=variant,
        slices=slices,
        sliced_parts=tuple(parts),
        n=len(seconds),
        seconds_median=statistics.median(seconds),
        seconds_min=min(seconds),
        seconds_max=max(seconds),
        speedup=statistics.median(plain) / statistics.median(seconds),
        speedup_min=low,
        speedup_max=high,
    )


def _plain_step(model: ModelConfig, windows: torch.Tensor, engine: EngineConfig) -> Callable[[], None]:
    plain = PlainTransformer(model, dtype=DTYPES[engine.precision], device=engine.device)
    adamw = torch.optim.AdamW(plain.parameters(), lr=_INNER.lr, fused=True)
    loss = torch.compile(plain.loss, dynamic=False) if engine.compile else plain.loss

    def step() -> None:
        adamw.zero_grad(set_to_none=True)
        loss(windows).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(plain.parameters(), _INNER.clip)
        adamw.step()

    return step


def _sliced_step(
    model: ModelConfig, plan: SlicePlan, windows: torch.Tensor, engine: EngineConfig
) -> Callable[[], None]:
    owned = frozenset({COMMON, numbered_slices(1)[0]})
    transformer = engine_transformer(model, plan, owned, engine)
    for tensor in transformer.tensors().values():
        if tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(std=0.02)
    optimizer = inner_optimizer(transformer, _INNER)

    def step() -> None:
        _, gradients = batch_gradients(transformer, windows, engine.micro_batch)
        optimizer.update(gradients, _INNER.lr, clip_scale(gradient_norm(gradients), _INNER.clip))

    return step
