"""A swarm of real processes of which one is killed every few seconds and replaced: ``p2ptrain lab chaos``."""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from p2ptrain import clock
from p2ptrain.node.chaos_count import count_rounds, diverged_owners, first_and_last_loss, tries_of
from p2ptrain.node.demo_swarm import BOOTSTRAP, DemoSwarm

_START_S = 240.0
"""Until all peers have committed together; eight start in 40 s on 2 idle cores, nearly all of it imports."""
_SETTLE_S = 30.0
"""After the last kill, for the rounds that had started to commit or become void: a gather and two other deadlines."""
_LOOK_EVERY_S = 0.25
_STOP_GRACE_S = 10.0


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
        """The report with the names of its fields; None for what there was nothing to measure of."""
        fields = asdict(self).items()
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields}


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
            DemoFailed: the peers did not begin to average, or a process ended that nobody killed.
        """
        chance = random.Random(self.plan.seed)  # noqa: S311 - a seed must give the same victims again
        self.swarm.start_bootstrap()
        running = [self._start() for _ in range(self.plan.peers)]
        self.say(f"starting {len(running)} peers")
        self.swarm.wait_until_all_average(running, _START_S)
        self.say("all peers average")
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
        journals = {name: list(self.swarm.records(name)) for name in self.swarm.children if name != BOOTSTRAP}
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

    def _watch(self, running: list[str], until_s: float) -> None:
        """Wait until a monotonic moment; a peer that ends by itself meanwhile ends the experiment."""
        while (left_s := until_s - clock.monotonic_s()) > 0:
            self.swarm.check_running([BOOTSTRAP, *running])
            self.report(round(clock.monotonic_s() - self._began_s), round(self.plan.minutes * 60 + _SETTLE_S))
            time.sleep(min(_LOOK_EVERY_S, left_s))
