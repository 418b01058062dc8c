"""``p2ptrain bench``: what a training step takes, counted or measured, and what fits a device."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from p2ptrain.cli.engine_options import parse_bytes
from p2ptrain.cli.progress import working
from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.config.schema import Precision, Recompute, SlicedParts

bench_app = typer.Typer(
    no_args_is_help=True, help="What a training step takes, counted or measured, and what fits a device."
)

_MODEL_HELP = "One of: step, 150m, 1.3b, 7b."
_PARTS_HELP = "What is cut: mlp, or mlp,heads."
_JSON_HELP = "Print one JSON object instead of a table."


@bench_app.command()
def memory(
    model: Annotated[str, typer.Option(help=_MODEL_HELP)] = "1.3b",
    slices: Annotated[str, typer.Option(help="Each N to count, separated by commas, beside 1, DiLoCo.")] = "4,8",
    parts: Annotated[str, typer.Option(help=_PARTS_HELP)] = "mlp,heads",
    micro_batch: Annotated[int, typer.Option(min=1, help="Windows in the step.")] = 8,
    recompute: Annotated[
        str, typer.Option(help="What is computed twice to save memory: nothing, mlp, blocks; several with commas.")
    ] = "nothing,mlp,blocks",
    precision: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """Count FLOPs and peak memory of a step against plain autograd's; nothing is computed, no GPU is needed.

    Example: p2ptrain bench memory --model 1.3b --slices 8
    """
    from p2ptrain.config.schema import EngineConfig
    from p2ptrain.training.benchmark_memory import memory_rows
    from p2ptrain.training.benchmark_models import named_model

    sizes = named_model(model)
    recomputes = cast("list[Recompute]", _choices(recompute, ("nothing", "mlp", "blocks"), "--recompute"))
    engine = EngineConfig(precision=_precision(precision), lean=True)
    with working("counting") as report:
        rows = memory_rows(
            sizes,
            slices=_numbers(slices),
            parts=_parts(parts),
            batch=micro_batch,
            recomputes=recomputes,
            engine=engine,
            report=report,
        )
    if as_json:
        config = {"name": model, **dataclasses.asdict(sizes), "precision": precision, **_versions()}
        typer.echo(json.dumps({"config": config, "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return
    typer.echo(f"{model}, {parts} cut, {micro_batch} x {sizes.context} tokens, {precision}; plain autograd = 1.00")
    typer.echo(f"{'':8}{'N':>4}  {'twice':8}{'TFLOP':>8}{'ratio':>7}{'peak GiB':>10}{'ratio':>7}")
    for row in rows:
        typer.echo(
            f"{row.variant:8}{row.slices:>4}  {row.recompute:8}{row.tflop:>8.1f}{row.flops_ratio:>7.3f}"
            f"{row.peak_gib:>10.2f}{row.memory_ratio:>7.3f}"
        )
    typer.echo("TFLOP are of products with weights; --json has attention's own too.")


@bench_app.command()
def step(
    model: Annotated[str, typer.Option(help=_MODEL_HELP)] = "step",
    slices: Annotated[str, typer.Option(help="Each N to time, separated by commas; 1 is DiLoCo.")] = "1,2,4,8",
    parts: Annotated[str, typer.Option(help=_PARTS_HELP)] = "mlp,heads",
    batch: Annotated[int, typer.Option(min=1, help="Windows in the step.")] = 4,
    repeats: Annotated[int, typer.Option("-n", min=1, help="Measured steps of each variant, in turns.")] = 7,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "float32",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's default.")] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile both variants with torch.compile.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """Time a whole optimizer step against plain autograd's on this machine, in turns.

    Example: p2ptrain bench step --slices 4
    """
    import torch

    from p2ptrain.config.schema import EngineConfig
    from p2ptrain.training.benchmark_models import named_model
    from p2ptrain.training.benchmark_step import step_rows
    from p2ptrain.training.device import find_device

    if threads:
        torch.set_num_threads(threads)
    sizes = named_model(model)
    device = find_device(device).name
    engine = EngineConfig(device=device, precision=_precision(precision), lean=True, compile=compiled)
    numbers, cut = _numbers(slices), _parts(parts)
    with working("timing") as report:
        rows = step_rows(sizes, slices=numbers, parts=cut, batch=batch, repeats=repeats, engine=engine, report=report)
    described = _device_name(device)
    if as_json:
        config = {"name": model, **dataclasses.asdict(sizes), "batch": batch, "precision": precision, **_versions()}
        listed = [dataclasses.asdict(row) for row in rows]
        typer.echo(json.dumps({"device": described, "config": config, "rows": listed}, indent=2))
        return
    typer.echo(f"{model}, {parts} cut, {batch} x {sizes.context} tokens, {precision}, on {described}")
    typer.echo(f"{'':8}{'N':>4}{'n':>4}{'median s':>10}{'min':>9}{'max':>9}{'faster':>9}  quartiles")
    for row in rows:
        typer.echo(
            f"{row.variant:8}{row.slices:>4}{row.n:>4}{row.seconds_median:>10.3f}{row.seconds_min:>9.3f}"
            f"{row.seconds_max:>9.3f}{row.speedup:>8.2f}x  {row.speedup_min:.2f}-{row.speedup_max:.2f}"
        )


@bench_app.command(name="fit")
def fit_command(
    model: Annotated[str, typer.Option(help=_MODEL_HELP)] = "1.3b",
    memory: Annotated[str, typer.Option(help="A budget like 8GiB; by default what the device has free.")] = "",
    slices: Annotated[int, typer.Option(min=1, help="N of the run.")] = 8,
    parts: Annotated[str, typer.Option(help=_PARTS_HELP)] = "mlp,heads",
    batch: Annotated[int, typer.Option(min=1, help="Windows of an inner step.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """Say how many slices a device can train, with which micro-batch, and what stands against more.

    Example: p2ptrain bench fit --model 1.3b --memory 8GiB
    """
    from p2ptrain.config.schema import EngineConfig, SlicingConfig
    from p2ptrain.training.benchmark_memory import GIB
    from p2ptrain.training.benchmark_models import named_model
    from p2ptrain.training.device import device_memory_bytes, find_device
    from p2ptrain.training.fit import fit

    # With a budget it may be a question about another machine's device.
    is_elsewhere = memory and device.partition(":")[0] in ("cpu", "cuda", "mps")
    name = device if is_elsewhere else find_device(device).name
    budget = parse_bytes(memory) if memory else device_memory_bytes(name)
    engine = EngineConfig(device=name, precision=_precision(precision), lean=True)
    cut = SlicingConfig(slices=slices, parts=_parts(parts))
    with working("looking for what fits"):
        found = fit(named_model(model), cut, batch=batch, budget_bytes=budget, engine=engine)
    if not as_json:
        typer.echo(found.reason)
        return
    typer.echo(
        json.dumps(
            {
                "slices_owned": len(found.owned) - 1,
                "micro_batch": found.engine.micro_batch or batch,
                "accumulation": found.accumulation,
                "recompute": found.engine.recompute,
                "predicted_gib": found.predicted_bytes / GIB,
                "budget_gib": found.budget_bytes / GIB,
                "reason": found.reason,
            },
            indent=2,
        )
    )


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*", text):
        raise UsageError(f"--slices {text} is not a list of numbers; write for example 1,4,8")
    return [int(number) for number in text.split(",")]


def _choices(text: str, known: Sequence[str], option: str) -> list[str]:
    chosen = text.split(",")
    if not set(chosen) <= set(known):
        raise UsageError(f"{option} {text} is not known; choose from {', '.join(known)}")
    return chosen


def _parts(text: str) -> "tuple[SlicedParts, ...]":
    return cast("tuple[Literal['mlp', 'heads'], ...]", tuple(_choices(text, ("mlp", "heads"), "--parts")))


def _precision(text: str) -> "Precision":
    (chosen,) = _choices(text, ("float32", "bfloat16"), "--precision")[:1]
    return cast("Literal['float32', 'bfloat16']", chosen)


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {"p2ptrain": metadata.version("p2ptrain"), "torch": metadata.version("torch")}


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
