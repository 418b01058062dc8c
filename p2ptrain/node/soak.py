"""A swarm of real processes to which everything happens that happens to volunteers: ``p2ptrain lab soak``.

A cut is made by stopping a peer's network daemon: the peer trains on and reaches nobody, and nobody reaches it.
"""

import math
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from p2ptrain import clock
from p2ptrain.events import Evaluated, PeerStarted, Record, RoundCommitted
from p2ptrain.ids import PeerId, counts_rounds
from p2ptrain.node.demo_swarm import BOOTSTRAP, DemoFailed, DemoSwarm, SliceAnswer
from p2ptrain.node.soak_plan import Disturbance, plan_soak

_START_S = 400.0
"""Until all peers have committed; eight start in 40 s on 2 idle cores, nearly all of it imports. Ten times that is a
machine that others use, too."""
_HEAL_S = 180.0
"""After the quiet end, for the last ones to agree."""
_LOOK_EVERY_S = 0.25
_STOP_GRACE_S = 10.0
_LOOKS = 40
"""At memory and open files, that make one measurement: several rounds."""
_WARM_SHARE = 0.25
"""Of the time, after which memory is measured for the first time: caches and pools are full by then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SoakReport:
    """What was done and what came of it."""

    seed: int
    peers: int
    rounds: int
    """Newest version of the common part."""
    events: dict[str, int]
    """``joined``, ``killed``, ``frozen``, ``partitioned``."""
    slices_covered: bool
    """Whether each slice has a living owner at the end."""
    diverged_owners: int
    """Owners that committed another digest for a version than most did, or that disagree at the end."""
    val_loss_first: float
    val_loss_last: float
    rss_growth_percent: float
    """The peer that lived throughout, from a quarter of the time to the end."""
    open_files_growth: int

    def problems(self, target_loss: float) -> list[str]:
        """What is not as promised."""
        found = []
        if not self.slices_covered:
            found.append("a slice has no owner")
        if self.diverged_owners:
            found.append(f"{self.diverged_owners} owners diverged")
        if not self.val_loss_last < target_loss:
            found.append(f"the validation loss {self.val_loss_last:.3f} is not below {target_loss:.3f}")
        if self.rss_growth_percent > 10:
            found.append(f"memory grew by {self.rss_growth_percent:.0f} %")
        if self.open_files_growth > 8:
            found.append(f"{self.open_files_growth} more files are open than at first")
        return found

    def to_json(self) -> dict[str, Any]:
        """The report with the names of its fields."""
        return asdict(self)


@dataclass(slots=True)
class Soak:
    """One run of the experiment."""

    seed: int
    peers: int
    seconds: float
    swarm: DemoSwarm
    say: Callable[[str], None]
    report: Callable[[int, int], None] = lambda done, of: None
    """Told how many seconds are over, of how many."""
    _done: Counter[str] = field(default_factory=Counter)
    _averaging: set[str] = field(default_factory=set)
    """Peers that have been seen to average."""

    def run(self) -> SoakReport:
        """Start the swarm, disturb it, let it heal, and measure.

        Raises:
            DemoFailed: the peers did not begin to average, or a process ended that nobody killed.
        """
        self.swarm.start_bootstrap()
        self.say(f"starting {self.peers} peers")
        names = [_name(number) for number in range(self.peers)]
        for name in names:
            self.swarm.start_peer(name, None)
        self.swarm.wait_until_all_average(names, _START_S)
        self.say("all peers average")
        began_s = clock.monotonic_s()
        todo = self._steps(plan_soak(self.seed, peers=self.peers, seconds=self.seconds))
        self._averaging.update(names)
        used: list[tuple[int, int]] = []
        for at_s, victim, step in [*todo, (self.seconds, _name(0), lambda: None)]:
            while (passed_s := clock.monotonic_s() - began_s) < at_s:
                self.swarm.check_running([BOOTSTRAP, *self._living()])
                self.report(round(passed_s), round(self.seconds))
                if passed_s > _WARM_SHARE * self.seconds:
                    used.append(_use(self.swarm.children[_name(0)].pid))
                time.sleep(_LOOK_EVERY_S)
            began_s += self._wait_until_it_averages(victim)
            step()
        warm, end = _least(used[:_LOOKS]), _least(used[-_LOOKS:])
        answer = self._ask_until_agreed()
        # Before they are stopped: on a busy machine some are killed when their time to leave is over.
        at_end = self._living()
        living = {self._id(name) for name in at_end}
        journals = {name: list(self.swarm.records(name)) for name in self.swarm.children if name != BOOTSTRAP}
        self.swarm.stop(_STOP_GRACE_S)
        first, last = _losses(journals, at_end)
        return SoakReport(
            seed=self.seed,
            peers=self.peers,
            rounds=next((one.version for one in answer if counts_rounds(one.id)), 0),
            events={kind: self._done[kind] for kind in ("joined", "killed", "frozen", "partitioned")},
            slices_covered=all(living & set(one.owners) for one in answer),
            diverged_owners=diverged_in_journals(journals) + _disagreeing(answer),
            val_loss_first=round(first, 4),
            val_loss_last=round(last, 4),
            rss_growth_percent=round(100 * (end[0] / warm[0] - 1), 2),
            open_files_growth=end[1] - warm[1],
        )

    def _steps(self, plan: Sequence[Disturbance]) -> list[tuple[float, str | None, Callable[[], None]]]:
        """The plan's disturbances and their ends, in order of time, with the peer that must average by then."""
        steps: list[tuple[float, str | None, Callable[[], None]]] = []
        for one in plan:
            name = _name(one.peer)
            match one.kind:
                case "join":
                    steps.append((one.at_s, None, partial(self._join, name)))
                case "kill":
                    steps.append((one.at_s, name, partial(self._kill, name)))
                case "freeze" | "cut":
                    daemons_only = one.kind == "cut"
                    steps.append((one.at_s, name, partial(self._stop_going, name, daemons_only=daemons_only)))
                    steps.append((one.at_s + one.lasts_s, None, partial(self._go_on, name, daemons_only=daemons_only)))
        return sorted(steps, key=lambda step: step[0])

    def _wait_until_it_averages(self, name: str | None) -> float:
        """How long it took: on a slow machine a peer that joined may still be starting, and be of no help to others."""
        began_s = clock.monotonic_s()
        if name is not None and name not in self._averaging:
            self.swarm.wait_until_all_average([name], _START_S)
            self._averaging.add(name)
        return clock.monotonic_s() - began_s

    def _join(self, name: str) -> None:
        self._told("joined", name)
        self.swarm.start_peer(name, None)

    def _kill(self, name: str) -> None:
        self._told("killed", name)
        self.swarm.children[name].kill()

    def _stop_going(self, name: str, *, daemons_only: bool) -> None:
        self._told("partitioned" if daemons_only else "frozen", name)
        self._signal(name, signal.SIGSTOP, daemons_only=daemons_only)

    def _go_on(self, name: str, *, daemons_only: bool) -> None:
        self._signal(name, signal.SIGCONT, daemons_only=daemons_only)

    def _signal(self, name: str, number: signal.Signals, *, daemons_only: bool) -> None:
        pid = self.swarm.children[name].pid
        for one in [*_children(pid), *([] if daemons_only else [pid])]:
            os.kill(one, number)

    def _told(self, what: str, name: str) -> None:
        self._done[what] += 1
        self.say(f"{what} {name}")

    def _living(self) -> list[str]:
        return [
            name
            for name, child in self.swarm.children.items()
            if name != BOOTSTRAP and child.process.returncode != -signal.SIGKILL
        ]

    def _id(self, name: str) -> PeerId | None:
        ids = [r.event.peer for r in self.swarm.records(name) if isinstance(r.event, PeerStarted)]
        return ids[-1] if ids else None

    def _ask_until_agreed(self) -> list[SliceAnswer]:
        """What the swarm says when all owners agree, or when the time for that is over."""
        deadline_s = clock.monotonic_s() + _HEAL_S
        while True:
            try:
                answer = self.swarm.ask()
            except DemoFailed:
                if clock.monotonic_s() > deadline_s:
                    raise
                continue
            if all(one.all_agree for one in answer) or clock.monotonic_s() > deadline_s:
                return answer


