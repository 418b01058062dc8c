"""The owners of one slice in fake time: real state machines, everything around them made up from a seed.

Messages are delayed, lost, repeated and overtaken; peers crash between two commands, restart from their disk, freeze
and are partitioned; the directory lags and its claims expire. The fake edge does what the docstrings of the commands
ask for. At every step the laws of a round are checked, so that a run that ends has kept them.
"""

import hashlib
import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from p2ptrain.ids import Digest, PeerId, RunId, SliceId
from p2ptrain.swarm import rounds
from p2ptrain.swarm.rounds import Head, RoundState, Rules, Stage
from p2ptrain.swarm.spread import whom_to_tell
from p2ptrain.wire.messages import (
    Accepted,
    Ballot,
    BlobRef,
    CastVote,
    Certificate,
    Committed,
    Contribution,
    PartResult,
    Propose,
    RoundMessage,
    Value,
    Vote,
)

RUN, SLICE = RunId("run"), SliceId("0")
_SLOW_MBPS = 0.02
RULES = Rules(gather_s=20, reduce_s=10, vote_s=5)
CALL_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What the network and the machines do; ranges are in seconds, shares between 0 and 1."""

    delay_s: tuple[float, float] = (0.005, 0.1)
    late: float = 0.0
    """Share of the messages that are late by up to ``late_s``, so that they cross deadlines and ballots."""
    late_s: float = 60.0
    lost: float = 0.0
    repeated: float = 0.0
    crash: float = 0.0
    """Chance to crash before each command."""
    restart_s: tuple[float, float] = (0.5, 20.0)
    train_s: tuple[float, float] = (3.0, 5.0)
    reduce_s: tuple[float, float] = (0.1, 1.0)
    stage_s: tuple[float, float] = (0.05, 0.3)
    fetch_s: tuple[float, float] = (0.1, 0.5)
    """For a whole state of another branch; what was missed on the own branch is replayed in half a second."""


@dataclass
class Disk:
    """What survives a crash."""

    head: Head = field(default_factory=Head)
    certificate: Certificate | None = None
    accepted: Accepted | None = None
    promised: Ballot | None = None
    averages: set[Digest] = field(default_factory=set)


@dataclass
class Node:
    """One peer: its disk, and the process that runs on it now."""

    peer: PeerId
    disk: Disk = field(default_factory=Disk)
    life: int = 0
    """Counts starts and crashes; what an earlier process began comes to nothing."""
    state: RoundState | None = None
    """None while the process is down."""
    blobs: set[Digest] = field(default_factory=set)
    frozen_until_s: float = 0.0
    training: int = 0
    """Number of the training that the next cut-off ends; 0 while none is under way."""
    catching_up: bool = False
    claim_expires_s: float = 0.0
    known_claims: dict[PeerId, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CommitSeen:
    """A peer committed a version."""

    time_s: float
    peer: PeerId
    certificate: Certificate


def peer_ids(count: int) -> list[PeerId]:
    """Short ids in sorted order: A, B, C..."""
    return [PeerId(chr(ord("A") + i)) for i in range(count)]


def digest_of(*parts: object) -> Digest:
    """A pure function of its arguments that looks like a SHA-256."""
    return Digest(hashlib.sha256(repr(parts).encode()).hexdigest())


def blob_of(*parts: object) -> BlobRef:
    """The name of a blob that stands for its arguments."""
    return BlobRef(digest_of(*parts), 1000)


class SimulatedGroup:
    """Peers, their network and their directory; nothing happens outside ``run``."""

    def __init__(
        self,
        peers: Sequence[PeerId],
        *,
        seed: int,
        weather: Weather | None = None,
        lease_s: float | None = 8.0,
        num_parts: int = 3,
        max_owners: int | None = None,
        quorum: int = 1,
        check_averages: bool = True,
    ) -> None:
        """Start all peers at genesis, each knowing the others' claims; lease_s None: claims never expire.

        With ``max_owners``, news of commits spread by the tree and by asking, as those that are not drawn need it.
        """
        self.now_s = 0.0
        self.weather = weather or Weather()
        self.commits: list[CommitSeen] = []
        self.voids: list[tuple[PeerId, rounds.Void]] = []
        self.counts: Counter[str] = Counter()
        self.liars: set[PeerId] = set()
        """They announce wrong averages, of which they have the bytes, as reducers and when they check."""
        self.lies: set[Digest] = set()
        self.withholders: set[PeerId] = set()
        """They announce averages and give them to nobody."""
        self.slow: set[PeerId] = set()
        """They announce a line on which a round takes a second or two."""
        self.convicted: list[tuple[PeerId, PeerId]] = []
        """Who found out whom."""
        self.entered: list[tuple[float, PeerId, rounds.Entered]] = []
        self.decided: defaultdict[tuple[int, int], set[Digest]] = defaultdict(set)
        """(version, epoch) -> values that a majority voted for, whether or not anybody collected the votes."""
        self.nodes: dict[PeerId, Node] = {}
        self._random = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count(1)
        self._lease_s = lease_s
        self._num_parts = num_parts
        self._max_owners = max_owners
        self.sent: Counter[tuple[PeerId, str]] = Counter()
        """Messages by sender and kind."""
        self._previous: dict[Digest, Digest | None] = {}
        """Of each committed value the one before it."""
        self.served: Counter[PeerId] = Counter()
        """How often another peer caught up by one."""
        self._rules = replace(
            RULES, max_owners=max_owners or rounds.MAX_OWNERS, quorum=quorum, check_averages=check_averages
        )
        self._sides: list[frozenset[PeerId]] = []
        self._voters: defaultdict[tuple[int, Ballot, Digest], set[PeerId]] = defaultdict(set)
        self._voted: dict[tuple[PeerId, int, tuple[int, int], tuple[PeerId, ...]], Digest] = {}
        self._proposed: dict[tuple[int, Ballot, Digest | None], Digest] = {}
        for peer in peers:
            self.nodes[peer] = Node(peer, claim_expires_s=lease_s or float("inf"))
        for peer in peers:
            self._boot(self.nodes[peer])

    # What a test does to the group.

    def add(self, peer: PeerId) -> None:
        """A newcomer fetches the state and claims the slice."""
        self.nodes[peer] = Node(peer)
        self._start_up(self.nodes[peer])

    def crash(self, peer: PeerId) -> None:
        """kill -9."""
        node = self.nodes[peer]
        node.life += 1
        node.state, node.blobs = None, set()
        node.training, node.catching_up = 0, False

    def restart(self, peer: PeerId) -> None:
        """Start a crashed peer again, from its disk."""
        if self.nodes[peer].state is None:
            self._start_up(self.nodes[peer])

    def freeze(self, peer: PeerId, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while: events pile up meanwhile, and nobody renews the claim."""
        self.nodes[peer].frozen_until_s = self.now_s + for_s

    def partition(self, *sides: Collection[PeerId]) -> None:
        """From now on only peers of the same side reach each other; without sides everybody does."""
        self._sides = [frozenset(side) for side in sides]

    def run(self, for_s: float) -> None:
        """Let fake time pass."""
        self.run_until(lambda: False, within_s=for_s)

    def run_until(self, done: Callable[[], bool], *, within_s: float) -> bool:
        """Let fake time pass until ``done``; whether that came within the time."""
        end_s = self.now_s + within_s
        while not done():
            if not self._queue or self._queue[0][0] > end_s:
                self.now_s = end_s
                return False
            self.now_s, _, happen = heapq.heappop(self._queue)
            happen()
        return True

    def live(self) -> list[Node]:
        """Nodes whose process is up."""
        return [node for node in self.nodes.values() if node.state is not None]

    def versions(self) -> dict[PeerId, int]:
        """Version of each peer whose process is up."""
        return {node.peer: node.disk.head.version for node in self.live()}

    def descends(self, head: Head, ancestor: Head) -> bool:
        """Whether the versions committed one after the other on the way to ``head`` include ``ancestor``."""
        previous = self._previous
        value_hash = head.value_hash
        while value_hash is not None and value_hash != ancestor.value_hash:
            value_hash = previous.get(value_hash)
        return value_hash == ancestor.value_hash

    def check_agreement(self) -> None:
        """Whoever has the same version in the same epoch has the same value."""
        values: dict[tuple[int, int], Digest | None] = {}
        for node in self.nodes.values():
            head = node.disk.head
            assert values.setdefault((head.version, head.epoch), head.value_hash) == head.value_hash

    # Time and the network.

    def _after(self, delay_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._sequence), happen))

    def _between(self, span: tuple[float, float]) -> float:
        return self._random.uniform(*span)

    def _chance(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def _connected(self, a: PeerId, b: PeerId) -> bool:
        return not self._sides or any(a in side and b in side for side in self._sides)

    def _answers(self, asker: PeerId, node: Node) -> bool:
        return node.state is not None and node.frozen_until_s <= self.now_s and self._connected(asker, node.peer)

    def _transmit(self, sender: Node, to: PeerId, message: RoundMessage) -> None:
        receiver = self.nodes[to]
        self.sent[sender.peer, type(message.body).__name__] += 1
        if receiver.state is None or not self._connected(sender.peer, to):
            self._later(sender, self._between((0.01, 1.0)), rounds.Unreachable(to))
            return
        if receiver.frozen_until_s > self.now_s or self._chance(self.weather.lost / 2):
            # The answer is missing; the message itself may well arrive.
            self._later(sender, CALL_TIMEOUT_S, rounds.Unreachable(to))
        if self._chance(self.weather.lost):
            return
        for _ in range(2 if self._chance(self.weather.repeated) else 1):
            delay_s = self._between(self.weather.delay_s)
            if self._chance(self.weather.late):
                delay_s += self._between((0, self.weather.late_s))
            self._after(delay_s, lambda: self._feed(receiver, receiver.life, rounds.Heard(sender.peer, message)))

    # Processes.

    def _start_up(self, node: Node) -> None:
        """Find out what the others committed meanwhile, then begin with that and with what is on disk."""
        life = node.life
        others = [n for n in self.live() if self._answers(node.peer, n) and n.disk.head.outranks(node.disk.head)]

        def up() -> None:
            if node.life == life and node.state is None:
                if others:
                    self._adopt_disk(node, self._random.choice(others))
                self._boot(node)

        self._after(self._between((0.2, 1.0)), up)

    def _boot(self, node: Node) -> None:
        node.life += 1
        node.blobs = set(node.disk.averages)
        node.claim_expires_s = self.now_s + (self._lease_s or float("inf"))
        node.state = rounds.begin(
            run=RUN,
            slice_id=SLICE,
            me=node.peer,
            rules=self._rules,
            head=node.disk.head,
            claims=self._look(node),
            accepted=node.disk.accepted,
            promised=node.disk.promised,
        )
        if self._max_owners:
            self._pull(node, node.life)
        self._train(node)
        self._keep_directory(node, node.life)

    def _look(self, node: Node) -> frozenset[PeerId]:
        """The live claims that this peer finds, or remembers from when it could find them."""
        for other in self.nodes.values():
            if self._connected(node.peer, other.peer):
                node.known_claims[other.peer] = other.claim_expires_s
        return frozenset(peer for peer, expires_s in node.known_claims.items() if expires_s > self.now_s)

    def _keep_directory(self, node: Node, life: int) -> None:
        if node.life != life or node.state is None:
            return
        if node.frozen_until_s <= self.now_s:
            if self._lease_s is not None and self.now_s > node.claim_expires_s - self._lease_s * 2 / 3:
                node.claim_expires_s = self.now_s + self._lease_s
            found = self._look(node)
            if found != node.state.claims:
                self._later(node, self._between((0, 0.5)), rounds.ClaimsSeen(found))
        self._after(1.0, lambda: self._keep_directory(node, life))

    def _train(self, node: Node) -> None:
        node.training = next(self._sequence)
        self._cut_off_in(node, self._between(self.weather.train_s))

    def _cut_off_in(self, node: Node, delay_s: float) -> None:
        life, training = node.life, node.training

        def cut_off() -> None:
            if node.life != life or node.training != training or not training:
                return
            if node.frozen_until_s > self.now_s:
                self._cut_off_in(node, node.frozen_until_s - self.now_s)
                return
            node.training = 0
            parts = tuple(blob_of("delta", node.peer, training, j) for j in range(self._num_parts))
            node.blobs |= {part.sha256 for part in parts}
            mbps = _SLOW_MBPS if node.peer in self.slow else 0.0
            contribution = Contribution(node.peer, self._random.randrange(1, 1000), 1.0, parts, downlink_mbps=mbps)
            self._feed(node, life, rounds.CutOff(contribution))

        self._after(delay_s, cut_off)

    def _later(self, node: Node, delay_s: float, event: rounds.Event) -> None:
        life = node.life
        self._after(delay_s, lambda: self._feed(node, life, event))

    def _feed(self, node: Node, life: int, event: rounds.Event) -> None:
        if node.life != life or node.state is None:
            return
        if node.frozen_until_s > self.now_s:
            self._later(node, node.frozen_until_s - self.now_s, event)
            return
        before = node.state
        node.state, commands = rounds.advance(before, event, self.now_s)
        self._check_step(before, event, node.state, commands)
        for command in commands:
            if self._chance(self.weather.crash):
                self.crash(node.peer)
                self._after(self._between(self.weather.restart_s), lambda: self.restart(node.peer))
                return
            self._carry_out(node, command)
        if node.state is not None and node.state.deadline_s not in (None, before.deadline_s):
            self._later(node, max(0.0, node.state.deadline_s - self.now_s), rounds.Tick())

    def _carry_out(self, node: Node, command: rounds.Command) -> None:
        assert node.state is not None
        self.counts[type(command).__name__] += 1
        match command:
            case rounds.Send(to, ballot, body, version):
                if isinstance(body, Propose):
                    self._check_proposal(ballot, body.value)
                for peer in to:
                    self._transmit(node, peer, RoundMessage(RUN, SLICE, version, ballot, body))
            case rounds.AskCutOff(within_s):
                if node.training:
                    self._cut_off_in(node, self._between((0, within_s)))
            case rounds.Reduce(parts, contributions, _):
                for part in parts:
                    self._reduce(node, part, contributions, node.state.ballot)
            case rounds.FetchInputs() | rounds.FetchAverage():
                pass  # bytes take no time here
            case rounds.Check(result, contributions, reducer, _):
                self._check(node, result, contributions, reducer)
            case rounds.Lied(peer):
                self.convicted.append((node.peer, peer))
            case rounds.StageResults(results):
                self._stage(node, results)
            case rounds.Promise(_, ballot):
                node.disk.promised = ballot
            case rounds.SignVote(ballot, value):
                self._sign_vote(node, ballot, value)
            case rounds.Commit(certificate):
                self._commit(node, certificate)
            case rounds.Void():
                self.voids.append((node.peer, command))
                self._train(node)
            case rounds.CatchUp(peer):
                self._catch_up(node, peer)
            case rounds.TellHead(peer):
                self._tell_head(node, peer)
            case rounds.Entered():
                self.entered.append((self.now_s, node.peer, command))

    def _reduce(self, node: Node, part: int, contributions: Sequence[Contribution], ballot: Ballot) -> None:
        life = node.life

        def reduced() -> None:
            if node.life != life or node.state is None or node.state.ballot != ballot:
                return
            got = [
                c for c in contributions
                if self._answers(node.peer, self.nodes[c.peer]) and c.parts[part].sha256 in self.nodes[c.peer].blobs
            ]  # fmt: skip
            if got:
                average = self._averaged(node, part, got)
                node.blobs |= {average.sha256, *(c.parts[part].sha256 for c in got)}
                self._feed(node, life, rounds.PartReduced(PartResult(part, average, tuple(c.peer for c in got))))

        self._after(self._between(self.weather.reduce_s), reduced)

    def _check(self, node: Node, result: PartResult, contributions: Sequence[Contribution], reducer: PeerId) -> None:
        assert node.state is not None
        life, ballot, part = node.life, node.state.ballot, result.part

        def checked() -> None:
            if node.life != life or node.state is None or node.state.ballot != ballot:
                return
            for c in contributions:
                holders = [self.nodes[c.peer], self.nodes[reducer], node]
                holding = [n for n in holders if n is node or self._answers(node.peer, n)]
                if not any(c.parts[part].sha256 in n.blobs for n in holding):
                    return
            average = self._averaged(node, part, contributions)
            node.blobs.add(average.sha256)
            self._feed(node, life, rounds.PartReduced(PartResult(part, average, result.contributors)))

        self._after(self._between(self.weather.reduce_s), checked)

    def _averaged(self, node: Node, part: int, contributions: Sequence[Contribution]) -> BlobRef:
        inputs = [(c.parts[part], c.tokens) for c in contributions]
        if node.peer not in self.liars:
            return blob_of("average", inputs)
        lie = blob_of("lie", node.peer, inputs)
        self.lies.add(lie.sha256)
        return lie

    def _stage(self, node: Node, results: tuple[PartResult, ...]) -> None:
        life, previous = node.life, node.disk.head.value_hash

        def staged() -> None:
            if node.life != life or node.state is None or node.disk.head.value_hash != previous:
                return
            wanted = {result.average.sha256 for result in results}
            giving = [n for n in self._donors(node) if n.peer not in self.withholders and self._answers(node.peer, n)]
            held = node.blobs.union(*(n.blobs for n in giving))
            if not wanted <= held:
                reducers = node.state.plan.reducers if node.state.plan else ()
                withheld = {reducers[r.part] for r in results if reducers and r.average.sha256 not in held}
                self._feed(node, life, rounds.StageFailed(results, "nobody gives an average", frozenset(withheld)))
                return
            node.blobs |= wanted
            outcome = (previous, results)
            digests = digest_of("state", outcome), digest_of("published", outcome)
            self._feed(node, life, rounds.Staged(results, *digests, blob_of("update", outcome)))

        self._after(self._between(self.weather.stage_s), staged)

    def _donors(self, node: Node) -> Sequence[Node]:
        """Whom a peer asks for averages."""
        return self.live()

    def _sign_vote(self, node: Node, ballot: Ballot, value: Value) -> None:
        life = node.life

        def written() -> None:
            if node.life != life:
                return
            if node.disk.head.value_hash == value.previous:
                node.disk.accepted = Accepted(ballot, value)
                node.disk.averages = {result.average.sha256 for result in value.results}
            self._check_vote(node.peer, ballot, value)
            vote = CastVote(value.value_hash, Vote(node.peer, b"signature"))
            message = RoundMessage(RUN, SLICE, value.version, ballot, vote)
            for peer in ballot.members:
                if peer != node.peer:
                    self._transmit(node, peer, message)
            self._feed(node, life, rounds.Heard(node.peer, message))

        self._after(self._between((0, 0.02)), written)

    def _commit(self, node: Node, certificate: Certificate) -> None:
        value, ballot = certificate.value, certificate.ballot
        voters = [vote.peer for vote in certificate.votes]
        assert len(set(voters)) == len(voters) >= len(ballot.members) // 2 + 1
        assert set(voters) <= self._voters[value.version, ballot, value.value_hash]
        assert (value.version, value.previous) == (node.disk.head.version + 1, node.disk.head.value_hash)
        assert {result.average.sha256 for result in value.results} <= node.blobs, "committed what was not staged"
        is_alone = len(ballot.members) == 1  # whoever is the only owner left decides alone
        assert is_alone or not self.lies & {r.average.sha256 for r in value.results}, "committed a lie"
        self._go_to(node, Head.of(certificate), certificate)
        self._announce(node)
        self._previous[value.value_hash] = value.previous
        self.commits.append(CommitSeen(self.now_s, node.peer, certificate))

    def _go_to(self, node: Node, head: Head, certificate: Certificate | None) -> None:
        node.disk.head, node.disk.certificate = head, certificate
        node.disk.accepted, node.disk.promised = None, None
        self._train(node)

    def _adopt_disk(self, node: Node, other: Node) -> None:
        self._go_to(node, other.disk.head, other.disk.certificate)

    def _catch_up(self, node: Node, peer: PeerId) -> None:
        life, donor = node.life, self.nodes[peer]
        if node.catching_up:
            return
        node.catching_up = True

        def told() -> None:
            """The donor's newest certificate is here; its state, as it is now, is on its way."""
            if node.life != life or node.state is None:
                return
            head, certificate = donor.disk.head, donor.disk.certificate
            answers = self._answers(node.peer, donor)
            if answers and node.disk.head.outranks(head):
                self._tell_head(node, peer)
            if not answers or certificate is None or not head.outranks(node.disk.head):
                node.catching_up = False
                return
            is_replay = self.descends(head, node.disk.head)
            took_s = self._between((0.1, 0.5) if is_replay else self.weather.fetch_s)
            self._after(took_s, lambda: fetched(head, certificate))

        def fetched(head: Head, certificate: Certificate) -> None:
            if node.life != life or node.state is None:
                return
            if node.frozen_until_s > self.now_s:
                self._after(node.frozen_until_s - self.now_s, lambda: fetched(head, certificate))
                return
            node.catching_up = False
            if self._answers(node.peer, donor) and head.outranks(node.disk.head):
                self.served[peer] += 1
                self._go_to(node, head, certificate)
                self._announce(node)
                self._feed(node, life, rounds.HeadMoved(head))

        self._after(0.05, told)

    def _announce(self, node: Node) -> None:
        certificate = node.disk.certificate
        if self._max_owners and certificate and node.state:
            voters = [vote.peer for vote in certificate.votes]
            for peer in whom_to_tell(node.peer, node.state.claims, voters, certificate.value.value_hash):
                self._tell_head(node, peer)

    def _pull(self, node: Node, life: int) -> None:
        if node.life != life:
            return
        peer = self._random.choice(list(self.nodes))
        if node.frozen_until_s <= self.now_s and peer != node.peer:
            self._catch_up(node, peer)
        self._after(2.0, lambda: self._pull(node, life))

    def _tell_head(self, node: Node, peer: PeerId) -> None:
        certificate = node.disk.certificate
        if certificate:
            version, ballot = certificate.value.version, certificate.ballot
            self._transmit(node, peer, RoundMessage(RUN, SLICE, version, ballot, Committed(certificate)))

    # Laws.

    def _check_step(
        self, before: RoundState, event: rounds.Event, after: RoundState, commands: Sequence[rounds.Command]
    ) -> None:
        check_legal(after)
        assert len(commands) <= 12 + 4 * rounds.MAX_EARLY, "a storm of commands"
        self.counts["most commands"] = max(self.counts["most commands"], len(commands))
        if isinstance(event, rounds.Tick) and before.deadline_s is not None and self.now_s >= before.deadline_s:
            assert after != before, "a deadline passed and nothing changed"
        if after.head != before.head:
            assert after.head.version == before.head.version + 1 or after.head.outranks(before.head)
        else:
            assert after.ballot.order >= before.ballot.order, "a ballot went back"

    def _check_proposal(self, ballot: Ballot, value: Value) -> None:
        key = value.version, ballot, value.previous
        assert self._proposed.setdefault(key, value.value_hash) == value.value_hash, "two proposals in one ballot"

    def _check_vote(self, peer: PeerId, ballot: Ballot, value: Value) -> None:
        key = peer, value.version, ballot.order, ballot.members
        assert self._voted.setdefault(key, value.value_hash) == value.value_hash, "two votes in one ballot"
        voters = self._voters[value.version, ballot, value.value_hash]
        voters.add(peer)
        if len(voters) > len(ballot.members) // 2:
            self.decided[value.version, ballot.epoch].add(value.value_hash)


def check_legal(state: RoundState) -> None:
    """What holds of every state, however it was reached."""
    assert state.stage is Stage.IDLE or state.deadline_s is not None, "waits without a deadline"
    assert state.promised == (state.stage is not Stage.IDLE)
    assert state.stage is Stage.IDLE or state.me in state.ballot.members, "takes part without a say"
    assert state.stage is not Stage.REDUCING or state.plan is not None
    assert state.stage is not Stage.VOTING or state.proposal is not None
    assert len(state.early) <= rounds.MAX_EARLY
