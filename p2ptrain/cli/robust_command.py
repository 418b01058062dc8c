"""``p2ptrain lab robust``: what liars do to the loss, by way of averaging."""

import json
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli.progress import working
from p2ptrain.errors import UsageError


def robust(
    run: Annotated[Path | None, typer.Option(help="Manifest with model, text and outer step, instead of tiny.")] = None,
    peers: Annotated[int, typer.Option(min=3, help="Virtual peers.")] = 8,
    liars: Annotated[int, typer.Option(min=0, help="How many of them send lies.")] = 2,
    slices: Annotated[int, typer.Option(min=1, help="Slices, dealt to the peers in turn.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each training.")] = 12,
    seeds: Annotated[str, typer.Option(help="Each seed to train with, separated by commas.")] = "0",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Train a swarm with liars among the owners, under each rule of averaging.

    Example: p2ptrain lab robust --peers 8 --liars 2 --seeds 0,1,2
    """
    from dataclasses import replace

    from p2ptrain.config.load import load_run, parse_run
    from p2ptrain.config.presets import preset_text
    from p2ptrain.data.corpus import load_corpus
    from p2ptrain.node.lab_robust import robust_rows

    if liars * 2 >= peers:
        raise UsageError(f"--liars {liars} of --peers {peers}: a majority of liars is the truth; choose fewer")
    if not all(seed.isdigit() for seed in seeds.split(",")):
        raise UsageError(f"--seeds {seeds} is not a list of numbers; write for example 0,1,2")
    base = load_run(run) if run else parse_run(preset_text("tiny"), "tiny")
    base = replace(base, slicing=replace(base.slicing, slices=slices))
    corpus = load_corpus(base, run.absolute().parent if run else Path.cwd())
    rows = []
    with working("training"):
        for seed in map(int, seeds.split(",")):
            for row in robust_rows(base, corpus, peers=peers, liars=liars, rounds=rounds, seed=seed):
                rows.append(row)
                if not as_json:
                    loss = "diverged" if row.val_loss is None else f"{row.val_loss:.4f} nats"
                    change = "" if row.vs_honest_percent is None else f"{row.vs_honest_percent:+8.2f} %"
                    typer.echo(
                        f"seed {seed}  {row.averaging:8} {row.attack:17} {loss:>12} {change:>11} {row.seconds:6.1f} s"
                    )
    if as_json:
        typer.echo(json.dumps({"rows": [row.to_json() for row in rows]}, indent=2))
