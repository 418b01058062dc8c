"""The volunteer's seat at a peer: obeys pause, resume, finish and limits, and answers what is asked.

The peer itself comes and goes: each time that it may be in the swarm, a fresh ``Peer`` runs as a *session*, from what
is on disk. The seat stays, with the control interface, and ends and begins sessions.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime

from p2ptrain import clock
from p2ptrain.config.limits_text import changed_limits, limit_entries, with_values
from p2ptrain.config.schema import LimitsConfig, PeerConfig
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.errors import ConfigError, ControlError, StorageError, UsageError
from p2ptrain.events import (
    EventBus,
    LimitsChanged,
    Record,
    RoundCommitted,
    RoundVoid,
    SlicesClaimed,
    StateChanged,
)
from p2ptrain.ids import COMMON, PeerId, SliceId, fragments_of, slice_order
from p2ptrain.node.conditions import Probe, be_nice
from p2ptrain.node.doctor_probes import short_examination
from p2ptrain.node.examination import examine_apart
from p2ptrain.node.followed_limits import FollowedLimits
from p2ptrain.node.home import Home
from p2ptrain.node.limits import AWAKE, Conditions, Level, Wish, decide
from p2ptrain.node.peer import Peer
from p2ptrain.node.peer_status import peer_status, swarm_reply
from p2ptrain.node.vitals import Vitals
from p2ptrain.node.wishes import Change, Wishes, load_wishes, save_wishes
from p2ptrain.swarm.directory import Claim
from p2ptrain.training.device import most_threads, release_memory

_LOOK_EVERY_S = 0.5
"""Limits take effect within a second."""
_OF_THE_MACHINE = frozenset({"threads", "niceness", "gpu_memory_gib", "gpu_power_w"})
"""Limits that are set where they act, and act until they are set again."""
_SAVE_BYTES_EVERY_S = 60.0
"""A crash forgets at most a minute of the month's account."""


