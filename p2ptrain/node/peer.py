"""One peer of a run, from start to stop: the one place where training meets the swarm.

A round at this peer: the training thread does its inner steps, and the difference to each owned slice's anchor goes
to that slice's owner in the swarm. Training goes on meanwhile, as far as the manifest's ``overlap`` allows. A slice's
new anchor, and whatever others own, reaches the weights when it arrives, between two inner steps.
"""

import asyncio
import contextlib
import math
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from p2ptrain import clock
from p2ptrain.config.schema import PeerConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import NonFiniteUpdate
from p2ptrain.events import (
    ComputeUsed,
    EndedUnsaved,
    Evaluated,
    Event,
    EventBus,
    GuestListHeard,
    InnerStepDone,
    PeerStarted,
    PeerStopped,
    ReachChanged,
    Reconnected,
    Refused,
    StateChanged,
    StateResumed,
    Traffic,
    TwinSeen,
)
from p2ptrain.identity.keys import load_or_create
from p2ptrain.ids import COMMON, PeerId, SliceId, Version, numbered_slices, short, slice_of, slice_order
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.admission import check_admitted, keep_guests, open_door
from p2ptrain.node.ban_list import FILE as BANS_FILE
from p2ptrain.node.ban_list import BanList, UnbannedDirectory
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.node.home import Home
from p2ptrain.node.home_keeper import HomeKeeper
from p2ptrain.node.link_probe import serve_upload
from p2ptrain.node.listening import listen_host
from p2ptrain.node.manifest_exchange import serve_manifest, serve_tokenizer
from p2ptrain.node.orders import Orders
from p2ptrain.node.reach_watch import ReachWatch
from p2ptrain.node.rounds_on_disk import replay_rounds
from p2ptrain.node.saved_state import load_known_peers, load_replicas
from p2ptrain.node.trainer import (
    Advance,
    CutOffBy,
    Own,
    Phase,
    Rest,
    RoundTrained,
    Settled,
    SliceTrained,
    Swap,
    Trainer,
    TrainerListener,
    UseThreads,
)
from p2ptrain.swarm.acquaintances import Acquaintances
from p2ptrain.swarm.answers import Condition
from p2ptrain.swarm.beside import begin_beside
from p2ptrain.swarm.context import Context, Past, Replica
from p2ptrain.swarm.coverage import Target
from p2ptrain.swarm.directory import Capacity, DhtDirectory, is_valid_record
from p2ptrain.swarm.guests import DhtGuestRecords, GuardedDirectory
from p2ptrain.swarm.isolation import Verdict
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.swarm.round_commands import Promise
from p2ptrain.swarm.state import OwnedState, genesis
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.swarm.why import Since, Situation, explain
from p2ptrain.training.footing import Footing, Move
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.training.outer_step import outer_rule
from p2ptrain.training.pseudo_gradient import pseudo_gradient
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import NodeOptions
from p2ptrain.wire.messages import Accepted

_LEAVE_TIMEOUT_S = 3.0
"""For withdrawing the claim; whoever does not hear of it sees the claim expire."""
_TRAFFIC_EVERY_S = 1.0
_LAG_EVERY_S = 0.25
_LOOK_AT_NEWCOMERS_EVERY_S = 0.5
_ORDERS_EVERY_S = 2.0
_TWIN_TOLD_EVERY_S = 60.0
_ISOLATED = "ISOLATED"


