"""What the round machine (swarm/rounds.py) tells the edge of its slice to do."""

from collections.abc import Mapping
from dataclasses import dataclass

from p2ptrain.ids import GENESIS, Digest, PeerId, Version
from p2ptrain.swarm.deadlines import Deadline
from p2ptrain.wire.messages import Ballot, Certificate, Contribution, PartResult, RoundBody, Value


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver a message to these peers."""

    to: tuple[PeerId, ...]
    ballot: Ballot
    body: RoundBody
    version: Version


@dataclass(frozen=True, slots=True)
class AskCutOff:
    """Others are ready: end the inner steps within this time."""

    within_s: float


@dataclass(frozen=True, slots=True)
class Reduce:
    """Average these parts over the contributions, report each as PartReduced; ends the Reduce of an earlier ballot."""

    parts: tuple[int, ...]
    contributions: tuple[Contribution, ...]
    within_s: float
    """After this, go on with what has arrived: some of the others' patience must be left for our averages."""


@dataclass(frozen=True, slots=True)
class FetchInputs:
    """Fetch what checking these parts will take, while their reducers still average it."""

    parts: Mapping[int, PeerId]
    """With the reducer of each."""
    contributions: tuple[Contribution, ...]
    within_s: float


@dataclass(frozen=True, slots=True)
class FetchAverage:
    """Fetch an average from its reducer, while its checker still computes it: most are right."""

    result: PartResult
    reducer: PeerId


@dataclass(frozen=True, slots=True)
class Check:
    """Average this part once more over the contributions that a result names; report what it should be as PartReduced.

    Report nothing if an input cannot be had, from who contributed it or from the reducer, who keeps it.
    """

    result: PartResult
    contributions: tuple[Contribution, ...]
    reducer: PeerId
    within_s: float


@dataclass(frozen=True, slots=True)
class Lied:
    """A member announced another average than the one that two other members computed from the same inputs."""

    peer: PeerId
    part: int
    announced: Digest
    correct: Digest


@dataclass(frozen=True, slots=True)
class StageResults:
    """Fetch the averages, compute the outer step beside the current state, report Staged or StageFailed."""

    results: tuple[PartResult, ...]


@dataclass(frozen=True, slots=True)
class Promise:
    """Put the ballot on disk before saying or voting for anything in it; ``begin`` gets it back after a restart."""

    version: Version
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class SignVote:
    """Put the vote and its value's averages on disk, sign it, send it to the members and report it as Heard from us.

    The averages are served until the version is decided, after a restart too. A value that voters name and nobody can
    compute any more may be decided, so that no later ballot could propose anything else: the slice would stand still.
    """

    ballot: Ballot
    value: Value


@dataclass(frozen=True, slots=True)
class Commit:
    """Make the staged state the current one; the certificate proves it."""

    certificate: Certificate
    beside: Version = GENESIS
    """The highest that another owner told in its ``Ready``."""


@dataclass(frozen=True, slots=True)
class Void:
    """The round changes nothing; training goes on."""

    version: Version
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class CatchUp:
    """This peer has newer versions: fetch them if its head outranks ours, else send it our newest certificate."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class TellHead:
    """This peer is behind: send it our newest certificate."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Entered:
    """A stage began, in words for people."""

    stage: str
    version: Version
    attempt: int
    detail: str
    deadline: Deadline
    """When this peer stops waiting, from the stage's beginning on."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A member is left out of the round."""

    peer: PeerId
    reason: str


Command = (
    Send
    | AskCutOff
    | Reduce
    | FetchInputs
    | FetchAverage
    | Check
    | Lied
    | StageResults
    | Promise
    | SignVote
    | Commit
    | Void
    | CatchUp
    | TellHead
    | Entered
    | LeftOut
)
