"""What a run has been through, folded from one look at it after another: loss curve, coverage, incidents.

Pure: reports and times in, values out. The bootstrap node's status page draws it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2ptrain.ids import PeerId, SliceId, Version, short, slice_of
from p2ptrain.report import PeerReport, SliceReport, SwarmReport

MAX_POINTS = 1000
"""Points of a loss curve; beyond it every second one is dropped, so that a long run keeps its whole shape."""
MAX_INCIDENTS = 200
MAX_PEERS = 2000
"""Peers that are remembered at once: a flood of short-lived identities must not grow a bootstrap node."""
FORGET_AFTER_S = 600.0
"""A silent peer is listed for so long before it counts as gone."""
STALLED_AFTER_S = 300.0
"""A slice without a commit for so long is an incident. Rounds of slow home peers take a few minutes at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """Something an operator may want to know."""

    time_s: float
    """Wall time."""
    severity: str
    """``note``: it happens every day. ``warning``: the run suffers. ``alarm``: the run's promise is broken."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPoint:
    """The swarm's loss when the common part reached a version."""

    time_s: float
    version: Version
    loss_nats: float


@dataclass(slots=True)
class _Slice:
    view: SliceReport
    moved_s: float
    owners: tuple[PeerId, ...] = ()
    """Peers that answered and own it, at the last look."""
    troubles: set[str] = field(default_factory=set)
    """What is wrong with it, by the keys of ``_ENDED``."""


