"""What a peer is doing and why, in one sentence that is true now; a pure function of its condition.

The most serious thing is said first: nobody sees us, the disk takes nothing, a slice lacks the owners that it needs,
then whom a round waits for, and only then that all is well.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from p2ptrain.ids import PeerId, SliceId, Version, short, slice_of, slice_order


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceSituation:
    """One owned slice's round as its owner sees it."""

    slice: SliceId
    version: Version
    """The version that the round would commit."""
    stage: str
    """``idle``, ``gathering``, ``reducing`` or ``voting``."""
    members: frozenset[PeerId]
    """Who decides."""
    living: frozenset[PeerId]
    """Members with a live claim that nobody suspects, ourselves included."""
    holders: frozenset[PeerId]
    """Peers with a live claim that hold the slice, ourselves included; members or not."""
    ready: frozenset[PeerId] = frozenset()
    """Members whose contribution has been announced."""
    deadline_in_s: float | None = None
    """Until it goes on in another way."""
    is_pending: bool = True
    """Whether this peer waits for the round."""
    quorum: int = 1
    """Of the manifest."""

    @property
    def needed(self) -> int:
        """Members that must vote: a majority, and no fewer than the quorum."""
        return max(len(self.members) // 2 + 1, self.quorum)


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """All that the sentence depends on."""

    state: str
    """TRAINING, AVERAGING and so on, as the peer entered it last."""
    reason: str
    """Its reason then."""
    isolation: str = ""
    """Why nobody sees us; empty when somebody does."""
    disk_trouble: str = ""
    """Why nothing is saved; empty when it is."""
    slices: Sequence[SliceSituation] = ()
    """Those that this peer owns."""
    order: str = ""
    """What the run's authority asks this peer to own, and whether it does; empty: nothing."""
    listing: str = ""
    """Why the directory does not list this peer; empty when it does."""


SINCE = "{since}"


@dataclass(frozen=True, slots=True)
class Answer:
    """State and reason, and what the reason is about."""

    state: str
    sentence: str
    """Where ``SINCE`` stands in it, the time at which the matter began belongs; else at its end."""
    topic: str
    """The same for as long as the same thing is the matter; empty when all is well."""
    note: str = ""
    """What else there is to say."""


@dataclass(slots=True)
class Since:
    """Remembers since when something has been the matter."""

    topic: str = ""
    wall_s: float = math.nan
    clock_text: Callable[[float], str] = field(default=lambda s: time.strftime("%H:%M", time.localtime(s)))

    def told(self, answer: Answer, now_s: float) -> tuple[str, str]:
        """State and sentence at wall time ``now_s``, with the time at which the matter began, if there is one."""
        if answer.topic != self.topic:
            self.topic, self.wall_s = answer.topic, now_s
        sentence = answer.sentence
        if answer.topic:
            since = self.clock_text(self.wall_s)
            sentence = sentence.replace(SINCE, since) if SINCE in sentence else f"{sentence} (since {since})"
        return answer.state, f"{sentence}; {answer.note}" if answer.note else sentence


def explain(situation: Situation) -> Answer:
    """The one sentence."""
    return replace(_explain(situation), note="; ".join(filter(None, [situation.order, situation.listing])))


def _explain(situation: Situation) -> Answer:
    if situation.isolation:
        return Answer("ISOLATED", situation.isolation, "isolated")
    if situation.disk_trouble:
        sentence = f"nothing can be saved, so this peer trains on without a vote: {situation.disk_trouble}"
        return Answer(situation.state, sentence, "disk")
    slices = sorted(situation.slices, key=lambda s: slice_order(s.slice))
    for one in slices:
        if situation.state in ("TRAINING", "AVERAGING") and len(one.holders) < one.quorum:
            return _below_quorum(one, situation)
        if one.is_pending and len(one.living) < one.needed:
            return _no_majority(one)
    if situation.state != "AVERAGING":
        return Answer(situation.state, situation.reason, "")
    waiting = [one for one in slices if one.is_pending]
    if not waiting:
        return Answer(situation.state, situation.reason, "")
    return Answer(situation.state, "; ".join(map(_waiting, waiting)), f"averaging {[s.version for s in waiting]}")


def _below_quorum(one: SliceSituation, situation: Situation) -> Answer:
    have, owned = len(one.holders), slice_of(one.slice)
    sentence = (
        f"not averaging: slice {owned} has {have} of {one.quorum} owners it needs; waiting for {one.quorum - have}"
        f" more since {SINCE}"
    )
    if situation.state == "TRAINING":
        return Answer(situation.state, f"{sentence}; what is trained meanwhile is kept for then", f"quorum {owned}")
    return Answer("WAITING", sentence, f"quorum {owned}")


def _no_majority(one: SliceSituation) -> Answer:
    missing = one.needed - len(one.living)
    gone = ", ".join(short(peer) for peer in sorted(one.members - one.living))
    sentence = (
        f"not averaging: slice {one.slice} has {len(one.living)} of {one.needed} owners it needs; waiting for"
        f" {missing} more since {SINCE} ({gone}), or until the claims of the absent have expired"
    )
    return Answer("WAITING", sentence, f"majority {one.slice}")


def _waiting(one: SliceSituation) -> str:
    name = f"slice {one.slice} v{one.version}"
    within = f", at most {one.deadline_in_s:.0f} s more" if one.deadline_in_s and one.deadline_in_s > 0 else ""
    late = sorted(one.living - one.ready)
    match one.stage:
        case "gathering" if late:
            return f"{name} waits for the inner steps of {', '.join(map(short, late))}{within}"
        case "gathering":
            return f"{name} waits for the plan of its proposer{within}"
        case "reducing":
            return f"{name} is being averaged by {len(one.living)} owners{within}"
        case "voting":
            return f"{name} waits for the votes of {one.needed} of {len(one.members)} owners{within}"
        case _:
            return f"{name} waits for its first round with the other owners{within}"
