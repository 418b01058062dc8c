"""What happened, once, in one vocabulary: the source of logs, the journal, screens and tests.

An event is a frozen dataclass whose ``line()`` is its sentence for people. ``Record`` adds who, when and a sequence
number, and is one JSON object a line in the journal. ``EventBus`` hands each record to the sinks that a process has.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from p2ptrain import clock
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version, short

STATES = ("JOINING", "TRAINING", "AVERAGING", "WAITING", "PAUSED", "ISOLATED", "COMPLETE", "LEAVING")
"""What a peer can be doing; ISOLATED whatever else it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened in this process."""

    def line(self) -> str:
        """The event as one sentence for people."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerStarted(Event):
    """The peer listens and has joined the DHT."""

    peer: PeerId
    run: RunId
    addresses: list[str]

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"peer {short(self.peer)} of run {short(self.run)} listens on {', '.join(self.addresses)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineExamined(Event):
    """The short examination at the start found something that the volunteer should know."""

    check: str
    verdict: str
    """``warn`` or ``fail``."""
    evidence: str
    remedy: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"doctor: {self.check} {self.verdict}: {self.evidence}; {self.remedy}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineChosen(Event):
    """How this peer will compute its inner steps, decided before it joins."""

    engine: str
    """Device, precision, micro-batches and what is computed twice, in words."""
    slices_that_fit: int
    """Numbered slices that the memory would do for at once."""
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"trains in {self.engine}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLightened(Event):
    """Memory ran out in an inner step, which was done again in less and then succeeded."""

    engine: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"memory ran out; goes on with {self.engine}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlicesClaimed(Event):
    """This peer published its claim."""

    slices: list[SliceId]
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"claims slices {', '.join(self.slices)}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceGained(Event):
    """This peer holds a slice's state as an owner, taken on while it was running."""

    slice: SliceId
    version: Version
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"owns slice {self.slice} from v{self.version} on: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceGivenUp(Event):
    """This peer is no owner of a slice any more; others were ready before it let go."""

    slice: SliceId
    version: Version
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"gave slice {self.slice} up at v{self.version}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeAbandoned(Event):
    """A slice could not be taken on; everything is as before."""

    slice: SliceId
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"could not take slice {self.slice} on: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CoverageChanged(Event):
    """A slice lacks owners, or has enough again, by the claims that this peer sees."""

    slice: SliceId
    owners: int
    replicas: int
    """Wanted by the run."""
    is_covered: bool
    """Whether it has the quorum."""
    verdict: str

    def line(self) -> str:
        """The event as one sentence for people."""
        if self.verdict == "ok":
            return f"slice {self.slice} has {self.owners} owners again, enough"
        return f"slice {self.slice} is {self.verdict}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListingChanged(Event):
    """The directory lists this peer's claim from now on, or does not: more take part than it shows at a time."""

    is_listed: bool
    """From now on."""
    peers: int
    """That take part, estimated."""
    listed: int
    """That this peer sees."""

    def line(self) -> str:
        """The event as one sentence for people."""
        if self.is_listed:
            return f"listed in the directory again, with {self.listed} of some {self.peers} peers"
        return f"not listed for now, but {self.listed} others of some {self.peers} peers, by lot; training goes on"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateResumed(Event):
    """State came from this peer's own disk."""

    versions: dict[SliceId, Version]

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"resumed from disk: {_versions(self.versions)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateMissing(Event):
    """Others are ahead of a peer that joins: what it fetches before it takes part."""

    slices: dict[SliceId, Version]
    """And the versions that they are at."""
    size_bytes: int
    """Of all of it, by the shorter way: the missed rounds or the state itself."""

    def line(self) -> str:
        """The event as one sentence for people."""
        ahead = ", ".join(f"{slice_id} v{version}" for slice_id, version in self.slices.items())
        return f"{self.size_bytes / 1e6:.2f} MB to fetch: slices {ahead}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateFetched(Event):
    """A slice's state came from another peer and has the certified hash."""

    slice: SliceId
    version: Version
    part: str
    """``anchor`` for an owner's state, ``published`` for what non-owners compute with, ``replay`` for missed rounds."""
    size_bytes: int
    donor: PeerId
    seconds: float

    def line(self) -> str:
        """The event as one sentence for people."""
        return (
            f"fetched slice {self.slice} v{self.version} ({self.part}, {self.size_bytes / 1e6:.2f} MB)"
            f" from {short(self.donor)} in {self.seconds:.1f} s, hash verified"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceTakenOver(Event):
    """A slice had lost all its owners; this peer goes on from its published weights, with a fresh outer momentum."""

    slice: SliceId
    version: Version

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"takes over slice {self.slice} at v{self.version} from its published weights: no owner is left"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChanged(Event):
    """What the peer is doing, and why, in one sentence each time it changes."""

    state: str
    """One of ``STATES``."""
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"{self.state}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerStepDone(Event):
    """One inner step; emitted for each."""

    round: Version
    inner_step: int
    loss_nats: float
    tokens: int
    seconds: float

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"round {self.round} inner step {self.inner_step}: loss {self.loss_nats:.3f} nats"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFailed(Event):
    """An inner step gave NaN or infinity; this round's work is thrown away, and the next starts from the anchor."""

    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"training failed, nothing is contributed to this round: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeUsed(Event):
    """What the training thread did with its time from one cut-off to the next, and how late the event loop was."""

    round: Version
    training_s: float
    """In inner steps."""
    waiting_s: float
    """For slices that were being averaged."""
    other_s: float
    """Copying and merging slices, evaluating, everything else."""
    loop_lag_s: float
    """Longest that the event loop was late for a timer since the last report."""
    training_lag_s: float = 0.0
    """Longest that news, a new version of a slice for example, waited for the training thread's inner step to end."""

    @property
    def utilisation_percent(self) -> float:
        """Share of the time that went into inner steps."""
        whole_s = self.training_s + self.waiting_s + self.other_s
        return 100 * self.training_s / whole_s if whole_s > 0 else 0.0

    def line(self) -> str:
        """The event as one sentence for people."""
        return (
            f"round {self.round}: {self.utilisation_percent:.1f} % of the time in inner steps ({self.training_s:.1f} s;"
            f" waiting {self.waiting_s:.1f} s, other {self.other_s:.1f} s), event loop late by up to"
            f" {self.loop_lag_s:.2f} s, training by up to {self.training_lag_s:.2f} s"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressDropped(Event):
    """Inner steps are given up: they missed too many versions of the slice, or one that had no place for them."""

    slice: SliceId
    tokens: int
    version: Version
    """That the slice is at."""

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"slice {self.slice}: progress of {self.tokens} tokens is not in v{self.version}, and dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated(Event):
    """Validation loss of this peer's model once new slice versions are in, with what it has trained since then."""

    round: Version
    loss_nats: float

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"validation loss {self.loss_nats:.3f} nats/token after {self.round} rounds"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundStage(Event):
    """A round of one slice entered a stage."""

    slice: SliceId
    version: Version
    """The version that the round would commit."""
    attempt: int
    stage: str
    """One of gathering, reducing, proposing, voting."""
    detail: str
    deadline_s: float | None = None
    """How long this peer waits in the stage at most."""
    deadline_reason: str = ""
    """Why so long: what it has measured, or the manifest."""

    def line(self) -> str:
        """The event as one sentence for people."""
        at_most = f"; at most {self.deadline_s:.1f} s, {self.deadline_reason}" if self.deadline_s is not None else ""
        return f"slice {self.slice} v{self.version} {self.stage}: {self.detail}{at_most}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundCommitted(Event):
    """A majority of the owners signed the slice's new version, and this peer has it."""

    slice: SliceId
    version: Version
    epoch: int
    members: list[PeerId]
    """Who decided it: the epoch's members. On two sides of a cut there are two epochs of one number."""
    digest: Digest
    contributors: list[PeerId]
    owners: list[PeerId]
    """Owners of the next version."""
    tokens: int
    seconds: float
    """From the cut-off to the commit, as this peer saw it."""
    previous: str = ""
    """Hash of the value that this one follows; empty at version 1. On two branches it differs."""

    def line(self) -> str:
        """The event as one sentence for people."""
        return (
            f"slice {self.slice} v{self.version} committed in {self.seconds:.1f} s, digest {short(self.digest)},"
            f" from {', '.join(map(short, self.contributors))} ({self.tokens} tokens)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundVoid(Event):
    """A round changed nothing; the anchor stays and the local progress is kept for the next."""

    slice: SliceId
    version: Version
    attempt: int
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"slice {self.slice} v{self.version} void: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerLost(Event):
    """An owner is left out: its link broke, it stayed silent past a deadline, or its claim expired."""

    peer: PeerId
    slice: SliceId
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"lost {short(self.peer)} in slice {self.slice}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkEntrusted(Event):
    """The lot drew this peer for no group, and an owner averaged its contribution with its own."""

    slice: SliceId
    version: Version
    """That the round would commit."""
    delegate: PeerId
    """That owner."""
    tokens: int
    """Of this peer's contribution."""

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"{short(self.delegate)} brings our {self.tokens} tokens to slice {self.slice} v{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkBrought(Event):
    """This peer averaged its contribution with those of holders whom the lot left out."""

    slice: SliceId
    version: Version
    """That the round would commit."""
    constituents: list[PeerId]
    """Whose contributions are in ours."""
    tokens: int
    """Of all of them and our own."""
    waited_s: float
    """For them, after our own cut-off."""

    def line(self) -> str:
        """The event as one sentence for people."""
        names = ", ".join(map(short, self.constituents))
        return f"brings the work of {names} to slice {self.slice} v{self.version}, {self.tokens} tokens in all"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartLeftOut(Event):
    """A part that this peer reduces was averaged without one owner's contribution."""

    peer: PeerId
    slice: SliceId
    part: int
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"slice {self.slice} part {self.part} is averaged without {short(self.peer)}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchLost(Event):
    """This peer held a version that rivals decided otherwise, and follows their branch now."""

    slice: SliceId
    version: Version
    """Of ours."""
    followed: Version
    """Of theirs."""
    tokens: int
    """In ours since version 0."""
    followed_tokens: int

    def line(self) -> str:
        """The event as one sentence for people."""
        return (
            f"slice {self.slice}: gave up our v{self.version} ({self.tokens} tokens) for a rival v{self.followed}"
            f" ({self.followed_tokens} tokens) of a higher rank"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateApplied(Event):
    """A slice that this peer does not own moved forward by a verified update."""

    slice: SliceId
    version: Version
    holder: PeerId
    size_bytes: int

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"slice {self.slice} v{self.version} received from {short(self.holder)} ({self.size_bytes / 1e6:.2f} MB)"


@dataclass(frozen=True, kw_only=True, slots=True)
class CatchUpFailed(Event):
    """A newer version of a slice is certified, but nobody delivered its bytes; it will be tried again."""

    slice: SliceId
    version: Version
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"slice {self.slice} v{self.version} could not be fetched yet: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused(Event):
    """Something from another peer was refused."""

    peer: PeerId
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"refused {short(self.peer)}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic(Event):
    """Bytes of messages and blobs that this peer sent and received since it started, without libp2p's overhead."""

    sent_bytes: int
    received_bytes: int
    sending: str
    """What went to whom in the last second, for people; empty when nothing did."""

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"sent {self.sent_bytes / 1e6:.1f} MB, received {self.received_bytes / 1e6:.1f} MB"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved(Event):
    """The last committed state is on disk, in a checkpoint or as the rounds that lead to it from one."""

    versions: dict[SliceId, Version]

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"saved {_versions(self.versions)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitsChanged(Event):
    """The volunteer changed limits while the peer runs, or a change ran out."""

    limits: dict[str, str]
    """Key and new value, as TOML writes it."""
    problem: str = ""
    """What could not be done; empty when all is in force."""

    def line(self) -> str:
        """The event as one sentence for people."""
        changed = ", ".join(f"{key} = {value}" for key, value in self.limits.items())
        return f"limits: {'; '.join(filter(None, [changed, self.problem]))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlListening(Event):
    """The control interface listens."""

    addresses: list[str]

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"obeys commands at {', '.join(self.addresses)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsServed(Event):
    """Prometheus can read this peer's metrics."""

    url: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"metrics at {self.url}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressRestored(Event):
    """What training remembers beside the agreed state came back from this peer's own disk."""

    round: Version
    inner_step: int
    """The next one: those before it are not trained again."""
    has_moments: bool
    residuals: list[SliceId]
    """Slices whose rounded-away rest is added to the next contribution."""

    def line(self) -> str:
        """The event as one sentence for people."""
        moments = "AdamW's moments" if self.has_moments else "no moments"
        return f"goes on in round {self.round + 1} after inner step {self.inner_step}, with {moments}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskTrouble(Event):
    """The disk takes nothing; this peer trains on, but votes on nothing until it can save again."""

    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"NOT SAVING, training goes on without a vote: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPostponed(Event):
    """The disk has no room for a new checkpoint beside the old one; the rounds since are there, and lead as far."""

    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"no new checkpoint for now; the rounds since the last one are saved instead: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentsUnsaved(Event):
    """The disk has no room for what only this peer remembers; what is agreed on is saved all the same."""

    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"AdamW's moments are not saved, so a restart begins with older ones or none: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedUnsaved(Event):
    """A peer ends, and the disk does not take its last state."""

    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"NOT SAVED: what this peer has committed since its last save ends with it: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskRecovered(Event):
    """The disk takes files again."""

    seconds: float
    """Since the first write that failed."""

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"saving again, after {self.seconds:.0f} s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconnected(Event):
    """Others see this peer again."""

    seconds: float
    """For which it was isolated."""

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"others see this peer again, after {self.seconds:.0f} s"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachChanged(Event):
    """How this peer is connected with the others has changed, or was measured for the first time."""

    reach: str
    """``direct``, ``hole-punched`` or ``relayed``; ``isolated`` is a state."""
    nat: str
    """What the router in between does: ``none``, ``open``, ``cone``, ``symmetric`` or ``unknown``."""
    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"reach: {self.reach}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReducerLied(Event):
    """A member announced an average that its inputs do not give; two others computed another, each by itself."""

    peer: PeerId
    slice: SliceId
    part: int
    announced: Digest
    """SHA-256 of the encoded average that it named."""
    correct: Digest
    """Of the one that two others computed."""

    def line(self) -> str:
        """The event as one sentence for people."""
        return (
            f"{short(self.peer)} LIED about the average of part {self.part} of slice {self.slice}: it announced"
            f" {short(self.announced)}, and the inputs give {short(self.correct)}; it is cut off for a while"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinSeen(Event):
    """Another process runs with this peer's identity; told once a minute while it does."""

    peer: PeerId

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"TWO PROCESSES, ONE IDENTITY: {twin_sentence(self.peer)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestListHeard(Event):
    """The run's authority has published a newer guest list, and this peer keeps to it from now on."""

    serial: int
    """The list's number."""
    allowed: list[PeerId] = field(default_factory=list)
    """Whom it lets in by name."""
    banned: list[PeerId] = field(default_factory=list)
    """Whom it sends away, whether they are here or not."""

    def line(self) -> str:
        """The event as one sentence for people."""
        told = [
            f"{word} {', '.join(short(peer) for peer in peers)}"
            for word, peers in (("allows", self.allowed), ("bans", self.banned))
            if peers
        ]
        return f"guest list {self.serial} of the run's authority {' and '.join(told) or 'names nobody'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderHeard(Event):
    """The run's authority asks this peer to own certain slices, or no longer does."""

    slices: list[SliceId] = field(default_factory=list)
    """Empty: there is no order any more."""
    until_s: float = 0.0
    """Wall time."""
    refusal: str = ""
    """Why the peer does not follow, or not in everything; empty when it does."""

    def line(self) -> str:
        """The event as one sentence for people."""
        if not self.slices:
            return "the run's authority asks for no slices of this peer any more"
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.until_s))
        told = f"the run's authority asks this peer to own slices {', '.join(self.slices)} until {until}"
        return f"{told}; not followed: {self.refusal}" if self.refusal else told


@dataclass(frozen=True, kw_only=True, slots=True)
class Redialling(Event):
    """All connections were dropped, and everybody known is called anew: the machine moved, or slept."""

    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"calling everybody anew: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerStopped(Event):
    """The peer has withdrawn its claims and closed its connections."""

    reason: str

    def line(self) -> str:
        """The event as one sentence for people."""
        return f"stopped: {self.reason}"


def twin_sentence(peer: PeerId) -> str:
    """What is wrong when two processes run with one identity, and what to do."""
    return (
        f"another process runs as {short(peer)}, too; others reach the one or the other by chance. Stop one of them,"
        " and give it an identity of its own: start it with another --home, or without the copied identity.key"
    )


KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__subclasses__()}
_RESERVED = {"sequence", "time_s", "kind"}
"""What a record adds to its event; an event's own fields must not have these names."""
assert not any(_RESERVED & {f.name for f in fields(kind)} for kind in KINDS.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An event with its place in this process's history."""

    sequence: int
    time_s: float
    """Wall time."""
    event: Event

    def to_json(self) -> str:
        """The record as one line of the journal, without the newline."""
        body: dict[str, Any] = {"sequence": self.sequence, "time_s": self.time_s, "kind": type(self.event).__name__}
        return json.dumps(body | asdict(self.event), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Self | None:
        """The record in a journal line; None for a kind that this version does not know.

        Raises:
            ValueError: the line is not a record, for example because a crash cut it off.
        """
        body = json.loads(line)
        kind = KINDS.get(body["kind"])
        if kind is None:
            return None
        known = {f.name: body[f.name] for f in fields(kind) if f.name in body}
        try:
            return cls(sequence=body["sequence"], time_s=body["time_s"], event=kind(**known))
        except TypeError as error:
            raise ValueError(f"not a {body['kind']}: {error}") from error


@dataclass
class EventBus:
    """Numbers events and hands them to this process's sinks."""

    sinks: list[Callable[[Record], None]] = field(default_factory=list)
    last_sequence: int = 0
    """Number of the latest record; a peer that resumes goes on from its journal's."""

    def emit(self, event: Event) -> None:
        """Record ``event`` now, in every sink."""
        self.last_sequence += 1
        record = Record(sequence=self.last_sequence, time_s=clock.wall_s(), event=event)
        for sink in self.sinks:
            sink(record)


def _versions(versions: dict[SliceId, Version]) -> str:
    return ", ".join(f"slice {slice_id} v{version}" for slice_id, version in versions.items())
