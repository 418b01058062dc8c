"""Many peers that follow the plan of ``swarm.coverage`` in fake time, each with its own, late view of the claims.

As a program it measures how many moves churn causes: python -m tests.support.simulated_coverage
"""

import argparse
import random
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field, replace

from p2ptrain.ids import PeerId, SliceId, numbered_slices
from p2ptrain.swarm.coverage import Change, Considered, Member, Pace, Target, change_of, consider, may_yield, plan


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What the peers cannot change."""

    num_slices: int = 4
    target: Target = field(default_factory=lambda: Target(replicas=2, quorum=1))
    lease_s: float = 30.0
    look_s: float = 2.0
    fetch_s: float = 20.0
    """From joining a slice to holding its state."""
    missed: float = 0.3
    """Probability that a look shows a claim as it was at an earlier look."""
    seed: int = 0

    @property
    def pace(self) -> Pace:
        """As real peers compute it."""
        return Pace.of(lease_s=self.lease_s, look_s=self.look_s)

    @property
    def slices(self) -> tuple[SliceId, ...]:
        """All numbered slices."""
        return numbered_slices(self.num_slices)


@dataclass
class Peer:
    """One simulated peer: what it says of itself, and what it last saw of the others."""

    me: Member
    next_look_s: float
    seen: dict[PeerId, tuple[Member, float]] = field(default_factory=dict)
    """Per peer its claim and when it expires."""
    considered: Considered | None = None
    ready_at_s: float = 0.0


class Simulation:
    """Time moves in steps of half a second; whatever chance decides comes from the seed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now_s = 1_000.0
        self.peers: dict[PeerId, Peer] = {}
        self.changes: list[tuple[float, Change]] = []
        """What peers did of their own accord, their first choice included."""
        self.uncovered_s: Counter[SliceId] = Counter()
        self.orphaned_by_a_move: list[SliceId] = []
        self._random = random.Random(world.seed)
        self._born = 0
        self._graves: dict[PeerId, tuple[Member, float]] = {}
        self._plans: dict[tuple[frozenset[Member], frozenset[PeerId]], list[Change]] = {}

    def join(self, *, max_slices: int = 1, tokens_per_s: float = 0.0) -> PeerId:
        """A newcomer without a slice."""
        peer = PeerId(f"peer-{self._born:03}-{self._random.randrange(1 << 30)}")
        self._born += 1
        me = Member(peer=peer, max_slices=max_slices, tokens_per_s=tokens_per_s)
        self.peers[peer] = Peer(me, self.now_s + self._random.uniform(1.0, 1.0 + self.world.look_s))
        return peer

    def kill(self, peer: PeerId) -> None:
        """The peer stops; the others see its claim until it expires."""
        self._graves[peer] = (self.peers.pop(peer).me, self.now_s + self.world.lease_s)

    def kill_one(self) -> PeerId:
        """Any of them."""
        victim = self._random.choice(sorted(self.peers))
        self.kill(victim)
        return victim

    def owners(self, slice_id: SliceId) -> list[PeerId]:
        """Living peers that hold the slice."""
        return [p for p, peer in self.peers.items() if slice_id in peer.me.ready]

    def counts(self) -> list[int]:
        """Owners of each slice."""
        return [len(self.owners(s)) for s in self.world.slices]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 0.5
            self._graves = {p: grave for p, grave in self._graves.items() if grave[1] > self.now_s}
            for peer in list(self.peers.values()):
                self._step(peer)
            for slice_id in self.world.slices:
                if not self.owners(slice_id):
                    self.uncovered_s[slice_id] += 0.5

    def _step(self, peer: Peer) -> None:
        if peer.me.joining and self.now_s >= peer.ready_at_s:
            peer.me = replace(peer.me, ready=peer.me.ready | peer.me.joining, joining=frozenset())
        if self.now_s < peer.next_look_s:
            return
        peer.next_look_s = self.now_s + self.world.look_s
        self._look(peer)
        members = [member for member, _ in peer.seen.values()] + [peer.me]
        for slice_id in peer.me.leaving:
            is_known = self.now_s - peer.me.changed_s >= self.world.lease_s
            if is_known and not peer.me.joining and may_yield(slice_id, peer.me.peer, members, self.world.target):
                peer.me = replace(peer.me, ready=peer.me.ready - {slice_id}, leaving=frozenset(), changed_s=self.now_s)
                # A slice whose other owner has just been killed is orphaned by that, whoever leaves meanwhile.
                died = any(slice_id in member.ready for member, _ in self._graves.values())
                if not self.owners(slice_id) and not died:
                    self.orphaned_by_a_move.append(slice_id)
        change = change_of(peer.me.peer, self._plan(members))
        peer.considered = consider(peer.considered, change, self.now_s)
        if peer.considered and peer.considered.is_due(self.world.pace, self.now_s):
            self._carry_out(peer, peer.considered.change)
            peer.considered = None

    def _plan(self, members: list[Member]) -> list[Change]:
        """Computed once for all that see the same."""
        pace = self.world.pace
        rested = frozenset(m.peer for m in members if self.now_s - m.changed_s >= pace.cool_down_s)
        key = (frozenset(members), rested)
        if key not in self._plans:
            self._plans[key] = plan(self.world.slices, members, self.world.target, pace=pace, now_s=self.now_s)
        return self._plans[key]

    def _look(self, peer: Peer) -> None:
        """As through the DHT: changes are seen late; a peer whose claim was not seen renewed is called, and answers."""
        living = {p: (other.me, self.now_s + self.world.lease_s) for p, other in self.peers.items()}
        for other, claim in (living | self._graves).items():
            if other != peer.me.peer and self._random.random() > self.world.missed:
                peer.seen[other] = claim
        peer.seen = {
            p: (member, until_s)
            for p, (member, until_s) in peer.seen.items()
            if until_s > self.now_s or p in self.peers
        }

    def _carry_out(self, peer: Peer, change: Change) -> None:
        self.changes.append((self.now_s, change))
        leaving = frozenset({change.yields}) if change.yields else frozenset()
        joining = frozenset({change.gains}) if change.gains else frozenset()
        peer.me = replace(peer.me, joining=joining, leaving=leaving, changed_s=self.now_s)
        peer.ready_at_s = self.now_s + self.world.fetch_s