def diverged_in_journals(journals: Mapping[str, Sequence[Record]]) -> int:
    """Peers that committed another digest for a version than another peer did, although the same members decided it.

    Two sides of a cut may decide differently, each by its own members; one of them gives its branch up later. So may
    one member list before and after it has changed branches: what a decision follows is part of what it is.
    """
    digests: dict[tuple[Any, ...], Counter[str]] = {}
    by_peer = {name: list(_commits(records)) for name, records in journals.items()}
    for event in (event for events in by_peer.values() for event in events):
        digests.setdefault(_decision(event), Counter())[event.digest] += 1
    usual = {decision: counts.most_common(1)[0][0] for decision, counts in digests.items()}
    return sum(any(event.digest != usual[_decision(event)] for event in events) for events in by_peer.values())


def _decision(event: RoundCommitted) -> tuple[Any, ...]:
    return event.slice, event.version, event.previous, event.epoch, *event.members


def _disagreeing(answer: Sequence[SliceAnswer]) -> int:
    return sum(len(one.digests) - Counter(one.digests.values()).most_common(1)[0][1] for one in answer if one.digests)


def _losses(journals: Mapping[str, Sequence[Record]], living: Sequence[str]) -> tuple[float, float]:
    """The validation loss at the earliest version of all, and the median of the living's last."""
    series = {n: [r.event for r in rs if isinstance(r.event, Evaluated)] for n, rs in journals.items()}
    first = min((event for events in series.values() for event in events), key=lambda event: event.round, default=None)
    last = [series[name][-1].loss_nats for name in living if series[name]]
    return first.loss_nats if first else math.nan, statistics.median(last) if last else math.nan


def _commits(records: Iterable[Record]) -> Iterator[RoundCommitted]:
    return (record.event for record in records if isinstance(record.event, RoundCommitted))


def _use(pid: int) -> tuple[int, int]:
    """Resident kilobytes and open files of a process, proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return resident, len(os.listdir(f"/proc/{pid}/fd"))


def _least(used: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of some looks in a row: what is never given back shows in each of them, what a round takes does not."""
    kilobytes, files = zip(*used, strict=True)
    return min(kilobytes), min(files)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(number: int) -> str:
    return f"peer-{number:03d}"
