"""Every stage of a round, every role, everything that can go wrong with a peer: it costs the others time, never a bit.

One swarm outlives all faults. ``a`` and ``b`` own slice 0, ``c`` owns slice 1, all own the common part. Beside them are
a third owner of slice 0 and a second one of slice 1 (to whom slice 0 is news), which go wrong on order, in the middle
of a stage (tests/support/faulty_peer.py), and are restarted from their disk when the fault was their death. The whole
product takes half an hour (``make test-faults-all``); otherwise a sample is drawn that has each stage, fault and role.
"""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2ptrain.events import Evaluated, RoundCommitted, RoundStage, RoundVoid, StateFetched
from p2ptrain.ids import COMMON
from tests.support.live_swarm import LivePeer, LiveSwarm, descendants, eventually, is_running

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("P2PTRAIN_FAULTS_SEED", "1"))
MANIFEST_S = {"gathering": 6.0, "reducing": 4.0, "proposing": 3.0, "voting": 3.0}
"""Of the preset: the longest deadlines. A round with too few ready owners waits for its manifest's one in any case."""
VOTE_S = 3.0
"""How much longer other members wait than the proposer does."""
SLACK_S = 60.0
"""Between a deadline and its journal line on a machine that does five other things."""


@dataclass(frozen=True)
class Cell:
    """One fault in one stage of one role."""

    role: str
    stage: str
    fault: str
    seconds: float

    def __str__(self) -> str:
        length = f" {self.seconds:g} s" if self.seconds else ""
        return f"{self.role}, {self.stage}: {self.fault}{length}"


ROLES = {"one of three": ("third", "0"), "one of two": ("second", "1"), "non-owner": ("second", "0")}
OWNERS_STAGES = ("training", "gathering", "sending", "reducing", "agreeing", "committing", "disseminating")
BREAKS = (("kill", 0.0), ("stop", 1.0), ("stop", 12.0), ("cut", 1.0), ("cut", 12.0))
"""Shorter and longer than any deadline (6 s) and than the lease (5 s)."""
LIES = (
    ("gathering", "slow", 6.0),
    ("sending", "slow", 6.0),
    ("reducing", "slow", 6.0),
    ("gathering", "lie", 3.0),
    ("reducing", "lie", 3.0),
    ("agreeing", "lie", 3.0),
    ("gathering", "repeat", 3.0),
    ("committing", "repeat", 3.0),
    ("training", "ahead", 8.0),
    ("reducing", "ahead", 8.0),
    ("training", "behind", 8.0),
    ("reducing", "behind", 8.0),
    ("sending", "corrupt", 1.0),
    ("reducing", "corrupt", 1.0),
)


def all_cells() -> list[Cell]:
    """The whole matrix; those after which nobody listens to the peer for a while come last."""
    cells = [
        Cell(role, stage, fault, seconds)
        for fault, seconds in BREAKS
        for role in ("one of three", "one of two")
        for stage in OWNERS_STAGES
    ]
    cells += [Cell("non-owner", "receiving", fault, seconds) for fault, seconds in BREAKS]
    cells += [Cell("bootstrap", "reducing", fault, seconds) for fault, seconds in BREAKS[1:]]
    cells += [Cell(role, *lie) for lie in LIES for role in ("one of three", "one of two")]
    cells += [Cell("non-owner", "receiving", fault, 3.0) for fault in ("slow", "repeat", "corrupt")]
    return [*cells, Cell("bootstrap", "reducing", "kill", 0.0)]


def sample(cells: list[Cell], seed: int) -> list[Cell]:
    """A few of them, by the seed, that have every stage, fault and role at least once, in their order."""
    chance = random.Random(seed)
    missing = {(kind, value) for c in cells for kind, value in _traits(c)}
    chosen = []
    while missing:
        best = max(cells, key=lambda c: (len(missing & _traits(c)), -c.seconds, chance.random()))
        chosen.append(best)
        missing -= _traits(best)
    return sorted(chosen, key=cells.index)


def _traits(cell: Cell) -> set[tuple[str, str]]:
    return {("role", cell.role), ("stage", cell.stage), ("fault", f"{cell.fault} {cell.seconds > 6}")}


CELLS = all_cells() if os.environ.get("P2PTRAIN_FAULTS") == "all" else sample(all_cells(), SEED)


