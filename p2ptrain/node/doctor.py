"""The doctor's judgement: from what was measured to a verdict, its evidence and a remedy. Pure.

Each check is a judge here and a thin probe in ``doctor_probes`` (this machine) or ``doctor_network`` (the swarm), which
measures and decides nothing. What could not be measured is said so; it is never taken for good.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from p2ptrain.ids import PeerId, short
from p2ptrain.wire.reach import Sighting

STEP = "training step"
"""Name of the check whose failure keeps a peer from starting."""

Verdict = Literal["ok", "warn", "fail", "not measured"]

_CLOCK_WARN_S = 2.0
"""Far above what NTP leaves (milliseconds) and below what a claim's lease forgives."""
_DISK_SLOW_MBPS = 10.0
"""Megabytes a second; below it a checkpoint of a gigabyte takes minutes, and rounds wait for votes on disk."""
_LINK_SLOW_MBPS = 1.0
_STEP_TOLERANCE = 2e-3
"""Relative. float32 differs by 1e-6 between processors and by up to 1e-3 with a GPU's TF32; a broken one is far off."""
_OLDEST_CLOCK_S = 1_780_000_000.0
"""June 2026, before this program was written: a clock that says less has never been set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Verdict
    evidence: str
    """What was measured, with figures."""
    remedy: str = ""
    """What to do; empty when there is nothing to do."""

    def to_json(self) -> dict[str, str | None]:
        """For programs."""
        return {
            "check": self.check,
            "verdict": self.verdict,
            "evidence": self.evidence,
            "remedy": self.remedy or None,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Finding":
        """What ``to_json`` gave."""
        return cls(check=body["check"], verdict=body["verdict"], evidence=body["evidence"], remedy=body["remedy"] or "")


def has_failed(findings: Iterable[Finding]) -> bool:
    """Whether something must be repaired before the peer can work."""
    return any(finding.verdict == "fail" for finding in findings)


def not_measured(check: str, reason: str) -> Finding:
    """A check that could not be made."""
    return Finding(check=check, verdict="not measured", evidence=reason)


# This machine.


def judge_clock_is_set(now_s: float) -> Finding:
    """Whether the clock can be right at all, without asking anybody; ``now_s`` is wall time."""
    if now_s < _OLDEST_CLOCK_S:
        return Finding(
            check="clock",
            verdict="fail",
            evidence="this machine's clock is years behind: it was never set",
            remedy="turn on time synchronisation, for example: timedatectl set-ntp true",
        )
    return Finding(check="clock", verdict="ok", evidence="set; how exact it is only peers can tell")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskFacts:
    """The disk under a peer's home."""

    free_bytes: int
    needed_bytes: int | None
    """For checkpoints, old and new; None when the run is not known."""
    write_mbps: float | None
    """Megabytes a second, with the disk's own confirmation; None: not tried."""
    error: str = ""
    """Why nothing could be written."""


