"""A step tried before the run begins: what predictions cannot know is measured."""

import ctypes
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from p2ptrain import clock
from p2ptrain.config.schema import EngineConfig, RunConfig
from p2ptrain.ids import SliceId
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.backward import batch_gradients, clip_scale, gradient_norm
from p2ptrain.training.engine import engine_transformer, is_out_of_memory
from p2ptrain.training.optimizer import inner_optimizer

_STEPS = 2
"""The first makes the optimizer's state and warms caches; the second is what a step takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A trial step that fitted."""

    peak_bytes: int | None
    """Memory above what was in use before; None where that cannot be measured."""
    seconds: float


def try_step(run: RunConfig, plan: SlicePlan, owned: frozenset[SliceId], engine: EngineConfig) -> Trial | None:
    """Do an inner step on a throw-away model with random tokens.

    Never compiled: that would take minutes, and compiled blocks keep no more.

    Returns:
        What it took, or None if memory ran out.
    """
    device = torch.device(engine.device)
    seconds: list[float] = []
    with _peak(device) as peak:
        try:
            _steps(run, plan, owned, replace(engine, compile=False, deterministic=False), seconds)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return Trial(peak_bytes=peak[0] if peak else None, seconds=statistics.median(seconds[1:]))


def _steps(
    run: RunConfig, plan: SlicePlan, owned: frozenset[SliceId], engine: EngineConfig, seconds: list[float]
) -> None:
    model = engine_transformer(run.model, plan, plan.fragments(owned), engine)
    generator = torch.Generator(device=engine.device).manual_seed(0)  # the global one belongs to the user
    for tensor in model.tensors().values():
        tensor.fill_(1.0) if tensor.ndim == 1 else tensor.normal_(std=0.02, generator=generator)
    optimizer = inner_optimizer(model, run.inner)
    shape = (run.inner.batch, run.model.context + 1)
    windows = torch.randint(0, run.model.vocabulary, shape, device=engine.device, generator=generator)
    for _ in range(_STEPS):
        started_s = clock.monotonic_s()
        loss, gradients = batch_gradients(model, windows, engine.micro_batch)
        optimizer.update(gradients, run.inner.lr, clip_scale(gradient_norm(gradients), run.inner.clip))
        loss.item()
        if engine.device.startswith("cuda"):
            torch.cuda.synchronize(engine.device)
        seconds.append(clock.monotonic_s() - started_s)


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """Afterwards the list holds the most bytes that were in use above those before, if that can be known."""
    found: list[int] = []
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        # What the allocator reserves is what others cannot have, fragments included.
        found.append(torch.cuda.max_memory_reserved(device) - before)
        return
    resident = _resident_bytes("VmRSS") if device.type == "cpu" and _forget_peak() else None
    yield found
    if resident is not None and (peak := _resident_bytes("VmHWM")) is not None:
        found.append(max(0, peak - resident))


def _forget_peak() -> bool:
    """Have Linux count this process's peak anew; whether it does."""
    # What was freed and kept for the next allocation would be used again without being seen.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_bytes(field: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith(f"{field}:")), "")
    return int(line.split()[1]) * 1024 if line else None
