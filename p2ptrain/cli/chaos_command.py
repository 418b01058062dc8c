"""``p2ptrain lab chaos``: real peers on this machine, one of which is killed every few seconds and replaced."""

import json
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli.progress import working
from p2ptrain.errors import UsageError

_INNER_STEPS = 150
"""A round of the nano model then takes seconds, and eight peers share two cores without these deciding the result."""


def chaos(
    peers: Annotated[int, typer.Option(min=2, help="Peers that run at any time.")] = 8,
    kill_every: Annotated[float, typer.Option(min=1, help="Seconds from one kill to the next.")] = 15.0,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long peers are killed.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Chooses the victims.")] = 0,
    run: Annotated[Path | None, typer.Option(help="Manifest of the run; else the preset nano, H = 150.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for all files  [default: a temporary one]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Kill a peer every few seconds, replace it, and count which rounds commit all the same.

    Victims die by SIGKILL. A slice round counts as started once the first owner's cut-off has passed, whatever becomes
    of it; docs/results/chaos.md explains the counting.

    Example: p2ptrain lab chaos --peers 8 --kill-every 15 --minutes 5 --json
    """
    import tempfile

    from p2ptrain.config.load import load_run

    if run is not None:
        load_run(run)  # what is wrong with it is said before eight peers are started
    with tempfile.TemporaryDirectory(prefix="p2ptrain-chaos-") as temporary:
        folder = empty_folder(out) if out else Path(temporary)
        _run(folder, run, peers=peers, kill_every_s=kill_every, minutes=minutes, seed=seed, as_json=as_json)


def empty_folder(out: Path) -> Path:
    """The folder that ``--out`` names, made if it is missing.

    Raises:
        UsageError: it is something else, not empty, or cannot be made.
    """
    folder = out.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"--out {out} cannot be used: {error.strerror}; choose another folder") from error
    if not is_empty:
        raise UsageError(f"{folder} is not an empty folder; choose another --out, or remove it")
    return folder


def _run(
    folder: Path, run: Path | None, *, peers: int, kill_every_s: float, minutes: float, seed: int, as_json: bool
) -> None:
    from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
    from p2ptrain.node.chaos import Chaos, ChaosPlan
    from p2ptrain.node.demo_swarm import DemoSwarm

    manifest = run.absolute() if run else folder / "chaos.toml"
    if run is None:
        write_manifest("nano", manifest, ManifestChanges(seed=seed, inner_steps=_INNER_STEPS))
    swarm = DemoSwarm(folder=folder, manifest=manifest)
    plan = ChaosPlan(peers=peers, kill_every_s=kill_every_s, minutes=minutes, seed=seed)
    with working("chaos, seconds") as report_seconds:
        experiment = Chaos(plan=plan, swarm=swarm, say=lambda line: typer.echo(line, err=True), report=report_seconds)
        try:
            report = experiment.run()
        finally:
            swarm.end()
    if as_json:
        typer.echo(json.dumps(report.to_json()))
        return
    for name, value in report.to_json().items():
        typer.echo(f"{name:24}{value}")
    for reason, count in experiment.void_reasons.items():
        typer.echo(f"  void at {count} owners: {reason}")
