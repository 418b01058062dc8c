"""The options of ``p2ptrain peer`` that say where and how it computes."""

import contextlib
import re
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from p2ptrain.errors import DoesNotFit, UsageError

if TYPE_CHECKING:
    from p2ptrain.config.schema import EngineWish, RunConfig
    from p2ptrain.events import EngineChosen
    from p2ptrain.ids import SliceId
    from p2ptrain.training.choose import Choice

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16; auto is bfloat16 on a GPU.")]
Memory = Annotated[
    str, typer.Option(help="Budget for training like 8GiB  [default: what a GPU has free, half of the machine's]")
]
MicroBatch = Annotated[int, typer.Option(min=0, help="Windows in one forward pass; 0 takes as many as fit.")]
Recompute = Annotated[
    str, typer.Option(help="Compute twice to save memory: auto, nothing, mlp, blocks; auto as little as fits.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the model; takes minutes at the start.")]

_Precision = Literal["auto", "float32", "bfloat16"]
_Recompute = Literal["auto", "nothing", "mlp", "blocks"]
_UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "GB": 10**9, "MB": 10**6}


def engine_wish(
    *, device: str, precision: str, memory: str, micro_batch: int, recompute: str, compiled: bool
) -> "EngineWish":
    """What the options say.

    Raises:
        UsageError: one of them is not known.
    """
    from p2ptrain.config.schema import EngineWish

    for option, value, known in (
        ("--precision", precision, ("auto", "float32", "bfloat16")),
        ("--recompute", recompute, ("auto", "nothing", "mlp", "blocks")),
    ):
        if value not in known:
            raise UsageError(f"{option} {value} is not known; choose from {', '.join(known)}")
    return EngineWish(
        device=device,
        precision=cast("_Precision", precision),
        memory_bytes=parse_bytes(memory) if memory else 0,
        micro_batch=micro_batch,
        recompute=cast("_Recompute", recompute),
        compile=compiled,
    )


def choose_engine_here(
    wish: "EngineWish", run: "RunConfig", slices: "tuple[SliceId, ...] | None", max_slices: int, threads: int
) -> "Choice":
    """The engine for this machine, after a trial step where memory could be short.

    Args:
        wish: what the volunteer said.
        run: model and batch.
        slices: those to own; None for some.
        max_slices: how many those may be. If so many do not fit, the engine is for the most that do.
        threads: CPU threads for training; 0 is torch's own choice.

    Raises:
        UsageError: the device is not there, or nothing fits it.
    """
    from p2ptrain.ids import COMMON, numbered_slices
    from p2ptrain.model.slicing import SlicePlan
    from p2ptrain.training.choose import choose_engine
    from p2ptrain.training.device import find_device, use_threads
    from p2ptrain.training.trial import try_step

    use_threads(threads)
    plan = SlicePlan.of(run.model, run.slicing)
    device = find_device(wish.device)

    def choose(owned: "frozenset[SliceId]") -> "Choice":
        return choose_engine(wish, device, run, owned, lambda engine: try_step(run, plan, owned, engine))

    if slices is not None:
        return choose(frozenset({COMMON, *slices}))
    for count in range(min(max_slices, run.slicing.slices), 1, -1):
        with contextlib.suppress(DoesNotFit):
            return choose(frozenset({COMMON, *numbered_slices(count)}))
    return choose(frozenset({COMMON, *numbered_slices(1)}))


def engine_chosen(choice: "Choice") -> "EngineChosen":
    """The choice as an event."""
    from p2ptrain.events import EngineChosen
    from p2ptrain.training.engine import describe

    return EngineChosen(engine=describe(choice.engine), slices_that_fit=choice.slices_that_fit, reason=choice.reason)


def parse_bytes(text: str) -> int:
    """Bytes of ``8GiB``, ``512MiB`` or ``24GB``.

    Raises:
        UsageError: it is none of these.
    """
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|MiB|GB|MB)", text.strip())
    if matched is None:
        raise UsageError(f"--memory {text} is not an amount of memory; write for example 8GiB, 512MiB or 24GB")
    return int(float(matched[1]) * _UNITS[matched[2]])
