"""From what a volunteer wishes and what a device has to an engine that works on the first try.

Prediction first, by the same counting as ``bench memory``; then a trial step, which may say otherwise. A model that is
small beside the device needs neither: it trains as plainly as the processor can, which is also what the lab does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from p2ptrain.config.schema import EngineConfig, EngineWish, RunConfig
from p2ptrain.errors import DoesNotFit
from p2ptrain.ids import SliceId
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.benchmark_memory import GIB
from p2ptrain.training.device import Device
from p2ptrain.training.engine import describe, lighter_engine
from p2ptrain.training.fit import Fixed, fit, most_bytes, slices_that_fit, smallest_budget_gib
from p2ptrain.training.trial import Trial

_ROOMY = 2
"""A model that takes less than half of the budget by the most cautious count needs no trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An engine, and why this one."""

    engine: EngineConfig
    slices_that_fit: int
    """Numbered slices that the budget would do for at once; at least as many as were asked for."""
    reason: str
    """One sentence, to follow ``describe(engine)``."""


_OWNED_BYTES = 4 * (2 + 2 + 2 + 1 + 2 + 1) + 6
"""Beside training, for each parameter that is owned; as ``swarm_bytes`` counts them."""


def choose_engine(
    wish: EngineWish,
    device: Device,
    run: RunConfig,
    owned: frozenset[SliceId],
    try_step: Callable[[EngineConfig], Trial | None],
) -> Choice:
    """Choose micro-batch and recomputation for a device, by prediction and a trial step.

    Args:
        wish: what the volunteer said; what it leaves open is chosen.
        device: what ``wish.device`` has been found to mean.
        run: model and batch.
        owned: the common part and as many numbered slices as the peer will own, whichever they are.
        try_step: does a step with an engine and says what it took; None when memory ran out.

    Raises:
        SlicingError: the model cannot be cut so.
        DoesNotFit: nothing does; the message says the smallest budget that would.
    """
    budget = wish.memory_bytes or device.free_bytes
    reserved = swarm_bytes(run, owned) if device.name == "cpu" else 0
    bare = EngineConfig(
        device=device.name,
        precision=device.best_precision if wish.precision == "auto" else wish.precision,
        compile=wish.compile,
    )
    batch, numbered = run.inner.batch, run.slicing.slices
    most = most_bytes(run.model, batch=batch)
    if _ROOMY * (most + reserved) <= budget:
        engine = replace(
            bare,
            micro_batch=0 if wish.micro_batch >= batch else wish.micro_batch,
            recompute="nothing" if wish.recompute == "auto" else wish.recompute,
        )
        reason = f"at most {_amount(most + reserved)} of {_amount(budget)}, room for all {numbered} slices"
        return Choice(engine=engine, slices_that_fit=numbered, reason=reason)
    fixed = Fixed(
        slices=len(owned) - 1,
        micro_batch=wish.micro_batch or None,
        recompute=None if wish.recompute == "auto" else wish.recompute,
    )
    limits = {"batch": batch, "budget_bytes": budget, "reserved_bytes": reserved}
    planned = fit(run.model, run.slicing, **limits, engine=bare, fixed=fixed)
    engine, trial, lightened = _tried(planned.engine, batch, budget, reserved, try_step)
    room = slices_that_fit(run.model, run.slicing, **limits, engine=engine)
    measured = "not measurable here" if trial.peak_bytes is None else _amount(trial.peak_bytes)
    reason = (
        f"{_amount(planned.predicted_bytes)} predicted and {measured} in a trial step of {trial.seconds:.2f} s,"
        f" of {_amount(budget - reserved)}{lightened}; room for {max(room, len(owned) - 1)} of {numbered} slices"
    )
    return Choice(engine=engine, slices_that_fit=max(room, len(owned) - 1), reason=reason)


def swarm_bytes(run: RunConfig, owned: frozenset[SliceId]) -> int:
    """Memory that the swarm needs beside training, at most; on a CPU it is the same memory.

    Of every slice the published weights and the next ones, bfloat16. Of what is owned, in the moment of a commit, in
    float32: anchor and outer momentum, twice; what rounding has left out before and after; the weights at the cut-off;
    the weights now, on the old anchor and on the new one; the change; and what was encoded of all that. Measured
    with 139 million owned parameters: docs/results/light.md.
    """
    plan = SlicePlan.of(run.model, run.slicing)
    everything = sum(plan.numel(slice_id) for slice_id in plan.slice_ids)
    return 4 * everything + _OWNED_BYTES * sum(plan.numel(slice_id) for slice_id in plan.fragments(owned))


def _tried(
    engine: EngineConfig, batch: int, budget: int, reserved: int, try_step: Callable[[EngineConfig], Trial | None]
) -> tuple[EngineConfig, Trial, str]:
    """The first engine whose trial step stays within the budget, its trial, and what was given up for it."""
    refused: list[str] = []
    while True:
        trial = try_step(engine)
        if trial is None:
            took, enough = "ran out of memory", f"more than {_amount(budget)}"
        elif (took_bytes := trial.peak_bytes or 0) <= budget - reserved:
            return engine, trial, "".join(f"; {sentence}" for sentence in refused)
        else:
            took = f"took {_amount(took_bytes)}"
            enough = f"at least {smallest_budget_gib(took_bytes + reserved):.1f} GiB"
        refused.append(f"{describe(engine)} {took}")
        lighter = lighter_engine(engine, batch)
        if lighter is None:
            raise DoesNotFit(
                f"{_amount(budget)} were predicted to do, but {refused[-1]} in a trial step, and nothing is lighter;"
                f" give {enough}, or own fewer slices"
            )
        engine = lighter


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{max(1, num_bytes >> 20)} MiB"