class Seat:
    """One volunteer's seat; use as a sink of the peer's events, run ``run``, and give to a ``ControlServer``.

    Args:
        config: what the volunteer chose at the start.
        limits: those of ``config``, and how they change with the profile.
        home: the peer's folder.
        events: told of every change.
        vitals: the peer's numbers.
        new_peer: makes the peer of a session, under the limits in force.
    """

    def __init__(
        self,
        config: PeerConfig,
        limits: FollowedLimits,
        home: Home,
        events: EventBus,
        vitals: Vitals,
        new_peer: Callable[[LimitsConfig], Peer],
    ) -> None:
        self._config = config
        self._followed = limits
        self._home = home
        self._events = events
        self._vitals = vitals
        self._new_peer = new_peer
        self._path = home.path / "seat.json"
        self._wishes = load_wishes(self._path).in_force(clock.wall_s())
        self._limits = self._in_force()
        self._probe = Probe(config.engine.device)
        self._conditions = Conditions()
        self._verdict = AWAKE
        self._problems: dict[str, str] = {}
        """By key, why a limit that is set has no effect."""
        self._peer: Peer | None = None
        self._first: Peer | None = None
        """Of the first session, from ``check_home``."""
        self._ending: asyncio.Event | None = None
        """Set: the present session is to end."""
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        """Set: look at once."""
        self._awake = asyncio.Event()
        self._owned: frozenset[SliceId] = frozenset()
        self._unsettled: set[SliceId] | None = None
        """While finishing: owned slices, or their fragments, whose round is not over."""
        self._after_finish: Callable[[], None] = self._pause_now
        self._pause_until: float | None = None
        self._counted_bytes = 0
        self._saved_s = clock.monotonic_s()

    # Life.

    async def run(self, stop: asyncio.Event) -> None:
        """Run the peer, whenever it may, until ``stop`` is set or something fails."""
        self._stop = stop
        self._tune_machine({key for key in _OF_THE_MACHINE if getattr(self._limits, key)})
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(self._keep_looking()), group.create_task(self._pass_on_stop())]
            await self._look()
            while not stop.is_set():
                if self._verdict.level is not Level.TRAIN:
                    await self._sleep(stop)
                    continue
                await self._session()
            for helper in helpers:
                helper.cancel()
        if self._limits.gpu_power_w:
            self._probe.set_power_limit(0.0)  # it belongs to the GPU and would outlive us
        self._count_bytes(save=True)

    def check_home(self) -> None:
        """Read what the home holds, so that a home that cannot be used is refused before anything is started.

        Raises:
            HomeError: its checkpoint is corrupt.
            NotAdmitted: the run would not let this peer in.
            UsageError: there is no room for what it would save.
        """
        if self._verdict.level is Level.TRAIN:  # else the first session begins later, with what counts then
            self._first = self._new_peer(self._limits)
            self._first.check_room()

    async def _session(self) -> None:
        self._ending = asyncio.Event()
        self._peer, self._first = self._first or self._new_peer(self._limits), None
        try:
            await self._peer.run(self._ending)
        finally:
            self._peer, self._ending = None, None
            self._owned, self._unsettled = frozenset(), None
        # A session is full of cycles: without this, the next one's model came beside the last one's.
        await asyncio.to_thread(release_memory)

    async def _sleep(self, stop: asyncio.Event) -> None:
        self._awake.clear()
        shown = ""
        while self._verdict.level is not Level.TRAIN and not stop.is_set():
            if (sentence := self._pause_sentence()) != shown:
                shown = sentence
                self._events.emit(StateChanged(state="PAUSED", reason=sentence))
            await self._awake.wait()
            self._awake.clear()

    async def _pass_on_stop(self) -> None:
        await self._stop.wait()
        self._awake.set()
        if self._ending:
            self._ending.set()

    async def _keep_looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._look()

    async def _look(self) -> None:
        """Measure, decide, act."""
        now_s = clock.wall_s()
        if now_s >= self._wishes.next_end_s():
            self._limits_changed()
        self._follow_profile()
        self._count_bytes()
        self._conditions = await asyncio.to_thread(
            self._probe.measure, self._limits, month_bytes=self._wishes.month_bytes, quota_turn=self._quota_turn()
        )
        now = datetime.now().astimezone()
        self._verdict = decide(self._limits, self._wishes.wish, self._conditions, now, self._verdict)
        self._awake.set()
        if self._peer is None or self._ending is None:
            return
        if self._verdict.level is Level.TRAIN:
            await self._peer.wake()
        elif self._verdict.level is Level.REST and self._peer.swarm is not None:
            await self._peer.rest(self._pause_sentence())
        else:
            self._ending.set()

    def __call__(self, record: Record) -> None:
        """Note which slices are ours, and when a round that is to be finished is over."""
        match record.event:
            case SlicesClaimed(slices=slices):
                self._owned = frozenset(slices)
            case RoundCommitted(slice=slice_id) | RoundVoid(slice=slice_id):
                self._settled(slice_id)
            case _:
                pass

    def _settled(self, slice_id: SliceId) -> None:
        if self._unsettled is not None:
            self._unsettled.discard(slice_id)
            if not self._unsettled:
                self._unsettled = None
                self._after_finish()

    # What the volunteer asks.

    def pause(self, duration_s: float | None, reason: str) -> str:
        """Stop training at once; returns a sentence."""
        self._unsettled = None
        until_s = None if duration_s is None else clock.wall_s() + duration_s
        self._keep(replace(self._wishes, wish=Wish(paused=True, until_s=until_s, reason=reason)))
        return f"paused{_until(until_s)}; p2ptrain resume goes on"

    def resume(self) -> str:
        """Go on; returns a sentence, which names limits that still hold the peer back."""
        self._unsettled = None
        self._keep(replace(self._wishes, wish=Wish()))
        now = datetime.now().astimezone()
        verdict = decide(self._limits, Wish(), self._conditions, now, self._verdict)
        return "going on" if verdict.allowed else f"your pause is over, but: {verdict.reason}{_until(verdict.until_s)}"

    def finish(self, duration_s: float | None) -> str:
        """Complete the round, then pause; returns a sentence."""
        self._pause_until = None if duration_s is None else clock.wall_s() + duration_s
        return self._finish_then(self._pause_now, "pauses")

    def leave(self, *, finish_first: bool) -> str:
        """End the process; returns a sentence."""
        if finish_first:
            return self._finish_then(self._stop.set, "leaves")
        self._stop.set()
        return "leaving: withdraws its claim, saves and ends"

    def _finish_then(self, act: Callable[[], None], what: str) -> str:
        self._after_finish = act
        if self._verdict.allowed and self._vitals.state in ("TRAINING", "AVERAGING", "WAITING") and self._owned:
            pieces = self._home.run.slicing.fragments
            self._unsettled = {one for slice_id in self._owned for one in fragments_of(slice_id, pieces)}
            return f"completes round {self._vitals.round + 1}, then {what}"
        self._unsettled = None
        act()
        return f"no round is under way: {what} now"

    def _pause_now(self) -> None:
        self._keep(replace(self._wishes, wish=Wish(paused=True, until_s=self._pause_until, reason="")))

    def set_limits(self, changes: dict[str, str], duration_s: float | None) -> pb.LimitsReply:
        """Change limits.

        Raises:
            UsageError: a key or value is wrong, or too little for this peer; nothing was changed.
            StorageError: the change cannot be kept on disk.
        """
        until_s = None if duration_s is None else clock.wall_s() + duration_s
        kept = dict(self._wishes.changes)
        wanted, values = changed_limits(self._config.limits, changes)
        if self._peer is not None and "disk_gb" in values:
            self._peer.check_disk_limit(wanted.disk_gb)
        for key in changes:
            kept.pop(key, None)
            if key in values:
                kept[key] = Change(value=values[key], until_s=until_s)
        self._keep(replace(self._wishes, changes=kept))
        self._limits_changed()
        return self.limits()

    def limits(self) -> pb.LimitsReply:
        """Limits in force, and whether they allow to train now."""
        reply = pb.LimitsReply(
            is_allowed=self._verdict.allowed, reason=self._verdict.reason, problems=self._problems.values()
        )
        if self._verdict.until_s is not None:
            reply.until_s = self._verdict.until_s
        for entry in limit_entries(self._limits):
            change = self._wishes.changes.get(entry.key)
            origin = "set" if change else self._followed.chosen.origins.get(entry.key, "default")
            limit = pb.Limit(key=entry.key, value=entry.value, origin=origin, help=entry.help)
            if change and change.until_s is not None:
                limit.until_s = change.until_s
            reply.limits.append(limit)
        return reply

    # What is asked about the peer.

    def status(self) -> pb.StatusReply:
        """What the peer is doing."""
        config = replace(self._config, limits=self._limits)
        reply = peer_status(self._home, config, self._vitals, self._peer, self._probe)
        reply.pausing.CopyFrom(self.pausing())
        if self._wishes.month:
            reply.network.month_bytes = self._wishes.month_bytes
        return reply

    def pausing(self) -> pb.Pausing:
        """What holds it back."""
        now = datetime.now().astimezone()
        verdict = decide(self._limits, self._wishes.wish, self._conditions, now, self._verdict)
        reply = pb.Pausing(
            is_paused=not verdict.allowed,
            is_finishing=self._unsettled is not None,
            cause=verdict.cause,
            reason=verdict.reason,
        )
        if verdict.until_s is not None:
            reply.until_s = verdict.until_s
        if verdict.keeps_claim_until_s is not None:
            reply.claim_kept_until_s = verdict.keeps_claim_until_s
        return reply

    def why(self) -> pb.WhyReply:
        """One sentence."""
        vitals = self._vitals
        state, reason = vitals.state, vitals.reason
        if self._peer is not None and self._peer.swarm is not None:
            state, reason = self._peer.why()
        sentence = f"{state}: {reason}"
        if not self._verdict.allowed and state != "COMPLETE":
            sentence = f"PAUSED: {self._pause_sentence()}"
        elif self._unsettled is not None:
            sentence += "; when this round is over, it stops as you asked"
        is_contributing = self._verdict.allowed and state in ("TRAINING", "AVERAGING")
        return pb.WhyReply(sentence=sentence, state=state, is_contributing=is_contributing)

    async def doctor(self, *, quick: bool) -> pb.DoctorReply:
        """Examine machine and network; a quick examination leaves the network out."""
        device = self._config.engine.device
        if quick:
            findings = await asyncio.to_thread(short_examination, self._home.path, self._home.run, device)
        else:
            findings = await examine_apart(self._home.path, self._config.network.bootstraps, device)
        return pb.DoctorReply(
            findings=[
                pb.Finding(check=one.check, verdict=one.verdict, evidence=one.evidence, remedy=one.remedy)
                for one in findings
            ]
        )

    async def swarm(self, timeout_s: float) -> pb.SwarmReply:
        """Ask all peers.

        Raises:
            ControlError: this peer is not in the swarm now.
        """
        if self._peer is None or (swarm := self._peer.swarm) is None:
            raise ControlError(f"this peer is not in the swarm now: {self._vitals.reason}")
        return await swarm_reply(self._home, swarm, timeout_s)

    # Inside.

    def _pause_sentence(self) -> str:
        verdict = self._verdict
        goes_on = "goes on with: p2ptrain resume" if verdict.cause == "you" and verdict.until_s is None else ""
        return f"{verdict.reason}{_until(verdict.until_s)}" + (f"; {goes_on}" if goes_on else "")

    def _keep(self, wishes: Wishes) -> None:
        save_wishes(self._path, wishes)
        self._wishes = wishes
        self._changed.set()

    def _in_force(self) -> LimitsConfig:
        return with_values(self._config.limits, {key: change.value for key, change in self._wishes.changes.items()})

    def _follow_profile(self) -> None:
        try:
            if self._followed.has_changed():
                self._config = replace(self._config, limits=self._followed.chosen.limits)
                self._limits_changed()
        except ConfigError as error:
            self._events.emit(LimitsChanged(limits={}, problem=f"the profile's limits stay as they were: {error}"))

    def _limits_changed(self) -> None:
        """Let the limits in force be those of now, and act on what differs."""
        self._wishes = self._wishes.in_force(clock.wall_s())
        before, self._limits = self._limits, self._in_force()
        was = {entry.key: entry.value for entry in limit_entries(before)}
        changed = {e.key: e.value for e in limit_entries(self._limits) if e.value != was[e.key]}
        if not changed:
            return
        self._events.emit(LimitsChanged(limits=changed))
        self._changed.set()
        if self._peer is not None and {"upload_mbps", "download_mbps"} & set(changed):
            self._peer.set_rates(upload_mbps=self._limits.upload_mbps, download_mbps=self._limits.download_mbps)
        if self._peer is not None and "threads" in changed:
            self._peer.set_threads(self._limits.threads)
        if self._peer is not None and "disk_gb" in changed:
            try:
                self._peer.set_disk_limit(self._limits.disk_gb)
            except UsageError as error:
                self._note_problem("disk_gb", str(error))
            else:
                self._note_problem("disk_gb", "")
        self._tune_machine(_OF_THE_MACHINE & set(changed))

    def _tune_machine(self, changed: AbstractSet[str]) -> None:
        if "threads" in changed:
            wanted, most = self._limits.threads, most_threads()
            more = f"threads = {wanted} is more than the {most} processors of this machine, so {most} threads compute"
            self._note_problem("threads", more if wanted > most else "")
        if "niceness" in changed:
            be_nice(self._limits.niceness)
        if "gpu_memory_gib" in changed:
            self._note_problem("gpu_memory_gib", self._probe.cap_memory(self._limits.gpu_memory_gib))
        if "gpu_power_w" in changed:
            self._note_problem("gpu_power_w", self._probe.set_power_limit(self._limits.gpu_power_w))

    def _note_problem(self, key: str, sentence: str) -> None:
        """Tell why a limit has no effect; an empty sentence: it has."""
        self._problems.pop(key, None)
        if sentence:
            self._problems[key] = sentence
            self._events.emit(LimitsChanged(limits={}, problem=sentence))

    def _count_bytes(self, *, save: bool = False) -> None:
        total = self._vitals.sent_bytes + self._vitals.received_bytes
        self._wishes = self._wishes.used(total - self._counted_bytes, datetime.now().astimezone())
        self._counted_bytes = total
        if save or clock.monotonic_s() - self._saved_s > _SAVE_BYTES_EVERY_S:
            self._saved_s = clock.monotonic_s()
            try:
                save_wishes(self._path, self._wishes)
            except StorageError as error:
                self._events.emit(LimitsChanged(limits={}, problem=f"the month's account is not kept: {error}"))

    def _quota_turn(self) -> float:
        """Our place among the owners of our slices; kept while we sleep, since nothing is asked then."""
        if self._peer is None or (swarm := self._peer.swarm) is None:
            return self._conditions.quota_turn
        return place_among_owners(swarm.claims, self._peer.id, self._owned)


def place_among_owners(claims: Mapping[PeerId, Claim], me: PeerId, owned: frozenset[SliceId]) -> float:
    """Our rank among the owners of the numbered slice that we own, as a share of a day: 0, 1/3 and 2/3 for three."""
    numbered = min((s for s in owned if s != COMMON), key=slice_order, default=COMMON)
    owners = sorted({peer for peer, claim in claims.items() if numbered in claim.slices} | {me})
    return owners.index(me) / len(owners)


def _until(until_s: float | None) -> str:
    if until_s is None or math.isinf(until_s):
        return ""
    then = datetime.fromtimestamp(until_s).astimezone()
    is_soon = until_s - clock.wall_s() < 20 * 3600
    return f" until {then:%H:%M}" if is_soon else f" until {then:%a %d %b %H:%M}"
