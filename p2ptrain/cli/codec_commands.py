"""``p2ptrain bench codec`` and ``p2ptrain lab codec``: how fast the exchange's encodings are, and what they cost."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli.progress import working
from p2ptrain.errors import UsageError

_JSON_HELP = "Print one JSON object instead of a table."


def codec_speed(
    numel: Annotated[int, typer.Option(min=1, help="Elements that are encoded at once; one part has 262144.")] = 262144,
    repeats: Annotated[int, typer.Option("-n", min=1, help="Measured repeats.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """Time the encodings of pseudo-gradients and updates: GB of float32 per second of one core.

    Example: p2ptrain bench codec
    """
    from p2ptrain.wire.benchmark_codec import codec_speeds

    with working("timing"):
        rows = codec_speeds(numel=numel, repeats=repeats)
    if as_json:
        typer.echo(json.dumps({"numel": numel, "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return
    typer.echo(f"{'':9}{'bits':>7}{'error':>9}{'encode GB/s':>13}{'lowest':>8}{'decode GB/s':>13}{'lowest':>8}")
    for row in rows:
        typer.echo(
            f"{row.codec:9}{row.bits:>7.3f}{row.relative_error:>9.4f}{row.encode_gb_s:>13.2f}"
            f"{row.encode_gb_s_min:>8.2f}{row.decode_gb_s:>13.2f}{row.decode_gb_s_min:>8.2f}"
        )


def codec_quality(
    run: Annotated[Path | None, typer.Option(help="Manifest with model, text and outer step, instead of tiny.")] = None,
    peers: Annotated[int, typer.Option(min=1, help="Virtual peers.")] = 4,
    slices: Annotated[int, typer.Option(min=1, help="Slices, dealt to the peers in turn.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each run.")] = 24,
    seeds: Annotated[str, typer.Option(help="Each seed to train with, separated by commas.")] = "0",
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """Train the same swarm with every encoding, in one process, and compare the validation losses.

    Example: p2ptrain lab codec --peers 4 --slices 2 --seeds 0,1,2
    """
    from p2ptrain.config.load import load_run, parse_run
    from p2ptrain.config.presets import preset_text
    from p2ptrain.config.schema import RunConfig

    base: RunConfig = load_run(run) if run else parse_run(preset_text("tiny"), "tiny")
    if slices > peers:
        raise UsageError(f"--slices {slices} with --peers {peers}: some slices would have no owner; take more peers")
    if not all(seed.isdigit() for seed in seeds.split(",")):
        raise UsageError(f"--seeds {seeds} is not a list of numbers; write for example 0,1,2")
    base = dataclasses.replace(base, rounds=rounds, slicing=dataclasses.replace(base.slicing, slices=slices))

    import torch

    from p2ptrain.data.corpus import load_corpus
    from p2ptrain.node.lab_codec import compare_codecs

    torch.set_num_threads(1)
    with working("training"):
        rows = compare_codecs(
            base,
            load_corpus(base, base=run.parent if run else Path()),
            peers=peers,
            seeds=[int(seed) for seed in seeds.split(",")],
            report=lambda codec, seed, loss: typer.echo(f"{codec} seed {seed}: {loss:.4f} nats", err=True),
        )
    if as_json:
        listed = [dataclasses.asdict(row) | {"mean_percent": row.mean_percent} for row in rows]
        typer.echo(json.dumps({"peers": peers, "slices": slices, "rounds": rounds, "rows": listed}, indent=2))
        return
    typer.echo(f"{'':9}{'bits':>7}{'mean loss':>11}{'vs float32':>12}  each seed")
    for row in rows:
        each = ", ".join(f"{percent:+.2f} %" for percent in row.vs_float32_percent)
        mean_nats = statistics.fmean(row.losses_nats)
        typer.echo(f"{row.codec:9}{row.bits:>7.3f}{mean_nats:>11.4f}{row.mean_percent:>+11.2f} %  {each}")
