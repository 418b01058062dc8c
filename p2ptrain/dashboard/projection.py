"""The swarm as its peers' journals tell it: a pure fold of events into one immutable view.

Screens draw the view, the demo decides by it, and replaying the same journals gives the same view.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from p2ptrain import events
from p2ptrain.events import Record
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version, short, slice_order

_KEPT_NOTES = 400
_KEPT_DIGESTS = 16
"""Versions of a slice whose digests are compared; owners are never further apart than the history that they serve."""
_SPEED_MEMORY = 0.8
"""Weight of the past in the speed shown; with a fifth for each new step, a slower machine shows in a second or two."""
_QUIET_STATES = frozenset({"JOINING", "TRAINING", "AVERAGING"})
"""The peers' table shows them, and they come every round or beside events that say more."""

_SAID_BY_SEVERAL = (events.PeerLost, events.CatchUpFailed, events.CoverageChanged)
"""Each peer notices for itself; one line is enough for all within the last ``_RECENT_NOTES``."""
_RECENT_NOTES = 30
_UNTRAINED = Version(0)

NoteKind = Literal["plain", "routine", "good", "trouble"]
"""``routine`` is what every round brings; screens show the others longer."""
Fate = Literal["alive", "stopped", "killed", "died", "asleep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageView:
    """Where a peer is in a slice's round; an empty stage means between rounds."""

    version: Version
    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerView:
    """One peer, by its own account. None is what it has not said yet."""

    name: str
    peer: PeerId | None = None
    fate: Fate = "alive"
    state: str = "STARTING"
    reason: str = ""
    slices: tuple[SliceId, ...] = ()
    """What it claims, in the order of ``slice_order``."""
    round: Version | None = None
    inner_step: int | None = None
    train_loss_nats: float | None = None
    tokens: int = 0
    tokens_per_s: float | None = None
    """While it trains; waiting for others does not count."""
    sent_bytes: int | None = None
    received_bytes: int | None = None
    sending: str = ""
    stages: Mapping[SliceId, StageView] = field(default_factory=dict)
    last_sequence: int = 0
    missing_records: int = 0
    """Gaps in the journal's numbering: events that could not be written, or of kinds unknown to this version."""


class Place(NamedTuple):
    """Where exactly one digest is right: two sides of a cut may decide a version each, in epochs of one number."""

    epoch: int = 0
    version: Version = _UNTRAINED
    members: tuple[PeerId, ...] = ()
    """Of the epoch."""


_NOWHERE = Place()


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitView:
    """A committed round as one owner reported it."""

    place: Place
    digest: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceView:
    """One slice, from all its owners' accounts."""

    slice: SliceId
    place: Place = _NOWHERE
    """Of the newest commit."""
    owners: tuple[PeerId, ...] = ()
    """Named by the newest commit for the next version."""
    commits: Mapping[PeerId, CommitView] = field(default_factory=dict)
    """The latest of each peer."""
    digests: Mapping[Place, Digest] = field(default_factory=dict)
    """The first digest reported for each, newest last."""
    conflicts: tuple[Place, ...] = ()
    """For which two owners reported different digests. Must stay empty: invariant 2."""
    committed_at_s: float | None = None
    """Wall time."""
    committed: frozenset[Version] = frozenset()
    void: frozenset[tuple[Version, int]] = frozenset()
    """Version and attempt of rounds that somebody declared void."""
    tokens: int = 0
    """All that its committed rounds were trained on."""
    verdict: str = ""
    """What it lacks in owners, by the latest word of any peer; empty when it has enough."""
    is_covered: bool = True
    """Whether it has its quorum, by the same word."""

    @property
    def version(self) -> Version:
        """The newest that was committed."""
        return self.place.version

    @property
    def epoch(self) -> int:
        """Of the newest commit."""
        return self.place.epoch

    @property
    def digest(self) -> Digest | None:
        """Of the newest version, as the first owner reported it."""
        return self.digests.get(self.place)

    @property
    def agreeing(self) -> tuple[PeerId, ...]:
        """Owners that reported the newest version with the same digest as the first who did."""
        newest = CommitView(place=self.place, digest=self.digest) if self.digest is not None else None
        return tuple(peer for peer in self.owners if newest is not None and self.commits.get(peer) == newest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A line for people."""

    time_s: float
    """Wall time."""
    name: str
    """The peer whose journal has it; empty for what the one who watches did."""
    text: str
    kind: NoteKind = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmView:
    """All that is known, now."""

    run: RunId | None = None
    peers: Mapping[str, PeerView] = field(default_factory=dict)
    """By the name of the journal."""
    slices: Mapping[SliceId, SliceView] = field(default_factory=dict)
    validation_nats: Mapping[Version, Mapping[str, float]] = field(default_factory=dict)
    """Round -> peer's name -> loss."""
    notes: tuple[Note, ...] = ()
    """The newest last; old ones are forgotten."""
    num_notes: int = 0
    """All that there ever were."""

    def name_of(self, peer: PeerId) -> str:
        """The name by which the peer is followed, or the short form of its id."""
        return next((view.name for view in self.peers.values() if view.peer == peer), short(peer))

    def ordered_slices(self) -> list[SliceView]:
        """Common part first, then by number."""
        return [self.slices[slice_id] for slice_id in sorted(self.slices, key=slice_order)]

    def validation_curve(self) -> list[tuple[Version, float]]:
        """Validation loss after each round, in nats per token, as the mean of the peers that measured it."""
        return [(number, sum(by.values()) / len(by)) for number, by in sorted(self.validation_nats.items())]


def fold(view: SwarmView, name: str, record: Record) -> SwarmView:
    """The view after one more record from the journal followed as ``name``."""
    peer = view.peers.get(name, PeerView(name=name))
    missing = max(0, record.sequence - peer.last_sequence - 1)
    peer = replace(peer, last_sequence=record.sequence, missing_records=peer.missing_records + missing)
    view = _with_peer(view, _peer_after(peer, record.event))
    noted = _note_text(view, record)
    if isinstance(record.event, events.PeerStarted):
        view = replace(view, run=record.event.run)
    elif isinstance(record.event, events.Evaluated):
        by_peer = {**view.validation_nats.get(record.event.round, {}), name: record.event.loss_nats}
        view = replace(view, validation_nats={**view.validation_nats, record.event.round: by_peer})
    elif isinstance(record.event, events.CoverageChanged):
        known = view.slices.get(record.event.slice, SliceView(slice=record.event.slice))
        verdict = "" if record.event.verdict == "ok" else record.event.verdict
        known = replace(known, verdict=verdict, is_covered=record.event.is_covered)
        view = replace(view, slices={**view.slices, known.slice: known})
    elif isinstance(record.event, events.RoundCommitted | events.RoundVoid | events.BranchLost):
        before = view.slices.get(record.event.slice, SliceView(slice=record.event.slice))
        after = _slice_after(before, peer.peer, record.time_s, record.event)
        view = replace(view, slices={**view.slices, after.slice: after})
        if after.conflicts != before.conflicts:
            view = add_note(
                view,
                Note(
                    time_s=record.time_s,
                    name=name,
                    text=f"slice {after.slice} v{record.event.version} has another digest than on the other owners",
                    kind="trouble",
                ),
            )
    if noted and not (isinstance(record.event, _SAID_BY_SEVERAL) and _was_said(view, noted)):
        view = add_note(view, Note(time_s=record.time_s, name=name, text=noted, kind=_note_kind(record)))
    return view


def add_note(view: SwarmView, note: Note) -> SwarmView:
    """The view with one more line, in which known peers go by their names."""
    notes = (*view.notes[-_KEPT_NOTES + 1 :], replace(note, text=_with_names(view, note.text)))
    return replace(view, notes=notes, num_notes=view.num_notes + 1)


def _with_names(view: SwarmView, text: str) -> str:
    for peer in view.peers.values():
        if peer.peer is not None and short(peer.peer) in text:
            # Not inside addresses, which have the whole id.
            text = re.sub(rf"\b(peer )?{re.escape(short(peer.peer))}\b", peer.name, text)
    return text


def _was_said(view: SwarmView, text: str) -> bool:
    """Whether a recent note has the same beginning, up to the reason, which each peer puts in its own way."""
    gist = _with_names(view, text).partition(":")[0]
    return any(note.text.partition(":")[0] == gist for note in view.notes[-_RECENT_NOTES:])


def chosen_notes(notes: Sequence[Note], rows: int) -> list[Note]:
    """The newest notes for so many rows; when they are short, at most every third row goes to routine."""
    special = [i for i, note in enumerate(notes) if note.kind != "routine"]
    routine = [i for i, note in enumerate(notes) if note.kind == "routine"]
    num_routine = min(len(routine), max(rows // 3, rows - len(special)))
    num_special = min(len(special), rows - num_routine)
    chosen = routine[len(routine) - num_routine :] + special[len(special) - num_special :]
    return [notes[i] for i in sorted(chosen)]


def with_fate(view: SwarmView, name: str, fate: Fate) -> SwarmView:
    """The view after a peer ended in a way that its own journal cannot tell."""
    peer = view.peers.get(name, PeerView(name=name))
    return _with_peer(view, replace(peer, fate=fate, sending="", stages={}))


def _with_peer(view: SwarmView, peer: PeerView) -> SwarmView:
    return replace(view, peers={**view.peers, peer.name: peer})


def _peer_after(peer: PeerView, event: events.Event) -> PeerView:
    match event:
        case events.PeerStarted():
            return replace(peer, peer=event.peer, fate="alive", stages={})
        case events.SlicesClaimed():
            return replace(peer, slices=tuple(sorted(event.slices, key=slice_order)))
        case events.StateChanged():
            # A peer that sleeps in a pause takes no part, and is there all the same.
            fate: Fate = "asleep" if peer.fate == "stopped" and event.state == "PAUSED" else peer.fate
            return replace(peer, fate=fate, state=event.state, reason=event.reason)
        case events.InnerStepDone():
            speed = event.tokens / event.seconds if event.seconds > 0 else peer.tokens_per_s
            if speed is not None and peer.tokens_per_s is not None:
                speed = _SPEED_MEMORY * peer.tokens_per_s + (1 - _SPEED_MEMORY) * speed
            return replace(
                peer,
                round=event.round,
                inner_step=event.inner_step,
                train_loss_nats=event.loss_nats,
                tokens=peer.tokens + event.tokens,
                tokens_per_s=speed,
            )
        case events.RoundStage():
            return replace(
                peer, stages={**peer.stages, event.slice: StageView(version=event.version, stage=event.stage)}
            )
        case events.RoundCommitted() | events.RoundVoid():
            between_rounds = StageView(version=event.version, stage="")
            return replace(peer, stages={**peer.stages, event.slice: between_rounds})
        case events.Traffic():
            return replace(
                peer, sent_bytes=event.sent_bytes, received_bytes=event.received_bytes, sending=event.sending
            )
        case events.PeerStopped():
            return replace(peer, fate="stopped", reason=event.reason, sending="", stages={})
        case _:
            return peer


def _place_of(event: events.RoundCommitted) -> Place:
    return Place(event.epoch, event.version, tuple(event.members))


def _slice_after(
    view: SliceView,
    reporter: PeerId | None,
    time_s: float,
    event: events.RoundCommitted | events.RoundVoid | events.BranchLost,
) -> SliceView:
    if isinstance(event, events.RoundVoid):
        return replace(view, void=view.void | {(event.version, event.attempt)})
    if isinstance(event, events.BranchLost):
        # The branch that it follows may be of a lower epoch. Its next commit is to be shown, whatever its number.
        is_shown = reporter in view.owners and view.version <= event.version
        return replace(view, place=Place(0, event.followed)) if is_shown else view
    place = _place_of(event)
    if reporter is not None:
        view = replace(view, commits={**view.commits, reporter: CommitView(place=place, digest=event.digest)})
    if place in view.digests:
        if view.digests[place] != event.digest and place not in view.conflicts:
            view = replace(view, conflicts=(*view.conflicts, place))
        return view
    digests = dict([*view.digests.items(), (place, event.digest)][-_KEPT_DIGESTS:])
    view = replace(view, digests=digests, committed=view.committed | {event.version}, tokens=view.tokens + event.tokens)
    if place[:2] <= view.place[:2]:
        return view
    return replace(view, place=place, owners=tuple(event.owners), committed_at_s=time_s)


def _note_text(view: SwarmView, record: Record) -> str:
    """The sentence worth a line, or nothing. What several peers report is said once: ``view`` is the one before."""
    event = record.event
    match event:
        case events.RoundCommitted():
            known = view.slices.get(event.slice)
            return "" if known is not None and _place_of(event) in known.digests else event.line()
        case events.RoundVoid():
            known = view.slices.get(event.slice)
            return "" if known is not None and (event.version, event.attempt) in known.void else event.line()
        case events.Evaluated():
            return "" if event.round in view.validation_nats else event.line()
        case events.StateChanged():
            return "" if event.state in _QUIET_STATES else event.line()
        case events.StateFetched():
            return event.line() if event.part == "anchor" else ""
        case (
            events.PeerStarted()
            | events.SlicesClaimed()
            | events.SliceGained()
            | events.SliceGivenUp()
            | events.ChangeAbandoned()
            | events.CoverageChanged()
            | events.StateResumed()
            | events.PeerLost()
            | events.PartLeftOut()
            | events.WorkEntrusted()
            | events.BranchLost()
            | events.SliceTakenOver()
            | events.TrainingFailed()
            | events.CatchUpFailed()
            | events.Refused()
            | events.PeerStopped()
        ):
            return event.line()
        case _:
            return ""


def _note_kind(record: Record) -> NoteKind:
    if isinstance(record.event, events.CoverageChanged):
        return "good" if record.event.verdict == "ok" else "trouble"
    if isinstance(
        record.event,
        events.RoundVoid
        | events.PeerLost
        | events.PartLeftOut
        | events.BranchLost
        | events.TrainingFailed
        | events.CatchUpFailed
        | events.Refused,
    ):
        return "trouble"
    return "routine" if isinstance(record.event, events.RoundCommitted | events.Evaluated) else "plain"
