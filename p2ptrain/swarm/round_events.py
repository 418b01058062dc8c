"""What the edge of a slice reports to its round machine (swarm/rounds.py)."""

from dataclasses import dataclass

from p2ptrain.ids import GENESIS, Digest, PeerId, Version
from p2ptrain.swarm.head import Head
from p2ptrain.wire.messages import BlobRef, Contribution, PartResult, RoundMessage


@dataclass(frozen=True, slots=True)
class CutOff:
    """This peer's inner steps are done."""

    contribution: Contribution | None
    """None when it has nothing to add."""
    beside: Version = GENESIS
    """As in ``Ready``."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message arrived; the edge has checked its sender and its signatures."""

    sender: PeerId
    message: RoundMessage


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A message to a peer could not be delivered."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class ClaimsSeen:
    """Peers that have a live claim and hold this slice, by the directory."""

    holders: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class RivalMet:
    """A peer has nothing newer, and where it stands is not a version that this peer remembers of its own branch."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PartReduced:
    """A part that this peer reduces is done."""

    result: PartResult


@dataclass(frozen=True, slots=True)
class Staged:
    """The outer step with these results gives this state; nothing is changed yet."""

    results: tuple[PartResult, ...]
    digest: Digest
    published_digest: Digest
    update: BlobRef


@dataclass(frozen=True, slots=True)
class StageFailed:
    """The results could not be fetched or do not decode."""

    results: tuple[PartResult, ...]
    reason: str
    withheld: frozenset[PeerId] = frozenset()
    """The reducers of the parts whose average nobody delivered."""


@dataclass(frozen=True, slots=True)
class HeadMoved:
    """The edge caught up with rounds that others committed."""

    head: Head


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; the deadline may be over."""


Event = CutOff | Heard | Unreachable | ClaimsSeen | RivalMet | PartReduced | Staged | StageFailed | HeadMoved | Tick
