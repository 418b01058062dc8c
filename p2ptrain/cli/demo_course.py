"""The demo's course: start a swarm, watch it by its journals, kill a peer and replace it, ask, measure, report."""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from p2ptrain import clock
from p2ptrain.cli.demo_screen import Display
from p2ptrain.config.load import run_id
from p2ptrain.config.schema import RunConfig
from p2ptrain.dashboard.follow import JournalFollower
from p2ptrain.dashboard.panels import ScreenFacts, SwarmScreen
from p2ptrain.dashboard.picture import save_picture
from p2ptrain.dashboard.projection import Note, NoteKind, SwarmView, add_note, fold, with_fate
from p2ptrain.events import Record
from p2ptrain.ids import COMMON, PeerId, SliceId, numbered_slices
from p2ptrain.node.demo_results import DemoReport, Killed, ModelResults, evaluate, versions
from p2ptrain.node.demo_strike import Contributed, Freeze, KillAndReplace, Resume, Strike, StrikePhase, advance
from p2ptrain.node.demo_swarm import BOOTSTRAP, DemoSwarm, SliceAnswer

PEERS = {"peer-a": SliceId("0"), "peer-b": SliceId("0"), "peer-c": SliceId("1"), "peer-d": SliceId("1")}
"""Who starts with which slice."""
VICTIM, REPLACEMENT = "peer-d", "peer-e"
FINAL_STEPS_S = 25.0
"""Asking the swarm (3 s on 2 busy cores), stopping the peers (5 s), measuring and exporting the model (7 s)."""
_STOP_GRACE_S = 10.0
_READ_EVERY_S = 0.05
_READ_EVERY_ARMED_S = 0.004
"""Reducing takes some tens of milliseconds on one machine."""
_ANSWERS_ASKED = 3
"""An answer in the middle of a commit shows owners at two versions."""


