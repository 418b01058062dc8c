"""``p2ptrain lab soak``: a swarm of real processes, and everything that happens to volunteers, from a seed."""

import json
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli.chaos_command import empty_folder
from p2ptrain.cli.progress import working


def soak(
    minutes: Annotated[float, typer.Option(min=1.0, help="How long, once all peers average.")] = 20.0,
    peers: Annotated[int, typer.Option(min=3, help="Peers at any time.")] = 8,
    seed: Annotated[int | None, typer.Option(help="What happens when and to whom  [default: drawn]")] = None,
    preset: Annotated[str, typer.Option(help="Model and deadlines: nano or tiny.")] = "nano",
    target_loss: Annotated[
        float | None, typer.Option(help="Validation loss to get below  [default: nine tenths of the first]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for all files  [default: one that is removed]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Join, kill, freeze and cut off peers of a real swarm at random, and see that it heals.

    Ends with status 0 if every slice has an owner, no two owners disagree, the loss is below its target, and memory
    and open files of the peer that lived throughout are flat.

    Example: p2ptrain lab soak --seed 1 --minutes 3 --json
    """
    from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
    from p2ptrain.node.demo_swarm import DemoSwarm
    from p2ptrain.node.soak import Soak

    seed = random.randrange(10**6) if seed is None else seed  # noqa: S311 - not a secret
    with ExitStack() as at_end:
        if out is None:
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="p2ptrain-soak-")))
        else:
            folder = empty_folder(out)
        manifest = folder / "run.toml"
        # More rounds than any soak sees: a swarm that is done proves nothing.
        write_manifest(preset, manifest, ManifestChanges(seed=1, rounds=100_000))
        swarm = DemoSwarm(folder=folder, manifest=manifest)
        at_end.callback(swarm.end)
        say = (lambda _: None) if as_json else typer.echo
        with working("soak, seconds") as tell:
            report = Soak(seed=seed, peers=peers, seconds=60 * minutes, swarm=swarm, say=say, report=tell).run()
    typer.echo(json.dumps(report.to_json(), indent=None if as_json else 2))
    problems = report.problems(0.9 * report.val_loss_first if target_loss is None else target_loss)
    for problem in problems:
        typer.echo(f"NOT AS PROMISED: {problem}", err=True)
    raise typer.Exit(1 if problems else 0)