def main() -> None:
    """Measure moves and gaps under churn, and print them as a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    say("| peers | slices | a peer lives | second slice | moves and give-backs a peer and hour | uncovered |")
    say("|---|---|---|---|---|---|")
    for num_peers, num_slices, life_s, max_slices in (
        (8, 4, 86_400.0, 1),
        (8, 4, 7_200.0, 1),
        (8, 4, 1_800.0, 1),
        (8, 4, 1_800.0, 2),
        (16, 8, 1_800.0, 2),
        (32, 8, 1_800.0, 1),
        (32, 8, 300.0, 1),
    ):
        rates, gaps = [], []
        for seed in range(arguments.seeds):
            rate, gap = churn(num_peers, num_slices, life_s, max_slices, hours=arguments.hours, seed=seed)
            rates.append(rate)
            gaps.append(gap)
        moves = f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"
        room = "yes" if max_slices > 1 else "no"
        gap = f"{statistics.median(gaps):.2%}"
        say(f"| {num_peers} | {num_slices} | {life_s / 60:.0f} min | {room} | {moves} | {gap} |")


def say(line: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def churn(
    num_peers: int, num_slices: int, life_s: float, max_slices: int, *, hours: float, seed: int
) -> tuple[float, float]:
    """Changes a peer and hour besides first choices, and the share of slice time without an owner.

    Peers die at random and are replaced at once by newcomers, so that ``num_peers`` stay on average.
    """
    simulation = Simulation(World(num_slices=num_slices, seed=seed))
    chance = random.Random(f"churn {seed}")
    for _ in range(num_peers):
        simulation.join(max_slices=max_slices)
    simulation.run(600.0)
    simulation.uncovered_s.clear()
    before = len(simulation.changes)
    end_s = simulation.now_s + 3600 * hours
    while simulation.now_s < end_s:
        simulation.run(min(end_s - simulation.now_s, chance.expovariate(num_peers / life_s)))
        simulation.kill_one()
        simulation.join(max_slices=max_slices)
    own = [change for _, change in simulation.changes[before:] if change.cause != "undecided"]
    gap = sum(simulation.uncovered_s.values()) / (3600 * hours * num_slices)
    return len(own) / num_peers / hours, gap


if __name__ == "__main__":
    main()
