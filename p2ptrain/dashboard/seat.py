"""One volunteer's seat: what a peer's own journal says over time, folded into one immutable view.

``projection.SwarmView`` holds the latest of everything; a seat adds what a person sitting there asks for: how fast, how
much of it was mine, where the time of the last round went, when the next commit comes. Both are pure folds, so that any
moment of the past can be shown again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

from p2ptrain import events
from p2ptrain.dashboard.projection import PeerView, SwarmView, fold
from p2ptrain.events import Record
from p2ptrain.ids import PeerId, SliceId, Version, counts_rounds
from p2ptrain.report import SwarmReport

_KEPT_COMMITS = 12
_KEPT_SPANS = 160
"""Stages of about ten rounds of two slices."""
_KEPT_SAMPLES = 60
"""Of traffic, one a second."""
_RATE_OVER_S = 5.0
"""Traffic comes in bursts of a second or two; a longer mean than this looks like a stuck needle."""
_STEP_GAP_S = 0.5
"""Inner steps further apart than this, beyond their own duration, are two stretches of training."""
_STAGES = {"gathering": "gather", "reducing": "send", "proposing": "agree", "voting": "agree"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpan:
    """A stretch of time that went into one stage of a round."""

    lane: str
    """``train``, or the slice's id."""
    stage: str
    """train, gather, send, agree or fetch."""
    begin_s: float
    """Wall time, as ``end_s``."""
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficSample:
    """Bytes since the peer started, at a moment."""

    time_s: float
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Bytes a second, over the last seconds."""

    sent_bytes_per_s: float
    received_bytes_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """When a slice last changed here."""

    version: Version
    time_s: float
    """Wall time."""
    is_exact: bool
    """False: it was first seen then, and is older."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A peer and the swarm as seen from it."""

    mine: str = ""
    """Name of the journal that is this peer's; empty when only a swarm is watched."""
    swarm: SwarmView = field(default_factory=SwarmView)
    report: SwarmReport | None = None
    """What the other peers last said of themselves."""
    last_s: float | None = None
    """Wall time of the newest record."""
    heard_s: Mapping[str, float] = field(default_factory=dict)
    """The same for each journal."""
    started_s: float | None = None
    """Of the present process; None when it has ended."""
    earlier_s: float = 0.0
    """Seconds that earlier processes ran."""
    present_state: str = ""
    state_since_s: float | None = None
    seconds_in: Mapping[str, float] = field(default_factory=dict)
    """How long the peer was in each state, the present one not counted."""
    train_curve: tuple[tuple[Version, float], ...] = ()
    """Mean training loss of each finished round, in nats."""
    round_loss: tuple[Version, float, int] | None = None
    """Of the present round: its number, the sum of losses and how many."""
    swarm_curve: tuple[tuple[Version, float], ...] = ()
    """Mean validation loss of the peers that answered, by the common part's version."""
    tokens_since_commit: int = 0
    credited_tokens: int = 0
    """Of ours, in committed rounds of the common part."""
    total_tokens: int = 0
    """Of all, in the same rounds."""
    rounds_contributed: int = 0
    rounds_missed: int = 0
    """Committed without our work."""
    commits_s: tuple[float, ...] = ()
    """When the common part was committed, as far as we know, newest last."""
    moved: Mapping[SliceId, Moved] = field(default_factory=dict)
    told: Mapping[SliceId, Version] = field(default_factory=dict)
    """Newest commit in the journals, which may be behind what peers answered when a long one is being read."""
    last_contributors: Mapping[SliceId, tuple[str, ...]] = field(default_factory=dict)
    entrusted: Mapping[SliceId, tuple[Version, PeerId]] = field(default_factory=dict)
    """The newest version whose round an owner brought our work to, and that owner."""
    seen: Mapping[str, tuple[float, Version]] = field(default_factory=dict)
    """Peer id -> when, and at which version, it last contributed to a round that we know of."""
    traffic: tuple[TrafficSample, ...] = ()
    spans: tuple[StageSpan, ...] = ()
    open_spans: Mapping[str, StageSpan] = field(default_factory=dict)
    """By lane; their end is the latest moment known."""

    @property
    def peer(self) -> PeerView | None:
        """This peer, by its own account."""
        return self.swarm.peers.get(self.mine)

    def rates(self) -> Rates | None:
        """Traffic now; None before two samples."""
        if len(self.traffic) < 2:
            return None
        last = self.traffic[-1]
        first = next((s for s in self.traffic if last.time_s - s.time_s <= _RATE_OVER_S), self.traffic[-2])
        if first is last:
            first = self.traffic[-2]
        seconds = max(last.time_s - first.time_s, 1e-3)
        return Rates(
            sent_bytes_per_s=(last.sent_bytes - first.sent_bytes) / seconds,
            received_bytes_per_s=(last.received_bytes - first.received_bytes) / seconds,
        )

    def next_commit_in_s(self, now_s: float) -> float | None:
        """Seconds until the common part's next commit, by the median of the last ones; negative when it is late."""
        if len(self.commits_s) < 3:
            return None
        gaps = [after - before for before, after in pairwise(self.commits_s)]
        return median(gaps) - (now_s - self.commits_s[-1])

    def last_round(self) -> tuple[float, float] | None:
        """Begin and end of the last whole round, in wall time."""
        return (self.commits_s[-2], self.commits_s[-1]) if len(self.commits_s) > 1 else None

    def spans_between(self, begin_s: float, end_s: float) -> list[StageSpan]:
        """What happened in a stretch of time, open spans included."""
        everything = [*self.spans, *self.open_spans.values()]
        return [span for span in everything if span.end_s > begin_s and span.begin_s <= end_s]

    def running_s(self, now_s: float) -> float:
        """How long the peer has run, in all its processes."""
        return self.earlier_s + (max(0.0, now_s - self.started_s) if self.started_s is not None else 0.0)

    def share(self) -> float | None:
        """Our part of the tokens in committed rounds; None before the first."""
        return self.credited_tokens / self.total_tokens if self.total_tokens else None