class Matrix:
    """The swarm, its stable peers, and those that go wrong."""

    def __init__(self, folder: Path) -> None:
        self.swarm = LiveSwarm(folder)
        # Slices large enough that a slow line is felt: 100 kB each are 0.8 s at 1 Mbit/s.
        manifest = self.swarm.manifest
        manifest.write_text(re.sub(r"(?m)^mlp_hidden = \d+", "mlp_hidden = 1024", manifest.read_text()))
        self.folder = folder

    def __enter__(self) -> "Matrix":
        self.swarm.__enter__()
        self.stable = [self.swarm.start_peer(name, slices) for name, slices in (("a", "0"), ("b", "0"), ("c", "1"))]
        self.start("third"), self.start("second")
        for peer in [*self.stable, *self.faulty.values()]:
            peer.wait_for_version(COMMON, 8)
        for peer in self.stable:  # a peer this young may not have saved everything yet
            for file in ("checkpoint.safetensors", "progress.safetensors"):
                eventually((peer.home / file).exists, what=f"{peer.name} saves {file}")
        self.began = [self._belongings(peer) for peer in self.stable]
        return self

    def __exit__(self, *exception: object) -> None:
        self.swarm.__exit__(*exception)

    @property
    def faulty(self) -> dict[str, LivePeer]:
        """The peers that go wrong, by name."""
        return {name: self.swarm.peers[name] for name in ("third", "second")}

    def start(self, name: str, *, as_newcomer: bool = False) -> LivePeer:
        """Start a faulty peer, again if it has been there before."""
        if as_newcomer:
            self.swarm.peers[name].child.kill()
            shutil.rmtree(self.swarm.peers[name].home)
        orders = self.folder / f"{name}.orders"
        orders.with_suffix(".struck").unlink(missing_ok=True)
        orders.write_text("")
        return self.swarm.start_peer(name, "0" if name == "third" else "1", orders=orders)

    def order(self, cell: Cell) -> LivePeer:
        """Have a fault strike, and return the peer whose fault it is once it has."""
        name, slice_id = ROLES[cell.role]
        victim = self.swarm.peers[name]
        struck = self.folder / f"{name}.struck"
        before = struck.read_text() if struck.exists() else ""
        slice_id = slice_id if cell.stage not in ("training", "sending") else "*"
        with (self.folder / f"{name}.orders").open("a") as file:
            file.write(f"{cell.stage}:{slice_id}:{cell.fault}:{cell.seconds}\n")
        eventually(
            lambda: struck.exists() and struck.read_text() != before,
            what=f"{cell} strikes\n{victim.log()}",
        )
        return victim

    def survive(self, at_s: float) -> float:
        """Wait until every stable peer has committed two rounds of its slices after ``at_s``; how long that took."""
        for peer in self.stable:
            for slice_id in ("1" if peer.name == "c" else "0", COMMON):

                def has_two(peer: LivePeer = peer, slice_id: str = slice_id) -> bool:
                    peer.check()
                    return len(self._commits(peer, slice_id, at_s)) >= 2

                # However long it takes: what is promised is checked against the announced deadlines.
                eventually(has_two, what=f"{peer.name} commits slice {slice_id}\n{peer.log()}")
        return max(self._commits(peer, COMMON, at_s)[1] - at_s for peer in self.stable)

    def assert_same_digests(self, since_s: float) -> None:
        """Whatever was committed since a moment has one digest."""
        digests: dict[tuple[str, int], dict[str, str]] = {}
        for peer in self.swarm.peers.values():
            for r in peer.records():
                if r.time_s > since_s and isinstance(r.event, RoundCommitted):
                    digests.setdefault((r.event.slice, r.event.version), {})[peer.name] = r.event.digest
        for key, by_peer in digests.items():
            assert len(set(by_peer.values())) == 1, (key, by_peer)

    def longest_overrun(self, at_s: float) -> float:
        """By how much a stage of a stable peer took longer than the deadline that it had announced."""
        longest_s = 0.0
        for peer in self.stable:
            opened: dict[str, tuple[float, RoundStage]] = {}
            for record in peer.records():
                match record.event:
                    case RoundStage() | RoundCommitted() | RoundVoid() | StateFetched():
                        began = opened.pop(record.event.slice, None)
                        if began is not None and began[0] > at_s:
                            stage = began[1]
                            assert stage.deadline_s is not None
                            assert 0 < stage.deadline_s <= 4 * MANIFEST_S["reducing"] * 2, stage
                            allowed_s = max(stage.deadline_s, MANIFEST_S[stage.stage]) + VOTE_S
                            longest_s = max(longest_s, record.time_s - began[0] - allowed_s)
                        if isinstance(record.event, RoundStage):
                            opened[record.event.slice] = (record.time_s, record.event)
        return longest_s

    def wait_until_back(self, victim: LivePeer) -> float:
        """Until a round of a stable peer has a contribution of this one; how long that took."""
        began_s, at = time.time(), self.stable[0].reached(COMMON)
        eventually(victim.state, what=f"{victim.name} is up\n{victim.log()}")
        who = victim.id

        def contributes() -> bool:
            victim.check()
            return any(e.version > at and who in e.contributors for e in self.stable[0].committed(COMMON)[-50:])

        eventually(contributes, what=f"{victim.name} contributes again\n{victim.log()}")
        return time.time() - began_s

    def check_nothing_is_left(self) -> None:
        """Neither memory nor files nor descriptors nor processes pile up at those who survived it all."""
        for peer, began in zip(self.stable, self.began, strict=True):
            now = self._belongings(peer)

            def is_tidy(peer: LivePeer = peer, began: dict[str, float] = began) -> bool:
                now = self._belongings(peer)  # what waits for somebody who is gone is given up after a minute
                return (
                    now["descriptors"] < began["descriptors"] + 40
                    and now["files"] <= began["files"] + 4
                    and now["processes"] == began["processes"]
                    and now["resident_mib"] < began["resident_mib"] + 40
                )

            eventually(is_tidy, what=f"{peer.name} has no more than at first, {began}, now {now}")

    def _commits(self, peer: LivePeer, slice_id: str, after_s: float) -> list[float]:
        return [
            r.time_s
            for r in peer.records()
            if r.time_s > after_s and isinstance(r.event, RoundCommitted) and r.event.slice == slice_id
        ]

    @staticmethod
    def _belongings(peer: LivePeer) -> dict[str, float]:
        pid = peer.child.pid
        files = [path for path in peer.home.rglob("*") if path.is_file() and path.suffix != ".unfinished"]
        return {
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            # Journals and the last rounds fill up to their own bounds, which other tests check.
            "files": sum(not p.name.startswith("events") and p.parent.name != "rounds" for p in files),
            "processes": len(peer.daemons()),
            "resident_mib": int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20,
        }


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with Matrix(tmp_path_factory.mktemp("matrix")) as matrix:
        yield matrix


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_others_go_on_with_equal_bits_when(cell: Cell, matrix: Matrix) -> None:
    if cell.role == "bootstrap":
        at_s = time.time()
        break_bootstrap(matrix.swarm, cell)
        row = {"survivors_s": matrix.survive(at_s), "back_s": 0.0}
    else:
        for name, peer in matrix.faulty.items():
            if not is_running(peer.child.pid):
                matrix.wait_until_back(matrix.start(name))
        victim = matrix.order(cell)
        at_s = time.time()
        row = {"survivors_s": matrix.survive(at_s)}
        time.sleep(max(0.0, at_s + cell.seconds - time.time()))  # until the fault is over
        if cell.fault == "kill":
            status = eventually(victim.child.exit_status, what=f"{victim.name} dies")
            assert status == -signal.SIGKILL
        if cell.fault in ("kill", "corrupt", "lie"):  # nobody may listen to a liar for a minute or more
            victim = matrix.start(victim.name, as_newcomer=cell.fault != "kill")
        row["back_s"] = matrix.wait_until_back(victim)
    matrix.assert_same_digests(at_s)
    row["overrun_s"] = matrix.longest_overrun(at_s)
    record(cell, row)
    assert row["overrun_s"] < SLACK_S


def test_afterwards_the_loss_has_fallen_and_nothing_is_left_behind(matrix: Matrix) -> None:
    losses = [[event.loss_nats for event in peer.events(Evaluated)] for peer in matrix.stable]
    assert losses[0][-1] < max(of_peer[0] for of_peer in losses) - 0.5, "whoever began first began with nothing"
    matrix.assert_same_digests(0.0)
    matrix.check_nothing_is_left()


def break_bootstrap(swarm: LiveSwarm, cell: Cell) -> None:
    """Kill or stop the bootstrap node, or stop its daemon, and let it go on after a while."""
    child = swarm.children[0]
    if cell.fault == "kill":
        child.kill()
        return
    pids = [child.pid] if cell.fault == "stop" else descendants(child.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(cell.seconds)  # the length of the fault is what is tested
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def record(cell: Cell, row: dict[str, float]) -> None:
    """For the table in docs/results: one line a cell."""
    if out := os.environ.get("P2PTRAIN_FAULTS_OUT"):
        with Path(out).open("a") as file:
            file.write(json.dumps({**vars(cell), **{k: round(v, 2) for k, v in row.items()}}) + "\n")
