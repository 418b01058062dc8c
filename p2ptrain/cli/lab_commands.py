"""``p2ptrain lab``: what slicing does to quality, measured without a network."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from p2ptrain.cli.chaos_command import chaos
from p2ptrain.cli.new_file import or_elsewhere
from p2ptrain.cli.progress import working
from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.config.ranges import Rule
    from p2ptrain.config.schema import SlicedParts
    from p2ptrain.node.lab import Point, Row, Study, Trial

lab_app = typer.Typer(no_args_is_help=True, help="Experiments with many virtual peers in one process.")

_TUNE_SHARE = 3
"""Trials that choose the outer setting are this much shorter than the others, unless --tune-rounds says otherwise."""
_T = TypeVar("_T")


lab_app.command()(chaos)


@lab_app.callback()
def lab() -> None:
    """Experiments with many virtual peers in one process."""


@lab_app.command()
def quality(
    peers: Annotated[int, typer.Option(min=1, help="Virtual peers, K.")] = 4,
    slices: Annotated[
        str, typer.Option(help="Each N to train with, separated by commas; 1 is the baseline.")
    ] = "1,2,4",
    sliced_parts: Annotated[
        list[str] | None, typer.Option(help="What is cut: mlp, or mlp,heads; give it twice to compare  [default: mlp]")
    ] = None,
    inner_steps: Annotated[int, typer.Option(min=1, help="Inner steps of a round, H.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each run.")] = 50,
    seeds: Annotated[str, typer.Option(help="Each seed to train with.")] = "0",
    outer_lr: Annotated[
        str, typer.Option(help="Outer learning rates to choose from, for each N and the baseline alike.")
    ] = "0.4,0.6,0.9",
    outer_momentum: Annotated[str, typer.Option(help="Outer momenta to choose from.")] = "0.5",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune/--no-tune",
            help="Choose by shorter runs with the first seed; or else train every combination to its end.",
        ),
    ] = True,
    tune_rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of those runs  [default: a third]")] = None,
    common_lr_ratio: Annotated[
        float | None,
        typer.Option(help="Outer lr of the common part over the slices', instead of the manifest's; 1 where N is."),
    ] = None,
    last_outer_lr_ratio: Annotated[
        float | None,
        typer.Option(help="Outer lr of the last round over the first's, instead of the manifest's; it changes evenly."),
    ] = None,
    nesterov: Annotated[
        bool | None,
        typer.Option(
            "--nesterov/--no-nesterov",
            help="Momentum that looks ahead, or a heavy ball, instead of what the manifest says.",
        ),
    ] = None,
    cooldown: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the rounds, the last ones, in which outer lr falls, instead of the manifest's.",
        ),
    ] = None,
    first_inner_steps: Annotated[
        int | None,
        typer.Option(min=1, help="H of the first round; it then changes evenly, with --inner-steps as mean."),
    ] = None,
    look_back: Annotated[
        float,
        typer.Option(min=-1, max=1, help="Share of a slice's last update that its non-owners leave out."),
    ] = 0.0,
    amplification: Annotated[
        float | None,
        typer.Option(
            min=1, help="How many times as far as it contributes a peer moves its slice, instead of the manifest's."
        ),
    ] = None,
    last_amplification: Annotated[
        float | None, typer.Option(min=1, help="The same in the last round; it changes evenly.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Manifest with model, text and inner steps, instead of a preset.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset with model, text and inner steps: small, tiny or nano.")] = "tiny",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; another number gives other bits.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this file, as SVG.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for progress; the same command goes on where it was.")
    ] = None,
) -> None:
    """Train the same model with other numbers of slices, and compare losses at equal tokens.

    Every virtual peer owns one slice, dealt round robin, and the common part. The baseline, N = 1, is plain DiLoCo,
    tuned over the same learning rates. One of them and nothing is tuned.

    Example: p2ptrain lab quality --peers 4 --slices 1,2,4 --rounds 24 --out lab
    """
    from p2ptrain.cli.lab_plot import curves_svg
    from p2ptrain.config.load import load_run, parse_run
    from p2ptrain.config.presets import preset_text

    base = load_run(run) if run else parse_run(preset_text(preset), preset)
    if nesterov is not None:
        base = dataclasses.replace(base, outer=dataclasses.replace(base.outer, nesterov=nesterov))
    if cooldown is not None:
        base = dataclasses.replace(base, outer=dataclasses.replace(base.outer, cooldown=cooldown))
    for file in (plot, out):
        if file and not file.absolute().parent.is_dir():
            raise UsageError(f"{file.parent} is not a folder; make it first, or choose another")
    if out:
        with or_elsewhere(out):
            out.mkdir(exist_ok=True)

    import torch

    from p2ptrain.config.ranges import RULES
    from p2ptrain.data.corpus import load_corpus
    from p2ptrain.node.lab import Lab, Study, at_the_edge

    for option, ratio in (
        ("--common-lr-ratio", common_lr_ratio),
        ("--last-outer-lr-ratio", last_outer_lr_ratio),
        ("--amplification", amplification),
        ("--last-amplification", last_amplification),
    ):
        if ratio is not None and not 0 < ratio < math.inf:
            raise UsageError(f"{option} {ratio} is not a number above 0; 1 changes nothing")
    lrs = _list("--outer-lr", outer_lr, float, RULES["outer.lr"])
    momenta = _list("--outer-momentum", outer_momentum, float, RULES["outer.momentum"])
    shorter = tune_rounds or max(1, rounds // _TUNE_SHARE)
    study = Study(
        slices=_list("--slices", slices, int, RULES["slicing.slices"]),
        sliced_parts=tuple(_parts(text) for text in sliced_parts or ["mlp"]),
        peers=peers,
        inner_steps=inner_steps,
        rounds=rounds,
        seeds=_list("--seeds", seeds, int, RULES["seed"]),
        outer_lrs=lrs,
        outer_momenta=momenta,
        tune_rounds=shorter if tune else 0,
        common_lr_ratio=base.outer.common_lr_ratio if common_lr_ratio is None else common_lr_ratio,
        last_outer_lr_ratio=last_outer_lr_ratio or (base.outer.last_lr / base.outer.lr or None),
        first_inner_steps=first_inner_steps,
        look_back=look_back,
        amplification=base.slicing.amplification if amplification is None else amplification,
        last_amplification=base.slicing.last_amplification if last_amplification is None else last_amplification,
    )
    study.check()
    torch.set_num_threads(threads)
    corpus = load_corpus(base, base=run.parent if run else Path())
    with working("training") as report:

        def tell(trial: "Trial", point: "Point") -> None:
            report(point.rounds, trial.rounds)
            _progress(trial, point)

        rows, tuning = Lab(base=base, corpus=corpus, folder=out, report=tell).study(study)
    for sentence in at_the_edge(study, tuning):
        typer.echo(f"note: {sentence}", err=True)
    if plot:
        title, below, curves = _picture(base.name, study, rows)
        if curves:
            plot.write_text(curves_svg(title, below, curves), encoding="utf-8")
        else:
            typer.echo(f"note: every run has diverged, so there is nothing to draw in {plot}", err=True)
    if as_json:
        config = {"base": dataclasses.asdict(base), "study": dataclasses.asdict(study), "threads": threads}
        config |= {"text": corpus.fingerprint, **_versions()}
        listed = {"rows": [row.as_json() for row in rows], "tuning": [row.as_json() for row in tuning]}
        typer.echo(json.dumps({"config": config, **listed}, indent=2))
        return
    for line in _table(rows):
        typer.echo(line)


def _list(option: str, text: str, kind: Callable[[str], _T], rule: "Rule") -> tuple[_T, ...]:
    try:
        numbers = tuple(kind(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(rule.holds, numbers)):
        raise UsageError(
            f"{option} {text} is not a list of sensible numbers with commas between; each is {rule.choose}"
        )
    return tuple(dict.fromkeys(numbers))


def _parts(text: str) -> "tuple[SlicedParts, ...]":
    parts = tuple(text.split(","))
    if not set(parts) <= {"mlp", "heads"} or len(set(parts)) < len(parts):
        raise UsageError(f"--sliced-parts {text} is not known; choose mlp, heads or mlp,heads")
    return cast("tuple[SlicedParts, ...]", parts)


def _progress(trial: "Trial", point: "Point") -> None:
    loss = "diverged" if point.val_loss is None else f"{point.val_loss:.4f} nats"
    typer.echo(f"{trial.name}: {point.rounds} of {trial.rounds} rounds, {loss}", err=True)


def _table(rows: "Sequence[Row]") -> list[str]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(dataclasses.replace(row.trial, seed=0), []).append(row)
    lines = [f"{'N':>3}  {'cut':10}{'H':>4}{'lr':>6}{'mom':>5}{'seeds':>6}{'Mtokens':>9}{'TFLOP':>8}  loss (spread)"]
    for trial, group in groups.items():
        end, cut = group[0].curve[-1], ",".join(trial.sliced_parts) if trial.slices > 1 else "-"
        losses = [row.val_loss for row in group if row.val_loss is not None]
        found = f"{statistics.fmean(losses):.4f} ({max(losses) - min(losses):.4f})" if losses else ""
        found += f" {len(group) - len(losses)} diverged" if len(losses) < len(group) else ""
        against = [row.vs_baseline_percent for row in group if row.vs_baseline_percent is not None]
        equal_flops = [
            r.vs_baseline_percent_equal_flops for r in group if r.vs_baseline_percent_equal_flops is not None
        ]
        if against and trial.slices > 1:
            found += f"  {statistics.fmean(against):+.2f} % at equal tokens"
            found += f", {statistics.fmean(equal_flops):+.2f} % at equal FLOPs"
        lines.append(
            f"{trial.slices:>3}  {cut:10}{trial.inner_steps:>4}{trial.outer_lr:>6g}{trial.outer_momentum:>5g}"
            f"{len(group):>6}{end.tokens / 1e6:>9.2f}{end.tflop:>8.2f}  {found}"
        )
    return lines


def _picture(
    name: str, study: "Study", rows: "Sequence[Row]"
) -> tuple[str, str, dict[str, list[list[tuple[float, float]]]]]:
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    for row in rows:
        trial = row.trial
        cut = f"N={trial.slices} {' + '.join(trial.sliced_parts)}" if trial.slices > 1 else "N=1 (DiLoCo)"
        points = [(point.tokens / 1e6, point.val_loss) for point in row.curve if point.val_loss is not None]
        if points:
            curves.setdefault(f"{cut}, lr {trial.outer_lr:g}, {trial.outer_momentum:g}", []).append(points)
    title = f"{name}: K={study.peers}, H={study.inner_steps}, one curve a seed; validation loss, nats per token"
    return title, "million tokens, all peers together", curves


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {package: metadata.version(package) for package in ("p2ptrain", "torch", "numpy")}