def observe_record(seat: Seat, name: str, record: Record) -> Seat:
    """The seat after one more record from the journal followed as ``name``."""
    heard_before_s = seat.heard_s.get(name)
    seat = replace(
        seat,
        swarm=fold(seat.swarm, name, record),
        last_s=max(record.time_s, seat.last_s or record.time_s),
        heard_s={**seat.heard_s, name: record.time_s},
    )
    event, now_s = record.event, record.time_s
    if isinstance(event, events.RoundCommitted):
        seat = _committed(seat, now_s, event)
    if name != seat.mine:
        return seat
    match event:
        case events.PeerStarted():
            return replace(
                # A process that was killed wrote no end: its last word is the best that we know.
                _ended(seat, heard_before_s),
                started_s=now_s,
                state_since_s=now_s,
                tokens_since_commit=0,
                traffic=(),
            )
        case events.PeerStopped():
            return _ended(seat, now_s)
        case events.StateChanged():
            return _state_entered(seat, now_s, event.state)
        case events.InnerStepDone():
            return _stepped(seat, now_s, event)
        case events.RoundStage():
            span = StageSpan(lane=event.slice, stage=_STAGES.get(event.stage, event.stage), begin_s=now_s, end_s=now_s)
            return _with_span(seat, span)
        case events.WorkEntrusted():
            entrusted = {**seat.entrusted, event.slice: (event.version, event.delegate)}
            return replace(seat, entrusted=entrusted)
        case events.RoundVoid():
            return _close(seat, event.slice, now_s)
        case events.UpdateApplied():
            return _moved(seat, event.slice, event.version, now_s, stage_s=0.0)
        case events.StateFetched():
            return _moved(seat, event.slice, event.version, now_s, stage_s=event.seconds)
        case events.Traffic():
            sample = TrafficSample(time_s=now_s, sent_bytes=event.sent_bytes, received_bytes=event.received_bytes)
            return replace(seat, traffic=(*seat.traffic[-_KEPT_SAMPLES + 1 :], sample))
        case _:
            return seat


def observe_report(seat: Seat, report: SwarmReport, now_s: float) -> Seat:
    """The seat after the peers were asked.

    Args:
        seat: before.
        report: what they answered.
        now_s: wall time.
    """
    moved = dict(seat.moved)
    for one in report.slices.values():
        known = moved.get(one.slice)
        if known is None or known.version < one.version:
            is_first_look = known is None
            moved[one.slice] = Moved(version=one.version, time_s=now_s, is_exact=not is_first_look)
    curve = seat.swarm_curve
    common, loss = report.rounds, report.mean_validation_loss_nats
    if common is not None and loss is not None and common.version:
        curve = (*(point for point in curve if point[0] < common.version), (common.version, loss))
    commits = seat.commits_s
    before = seat.report.rounds if seat.report is not None else None
    if not seat.mine and common is not None and before is not None and common.version == before.version + 1:
        commits = (*commits, now_s)[-_KEPT_COMMITS:]
    return replace(seat, report=report, moved=moved, swarm_curve=curve, commits_s=commits)


def _ended(seat: Seat, end_s: float | None) -> Seat:
    """A process has ended: by its own account, or because the next one has started."""
    if seat.started_s is None or end_s is None:
        return replace(seat, open_spans={})
    return replace(
        _state_entered(seat, end_s),
        earlier_s=seat.earlier_s + max(0.0, end_s - seat.started_s),
        started_s=None,
        state_since_s=None,
        open_spans={},
    )


