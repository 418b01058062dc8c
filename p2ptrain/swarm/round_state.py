"""All that an owner's round machine (swarm/rounds.py) remembers, and what it starts with."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from p2ptrain.ids import GENESIS, Digest, PeerId, RunId, SliceId, Version
from p2ptrain.swarm.certificates import votes_needed
from p2ptrain.swarm.deadlines import PLANNED_ROOM, Deadline, StageDurations, adaptive_deadline
from p2ptrain.swarm.electorate import drawn
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.round_events import CutOff, Heard, Staged
from p2ptrain.wire.messages import Accepted, Ballot, Contribution, PartResult, Plan, Ready, Value, Vote

MAX_OWNERS = 64
"""``exchange.max_owners`` where nothing else is said."""


class Stage(enum.Enum):
    """Where a round stands at this owner."""

    IDLE = "idle"
    GATHERING = "gathering"
    REDUCING = "reducing"
    VOTING = "voting"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What the manifest says about rounds.

    ``gather_s``, ``reduce_s`` and ``vote_s`` are the longest deadlines of the stages, in seconds; what was measured
    shortens them (swarm/deadlines.py).
    """

    gather_s: float
    reduce_s: float
    vote_s: float
    max_owners: int = MAX_OWNERS
    """Of a version; who holds the slice beyond that takes turns (swarm/electorate.py)."""
    quorum: int = 1
    """No version is committed by fewer owners."""
    check_averages: bool = True
    """Where there are two owners, an average counts only if two of them have computed it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundState:
    """All that one owner knows of the round that would commit ``head.version + 1``."""

    run: RunId
    slice: SliceId
    me: PeerId
    rules: Rules
    head: Head
    ballot: Ballot
    claims: frozenset[PeerId]
    stage: Stage = Stage.IDLE
    deadline_s: float | None = None
    """When to send Tick; None while there is nothing to wait for."""
    attempts: int = 0
    """Ballots that this round has tried."""
    promised: bool = False
    """Whether we took part in ``ballot``; then it can only be left upwards."""
    asked: bool = False
    first_ready_s: float | None = None
    """When this ballot's first Ready was heard here: from then on its sender waits."""
    contribution: Contribution | None = None
    beside: Version = GENESIS
    """As in ``Ready``: of our last cut-off."""
    held: CutOff | None = None
    """As a guest: ours, until we have a vote or a version is decided."""
    invited: frozenset[PeerId] = frozenset()
    """Guests that our Ready asked for an offer, which the proposer waits for."""
    offers: Mapping[PeerId, Contribution | None] = field(default_factory=dict)
    """Of guests, for this version."""
    ready: Mapping[PeerId, Ready] = field(default_factory=dict)
    suspects: frozenset[PeerId] = frozenset()
    left_out: frozenset[PeerId] = frozenset()
    """Suspects when the last version was committed: as guests they are not waited for again."""
    withholding: frozenset[PeerId] = frozenset()
    """Members from whom an average that they announced could not be had: they reduce nothing more of this version."""
    plan: Plan | None = None
    reduced: Mapping[tuple[int, PeerId], PartResult] = field(default_factory=dict)
    reducing: frozenset[int] = frozenset()
    """Parts that we were told to reduce in this ballot."""
    fetching: frozenset[int] = frozenset()
    """Parts to check whose inputs we were told to fetch in this ballot."""
    checking: frozenset[PartResult] = frozenset()
    """Of others, that we compute once more."""
    agreed: Mapping[int, PartResult] = field(default_factory=dict)
    """By part, what two members have computed, each by itself, in this ballot."""
    disputed: frozenset[PeerId] = frozenset()
    """Members of whom one has announced a wrong average, until a third has computed it; one dispute at a time."""
    convicted: frozenset[PeerId] = frozenset()
    """Members that announced a wrong average in this ballot."""
    staging: tuple[PartResult, ...] | None = None
    """Results whose outer step the edge was last told to compute."""
    staged: Staged | None = None
    proposal: Value | None = None
    accepted: Accepted | None = None
    votes: Mapping[tuple[Digest, PeerId], Vote] = field(default_factory=dict)
    early: tuple[Heard, ...] = ()
    durations: StageDurations = field(default_factory=StageDurations)
    """Of the rounds that committed while this process ran."""
    planned_s: float = 0.0
    """What the last plan's transfers take over the lines that its members announce."""
    failures: int = 0
    """Attempts and rounds that came to nothing since the last commit."""
    stage_began_s: float = 0.0
    gathered_s: float = 0.0
    """What the gathering of this ballot took."""
    reduced_s: float = 0.0
    """What the reducing of this ballot took."""

    @property
    def version(self) -> Version:
        """The version that the round would commit."""
        return Version(self.head.version + 1)

    @property
    def proposer(self) -> PeerId:
        """Who plans and proposes in this ballot."""
        return proposer_of(self.version, self.ballot)

    @property
    def needed(self) -> int:
        """Members that must be ready, and vote: a majority, and no fewer than the quorum."""
        return votes_needed(self.ballot, self.rules.quorum)

    @property
    def gather_limit(self) -> Deadline:
        """How long a ready owner waits for the others' inner steps: never longer than the manifest says."""
        planned_s = min(self.planned_s, self.rules.gather_s / PLANNED_ROOM)
        return adaptive_deadline(self.durations.gather, self.rules.gather_s, self.failures, planned_s)

    @property
    def reduce_limit(self) -> Deadline:
        """How long a plan may take to be reduced."""
        return adaptive_deadline(self.durations.reduce, self.rules.reduce_s, self.failures, self.planned_s)

    @property
    def vote_limit(self) -> Deadline:
        """How long a proposal may take to get its votes."""
        planned_s = min(self.planned_s, PLANNED_ROOM * self.rules.vote_s)
        return adaptive_deadline(self.durations.vote, self.rules.vote_s, self.failures, planned_s)


