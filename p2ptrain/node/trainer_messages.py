"""What the training thread and the event loop tell each other: immutable, so that neither waits for the other."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2ptrain.events import Event
from p2ptrain.ids import GENESIS, SliceId, Version
from p2ptrain.swarm.state import PublishedState
from p2ptrain.training.footing import Footing, Move
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.wire.codec import Float32

# To the thread.


@dataclass(frozen=True, slots=True)
class Swap:
    """New values of a slice that is not owned."""

    slice: SliceId
    to: PublishedState


@dataclass(frozen=True, slots=True)
class Advance:
    """An owned slice is at a new anchor."""

    slice: SliceId
    to: Move


@dataclass(frozen=True, slots=True)
class Settled:
    """The round that a slice was contributed to is committed, with an ``Advance`` before this, or void."""

    slice: SliceId
    beside: Version = GENESIS
    """The highest version of the common part that another owner's contribution was cut off for together with."""


@dataclass(frozen=True, slots=True)
class CutOffBy:
    """Other owners of a slice wait: have its turn's cut-off by then, however many inner steps are done."""

    slice: SliceId
    version: Version
    """That the slice is at; once our contribution to the next one is made, this asks for nothing more."""
    by_s: float
    """Monotonic."""


@dataclass(frozen=True, slots=True)
class Own:
    """Train these slices as soon as nothing is being averaged, and only compute with the others."""

    slices: frozenset[SliceId]
    footings: Mapping[SliceId, Footing]
    """Of all of them; for those that are trained already they are not used."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Compute nothing and hold nothing on the device, or train again. Progress is kept, and cut-offs are answered."""

    is_resting: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """What training remembers between two inner steps beside the weights."""

    owned: frozenset[SliceId]
    round: Version
    inner_step: int
    """Inner steps done in ``round``."""
    moments: Mapping[str, Float32]
    """The inner optimizer's, by name, copied."""

    @classmethod
    def of(cls, inner: InnerLoop) -> "Memory":
        """What ``inner`` remembers now; by its thread, or when that has ended."""
        moments = {name: value.cpu().numpy() for name, value in inner.optimizer_state().items()}
        return cls(inner.owned, inner.round, inner.inner_step, moments)


@dataclass(frozen=True, slots=True)
class Remember:
    """Asks for a ``Memory``, to be taken between two inner steps."""

    answer: "asyncio.Future[Memory]"


@dataclass(frozen=True, slots=True)
class UseThreads:
    """Compute with so many CPU threads; 0 is torch's own choice."""

    threads: int


Message = Own | Swap | Advance | Settled | CutOffBy | Rest | Remember | UseThreads


# From the thread.


@dataclass(frozen=True, slots=True, eq=False)
class SliceTrained:
    """An owned slice at a cut-off."""

    anchor: Float32
    """[numel]; progress is measured from here."""
    local: Float32
    """[numel]; not changed any more."""
    tokens: int
    """That no anchor contains yet; 0 if there is no progress to contribute."""
    beside: Version
    """Of the common part, that this cut-off goes into."""
    amplification: float = 1.0
    """How many times as far as it contributes the peer has moved it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrained:
    """A round's inner steps are done, or where there are fragments those of a turn."""

    round: Version
    slices: Mapping[SliceId, SliceTrained]
    tokens: int
    """Of these inner steps."""
    loss_nats: float
    """Mean of these inner steps, or of the last that there were."""
    training_s: float
    waiting_s: float
    other_s: float
    lag_s: float
    """Longest that something the thread was told waited for the inner step in hand."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What the thread does from now on."""

    round: Version
    waits_for: tuple[SliceId, ...] = ()
    """Slices that must be settled before the next inner step; empty while it trains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerListener:
    """Who is told, in the event loop, what happens in the thread."""

    trained: Callable[[RoundTrained], None]
    """Slices are cut off."""
    phase: Callable[[Phase], None]
    """A round has begun, or training waits."""
    slices: Callable[[frozenset[SliceId]], None]
    """An ``Own`` is done."""
    event: Callable[[Event], None]
    """Something happened."""