def _state_entered(seat: Seat, now_s: float, state: str = "") -> Seat:
    spent = seat.seconds_in
    if seat.present_state and seat.state_since_s is not None:
        seconds = spent.get(seat.present_state, 0.0) + max(0.0, now_s - seat.state_since_s)
        spent = {**spent, seat.present_state: seconds}
    return replace(seat, seconds_in=spent, present_state=state, state_since_s=now_s)


def _stepped(seat: Seat, now_s: float, event: events.InnerStepDone) -> Seat:
    curve, running = seat.train_curve, seat.round_loss
    if running is not None and running[0] != event.round:
        curve = (*(point for point in curve if point[0] < running[0]), (running[0], running[1] / running[2]))
        running = None
    _, total, count = running or (event.round, 0.0, 0)
    span, begin_s = seat.open_spans.get("train"), now_s - event.seconds
    if span is not None and begin_s - span.end_s > _STEP_GAP_S:
        seat, span = _close(seat, "train", span.end_s), None
    span = StageSpan(lane="train", stage="train", begin_s=span.begin_s if span else begin_s, end_s=now_s)
    return replace(
        seat,
        train_curve=curve,
        round_loss=(event.round, total + event.loss_nats, count + 1),
        tokens_since_commit=seat.tokens_since_commit + event.tokens,
        open_spans={**seat.open_spans, "train": span},
    )


def _committed(seat: Seat, now_s: float, event: events.RoundCommitted) -> Seat:
    is_news = event.version > seat.told.get(event.slice, -1)
    me = seat.peer.peer if seat.peer is not None else None
    seen = dict(seat.seen)
    seen.update((peer, (now_s, event.version)) for peer in event.contributors)
    seat = replace(_close(seat, event.slice, now_s), seen=seen)
    if not is_news:
        return seat
    known = seat.moved.get(event.slice)
    moved = seat.moved
    if known is None or event.version >= known.version:
        moved = {**moved, event.slice: Moved(version=event.version, time_s=now_s, is_exact=True)}
    contributors = {**seat.last_contributors, event.slice: tuple(event.contributors)}
    told = {**seat.told, event.slice: event.version}
    seat = replace(seat, moved=moved, told=told, last_contributors=contributors)
    if not counts_rounds(event.slice):
        return seat
    commits = (*seat.commits_s, now_s)[-_KEPT_COMMITS:]
    version, delegate = seat.entrusted.get(event.slice, (None, None))
    ours = {me, delegate} if version == event.version else {me}
    if me is None or ours.isdisjoint(event.contributors):
        return replace(seat, commits_s=commits, rounds_missed=seat.rounds_missed + (me is not None))
    return replace(
        seat,
        commits_s=commits,
        rounds_contributed=seat.rounds_contributed + 1,
        credited_tokens=seat.credited_tokens + min(seat.tokens_since_commit, event.tokens),
        total_tokens=seat.total_tokens + event.tokens,
        tokens_since_commit=0,
    )


def _moved(seat: Seat, slice_id: SliceId, version: Version, now_s: float, *, stage_s: float) -> Seat:
    """A slice came from somebody else, which took ``stage_s``."""
    fetched = StageSpan(lane=slice_id, stage="fetch", begin_s=now_s - stage_s, end_s=now_s)
    spans = (*seat.spans, fetched)[-_KEPT_SPANS:]
    known = seat.moved.get(slice_id)
    if known is not None and (known.version > version or (known.version == version and known.is_exact)):
        return replace(seat, spans=spans)
    return replace(
        seat, spans=spans, moved={**seat.moved, slice_id: Moved(version=version, time_s=now_s, is_exact=True)}
    )


def _with_span(seat: Seat, span: StageSpan) -> Seat:
    """``span`` begins, and what was open in its lane ends; the same stage again goes on."""
    before = seat.open_spans.get(span.lane)
    if before is not None and before.stage == span.stage:
        return replace(seat, open_spans={**seat.open_spans, span.lane: replace(before, end_s=span.end_s)})
    seat = _close(seat, span.lane, span.begin_s)
    return replace(seat, open_spans={**seat.open_spans, span.lane: span})


def _close(seat: Seat, lane: str, now_s: float) -> Seat:
    span = seat.open_spans.get(lane)
    if span is None:
        return seat
    rest = {name: one for name, one in seat.open_spans.items() if name != lane}
    return replace(seat, open_spans=rest, spans=(*seat.spans, replace(span, end_s=now_s))[-_KEPT_SPANS:])