def judge_disk(facts: DiskFacts) -> Finding:
    """Room for the checkpoints, and speed."""
    if facts.error:
        return Finding(
            check="disk",
            verdict="fail",
            evidence=facts.error,
            remedy="choose a --home that this user may write to, on a disk with room",
        )
    evidence = f"{_bytes(facts.free_bytes)} free"
    if facts.needed_bytes is not None:
        evidence += f", {_bytes(facts.needed_bytes)} needed for checkpoints"
    if facts.write_mbps is not None:
        evidence += f", writes {facts.write_mbps:.0f} MB/s"
    needed = facts.needed_bytes if facts.needed_bytes is not None else 100_000_000
    if facts.free_bytes < needed:
        return Finding(check="disk", verdict="fail", evidence=evidence, remedy="free some space, or move the --home")
    if facts.free_bytes < 2 * needed:
        return Finding(
            check="disk", verdict="warn", evidence=evidence, remedy="it is getting tight: free some space before long"
        )
    if facts.write_mbps is not None and facts.write_mbps < _DISK_SLOW_MBPS:
        return Finding(
            check="disk",
            verdict="warn",
            evidence=evidence,
            remedy="votes are written before they are sent, so a slow disk slows rounds: use a local one",
        )
    return Finding(check="disk", verdict="ok", evidence=evidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """The tiny training step."""

    device: str
    losses: Sequence[float]
    """Before each of its steps."""
    seconds: float
    error: str = ""
    """What the device answered instead."""


def judge_step(facts: StepFacts, known_losses: Sequence[float]) -> Finding:
    """Whether the device computes what a sound one does."""
    if facts.error:
        return Finding(
            check=STEP,
            verdict="fail",
            evidence=f"{facts.device}: {facts.error}",
            remedy=f"reinstall the driver and torch for {facts.device}, or train on the CPU",
        )
    worst = max(
        (abs(found - known) / known if found == found else float("inf"))
        for found, known in zip(facts.losses, known_losses, strict=True)
    )
    evidence = (
        f"{facts.device}: loss {facts.losses[0]:.4f} to {facts.losses[-1]:.4f} in {facts.seconds:.1f} s,"
        f" {worst:.1e} from the known result"
    )
    if worst > _STEP_TOLERANCE:
        return Finding(
            check=STEP,
            verdict="fail",
            evidence=evidence,
            remedy=f"{facts.device} computes wrongly: undo overclocking, update its driver, test its memory; until"
            " then train on the CPU, since wrong work is worse than none",
        )
    return Finding(check=STEP, verdict="ok", evidence=evidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryFacts:
    """Whether the run fits the device."""

    device: str
    free_bytes: int
    needed_bytes: int | None
    """For the least that this peer would train: one slice; None when nothing fits."""
    reason: str
    """What fits, or what the least would need, in words."""


def judge_memory(facts: MemoryFacts) -> Finding:
    """Whether the model fits."""
    evidence = f"{facts.device} has {facts.free_bytes / (1 << 30):.1f} GiB for training: {facts.reason}"
    if facts.needed_bytes is None or facts.needed_bytes > facts.free_bytes:
        return Finding(
            check="memory",
            verdict="fail",
            evidence=evidence,
            remedy="close what else uses the memory, or choose a run with a smaller model or more slices",
        )
    return Finding(check="memory", verdict="ok", evidence=evidence)


def judge_versions(installed: Mapping[str, str], conflicts: Sequence[str], others: Mapping[PeerId, str]) -> Finding:
    """Whether the packages fit each other, and whether the swarm runs what we run.

    Args:
        installed: package -> version, ours first.
        conflicts: what is missing or out of its range, each as a sentence.
        others: p2ptrain's version at each peer that answered.
    """
    ours = next(iter(installed.values()), "")
    evidence = ", ".join(f"{package} {version}" for package, version in installed.items())
    if conflicts:
        return Finding(
            check="versions",
            verdict="fail",
            evidence="; ".join(conflicts),
            remedy="install what was tested together: pip install --constraint constraints.txt --editable .",
        )
    different = sorted({version for version in others.values() if version != ours})
    if different:
        return Finding(
            check="versions",
            verdict="warn",
            evidence=f"p2ptrain {ours} here, {', '.join(different)} elsewhere in the swarm",
            remedy="update the older one; until then peers tolerate each other as far as the protocol allows",
        )
    if others:
        evidence += f"; {_count(len(others), 'other peer')} the same"
    return Finding(check="versions", verdict="ok", evidence=evidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityFacts:
    """Who else uses this peer's key."""

    peer: PeerId | None
    """Its id; None when the home has no key yet."""
    holder: int | None
    """Process that has the home in use."""
    answers_elsewhere: bool | None
    """Somebody in the swarm answers under the same id though no process here does; None: not asked."""
    error: str = ""
    """Why the key cannot be used."""
    has_twin: bool = False
    """The process here has seen another one with its key, a moment ago."""


def judge_identity(facts: IdentityFacts) -> Finding:
    """Whether nobody else runs under the same key."""
    if facts.error:
        return Finding(check="identity", verdict="fail", evidence=facts.error, remedy="restore the key from a copy")
    if facts.peer is None:
        return Finding(check="identity", verdict="ok", evidence="no key yet; the first start makes one")
    name = f"peer {short(facts.peer)}"
    if facts.answers_elsewhere:
        return Finding(
            check="identity",
            verdict="fail",
            evidence=f"{name} answers in the swarm, and no process on this machine is it",
            remedy="the same identity.key runs elsewhere: stop that one, or begin here with a new --home",
        )
    if facts.holder is not None and facts.has_twin:
        return Finding(
            check="identity",
            verdict="fail",
            evidence=f"{name} is running here, process {facts.holder}, and elsewhere, too",
            remedy="stop one of the two, and give it an identity of its own: another --home, without identity.key",
        )
    if facts.holder is not None:
        return Finding(check="identity", verdict="ok", evidence=f"{name} is running here, process {facts.holder}")
    known = "nobody in the swarm uses it" if facts.answers_elsewhere is False else "not running"
    return Finding(check="identity", verdict="ok", evidence=f"{name}; {known}")


# The network.


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockOffset:
    """One peer's clock against ours."""

    peer: PeerId
    ahead_s: float
    """How far theirs is ahead of ours, in the middle of the call."""
    uncertainty_s: float
    """Half of the call's duration."""


def judge_clock(offsets: Sequence[ClockOffset], lease_s: float) -> Finding:
    """Whether our clock agrees with the others': claims expire by it.

    Args:
        offsets: of the peers that answered.
        lease_s: how long a claim of the run lasts.
    """
    if not offsets:
        return not_measured("clock", "no peer answered that tells its time")
    middle = median(offset.ahead_s for offset in offsets)
    doubt = min(offset.uncertainty_s for offset in offsets)
    side = "behind" if middle > 0 else "ahead of"
    evidence = f"{abs(middle):.2f} s {side} the median of {_count(len(offsets), 'peer')}, to {doubt:.2f} s"
    excess = abs(middle) - doubt
    if excess < _CLOCK_WARN_S:
        return Finding(check="clock", verdict="ok", evidence=evidence)
    remedy = "turn on time synchronisation, for example: timedatectl set-ntp true"
    # Claims are renewed after a third of their life, so a clock wrong by more makes them look expired.
    wrong: Verdict = "fail" if excess > lease_s / 3 else "warn"
    return Finding(check="clock", verdict=wrong, evidence=evidence, remedy=remedy)


def judge_names(resolved: Mapping[str, Sequence[str] | str]) -> Finding:
    """Whether the bootstraps' names lead somewhere.

    Args:
        resolved: host name -> its addresses, or what went wrong.
    """
    if not resolved:
        return not_measured("names", "no bootstrap is given by name")
    wrong = [f"{host}: {answer}" for host, answer in resolved.items() if isinstance(answer, str) or not answer]
    if wrong:
        return Finding(
            check="names",
            verdict="fail" if len(wrong) == len(resolved) else "warn",
            evidence="; ".join(wrong),
            remedy="check the spelling of --bootstrap and this machine's name server",
        )
    return Finding(check="names", verdict="ok", evidence=", ".join(resolved))


@dataclass(frozen=True, kw_only=True, slots=True)
class DialledBootstrap:
    """Whether a bootstrap's port takes a connection."""

    address: str
    """Host and port."""
    seconds: float | None
    """None: it did not."""
    error: str = ""


def judge_bootstraps(dialled: Sequence[DialledBootstrap]) -> Finding:
    """Whether a peer could begin."""
    if not dialled:
        return not_measured("bootstraps", "none is given; add --bootstrap ADDRESS")
    reached = [one for one in dialled if one.seconds is not None]
    wrong = "; ".join(f"{one.address}: {one.error}" for one in dialled if one.seconds is None)
    if not reached:
        return Finding(
            check="bootstraps",
            verdict="fail",
            evidence=wrong,
            remedy="check the address, this machine's internet connection, and that its firewall lets TCP out",
        )
    fastest = min(one.seconds for one in reached if one.seconds is not None)
    evidence = f"{len(reached)} of {len(dialled)} take connections, the nearest in {1000 * fastest:.0f} ms"
    if wrong:
        return Finding(
            check="bootstraps",
            verdict="warn",
            evidence=f"{evidence}; {wrong}",
            remedy="one is enough to begin; tell whoever runs the other",
        )
    if len(dialled) == 1:
        evidence += "; a second one would be safer"
    return Finding(check="bootstraps", verdict="ok", evidence=evidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachFacts:
    """What others saw of the port at which the peer listens, or of one opened to ask, when none runs here."""

    port: int
    is_peers: bool
    """The running peer's own."""
    sightings: Sequence[Sighting]
    """Of the bootstraps that were asked to call back and answered."""


def judge_reach(facts: ReachFacts | None) -> Finding:
    """Whether others can call this peer; None: no node could be started."""
    if facts is None:
        return not_measured("reach", "no node was started, so nobody could be asked")
    whose = "the running peer's" if facts.is_peers else "a newly opened"
    if not facts.sightings:
        return not_measured("reach", f"no bootstrap could be asked to call back {whose} port {facts.port}")
    seen = ", ".join(sorted({sighting.ip for sighting in facts.sightings}))
    reached = sum(sighting.could_dial for sighting in facts.sightings)
    asked = _count(len(facts.sightings), "bootstrap")
    evidence = f"{reached} of {asked} could call {whose} port {facts.port} at {seen}"
    if reached:
        return Finding(check="reach", verdict="ok", evidence=evidence)
    remedy = f"forward TCP {facts.port} on your router, or let it through this machine's firewall"
    if not facts.is_peers:
        remedy = "forward a TCP port on your router, and start the peer with it as --port"
    return Finding(
        check="reach",
        verdict="warn",
        evidence=evidence,
        remedy=f"{remedy}; training goes on meanwhile, by a relay if there is one",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectoryFacts:
    """A record put into the DHT by one node and looked for by another."""

    is_stored: bool
    is_found: bool
    seconds: float
    is_own_claim_seen: bool | None
    """Whether the running peer's claim is seen from outside; None when no peer is running, or it need not be listed."""
    error: str = ""


def judge_directory(facts: DirectoryFacts) -> Finding:
    """Whether others find what is stored here."""
    if facts.error:
        return Finding(
            check="directory",
            verdict="fail",
            evidence=facts.error,
            remedy="see what is said of bootstraps; the directory needs one that answers",
        )
    if facts.is_own_claim_seen is False:
        return Finding(
            check="directory",
            verdict="fail",
            evidence="the running peer's claim is not seen from outside",
            remedy="others train without it: restart the peer, and name further bootstraps",
        )
    if not facts.is_stored or not facts.is_found:
        what = "no node took a record" if not facts.is_stored else "a record was taken and is not found by others"
        return Finding(
            check="directory",
            verdict="fail",
            evidence=what,
            remedy="name another bootstrap: this one takes no part in the directory",
        )
    own = "; the running peer's claim is seen from outside" if facts.is_own_claim_seen else ""
    return Finding(
        check="directory", verdict="ok", evidence=f"stored and found by another node in {facts.seconds:.1f} s{own}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkFacts:
    """What the line carries; None is not measured. In Mbit/s."""

    down_mbps: float | None
    down_source: str = ""
    """What was transferred, and from whom."""
    up_mbps: float | None = None
    up_source: str = ""
    """Where the upload's figure is from."""
    reason: str = ""
    """Why there is no figure."""


def judge_link(facts: LinkFacts) -> Finding:
    """Whether the line is fast enough for rounds."""
    if facts.down_mbps is None and facts.up_mbps is None:
        return not_measured("link", facts.reason or "nobody had anything to transfer")
    down = (
        "down not measured" if facts.down_mbps is None else f"down {facts.down_mbps:.1f} Mbit/s ({facts.down_source})"
    )
    up = "up not measured" if facts.up_mbps is None else f"up {facts.up_mbps:.1f} Mbit/s ({facts.up_source})"
    slow = any(mbps is not None and mbps < _LINK_SLOW_MBPS for mbps in (facts.down_mbps, facts.up_mbps))
    return Finding(
        check="link",
        verdict="warn" if slow else "ok",
        evidence=f"{down}, {up}",
        remedy="rounds will wait for this line: use a cable instead of Wi-Fi, or stop other transfers" if slow else "",
    )


def _is_public(address: str) -> bool:
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return False
    try:
        return ipaddress.ip_address(parts[2]).is_global
    except ValueError:
        return False


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