class Peer:
    """A peer of a run; ``run`` returns when ``stop`` is set or something fails.

    Args:
        config: what the volunteer chose.
        home: the peer's folder, in use by us.
        corpus: the run's text, its fingerprint checked.
        events: told all that happens.
    """

    def __init__(self, config: PeerConfig, home: Home, corpus: Corpus, events: EventBus) -> None:
        self._config = config
        self._home = home
        self._corpus = corpus
        self._events = events
        self._run = home.run
        self._plan = SlicePlan.of(home.run.model, home.run.slicing)
        self._identity = load_or_create(home.identity_path)
        self._door = open_door(home)
        self._invite = check_admitted(home, self._door, self._identity.peer_id, config.invite)
        numbered = numbered_slices(home.run.slicing.slices)
        self._orders = Orders(self._door, self._identity.peer_id, config, numbered, events)
        checkpointed = load_replicas(home, refetch=config.refetch)
        self._saved = replay_rounds(home, self._plan, checkpointed, refetch=config.refetch)
        self._state, self._reason = "", ""
        self._has_joined = False
        self._is_resting = False
        self._node: Libp2pNode | None = None
        self._tokens = 0
        self._averaged_s = -math.inf
        """When averaging began last; monotonic."""
        self._validation_loss_nats = math.nan
        self._unsettled: set[SliceId] = set()
        self._asked: set[SliceId] = set()
        """Slices whose other owners are ready for a round that we have not contributed to."""
        self._utilisation_percent: float | None = None
        """Of the last round; None before its end."""
        self._loop_lag_s = 0.0
        """Longest since the last report."""
        self._beside: set[asyncio.Task[None]] = set()
        """What goes on beside training."""
        self._trained: frozenset[SliceId] = frozenset()
        """What the training thread trains."""
        self._to_train: frozenset[SliceId] = frozenset()
        """What it shall train as soon as nothing is being averaged."""
        self._capacity = Capacity()
        self._least = self._plan.fragments([COMMON, *(config.slices or ())])
        """What it will own in any case."""
        self._keeper = HomeKeeper(home, self._plan, config.engine, config.limits, self._least, checkpointed, events)
        self._book = load_known_peers(home, self._identity.peer_id)
        self._bans = BanList(
            home.path / BANS_FILE,
            lambda problem: self._events.emit(Refused(peer=self._identity.peer_id, reason=problem)),
        )
        self._isolation = Verdict(is_isolated=False)
        self._isolated_s = 0.0
        self._reach = ""
        self._since = Since()
        self._twin_told_s = -math.inf

    @property
    def id(self) -> PeerId:
        """Its name among the peers."""
        return self._identity.peer_id

    @property
    def swarm(self) -> Swarm | None:
        """Its part in the swarm; None until it has joined."""
        return self._swarm if self._has_joined else None

    async def run(self, stop: asyncio.Event) -> None:
        """Join the run and train until ``stop`` is set.

        Raises:
            NetworkSetupError: the port is taken, or no bootstrap answers.
            StorageError: the disk is full.
        """
        node = await Libp2pNode.start(self._node_options())
        self._node = node
        self._keeper.begin()
        self.set_rates(upload_mbps=self._config.limits.upload_mbps, download_mbps=self._config.limits.download_mbps)
        node.door.is_banned = self._bans.is_banned
        node.door.on_cut_off = lambda peer, reason: self._events.emit(Refused(peer=peer, reason=reason))
        try:
            await serve_manifest(node, self._home.manifest_path.read_text(encoding="utf-8"))
            await serve_tokenizer(node, self._home.tokenizer_file())
            await serve_upload(node)
            self._events.emit(PeerStarted(peer=self._identity.peer_id, run=self._home.run_id, addresses=node.addresses))
            await self._take_part(node, stop)
        finally:
            await node.stop()
            self._events.emit(PeerStopped(reason="asked to" if stop.is_set() else "failed"))

    async def _take_part(self, node: Libp2pNode, stop: asyncio.Event) -> None:
        self._enter("JOINING", "looking for the other peers")
        context = Context(
            run=self._home.run_id,
            identity=self._identity,
            exchange=self._run.exchange,
            quorum=self._run.slicing.quorum,
            numel={slice_id: self._plan.numel(slice_id) for slice_id in self._plan.slice_ids},
            outer=partial(outer_rule, self._run.outer, self._run.rounds),
            node=node,
            blobs=BlobExchange(node, lambda peer, reason: self._events.emit(Refused(peer=peer, reason=reason))),
            events=self._events,
            listener=self,
            book=self._book,
            admits=lambda peer, invite: self._door.verdict(peer, invite, clock.wall_s()).admitted,
            invite=self._invite,
        )
        admitted = GuardedDirectory(
            DhtDirectory(node, self._identity, self._home.run_id, self._twin_seen),
            DhtGuestRecords(node),
            self._door,
            self._home.run_id,
            invite=self._invite,
            on_refused=lambda peer, reason: self._events.emit(Refused(peer=peer, reason=reason)),
            on_news=self._guests_changed,
        )
        directory = UnbannedDirectory(
            admitted, self._bans, lambda peer, reason: self._events.emit(Refused(peer=peer, reason=reason))
        )
        slicing = self._run.slicing
        target = Target(replicas=slicing.replicas, quorum=slicing.quorum)
        self._swarm = Swarm(context, directory, self._condition, target)
        await self._swarm.start()
        acquaintances = Acquaintances(context, self._seen_or_not, self._book_changed, self._swarm.roster.publish_soon)
        await acquaintances.start()
        self._capacity = Capacity(max_slices=min(self._config.max_slices, self._run.slicing.slices), way=node.reach.way)
        chosen = await self._swarm.choose(self._wanted_slices(), is_fixed=self._config.slices is not None)
        owned = self._plan.fragments(chosen)
        await self._join(owned)
        inner = await asyncio.to_thread(self._inner_loop, owned)
        self._keeper.restore_progress(self._swarm, inner)
        self._trained = self._to_train = owned
        self._trainer = self._trainer_for(inner)
        self._has_joined = True
        await self._train_until(
            stop,
            self._swarm.run(),
            self._keeper.keep(self._swarm, self._trainer),
            self._report_traffic(),
            self._watch_trainer(),
            self._measure_loop_lag(),
            node.watch(),
            self._watch_orders(),
            acquaintances.run(),
            node.keep_places(),
            ReachWatch(node, lambda: context.claims, self._reach_changed).run(),
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await self._swarm.leave()
        await self._keeper.save(self._swarm, is_last=True)
        if self._keeper.is_failing:
            self._events.emit(EndedUnsaved(reason=self._keeper.trouble))
        await self._keeper.save_progress(self._swarm, self._trainer.last_memory())

    async def _join(self, owned: frozenset[SliceId]) -> None:
        """Fetch what the others have; what we began with, which is as large, is not kept."""
        self._enter("JOINING", "fetching what the others have")
        self._keeper.check_limit(self._config.limits, owned)
        replicas = await asyncio.to_thread(self._starting_replicas, owned)
        followed = {s: saved for s, saved in self._saved.items() if s in owned and saved.owned is None}
        self._saved = {}
        # What we made ourselves, version 0, has no certificate.
        if resumed := {s: replica.published.version for s, replica in replicas.items() if replica.certificate}:
            self._events.emit(StateResumed(versions=resumed))
        histories = await self._keeper.histories(replicas)
        reporting = asyncio.create_task(self._report_traffic())
        try:
            await self._swarm.join(owned, replicas, self._keeper.pasts(owned), histories, followed)
        finally:
            reporting.cancel()

    async def _train_until(self, stop: asyncio.Event, *beside: Coroutine[Any, Any, None]) -> None:
        """Train, and do all that goes on beside it; what fails there ends the peer."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for work in beside:
                    self._spawn(work)
                self._complete_if_done()
                self._trainer.start()
                await stop.wait()
                self._enter("LEAVING", "asked to stop")
                await self._trainer.stop()  # first, so that nothing new is begun
                for task in self._beside:
                    task.cancel()
        finally:
            # However it ends: a process that exits while a thread computes may crash on its way out.
            await self._trainer.stop()

    def set_rates(self, *, upload_mbps: float, download_mbps: float) -> None:
        """Cap what the network gets, from the next chunk on; 0 is no cap."""
        self._config = replace(
            self._config, limits=replace(self._config.limits, upload_mbps=upload_mbps, download_mbps=download_mbps)
        )
        if self._node is None:  # it will start with these
            return
        self._node.upload.mbps = upload_mbps or None
        self._node.download.mbps = download_mbps or None

    def set_threads(self, threads: int) -> None:
        """Compute with so many CPU threads from the next inner step on; 0 is torch's own choice."""
        self._config = replace(self._config, limits=replace(self._config.limits, threads=threads))
        if self._has_joined:  # otherwise training will start with them
            self._trainer.send(UseThreads(threads))

    def set_disk_limit(self, disk_gb: float) -> None:
        """Keep the home to so much from the next save on; 0 is no limit.

        Raises:
            UsageError: the last committed state would not fit; the limit is as it was.
        """
        limits = replace(self._config.limits, disk_gb=disk_gb)
        self._keeper.set_limit(limits, self._owned())
        self._config = replace(self._config, limits=limits)

    def check_room(self) -> None:
        """Return if the disk has room for what this peer will save.

        Raises:
            UsageError: it has not.
        """
        self._keeper.check_room(self._owned())

    def check_disk_limit(self, disk_gb: float) -> None:
        """Return if ``set_disk_limit`` would.

        Raises:
            UsageError: the last committed state would not fit.
        """
        self._keeper.check_limit(replace(self._config.limits, disk_gb=disk_gb), self._owned())

    def _owned(self) -> frozenset[SliceId]:
        """What this peer owns, or will own at least."""
        return frozenset(self._swarm.owners) if self._has_joined else self._least

    async def rest(self, reason: str) -> None:
        """Compute nothing from the next inner step on, give the device's memory back, and say so to the others."""
        if self._state == "COMPLETE" or not self._has_joined:
            return
        if (self._state, self._reason) != ("PAUSED", reason):
            self._enter("PAUSED", reason)
        if not self._is_resting:
            self._is_resting = True
            self._trainer.send(Rest(True))
            await self._swarm.roster.be_away(True)

    async def wake(self) -> None:
        """Train again after ``rest``."""
        if self._is_resting:
            self._is_resting = False
            self._trainer.send(Rest(False))
            await self._swarm.roster.be_away(False)

    # Rounds.

    def _trainer_for(self, inner: InnerLoop) -> Trainer:
        listener = TrainerListener(
            trained=self._round_trained, phase=self._phase_began, slices=self._slices_taken, event=self._note
        )
        return Trainer(inner, self._footings(inner.owned), listener, self._config.limits.threads)

    def _footings(self, slices: frozenset[SliceId]) -> dict[SliceId, Footing]:
        footings = {}
        for slice_id in slices:
            owned = self._swarm.owners[slice_id].replica.owned
            assert owned is not None
            footings[slice_id] = Footing.on(owned.anchor, owned.version)
        return footings

    def _round_trained(self, trained: RoundTrained) -> None:
        """The inner steps are done: average every slice that was cut off with its other owners."""
        self._tokens += trained.tokens
        used = ComputeUsed(
            round=trained.round,
            training_s=trained.training_s,
            waiting_s=trained.waiting_s,
            other_s=trained.other_s,
            loop_lag_s=self._loop_lag_s,
            training_lag_s=trained.lag_s,
        )
        self._utilisation_percent, self._loop_lag_s = used.utilisation_percent, 0.0
        self._events.emit(used)
        if self._state == "COMPLETE":  # the run's last version came while this was on its way
            return
        self._unsettled |= set(trained.slices)
        self._asked -= set(trained.slices)
        self._spawn(self._average(trained))

    async def _average(self, trained: RoundTrained) -> None:
        await self._let_newcomers_follow(frozenset(trained.slices))
        for slice_id, one in trained.slices.items():
            self._spawn(self._contribute(slice_id, one, trained.loss_nats))

    async def _let_newcomers_follow(self, fragments: frozenset[SliceId]) -> None:
        """Wait with a round that nobody else takes part in, while somebody is about to."""
        said = 0
        while True:
            newcomers, need_s = self._swarm.newcomers_need_s(fragments)
            wait_s = self._averaged_s + need_s - clock.monotonic_s()
            if wait_s <= 0:
                break
            if newcomers != said and self._state == "AVERAGING":  # neither paused nor, with overlap, training meanwhile
                said = newcomers
                self._enter("AVERAGING", f"the round waits so that newcomers can follow on our uplink; {said} now")
            await asyncio.sleep(min(wait_s, _LOOK_AT_NEWCOMERS_EVERY_S))
        self._averaged_s = clock.monotonic_s()

    async def _contribute(self, slice_id: SliceId, trained: SliceTrained, loss_nats: float) -> None:
        tokens = trained.tokens
        try:
            gradient = await asyncio.to_thread(pseudo_gradient, trained.anchor, trained.local, trained.amplification)
        except NonFiniteUpdate as error:
            self._events.emit(Refused(peer=self._identity.peer_id, reason=f"our own pseudo-gradient: {error}"))
            gradient, tokens = np.zeros_like(trained.local), 0
        await self._swarm.owners[slice_id].contribute(gradient, tokens, loss_nats, trained.beside)

    def _phase_began(self, phase: Phase) -> None:
        """The training thread trains, or waits for slices that are not settled."""
        if self._state == "COMPLETE" or self._is_resting:
            return
        of = f"round {phase.round + 1} of {self._run.rounds}"
        if phase.waits_for:
            delay_steps = self._run.overlap.delay_steps
            after = f" for more than {delay_steps} inner steps" if delay_steps else ""
            self._enter("AVERAGING", f"slices {', '.join(phase.waits_for)} with their other owners{after}")
        elif self._utilisation_percent is None:
            self._enter("TRAINING", of)
        else:
            self._enter("TRAINING", f"{of}; {self._utilisation_percent:.0f} % of the last one in inner steps")

    def round_settled(self, slice_id: SliceId, beside: Version) -> None:
        """The round that this peer contributed to was committed or is void; ``beside`` as in ``Settled``."""
        if slice_id in self._unsettled:  # else it is a slice that we own without training it
            self._unsettled.discard(slice_id)
            self._trainer.send(Settled(slice_id, beside))
        self._complete_if_done()

    def slices_changed(self, trained: frozenset[SliceId]) -> None:
        """Train these slices as soon as nothing is being averaged, and no others."""
        self._to_train = trained
        self._trainer.send(Own(trained, self._footings(trained)))

    def is_training(self, slice_id: SliceId) -> bool:
        """Whether a slice is still trained, or a contribution to it is on its way."""
        return slice_id in self._trained or slice_id in self._unsettled

    def past_of(self, slice_id: SliceId) -> Past:
        """What this peer last promised and voted for as an owner of the slice."""
        return self._keeper.pasts([slice_id])[slice_id]

    def initial_state(self, slice_id: SliceId) -> OwnedState:
        """Version 0 of a slice."""
        return genesis(initial_values(self._run, self._plan)[slice_id])[0]

    def _slices_taken(self, trained: frozenset[SliceId]) -> None:
        """The training thread has gone over to these slices."""
        dropped, self._trained = self._trained - trained, trained
        for slice_id in dropped:
            self._trainer.send(Swap(slice_id, self._swarm.replica(slice_id).published))
        for slice_id in self._asked - trained:
            self._contribute_nothing(slice_id)
        self._asked &= trained

    def slice_moved(self, slice_id: SliceId) -> None:
        """A slice is at a new version: the training thread gets it between two inner steps."""
        self._keeper.moved()
        if not self._has_joined:  # training will start from whatever we have then
            return
        replica = self._swarm.replica(slice_id)
        if replica.owned is None or slice_id not in self._trained | self._to_train:
            self._trainer.send(Swap(slice_id, replica.published))
        else:
            self._trainer.send(Advance(slice_id, self._move_to(slice_id, replica)))
            self._complete_if_done()

    def _move_to(self, slice_id: SliceId, replica: Replica) -> Move:
        """What is new, and what of ours is in it."""
        assert replica.owned is not None
        assert replica.certificate is not None
        ours = self._swarm.owners[slice_id].contained(replica.certificate)
        bounds = part_bounds(self._plan.numel(slice_id), self._run.exchange.part_elements)
        return Move(
            anchor=replica.owned.anchor,
            version=replica.owned.version,
            tokens=ours.tokens,
            contained=tuple(bounds[part] for part in ours.parts),
            had_place=ours.had_place,
        )

    def _complete_if_done(self) -> None:
        common = self._plan.fragments([COMMON])
        rounds = min(self._swarm.replica(slice_id).published.version for slice_id in common)
        if rounds >= self._run.rounds and not self._unsettled and self._state != "COMPLETE":
            self._enter("COMPLETE", f"all {self._run.rounds} rounds are done; serving the others until stopped")
            for slice_id in self._asked:
                self._contribute_nothing(slice_id)

    def cut_off_wanted(self, slice_id: SliceId, within_s: float) -> None:
        """Other owners are ready: end the inner steps within this time."""
        if self._state == "COMPLETE" or slice_id not in self._trained:
            self._contribute_nothing(slice_id)
        else:
            self._asked.add(slice_id)
            version = self._swarm.replica(slice_id).published.version
            self._trainer.send(CutOffBy(slice_id, version, clock.monotonic_s() + within_s))

    def _contribute_nothing(self, slice_id: SliceId) -> None:
        nothing = np.zeros(self._plan.numel(slice_id), np.float32)
        self._spawn(self._swarm.owners[slice_id].contribute(nothing, 0, math.nan))

    def save_promise(self, slice_id: SliceId, promise: Promise) -> None:
        """Put the ballot that we take part in on disk before we say so."""
        self._keeper.save_promise(slice_id, promise)

    def save_accepted(self, slice_id: SliceId, accepted: Accepted, averages: Sequence[bytes | memoryview]) -> None:
        """Put what we are about to vote for, and its averages, on disk before the vote leaves."""
        self._keeper.save_accepted(slice_id, accepted, averages)

    def _guests_changed(self, packed: bytes) -> None:
        """The run's authority has published a newer guest list.

        Raises:
            NotAdmitted: it sends this peer away.
        """
        keep_guests(self._home, packed)
        guests = self._door.guests
        self._events.emit(
            GuestListHeard(serial=guests.serial, allowed=sorted(guests.allowed), banned=sorted(guests.banned))
        )
        check_admitted(self._home, self._door, self._identity.peer_id, self._invite)

    # What others and the screen are told.

    def _reach_changed(self, event: ReachChanged) -> None:
        self._reach = event.reach
        assert self._node is not None
        self._capacity = replace(self._capacity, way=self._node.reach.way)
        self._events.emit(event)

    def _book_changed(self) -> None:
        self._spawn(self._keeper.save_known_peers(self._book))

    def _seen_or_not(self, verdict: Verdict) -> None:
        was_isolated, self._isolation = self._isolation.is_isolated, verdict
        if verdict.is_isolated == was_isolated:
            return
        if verdict.is_isolated:
            self._isolated_s = clock.monotonic_s()
            self._events.emit(StateChanged(state=_ISOLATED, reason=verdict.reason))
        else:
            self._events.emit(Reconnected(seconds=clock.monotonic_s() - self._isolated_s))
            self._events.emit(StateChanged(state=self._state, reason=self._reason))

    def why(self) -> tuple[str, str]:
        """State and reason as they are now."""
        owners = self._swarm.owners.values() if self._has_joined else ()
        situation = Situation(
            state=self._state,
            reason=self._reason,
            isolation=self._isolation.reason,
            disk_trouble=self._keeper.trouble,
            slices=[owner.situation for owner in owners],
            order=self._orders.text(),
            listing=self._swarm.roster.why_not_listed() if self._has_joined else "",
        )
        return self._since.told(explain(situation), clock.wall_s())

    def _condition(self) -> Condition:
        state, reason = self.why()
        return Condition(
            state=state,
            reason=reason,
            tokens=self._tokens,
            validation_loss_nats=self._validation_loss_nats,
            capacity=self._capacity,
            reach=_ISOLATED.lower() if self._isolation.is_isolated else self._reach,
            ordered=self._orders.followed(),
            can_vote=not self._keeper.is_failing,
        )

    def _enter(self, state: str, reason: str) -> None:
        self._state, self._reason = state, reason
        if not self._isolation.is_isolated or state == "LEAVING":
            self._events.emit(StateChanged(state=state, reason=reason))

    def _note(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            self._validation_loss_nats = event.loss_nats
        elif isinstance(event, InnerStepDone):
            self._capacity = self._capacity.with_step(event.tokens / event.seconds)
        self._events.emit(event)

    async def _report_traffic(self) -> None:
        assert self._node is not None
        traffic = self._node.traffic
        sent_bytes, received_bytes, at_s = traffic.sent_bytes, traffic.received_bytes, clock.monotonic_s()
        while True:
            await asyncio.sleep(_TRAFFIC_EVERY_S)
            now_s = clock.monotonic_s()
            self._capacity = self._capacity.with_transfer(
                traffic.sent_bytes - sent_bytes, traffic.received_bytes - received_bytes, now_s - at_s
            )
            sent_bytes, received_bytes, at_s = traffic.sent_bytes, traffic.received_bytes, now_s
            sending = ", ".join(
                f"{size / 1e6:.2f} MB to {short(peer)}" for peer, size in traffic.drain_recent().items()
            )
            self._events.emit(
                Traffic(sent_bytes=traffic.sent_bytes, received_bytes=traffic.received_bytes, sending=sending)
            )

    async def _watch_orders(self) -> None:
        while True:
            self._orders.say()
            await asyncio.sleep(_ORDERS_EVERY_S)

    async def _measure_loop_lag(self) -> None:
        while True:
            due_s = clock.monotonic_s() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._loop_lag_s = max(self._loop_lag_s, clock.monotonic_s() - due_s)

    async def _watch_trainer(self) -> None:
        """Ends only with the training thread; its exception ends the peer."""
        await asyncio.shield(self._trainer.failure)

    # Starting.

    def _wanted_slices(self) -> list[SliceId] | None:
        if self._config.slices is not None:
            return list(self._config.slices)
        if ordered := self._orders.followed():
            return sorted(ordered, key=slice_order)
        owned = dict.fromkeys(slice_of(slice_id) for slice_id, replica in self._saved.items() if replica.owned)
        return [slice_id for slice_id in owned if slice_id != COMMON] or None

    def _starting_replicas(self, owned: frozenset[SliceId]) -> dict[SliceId, Replica]:
        """From our disk where it has what we need, else version 0."""
        replicas = {}
        for slice_id, initial in initial_values(self._run, self._plan).items():
            saved = self._saved.get(slice_id)
            if saved and (saved.owned is not None or slice_id not in owned):
                replicas[slice_id] = saved if slice_id in owned else replace(saved, owned=None)
            else:
                state, published = genesis(initial)
                replicas[slice_id] = Replica(None, published, state if slice_id in owned else None)
        return replicas

    def _inner_loop(self, owned: frozenset[SliceId]) -> InnerLoop:
        """A model with the newest values of every slice."""
        replicas = {slice_id: self._swarm.replica(slice_id) for slice_id in self._plan.slice_ids}
        values = {s: one.owned.anchor if one.owned else one.published.values for s, one in replicas.items()}
        return InnerLoop(
            self._run, self._plan, owned, values, self._corpus, self._identity.peer_id, engine=self._config.engine
        )

    def _node_options(self) -> NodeOptions:
        network = self._config.network
        return NodeOptions(
            identity=self._home.identity_path,
            peer=self._identity.peer_id,
            host=listen_host(network),
            port=network.port,
            bootstraps=network.bootstraps,
            known_addresses=self._book.addresses(),
            check_record=is_valid_record,
            launcher=die_with_parent_prefix(),
            sockets=self._home.path / "sockets",
            reach=network.reach,
            map_port=network.map_port,
            announce=network.announce,
        )

    def _twin_seen(self) -> None:
        if clock.monotonic_s() > self._twin_told_s + _TWIN_TOLD_EVERY_S:
            self._twin_told_s = clock.monotonic_s()
            self._events.emit(TwinSeen(peer=self._identity.peer_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = begin_beside(self._group, work)
        if task:
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)
