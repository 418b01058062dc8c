"""A swarm of real processes of which one is killed every few seconds and replaced: ``p2ptrain lab chaos``."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from p2ptrain import clock
from p2ptrain.errors import P2PTrainError
from p2ptrain.events import Record, RoundCommitted
from p2ptrain.ids import COMMON
from p2ptrain.node.chaos_count import count_rounds, diverged_owners, first_and_last_loss, tries_of
from p2ptrain.node.demo_swarm import BOOTSTRAP, DemoSwarm

_START_S = 240.0
"""Until all peers have committed together; eight start in 40 s on 2 idle cores, nearly all of it imports."""
_SETTLE_S = 30.0
"""After the last kill, for the rounds that had started to commit or become void: a gather and two other deadlines."""
_LOOK_EVERY_S = 0.25
_STOP_GRACE_S = 10.0


class ChaosFailed(P2PTrainError):
    """The swarm did not get under way, so that nothing could be measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosPlan:
    """What is done to the swarm."""

    peers: int
    kill_every_s: float
    minutes: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosReport:
    """What came of it; a slice round counts from its cut-off on, whatever became of it."""

    peers: int
    kill_every_s: float
    minutes: float
    kills: int
    slice_rounds_started: int
    slice_rounds_committed: int
    slice_rounds_void: int
    committed_percent: float
    diverged_owners: int
    val_loss_first: float
    val_loss_last: float

    def to_json(self) -> dict[str, Any]:
        """The report with the names of its fields."""
        return asdict(self)


@dataclass(slots=True)
class Chaos:
    """One run of the experiment."""

    plan: ChaosPlan
    swarm: DemoSwarm
    say: Callable[[str], None]
    report: Callable[[int, int], None] = lambda done, of: None
    """Told how many seconds are over, of how many."""
    void_reasons: dict[str, int] = field(default_factory=dict)
    _ended_s: dict[str, float] = field(default_factory=dict)
    """Wall time at which each killed peer was killed."""
    _began_s: float = 0.0
    """Monotonic time at which all peers averaged."""
    _names: Iterator[str] = field(default_factory=lambda: (f"peer-{number:03d}" for number in range(10**6)))

    def run(self) -> ChaosReport:
        """Start the swarm, kill and replace peers, let the last rounds end, and count.

        Raises:
            ChaosFailed: the peers did not begin to average.
            DemoFailed: a process ended that nobody killed.
        """
        chance = random.Random(self.plan.seed)  # noqa: S311 - a seed must give the same victims again
        self.swarm.start_bootstrap()
        running = [self._start() for _ in range(self.plan.peers)]
        self._wait_until_all_average(running)
        from_s, began_s = clock.wall_s(), clock.monotonic_s()
        self._began_s, kills = began_s, 0
        while (kills + 1) * self.plan.kill_every_s < self.plan.minutes * 60:
            self._watch(running, began_s + (kills + 1) * self.plan.kill_every_s)
            victim = chance.choice(sorted(running))
            self._ended_s[victim] = clock.wall_s()
            self.swarm.children[victim].kill()
            running.remove(victim)
            running.append(self._start())
            kills += 1
            self.say(f"{clock.monotonic_s() - began_s:5.0f} s  killed {victim}, started {running[-1]}")
        self._watch(running, began_s + self.plan.minutes * 60)
        until_s = clock.wall_s()
        self.say(f"{self.plan.minutes * 60:5.0f} s  no more kills; the rounds under way may end")
        self._watch(running, clock.monotonic_s() + _SETTLE_S)
        read_s = clock.wall_s()
        journals = {name: list(_records(self.swarm.journal(name))) for name in self.swarm.children if name != BOOTSTRAP}
        self.swarm.stop(_STOP_GRACE_S)
        tries, voids = [], []
        for name, journal in journals.items():
            of_peer, void_here = tries_of(name, journal, self._ended_s.get(name, read_s))
            tries += of_peer
            voids += void_here
        counts = count_rounds(tries, voids, from_s=from_s, until_s=until_s)
        self.void_reasons = dict(counts.void_reasons.most_common())
        first, last = first_and_last_loss(journals, running)
        return ChaosReport(
            peers=self.plan.peers,
            kill_every_s=self.plan.kill_every_s,
            minutes=self.plan.minutes,
            kills=kills,
            slice_rounds_started=counts.started,
            slice_rounds_committed=counts.committed,
            slice_rounds_void=counts.void,
            committed_percent=round(counts.committed_percent, 2),
            diverged_owners=diverged_owners(journals),
            val_loss_first=round(first, 4),
            val_loss_last=round(last, 4),
        )

    def _start(self) -> str:
        name = next(self._names)
        self.swarm.start_peer(name, None)
        return name

    def _wait_until_all_average(self, names: list[str]) -> None:
        """Until each peer has contributed to a version of the common part: then the swarm is in its everyday state."""
        self.say(f"starting {len(names)} peers")
        deadline_s = clock.monotonic_s() + _START_S
        waiting = set(names)
        while waiting:
            self.swarm.check_running(names)
            waiting = {name for name in waiting if not _averages(self.swarm.journal(name))}
            if waiting and clock.monotonic_s() > deadline_s:
                raise ChaosFailed(
                    f"{', '.join(sorted(waiting))} committed nothing within {_START_S:.0f} s; see the logs in"
                    f" {self.swarm.folder}"
                )
            time.sleep(_LOOK_EVERY_S)
        self.say("all peers average")

    def _watch(self, running: list[str], until_s: float) -> None:
        """Wait until a monotonic moment; a peer that ends by itself meanwhile ends the experiment."""
        while (left_s := until_s - clock.monotonic_s()) > 0:
            self.swarm.check_running([BOOTSTRAP, *running])
            self.report(round(clock.monotonic_s() - self._began_s), round(self.plan.minutes * 60 + _SETTLE_S))
            time.sleep(min(_LOOK_EVERY_S, left_s))


def _averages(journal: Path) -> bool:
    return any(isinstance(r.event, RoundCommitted) and r.event.slice == COMMON for r in _records(journal))


def _records(journal: Path) -> Iterator[Record]:
    """The whole records of a journal; a kill may have cut off its last line."""
    if not journal.exists():
        return
    for line in journal.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            record = Record.from_json(line.decode())
            if record is not None:
                yield record
