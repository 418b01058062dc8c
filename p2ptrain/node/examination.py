"""A whole examination: every probe with its judge, for ``p2ptrain doctor`` and for a peer that is asked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2ptrain import clock
from p2ptrain.config.schema import NetworkConfig, RunConfig
from p2ptrain.control.doctor_process import doctor_command, findings_of
from p2ptrain.ids import RunId
from p2ptrain.node import doctor, doctor_probes
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.node.doctor import Finding
from p2ptrain.node.doctor_network import NetworkFacts, examine_network
from p2ptrain.node.doctor_reach import examine_relay, examine_router

_OF_THE_NETWORK = ("names", "bootstraps", "directory", "reach", "link", "router", "relay")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What is examined; what is not known cannot be."""

    home: Path | None
    run: RunConfig | None
    run_id: RunId | None
    bootstraps: tuple[str, ...]
    device: str


async def examine_apart(home: Path, bootstraps: Sequence[str], device: str) -> list[Finding]:
    """What ``p2ptrain doctor`` finds, in a process of its own.

    For a peer that trains: to count a step's memory torch hooks into every module of its process, and a training thread
    that meets such a hook ends.

    Args:
        home: of the peer, bound to its run.
        bootstraps: at least one, or the other process would ask this one.
        device: what trains.

    Raises:
        ControlError: the other process found nothing.
    """
    assert bootstraps
    named = [part for address in bootstraps for part in ("--bootstrap", address)]
    command = doctor_command(home, "--device", device, *named)
    return [Finding.from_json(one) for one in await findings_of([*die_with_parent_prefix(), *command])]


async def examine(patient: Patient) -> list[Finding]:
    """Everything: some seconds of computing in another thread, and some ten seconds of asking around."""
    findings = await asyncio.to_thread(examine_machine, patient)
    if not patient.bootstraps:
        reason = "no bootstrap is given; add --bootstrap ADDRESS"
        return [*findings, *(doctor.not_measured(check, reason) for check in _OF_THE_NETWORK)]
    identity = doctor_probes.measure_identity(patient.home) if patient.home is not None else None
    # In a thread: the peer that answers may be in this very event loop.
    peers_port = await asyncio.to_thread(doctor_probes.listening_port, patient.home) if patient.home else None
    facts = await examine_network(
        NetworkConfig(bootstraps=patient.bootstraps),
        patient.run,
        patient.run_id,
        identity.peer if identity is not None else None,
        is_running=identity is not None and identity.holder is not None,
        peers_port=peers_port,
    )
    ways_in = await asyncio.gather(examine_router(patient.bootstraps), examine_relay(patient.bootstraps))
    return [*_with_network(findings, patient, facts), *ways_in]


def examine_machine(patient: Patient) -> list[Finding]:
    """What needs no network."""
    where = patient.home or Path.cwd()
    findings = [
        doctor.judge_clock_is_set(clock.wall_s()),
        doctor.judge_versions(doctor_probes.installed_versions(), doctor_probes.version_conflicts(), {}),
        doctor.judge_disk(doctor_probes.measure_disk(where, patient.run, writes=True)),
        doctor.judge_step(doctor_probes.measure_step(patient.device), doctor_probes.KNOWN_LOSSES),
    ]
    if patient.run is None:
        findings.append(doctor.not_measured("memory", "no run is given; add --run FILE"))
    else:
        findings.append(doctor.judge_memory(doctor_probes.measure_memory(patient.run, patient.device)))
    if patient.home is None:
        findings.append(doctor.not_measured("identity", "no peer is given; add --home DIR"))
    else:
        findings.append(doctor.judge_identity(doctor_probes.measure_identity(patient.home)))
    return findings


def _with_network(findings: list[Finding], patient: Patient, facts: NetworkFacts) -> list[Finding]:
    """The findings, some of them sharper for what others answered, and those about the network."""
    versions, conflicts = doctor_probes.installed_versions(), doctor_probes.version_conflicts()
    sharper = {"versions": doctor.judge_versions(versions, conflicts, facts.versions)}
    if facts.offsets and patient.run is not None:
        sharper["clock"] = doctor.judge_clock(facts.offsets, patient.run.exchange.lease_s)
    if patient.home is not None:
        identity = doctor_probes.measure_identity(patient.home)
        asked = replace(identity, answers_elsewhere=facts.is_own_id_answering)
        sharper["identity"] = doctor.judge_identity(asked)
    directory = (
        doctor.judge_directory(facts.directory)
        if facts.directory is not None
        else doctor.not_measured("directory", "no bootstrap could be reached")
    )
    return [
        *(sharper.get(finding.check, finding) for finding in findings),
        doctor.judge_names(facts.names),
        doctor.judge_bootstraps(facts.dialled),
        directory,
        doctor.judge_reach(facts.reach),
        doctor.judge_link(facts.link),
    ]
