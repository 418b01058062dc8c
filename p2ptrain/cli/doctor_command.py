"""``p2ptrain doctor``: what of this machine and its network works, and what to do about the rest."""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.cli.progress import working
from p2ptrain.errors import NetworkSetupError, UsageError

if TYPE_CHECKING:
    from p2ptrain.config.schema import RunConfig
    from p2ptrain.events import MachineExamined
    from p2ptrain.ids import RunId
    from p2ptrain.node.doctor import Finding

_MARKS = {"ok": "✓", "warn": "!", "fail": "✗", "not measured": "–"}
_ASCII_MARKS = {"ok": "ok", "warn": "!", "fail": "!!", "not measured": "-"}
_COLOURS = {"ok": "cyan", "warn": "yellow", "fail": "yellow", "not measured": None}


def doctor(
    home: Annotated[
        Path | None,
        typer.Option(envvar="P2PTRAIN_HOME", help="A peer's folder; it may run meanwhile, or not exist yet."),
    ] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(
            "--bootstrap", help="Address of a bootstrap node or any peer  [default: those of the peer that runs]"
        ),
    ] = None,
    run: Annotated[
        str,
        typer.Option(
            metavar="FILE|ADDRESS|URL",
            envvar="P2PTRAIN_RUN",
            help="The run  [default: the one that --home is bound to]",
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="What would train: cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine and its network: each finding with its evidence, and a remedy where one is needed.

    Ends with status 1 if something must be repaired before a peer can work.

    Example: p2ptrain doctor --home peer-a --bootstrap /ip4/127.0.0.1/tcp/31337/p2p/12D3Koo...
    """
    from p2ptrain.cli.processes import quiet_imports, run_loop

    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", device) is None:
        raise UsageError(f"--device {device} is no device; choose cpu, cuda, cuda:1 and so on, or mps on an Apple GPU")
    config, run_id, bootstraps = _run_of(home, run, bootstrap or [])
    with quiet_imports():
        from p2ptrain.node.doctor import has_failed
        from p2ptrain.node.examination import Patient, examine
        from p2ptrain.wire.libp2p_start import check_addresses

    check_addresses(bootstraps)
    patient = Patient(home=home, run=config, run_id=run_id, bootstraps=bootstraps, device=device)
    with working("examining"), warnings.catch_warnings(action="ignore"):
        asked = _of_running_peer(home) if home is not None and not bootstraps else []
        findings = asked or run_loop(examine(patient))
    if as_json:
        typer.echo(json.dumps({"findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            _print(finding)
    if has_failed(findings):
        raise typer.Exit(1)


def _of_running_peer(home: Path) -> "list[Finding]":
    """What the peer that runs in ``home`` finds, since it knows its bootstraps; nothing when none does."""
    from typing import cast

    from p2ptrain.control.address import target_of_home
    from p2ptrain.control.client import ControlClient
    from p2ptrain.errors import ControlError
    from p2ptrain.node.doctor import Finding, Verdict

    try:
        with ControlClient(target_of_home(home)) as client:
            found = client.doctor(quick=False).findings
    except (UsageError, ControlError):
        return []
    return [
        Finding(check=one.check, verdict=cast("Verdict", one.verdict), evidence=one.evidence, remedy=one.remedy)
        for one in found
    ]


def examine_at_start(home: Path, config: "RunConfig", device: str) -> "list[MachineExamined]":
    """What is wrong with this machine, before a peer starts on it; healthy ones are passed over in silence.

    Raises:
        UsageError: the device computes wrongly, so that its work would harm the others'.
    """
    from p2ptrain.events import MachineExamined
    from p2ptrain.node.doctor import STEP
    from p2ptrain.node.doctor_probes import short_examination

    wrong = [one for one in short_examination(home, config, device) if one.verdict in ("warn", "fail")]
    for finding in wrong:
        if finding.check == STEP and finding.verdict == "fail":
            raise UsageError(f"{finding.evidence}; {finding.remedy}")
    return [
        MachineExamined(check=one.check, verdict=one.verdict, evidence=one.evidence, remedy=one.remedy) for one in wrong
    ]


def _run_of(
    home: Path | None, run: str, bootstrap: list[str]
) -> "tuple[RunConfig | None, RunId | None, tuple[str, ...]]":
    """The run to check for, if one is given or the home is bound to one, and whom to ask."""
    from p2ptrain.cli.processes import quiet_imports
    from p2ptrain.cli.run_source import read_run
    from p2ptrain.cli.ways_in import ways_in
    from p2ptrain.config.load import parse_run, run_id

    bound = home / "manifest.toml" if home is not None else None
    if not run and bound is not None and bound.is_file():
        run = str(bound)
    if not run:
        return None, None, tuple(bootstrap)
    with quiet_imports():
        source = read_run(run)
    config = parse_run(source.text, source=source.name)
    bootstraps: tuple[str, ...] = ()
    if bootstrap or source.bootstraps or source.listed:
        try:
            bootstraps = ways_in(source, bootstrap, home)
        except NetworkSetupError as error:  # what else is wrong is worth knowing all the same
            typer.echo(f"p2ptrain: {error}", err=True)
    return config, run_id(config), bootstraps


def _print(finding: "Finding") -> None:
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    marks = _MARKS if is_unicode else _ASCII_MARKS
    mark = typer.style(f"{marks[finding.verdict]:<2}", fg=_COLOURS[finding.verdict], bold=True)
    verdict = "" if finding.verdict == "ok" else f"{finding.verdict}: "
    typer.echo(f"{mark} {finding.check:<14} {verdict}{finding.evidence}")
    if finding.remedy:
        typer.echo(f"   {'':<14} {finding.remedy}")
