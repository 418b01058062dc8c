"""When the demo kills a peer and what counts as its replacement: a pure machine over the events of all journals.

The kill must hit a round in the middle, and journals are read a moment after they are written. So the victim is frozen
first, its journal read to the end, and only if the round is still open there is it killed; otherwise it goes on, and
the next round is tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from p2ptrain.events import PeerStarted, Record, RoundCommitted, RoundStage, RoundVoid
from p2ptrain.ids import COMMON, PeerId, SliceId, Version

_STAGES_BY_PATIENCE = (
    (0, frozenset({"reducing"})),
    (6, frozenset({"proposing", "voting"})),
    (12, frozenset({"gathering"})),
)
"""After how many of the victim's rounds have slipped through which stages will do, too. Reducing is what is wanted;
where it is always over before it is seen, the votes on its result are part of averaging as well."""


class StrikePhase(Enum):
    """How far the demo's murder has come."""

    WAITING = "for the run to get going"
    ARMED = "for the victim to be in the middle of averaging"
    FROZEN = "for the victim's journal to be read"
    KILLED = "for the replacement to contribute"
    REPLACED = "for nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRound:
    """A round that a peer is in."""

    slice: SliceId
    version: Version
    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Freeze:
    """Stop the victim where it stands, then bring the rest of its journal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resume:
    """Let the victim go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KillAndReplace:
    """SIGKILL the victim, and start a peer that chooses its slices itself."""

    round: OpenRound


@dataclass(frozen=True, kw_only=True, slots=True)
class Contributed:
    """The replacement took part in a committed round for the first time."""

    round: RoundCommitted
    after_s: float
    """Since the kill."""


StrikeCommand = Freeze | Resume | KillAndReplace | Contributed


@dataclass(frozen=True, kw_only=True, slots=True)
class Strike:
    """All that the decision depends on."""

    victim: str
    """Name of its journal, as ``replacement``."""
    replacement: str
    from_version: Version
    """The victim lives until the common part has this version."""
    phase: StrikePhase = StrikePhase.WAITING
    open_rounds: Mapping[SliceId, OpenRound] = field(default_factory=dict)
    """The victim's."""
    slipped: int = 0
    """Rounds that the victim finished since ``from_version``."""
    target: OpenRound | None = None
    victim_id: PeerId | None = None
    replacement_id: PeerId | None = None
    killed_at_s: float | None = None
    """Wall time, as journals have it."""
    committed_after: frozenset[Version] = frozenset()
    """Versions of the slice hit that were committed after the kill."""
    replaced_after_s: float | None = None


def advance(strike: Strike, records: Sequence[tuple[str, Record]], now_s: float) -> tuple[Strike, StrikeCommand | None]:
    """What to do after the journals have gained ``records``.

    Args:
        strike: the state so far.
        records: with the names of their journals; after a ``Freeze``, all that the victim had written.
        now_s: wall time.
    """
    contribution: Contributed | None = None
    for name, record in records:
        strike, seen = _after_record(strike, name, record)
        contribution = contribution or seen
    if contribution is not None:
        return strike, contribution
    match strike.phase:
        case StrikePhase.ARMED:
            target = _best_target(strike)
            if target is not None:
                return replace(strike, phase=StrikePhase.FROZEN, target=target), Freeze()
        case StrikePhase.FROZEN:
            # It went on between the last reading and the freeze; what counts is where it stands now.
            target = _best_target(strike)
            if target is None:
                return replace(strike, phase=StrikePhase.ARMED, target=None), Resume()
            killed = replace(strike, phase=StrikePhase.KILLED, target=target, killed_at_s=now_s)
            return killed, KillAndReplace(round=target)
        case _:
            pass
    return strike, None


def _after_record(strike: Strike, name: str, record: Record) -> tuple[Strike, Contributed | None]:
    event = record.event
    if name == strike.victim:
        strike = _victim_after(strike, record)
    if name == strike.replacement and isinstance(event, PeerStarted):
        strike = replace(strike, replacement_id=event.peer)
    if not isinstance(event, RoundCommitted):
        return strike, None
    if strike.phase is StrikePhase.WAITING and event.slice == COMMON and event.version >= strike.from_version:
        strike = replace(strike, phase=StrikePhase.ARMED)
    killed_at_s = strike.killed_at_s
    if killed_at_s is None or strike.target is None or record.time_s <= killed_at_s:
        return strike, None
    if event.slice == strike.target.slice and event.version >= strike.target.version:
        strike = replace(strike, committed_after=strike.committed_after | {event.version})
    if strike.phase is StrikePhase.KILLED and strike.replacement_id in event.contributors:
        after_s = record.time_s - killed_at_s
        strike = replace(strike, phase=StrikePhase.REPLACED, replaced_after_s=after_s)
        return strike, Contributed(round=event, after_s=after_s)
    return strike, None


def _victim_after(strike: Strike, record: Record) -> Strike:
    match record.event:
        case PeerStarted(peer=peer):
            return replace(strike, victim_id=peer)
        case RoundStage(slice=slice_id, version=version, stage=stage):
            now_open = OpenRound(slice=slice_id, version=version, stage=stage)
            return replace(strike, open_rounds={**strike.open_rounds, slice_id: now_open})
        case RoundCommitted(slice=slice_id) | RoundVoid(slice=slice_id):
            still_open = {other: value for other, value in strike.open_rounds.items() if other != slice_id}
            slipped = strike.slipped + (strike.phase in (StrikePhase.ARMED, StrikePhase.FROZEN))
            return replace(strike, open_rounds=still_open, slipped=slipped)
        case _:
            return strike


def _best_target(strike: Strike) -> OpenRound | None:
    """A round in the right stage, of a numbered slice if possible: losing one of its two owners is the harder case."""
    stages = frozenset[str]().union(*(more for patience, more in _STAGES_BY_PATIENCE if strike.slipped >= patience))
    candidates = [one for one in strike.open_rounds.values() if one.stage in stages]
    return max(candidates, key=lambda one: (one.slice != COMMON, one.slice), default=None)