@dataclass(slots=True)
class RunHistory:
    """One run as an observer has seen it since it started to look."""

    replicas: int = 1
    """Owners that a slice should have; fewer is shown."""
    quorum: int = 1
    """Owners that a slice needs; fewer is an incident."""
    loss: list[LossPoint] = field(default_factory=list)
    incidents: deque[Incident] = field(default_factory=lambda: deque(maxlen=MAX_INCIDENTS))
    _slices: dict[SliceId, _Slice] = field(default_factory=dict)
    _peers: dict[PeerId, tuple[PeerReport, float]] = field(default_factory=dict)
    """With the time of its last answer."""

    def observe(self, report: SwarmReport, now_s: float) -> None:
        """Take in one look at the run, at wall time ``now_s``."""
        is_first = not self._slices
        self._observe_peers(report, now_s, is_first=is_first)
        for view in report.slices.values():
            owners = tuple(peer.peer for peer in report.peers.values() if slice_of(view.slice) in peer.slices)
            self._observe_slice(view, owners, now_s)
        common = report.rounds
        newest = self.loss[-1].version if self.loss else 0
        if common and common.version > newest and common.loss_nats is not None:
            self.loss.append(LossPoint(time_s=now_s, version=common.version, loss_nats=common.loss_nats))
            if len(self.loss) > MAX_POINTS:
                self.loss = [*self.loss[:-1:2], self.loss[-1]]

    def to_json(self, now_s: float) -> dict[str, Any]:
        """All of it for a page or a program; what is not known is null."""
        return {
            "slices": [self._slice_json(state, now_s) for state in self._slices.values()],
            "peers": [self._peer_json(view, seen_s, now_s) for view, seen_s in self._peers.values()],
            "loss": [[round(p.time_s, 1), p.version, round(p.loss_nats, 5)] for p in self.loss],
            "incidents": [
                {"time_s": i.time_s, "severity": i.severity, "text": i.text} for i in reversed(self.incidents)
            ],
        }

    def remember(self, saved: Mapping[str, Any]) -> None:
        """Go on with the loss curve and incidents that ``to_json`` gave before a restart.

        Raises:
            KeyError, TypeError, ValueError: ``saved`` has another form.
        """
        self.loss = [
            LossPoint(time_s=float(time_s), version=Version(int(version)), loss_nats=float(loss))
            for time_s, version, loss in saved["loss"][-MAX_POINTS:]
        ]
        for incident in reversed(saved["incidents"][:MAX_INCIDENTS]):
            self._note(float(incident["time_s"]), str(incident["severity"]), str(incident["text"]))

    def _observe_peers(self, report: SwarmReport, now_s: float, *, is_first: bool) -> None:
        for peer in report.peers.values():
            if peer.peer not in self._peers:
                if len(self._peers) >= MAX_PEERS:
                    continue
                if not is_first:
                    self._note(now_s, "note", f"{short(peer.peer)} joined with {_names(peer.slices)}")
            self._peers[peer.peer] = (peer, now_s)
        claimed = {*report.silent, *report.peers}
        for peer_id, (view, seen_s) in list(self._peers.items()):
            if seen_s == now_s:
                continue
            if peer_id not in claimed:
                del self._peers[peer_id]
                self._note(now_s, "note", f"{short(peer_id)} left; it owned {_names(view.slices)}")
            elif now_s - seen_s > FORGET_AFTER_S:
                del self._peers[peer_id]
                self._note(now_s, "note", f"{short(peer_id)} has not answered for {FORGET_AFTER_S:.0f} s")

    def _observe_slice(self, view: SliceReport, owners: Sequence[PeerId], now_s: float) -> None:
        state = self._slices.setdefault(view.slice, _Slice(view, now_s))
        if view.version > state.view.version:
            state.moved_s = now_s
        if view.version < state.view.version and not owners:
            view = state.view  # nobody who knows it answered; it has not gone back
        elif view.version and state.view.version and view.epoch > state.view.epoch:
            self._note(
                now_s, "note", f"slice {view.slice} went on in epoch {view.epoch}: a majority of its owners was gone"
            )
        state.view, state.owners = view, tuple(owners)
        troubles = _troubles(state, self.quorum, now_s)
        for kind, (severity, sentence) in troubles.items():
            if kind not in state.troubles:
                self._note(now_s, severity, sentence)
        for kind in state.troubles - set(troubles):
            self._note(now_s, "note", f"slice {view.slice} {_ENDED[kind]}")
        state.troubles = set(troubles)

    def _note(self, time_s: float, severity: str, text: str) -> None:
        self.incidents.append(Incident(time_s=time_s, severity=severity, text=text))

    def _slice_json(self, state: _Slice, now_s: float) -> dict[str, Any]:
        view = state.view
        return {
            "id": view.slice,
            "version": view.version,
            "epoch": view.epoch,
            "owners": list(state.owners),
            "replicas_wanted": self.replicas,
            "agrees": view.agrees,
            "digest": short(next(iter(view.digests.values()))) if view.digests else None,
            "tokens": view.tokens,
            "loss": _number(view.loss_nats),
            "commit_age_s": round(now_s - state.moved_s, 1),
            "is_stalled": "stalled" in state.troubles,
        }

    def _peer_json(self, view: PeerReport, seen_s: float, now_s: float) -> dict[str, Any]:
        return {
            "peer": view.peer,
            "slices": list(view.slices),
            "state": view.state,
            "reason": view.reason,
            "sent_bytes": view.sent_bytes,
            "received_bytes": view.received_bytes,
            "tokens": view.tokens,
            "validation_loss": _number(view.validation_loss_nats),
            "software": view.software,
            "reach": view.reach,
            "answered_s_ago": round(now_s - seen_s, 1),
        }


_ENDED = {
    "uncovered": "is owned again",
    "short": "has the owners that it needs, or none",
    "stalled": "commits again",
    "split": "has the same bits at all owners again",
}


def _troubles(state: _Slice, quorum: int, now_s: float) -> dict[str, tuple[str, str]]:
    """What is wrong with a slice, with severity and sentence."""
    view, age_s = state.view, now_s - state.moved_s
    found: dict[str, tuple[str, str]] = {}
    if not state.owners and view.version:  # before its first commit nobody has lost anything
        found["uncovered"] = ("alarm", f"slice {view.slice} has no owner")
    elif state.owners and len(state.owners) < quorum and view.version:
        have = f"{len(state.owners)} of {quorum} owners that it needs"
        found["short"] = ("alarm", f"slice {view.slice} has {have}: nothing is committed")
    if state.owners and age_s > STALLED_AFTER_S:
        found["stalled"] = ("warning", f"slice {view.slice} has not committed for {age_s / 60:.0f} minutes")
    if not view.agrees:
        found["split"] = ("alarm", f"owners of slice {view.slice} hold different bits at v{view.digests_version}")
    return found


def _names(slices: Sequence[SliceId]) -> str:
    return "slices " + ", ".join(slices) if slices else "no slice"


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
