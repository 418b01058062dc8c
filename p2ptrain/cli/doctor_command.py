"""``p2ptrain doctor``: what of this machine and its network works, and what to do about the rest."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.config.schema import RunConfig
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
        list[str] | None, typer.Option("--bootstrap", help="Address of a bootstrap node or any peer; for the network.")
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
    from p2ptrain.cli.processes import quiet_imports

    config, run_id, bootstraps = _run_of(home, run, bootstrap or [])
    with quiet_imports():
        from p2ptrain.node.doctor import has_failed

        findings = _machine(home, config, device)
        findings = _with_network(findings, home, config, run_id, bootstraps)
    if as_json:
        typer.echo(json.dumps({"findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            _print(finding)
    if has_failed(findings):
        raise typer.Exit(1)


def examine_at_start(home: Path, config: "RunConfig", device: str) -> None:
    """Say what is wrong with this machine before a peer starts on it; healthy machines are passed over in silence.

    Raises:
        UsageError: the device computes wrongly, so that its work would harm the others'.
    """
    from p2ptrain.node.doctor import STEP
    from p2ptrain.node.doctor_probes import short_examination

    for finding in short_examination(home, config, device):
        if finding.check == STEP and finding.verdict == "fail":
            raise UsageError(f"{finding.evidence}; {finding.remedy}")
        if finding.verdict in ("warn", "fail"):
            _print(finding)


def _run_of(
    home: Path | None, run: str, bootstrap: list[str]
) -> "tuple[RunConfig | None, RunId | None, tuple[str, ...]]":
    """The run to check for, if one is given or the home is bound to one, and whom to ask."""
    from p2ptrain.cli.processes import quiet_imports
    from p2ptrain.cli.run_source import read_run
    from p2ptrain.config.load import parse_run, run_id

    bound = home / "manifest.toml" if home is not None else None
    if not run and bound is not None and bound.is_file():
        run = str(bound)
    if not run:
        return None, None, tuple(bootstrap)
    with quiet_imports():
        source = read_run(run)
    config = parse_run(source.text, source=source.name)
    return config, run_id(config), tuple(dict.fromkeys([*source.bootstraps, *bootstrap]))


def _machine(home: Path | None, config: "RunConfig | None", device: str) -> "list[Finding]":
    from p2ptrain import clock
    from p2ptrain.node import doctor, doctor_probes

    findings = [
        doctor.judge_clock_is_set(clock.wall_s()),
        doctor.judge_versions(doctor_probes.installed_versions(), doctor_probes.version_conflicts(), {}),
        doctor.judge_disk(doctor_probes.measure_disk(home or Path.cwd(), config, writes=True)),
        doctor.judge_step(doctor_probes.measure_step(device), doctor_probes.KNOWN_LOSSES),
    ]
    if config is None:
        findings.append(doctor.not_measured("memory", "no run is given; add --run FILE"))
    else:
        findings.append(doctor.judge_memory(doctor_probes.measure_memory(config, device)))
    if home is None:
        findings.append(doctor.not_measured("identity", "no peer is given; add --home DIR"))
    else:
        findings.append(doctor.judge_identity(doctor_probes.measure_identity(home)))
    return findings


def _with_network(
    findings: "list[Finding]",
    home: Path | None,
    config: "RunConfig | None",
    run_id: "RunId | None",
    bootstraps: tuple[str, ...],
) -> "list[Finding]":
    from p2ptrain.cli.processes import run_loop
    from p2ptrain.config.schema import NetworkConfig
    from p2ptrain.node import doctor, doctor_probes

    if not bootstraps:
        reason = "no bootstrap is given; add --bootstrap ADDRESS"
        return [*findings, *(doctor.not_measured(check, reason) for check in ("directory", "reach", "link"))]
    from p2ptrain.node.doctor_network import examine_network
    from p2ptrain.wire.libp2p import check_addresses

    check_addresses(bootstraps)
    identity = doctor_probes.measure_identity(home) if home is not None else None
    facts = run_loop(
        examine_network(
            NetworkConfig(bootstraps=bootstraps),
            config,
            run_id,
            identity.peer if identity is not None else None,
            is_running=identity is not None and identity.holder is not None,
        )
    )
    better = {
        "versions": doctor.judge_versions(
            doctor_probes.installed_versions(), doctor_probes.version_conflicts(), facts.versions
        )
    }
    if facts.offsets and config is not None:
        better["clock"] = doctor.judge_clock(facts.offsets, config.exchange.lease_s)
    if identity is not None:
        asked = replace(identity, answers_elsewhere=facts.is_own_id_answering)
        better["identity"] = doctor.judge_identity(asked)
    directory = (
        doctor.judge_directory(facts.directory)
        if facts.directory is not None
        else doctor.not_measured("directory", "no bootstrap could be reached")
    )
    return [
        *(better.get(finding.check, finding) for finding in findings),
        doctor.judge_names(facts.names),
        doctor.judge_bootstraps(facts.dialled),
        directory,
        doctor.judge_reach(facts.addresses, None, 0),
        doctor.judge_link(facts.link),
    ]


def _print(finding: "Finding") -> None:
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    marks = _MARKS if is_unicode else _ASCII_MARKS
    mark = typer.style(f"{marks[finding.verdict]:<2}", fg=_COLOURS[finding.verdict], bold=True)
    verdict = "" if finding.verdict == "ok" else f"{finding.verdict}: "
    typer.echo(f"{mark} {finding.check:<14} {verdict}{finding.evidence}")
    if finding.remedy:
        typer.echo(f"   {'':<14} {finding.remedy}")