@dataclass(kw_only=True, slots=True)
class DemoCourse:
    """One demo. The steps are called in the order in which they stand here."""

    swarm: DemoSwarm
    config: RunConfig
    strike: Strike
    limit_s: float
    picture: Path | None
    started_s: float = field(default_factory=clock.wall_s)
    view: SwarmView = field(default_factory=SwarmView)
    answer: list[SliceAnswer] = field(default_factory=list)
    model: ModelResults | None = None
    _follower: JournalFollower = field(default_factory=JournalFollower)
    _expected: list[str] = field(default_factory=list)
    """Processes that must be running."""

    @property
    def slices(self) -> list[SliceId]:
        """All of the run's."""
        return [COMMON, *numbered_slices(self.config.slicing.slices)]

    def train(self, screen: Display) -> None:
        """Start everything, and return when all peers have finished the run or the time is over."""
        self._say("starting a bootstrap node and four peers; each is a process of its own")
        self._show(screen, at_once=True)
        self.swarm.start_bootstrap()
        self._expected.append(BOOTSTRAP)
        for name, slice_id in PEERS.items():
            self._start_peer(name, [slice_id])
        end_s = self.started_s + self.limit_s - FINAL_STEPS_S
        while not self._is_complete():
            if clock.wall_s() > end_s:
                self._say("the time is over; the swarm is stopped where it is", "trouble")
                break
            self._advance()
            self.swarm.check_running(self._expected)
            self._show(screen)
            is_armed = self.strike.phase in (StrikePhase.ARMED, StrikePhase.FROZEN)
            time.sleep(_READ_EVERY_ARMED_S if is_armed else _READ_EVERY_S)
        self._save_picture()

    def ask(self, screen: Display) -> None:
        """Learn from the swarm itself what has become of its slices."""
        self._say("asking the swarm who owns what")
        self._show(screen, at_once=True)
        for _ in range(_ANSWERS_ASKED):
            self.answer = self.swarm.ask()
            if all(one.all_agree for one in self.answer):
                break

    def stop(self, screen: Display) -> None:
        """End all processes in good order."""
        self._say("stopping the peers")
        self._show(screen, at_once=True)
        for name in self.swarm.stop(_STOP_GRACE_S):
            self._say(f"{name} did not stop within {_STOP_GRACE_S:.0f} s and was killed", "trouble")
        self._read()

    def evaluate(self, screen: Display) -> None:
        """Measure and export what one of the survivors has saved."""
        peers = [name for name in self.view.peers if name in self._expected]
        complete = [name for name in peers if self.view.peers[name].state == "COMPLETE"]
        name = (complete or peers or list(PEERS))[0]
        self._say(f"measuring the model that {name} has saved, and the initial one")
        self._show(screen, at_once=True)
        self.model = evaluate(self.swarm.manifest, self.swarm.home(name), self.swarm.folder / "model")

    def report(self) -> DemoReport:
        """All that is known so far."""
        strike, model = self.strike, self.model
        killed = None
        if strike.killed_at_s is not None and strike.target is not None:
            victim = strike.victim_id or PeerId(strike.victim)
            target = strike.target
            killed = Killed(peer=victim, slice=target.slice, version=target.version, stage=target.stage)
        slices = self.view.slices.values()
        return DemoReport(
            rounds_committed=sum(len(one.committed) for one in slices),
            rounds_void=sum(len(one.void) for one in slices),
            val_loss_first=model.val_loss_first if model is not None else None,
            val_loss_last=model.val_loss_last if model is not None else None,
            slices=self.answer,
            killed=killed,
            replaced_after_s=strike.replaced_after_s,
            bytes_sent_per_peer={
                peer.peer: peer.sent_bytes
                for peer in self.view.peers.values()
                if peer.peer is not None and peer.sent_bytes is not None
            },
            export_path=str(model.export_path) if model is not None else None,
            seconds=clock.wall_s() - self.started_s,
            versions=versions(),
        )

    def _say(self, text: str, kind: NoteKind = "plain") -> None:
        """Add a line of our own."""
        self.view = add_note(self.view, Note(time_s=clock.wall_s(), name="", text=text, kind=kind))

    def _start_peer(self, name: str, slices: list[SliceId] | None) -> None:
        self.swarm.start_peer(name, slices)
        self._follower.add(name, self.swarm.journal(name))
        self._expected.append(name)
        self.view = with_fate(self.view, name, "alive")

    def _is_complete(self) -> bool:
        peers = [name for name in self._expected if name != BOOTSTRAP]
        states = [self.view.peers[name].state if name in self.view.peers else "" for name in peers]
        return bool(states) and all(state == "COMPLETE" for state in states)

    def _advance(self) -> None:
        self.strike, command = advance(self.strike, self._read(), clock.wall_s())
        victim = self.swarm.children[VICTIM]
        match command:
            case Freeze():
                victim.freeze()
            case Resume():
                victim.send(signal.SIGCONT)
            case KillAndReplace(round=target):
                victim.kill()
                self._expected.remove(VICTIM)
                self.view = with_fate(self.view, VICTIM, "killed")
                where = f"slice {target.slice} v{target.version}"
                self._say(f"killed {VICTIM} with SIGKILL while {target.stage} {where}", "trouble")
                self._start_peer(REPLACEMENT, None)
                self._say(f"started {REPLACEMENT}, which chooses its slices itself", "good")
            case Contributed(round=committed, after_s=after_s):
                where = f"slice {committed.slice} v{committed.version}"
                self._say(f"{REPLACEMENT} contributed to {where}, {after_s:.1f} s after the kill", "good")
                self._save_picture()
            case None:
                pass

    def _read(self) -> list[tuple[str, Record]]:
        records = self._follower.new_records()
        for name, record in records:
            self.view = fold(self.view, name, record)
        return records

    def _show(self, screen: Display, *, at_once: bool = False) -> None:
        screen.show(self.view, self._facts(), at_once=at_once)

    def _facts(self) -> ScreenFacts:
        return ScreenFacts(
            title=f"demo: {self.config.name}",
            run=run_id(self.config),
            rounds=self.config.rounds,
            slices=self.slices,
            started_s=self.started_s,
            now_s=clock.wall_s(),
            limit_s=self.limit_s,
        )

    def _save_picture(self) -> None:
        """The first time that it is called, which is when the replacement contributes if it ever does."""
        if self.picture is not None:
            save_picture(SwarmScreen(self.view, self._facts()), self.picture, "p2ptrain demo")
            self.picture = None