def begin(
    *,
    run: RunId,
    slice_id: SliceId,
    me: PeerId,
    rules: Rules,
    head: Head,
    claims: frozenset[PeerId],
    accepted: Accepted | None = None,
    promised: Ballot | None = None,
) -> RoundState:
    """The state of an owner that holds ``head``.

    Args:
        run: the run.
        slice_id: the slice.
        me: this peer.
        rules: of the run.
        head: newest version that this peer holds.
        claims: peers with a live claim that hold the slice.
        accepted: what this peer last voted for at the next version, from its disk.
        promised: the ballot of the next version that it last took part in, from its disk.
    """
    version = Version(head.version + 1)
    epoch, members = membership(me, head, claims, rules)
    ballot = Ballot(epoch, 0, members)
    if accepted and accepted.ballot.order >= ballot.order:
        ballot = Ballot(accepted.ballot.epoch, accepted.ballot.attempt + 1, members)
    if promised and promised.order >= ballot.order:
        # A proposer that forgot what it proposed must not propose again in the same ballot.
        may_stay = promised.members == members and proposer_of(version, promised) != me
        ballot = promised if may_stay else Ballot(promised.epoch, promised.attempt + 1, members)
    return RoundState(
        run=run,
        slice=slice_id,
        me=me,
        rules=rules,
        head=head,
        ballot=ballot,
        claims=claims,
        accepted=accepted,
    )


def in_ballot(s: RoundState, ballot: Ballot) -> RoundState:
    """The state in another ballot: what was said and done in the last one is forgotten, what was accepted is not."""
    return replace(
        s,
        ballot=ballot,
        promised=False,
        asked=False,
        first_ready_s=None,
        ready={},
        invited=frozenset(),
        plan=None,
        reduced={},
        reducing=frozenset(),
        fetching=frozenset(),
        checking=frozenset(),
        agreed={},
        disputed=frozenset(),
        convicted=frozenset(),
        staging=None,
        proposal=None,
        votes={},
        gathered_s=0.0,
        reduced_s=0.0,
    )


def proposer_of(version: Version, ballot: Ballot) -> PeerId:
    """Whose turn it is to plan and propose in a ballot."""
    return ballot.members[(version + ballot.attempt) % len(ballot.members)]


def membership(me: PeerId, head: Head, claims: frozenset[PeerId], rules: Rules) -> tuple[int, tuple[PeerId, ...]]:
    """Epoch and members that decide the next version, by what the directory shows.

    Owners of whom too few for the quorum are left could never commit, so whoever joins them is a member at once. Not
    who has no claim of its own: it is not listed, and what it knows of the owners may be old.
    """
    live = sum(owner in claims or owner == me for owner in head.owners)
    if head.owners and (me not in claims or live >= max(len(head.owners) // 2 + 1, rules.quorum)):
        return head.epoch, head.owners
    return head.epoch + 1, drawn(claims | {me}, present=(), most=rules.max_owners, lot=head.value_hash or "")
