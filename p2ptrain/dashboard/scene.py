"""All that one picture of the dashboard shows, and the rows of its tables. Pure; drawn by ``cards`` and ``screen``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from p2ptrain.config.load import parse_run, run_id
from p2ptrain.dashboard.device import DeviceSample
from p2ptrain.dashboard.projection import Note, SliceView
from p2ptrain.dashboard.seat import Seat
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version, every_fragment, short, slice_of, slice_order

_FRESH_ROUNDS = 2
"""Without word from the swarm, an owner counts as online when it contributed to one of so many last rounds."""

_SILENT_AFTER_S = 15.0
"""A running peer reports its traffic every second."""

LinkWord = Literal["opening", "live", "lost", "ended", "replay", "still"]
SortKey = Literal["peer", "slices", "tokens", "speed", "sent", "loss", "seen"]
SORT_KEYS: tuple[SortKey, ...] = ("peer", "slices", "tokens", "speed", "sent", "loss", "seen")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What a manifest says; None and empty where there is no manifest at hand."""

    name: str = ""
    run: RunId | None = None
    rounds: int | None = None
    inner_steps: int | None = None
    slices: tuple[SliceId, ...] = ()
    """All, or the fragments of all, the common part first."""

    @classmethod
    def of_manifest(cls, text: str) -> "RunFacts":
        """Of the manifest ``text``.

        Raises:
            ConfigError: it is none.
        """
        run = parse_run(text, source="manifest")
        return cls(
            name=run.name,
            run=run_id(run),
            rounds=run.rounds,
            inner_steps=run.inner.steps,
            slices=every_fragment(run.slicing.slices, run.slicing.fragments),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """Where the picture comes from, and whether it still does."""

    word: LinkWord = "opening"
    detail: str = ""
    """A sentence with the remedy when the link is lost or ended; what is being done while it is opening."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What the peer answers over its control socket, beyond its journal; None is not said."""

    why: str | None = None
    state: str = ""
    """Newer than the journal's where that has ended: a paused peer writes that it stopped."""
    reason: str = ""
    is_paused: bool = False
    reach: str | None = None
    upload_mbps: float | None = None
    """Cap; 0 is none."""
    download_mbps: float | None = None
    limits: Sequence[tuple[str, str]] = ()
    """All limits in force: name and value, for people."""
    can_obey: bool = False
    """There is somebody to send commands to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayPlace:
    """Where a replay, or a live screen that looks back, is."""

    begin_s: float
    end_s: float
    now_s: float
    speed: float
    """Seconds of the past in one second; 0 stands still."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One moment."""

    now_s: float
    """Wall time of the moment shown."""
    seat: Seat
    facts: RunFacts = RunFacts()
    link: Link = Link()
    seen: Seen = Seen()
    device: DeviceSample | None = None
    place: ReplayPlace | None = None

    def slice_ids(self) -> list[SliceId]:
        """Every slice that we know of, or its fragments where it has some, the common part first."""
        known = {*self.facts.slices, *self.seat.swarm.slices, *self.seat.moved}
        if self.seat.report is not None:
            known |= set(self.seat.report.slices)
        divided = {slice_of(slice_id) for slice_id in known if slice_of(slice_id) != slice_id}
        return sorted(known - divided, key=slice_order)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnerMark:
    """One owner of a slice."""

    name: str
    is_mine: bool
    is_online: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceRow:
    """A slice on the map."""

    slice: SliceId
    version: Version
    epoch: int
    owners: tuple[OwnerMark, ...]
    is_known: bool
    """False: nobody has told us who owns it."""
    is_mine: bool
    age_s: float | None
    """Since its last commit; None when that is not known."""
    is_age_exact: bool
    digest: Digest | None
    differs: bool
    """Owners hold different bits at one version: a violated invariant."""
    stage: str
    """Of the round that is going on; empty between rounds."""
    tokens: int | None
    loss_nats: float | None
    lacks_quorum: bool = False
    """The last look at the claims found fewer owners than the manifest's quorum."""

    @property
    def num_online(self) -> int:
        """Owners that answer or contributed lately."""
        return sum(owner.is_online for owner in self.owners)

    @property
    def is_below_quorum(self) -> bool:
        """No majority of its owners is online, or no quorum has a claim, so nothing can be committed."""
        return self.is_known and (self.lacks_quorum or 2 * self.num_online <= len(self.owners))


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerRow:
    """A line of the peers' table; None is not known."""

    peer: str
    """Its id, or its name when the id is not known yet."""
    name: str
    is_mine: bool
    slices: tuple[SliceId, ...]
    state: str
    reason: str
    is_silent: bool = False
    tokens: int | None = None
    tokens_per_s: float | None = None
    sent_bytes: int | None = None
    loss_nats: float | None = None
    seen_s: float | None = None
    """Seconds since its last word that we know of."""


def slice_rows(scene: Scene) -> list[SliceRow]:
    """The map's rows, the common part first."""
    return [_slice_row(scene, slice_id) for slice_id in scene.slice_ids()]


def whole_slice_rows(rows: Sequence[SliceRow]) -> list[SliceRow]:
    """The rows of fragments put together by slice: what is behind, differs or lacks owners is what is shown."""
    by_slice: dict[SliceId, list[SliceRow]] = {}
    for row in rows:
        by_slice.setdefault(slice_of(row.slice), []).append(row)
    return [replace(min(several, key=_concern), slice=whole) for whole, several in by_slice.items()]


def _concern(row: SliceRow) -> tuple[bool, bool, Version]:
    return not row.differs, not row.is_below_quorum, row.version


def _slice_row(scene: Scene, slice_id: SliceId) -> SliceRow:
    seat, whole = scene.seat, slice_of(slice_id)
    view, report = seat.swarm.slices.get(slice_id), None
    if seat.report is not None:
        report = seat.report.slices.get(slice_id)
    moved = seat.moved.get(slice_id)
    versions = [view.version if view else 0, report.version if report else 0, moved.version if moved else 0]
    version = Version(max(versions))
    use_report = report is not None and (view is None or report.version >= view.version)
    owners: tuple[PeerId, ...] = report.owners if report is not None and use_report else view.owners if view else ()
    claimed = {
        peer.peer: peer.name for peer in seat.swarm.peers.values() if whole in peer.slices and peer.peer is not None
    }
    if not owners:
        owners = tuple(claimed)
    me = seat.peer.peer if seat.peer is not None else None
    digests = set(report.digests.values()) if report is not None else set()
    digest = view.digest if view is not None and view.version == version else None
    if digest is None and len(digests) == 1:
        digest = next(iter(digests))
    return SliceRow(
        slice=slice_id,
        version=version,
        epoch=max(view.epoch if view else 0, report.epoch if report else 0),
        owners=tuple(
            OwnerMark(
                name=seat.swarm.name_of(owner),
                is_mine=owner == me,
                is_online=_is_online(seat, owner, slice_id, version),
            )
            for owner in owners
        ),
        is_known=bool(owners) or report is not None,
        lacks_quorum=not seat.swarm.slices.get(whole, SliceView(slice=whole)).is_covered,
        is_mine=seat.peer is not None and whole in seat.peer.slices,
        age_s=max(0.0, scene.now_s - moved.time_s) if moved is not None and version else None,
        is_age_exact=moved is not None and moved.is_exact,
        digest=digest,
        differs=len(digests) > 1 or bool(view and view.conflicts),
        stage=_stage(seat, slice_id, version),
        tokens=report.tokens if report is not None else view.tokens if view is not None else None,
        loss_nats=report.loss_nats if report is not None else None,
    )


def _is_online(seat: Seat, owner: PeerId, slice_id: SliceId, version: Version) -> bool:
    own = next((peer for peer in seat.swarm.peers.values() if peer.peer == owner), None)
    if own is not None:
        return own.fate == "alive"
    if seat.report is not None:
        return owner in seat.report.peers
    if owner in seat.last_contributors.get(slice_id, ()):
        return True
    return owner in seat.seen and seat.seen[owner][1] + _FRESH_ROUNDS >= version


def _stage(seat: Seat, slice_id: SliceId, version: Version) -> str:
    stages = [one for peer in seat.swarm.peers.values() if (one := peer.stages.get(slice_id)) is not None and one.stage]
    latest = max(stages, key=lambda one: one.version, default=None)
    return latest.stage if latest is not None and latest.version > version else ""


def peer_rows(scene: Scene, sort: SortKey = "peer", *, is_reversed: bool = False) -> list[PeerRow]:
    """The table's rows, this peer first unless another order is asked for."""
    rows: dict[str, PeerRow] = {}
    seat = scene.seat
    if seat.report is not None:
        for one in seat.report.peers.values():
            rows[one.peer] = PeerRow(
                peer=one.peer,
                name=seat.swarm.name_of(one.peer),
                is_mine=False,
                slices=tuple(sorted(one.slices, key=slice_order)),
                state=one.state,
                reason=one.reason,
                tokens=one.tokens,
                sent_bytes=one.sent_bytes,
                loss_nats=one.validation_loss_nats,
            )
        for silent in seat.report.silent:
            rows[silent] = PeerRow(
                peer=silent,
                name=seat.swarm.name_of(silent),
                is_mine=False,
                slices=(),
                state="silent",
                reason="has a claim and does not answer",
                is_silent=True,
            )
    _add_seen(scene, rows)
    newest_first = sorted(seat.swarm.validation_nats, reverse=True)
    for view in seat.swarm.peers.values():
        key = view.peer or view.name
        ended = view.fate != "alive"
        heard_s = max(0.0, scene.now_s - seat.heard_s.get(view.name, scene.now_s))
        # A journal that ends without a word: nobody wrote that its peer was killed.
        is_silent = ended or (view.name != seat.mine and heard_s > _SILENT_AFTER_S)
        rows[key] = PeerRow(
            peer=key,
            name=view.name,
            is_mine=view.name == seat.mine,
            slices=view.slices,
            state=view.fate if ended and view.fate != "asleep" else view.state,
            reason=view.reason,
            is_silent=is_silent,
            tokens=view.tokens,
            tokens_per_s=view.tokens_per_s,
            sent_bytes=view.sent_bytes,
            loss_nats=_own_validation(seat, view.name, newest_first),
            seen_s=heard_s,
        )
    ordered = sorted(rows.values(), key=lambda row: _sort_key(row, sort))
    return ordered[::-1] if is_reversed else ordered


def _add_seen(scene: Scene, rows: dict[str, PeerRow]) -> None:
    """Peers that we know from rounds alone, and when they last took part."""
    seat = scene.seat
    owned: dict[str, set[SliceId]] = {}
    for slice_id, view in seat.swarm.slices.items():
        for owner in view.owners:
            owned.setdefault(owner, set()).add(slice_of(slice_id))
    for peer in {*seat.seen, *owned}:
        seen = seat.seen.get(peer)
        seen_s = max(0.0, scene.now_s - seen[0]) if seen is not None else None
        if peer in rows:
            rows[peer] = replace(rows[peer], seen_s=seen_s)
        elif peer in owned:
            what = f"contributed to v{seen[1]}" if seen is not None else "owner, has not contributed yet"
            rows[peer] = PeerRow(
                peer=peer,
                name=seat.swarm.name_of(PeerId(peer)),
                is_mine=False,
                slices=tuple(sorted(owned[peer], key=slice_order)),
                state="",
                reason=what,
                seen_s=seen_s,
            )


def _own_validation(seat: Seat, name: str, newest_first: Sequence[Version]) -> float | None:
    """The loss that a peer measured last; ``newest_first`` are the rounds with a measurement."""
    measured = seat.swarm.validation_nats
    return next((measured[number][name] for number in newest_first if name in measured[number]), None)


def _sort_key(row: PeerRow, sort: SortKey) -> tuple[object, ...]:
    """Largest first for amounts, by name for the rest; what is not known comes last."""
    by_name = (not row.is_mine, row.name)
    amounts: dict[SortKey, float | None] = {
        "tokens": _negative(row.tokens),
        "speed": _negative(row.tokens_per_s),
        "sent": _negative(row.sent_bytes),
        "loss": row.loss_nats,
        "seen": row.seen_s,
    }
    if sort in amounts:
        amount = amounts[sort]
        return (amount is None, amount or 0.0, *by_name)
    return (tuple(map(slice_order, row.slices)) or ((9, 9, 9),), *by_name) if sort == "slices" else by_name


def _negative(amount: float | None) -> float | None:
    return None if amount is None else -amount


def chosen_events(notes: Sequence[Note], text: str) -> list[Note]:
    """The notes in which all words of ``text`` occur; all of them without words."""
    words = text.lower().split()
    if not words:
        return list(notes)
    return [note for note in notes if all(word in f"{note.name} {note.text} {note.kind}".lower() for word in words)]


def display_name(scene: Scene) -> str:
    """This peer in a title: its name and the short form of its id."""
    peer = scene.seat.peer
    if peer is None:
        return scene.seat.mine
    return f"{peer.name} {short(peer.peer)}" if peer.peer and short(peer.peer) != peer.name else peer.name
