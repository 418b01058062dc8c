"""One peer of a run, from start to stop: it puts its parts together, joins, and leaves.

What happens in a round is in ``node.bridge``, what the peer says of itself in ``node.standing``.
"""

import asyncio
import contextlib
import math
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from p2ptrain import clock
from p2ptrain.config.schema import PeerConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.events import (
    EndedUnsaved,
    EventBus,
    GuestListHeard,
    PeerStarted,
    PeerStopped,
    Refused,
    StateResumed,
    Traffic,
    TwinSeen,
)
from p2ptrain.identity.keys import load_or_create
from p2ptrain.ids import COMMON, PeerId, SliceId, numbered_slices, short, slice_of, slice_order
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.admission import check_admitted, keep_guests, open_door
from p2ptrain.node.ban_list import FILE as BANS_FILE
from p2ptrain.node.ban_list import BanList, UnbannedDirectory
from p2ptrain.node.bridge import Bridge
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
from p2ptrain.node.standing import Standing
from p2ptrain.node.trainer_messages import UseThreads
from p2ptrain.swarm.acquaintances import Acquaintances
from p2ptrain.swarm.beside import begin_beside
from p2ptrain.swarm.context import Context, Replica
from p2ptrain.swarm.coverage import Target
from p2ptrain.swarm.directory import Capacity, DhtDirectory, is_valid_record
from p2ptrain.swarm.guests import DhtGuestRecords, GuardedDirectory
from p2ptrain.swarm.state import genesis
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.training.outer_step import outer_rule
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import NodeOptions

_LEAVE_TIMEOUT_S = 3.0
"""For withdrawing the claim; whoever does not hear of it sees the claim expire."""
_TRAFFIC_EVERY_S = 1.0
_ORDERS_EVERY_S = 2.0
_TWIN_TOLD_EVERY_S = 60.0


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
        self._node: Libp2pNode | None = None
        self._beside: set[asyncio.Task[None]] = set()
        """What goes on beside training."""
        self._least = self._plan.fragments([COMMON, *(config.slices or ())])
        """What it will own in any case."""
        self._keeper = HomeKeeper(home, self._plan, config.engine, config.limits, self._least, checkpointed, events)
        self._book = load_known_peers(home, self._identity.peer_id)
        self._bans = BanList(
            home.path / BANS_FILE,
            lambda problem: self._events.emit(Refused(peer=self._identity.peer_id, reason=problem)),
        )
        self._twin_told_s = -math.inf
        self._standing = Standing(events, self._orders, self._keeper)
        self._bridge = Bridge(
            me=self.id,
            run=self._run,
            plan=self._plan,
            keeper=self._keeper,
            standing=self._standing,
            events=events,
            spawn=self._spawn,
        )

    @property
    def id(self) -> PeerId:
        """Its name among the peers."""
        return self._identity.peer_id

    @property
    def swarm(self) -> Swarm | None:
        """Its part in the swarm; None until it has joined."""
        return self._standing.swarm

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
        self._standing.enter("JOINING", "looking for the other peers")
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
            listener=self._bridge,
            book=self._book,
            admits=lambda peer, invite: self._door.verdict(peer, invite, clock.wall_s()).admitted,
            was_admitted=self._door.was_admitted,
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
        self._swarm = Swarm(context, directory, self._standing.condition, target)
        await self._swarm.start()
        acquaintances = Acquaintances(
            context, self._standing.seen_or_not, self._book_changed, self._swarm.roster.publish_soon
        )
        await acquaintances.start()
        self._standing.capacity = Capacity(
            max_slices=min(self._config.max_slices, self._run.slicing.slices), way=node.reach.way
        )
        chosen = await self._swarm.choose(self._wanted_slices(), is_fixed=self._config.slices is not None)
        owned = self._plan.fragments(chosen)
        await self._join(owned)
        inner = await asyncio.to_thread(self._inner_loop, owned)
        self._keeper.restore_progress(self._swarm, inner)
        self._bridge.join(self._swarm, inner, self._config.limits.threads)
        self._standing.swarm = self._swarm
        reach = ReachWatch(
            node, lambda: context.claims, lambda event: self._standing.reach_changed(event, node.reach.way)
        )
        await self._train_until(
            stop,
            self._swarm.run(),
            self._keeper.keep(self._swarm, self._bridge.trainer),
            self._report_traffic(),
            self._watch_trainer(),
            self._bridge.measure_loop_lag(),
            node.watch(),
            self._watch_orders(),
            acquaintances.run(),
            node.keep_places(),
            reach.run(),
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await self._swarm.leave()
        await self._keeper.save(self._swarm, is_last=True)
        if self._keeper.is_failing:
            self._events.emit(EndedUnsaved(reason=self._keeper.trouble))
        await self._keeper.save_progress(self._swarm, self._bridge.trainer.last_memory())

    async def _join(self, owned: frozenset[SliceId]) -> None:
        """Fetch what the others have; what we began with, which is as large, is not kept."""
        self._standing.enter("JOINING", "fetching what the others have")
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
                self._bridge.complete_if_done()
                self._bridge.trainer.start()
                await stop.wait()
                self._standing.enter("LEAVING", "asked to stop")
                await self._bridge.trainer.stop()  # first, so that nothing new is begun
                for task in self._beside:
                    task.cancel()
        finally:
            # However it ends: a process that exits while a thread computes may crash on its way out.
            await self._bridge.trainer.stop()

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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = begin_beside(self._group, work)
        if task:
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)

    # What its volunteer asks and changes while it runs.

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
        if self.swarm:  # otherwise training will start with them
            self._bridge.trainer.send(UseThreads(threads))

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
        return frozenset(self.swarm.owners) if self.swarm else self._least

    async def rest(self, reason: str) -> None:
        """Compute nothing from the next inner step on; not before it has joined."""
        if self.swarm:
            await self._bridge.rest(reason)

    async def wake(self) -> None:
        """Train again after ``rest``."""
        await self._bridge.wake()

    def why(self) -> tuple[str, str]:
        """State and reason as they are now."""
        return self._standing.why()

    # What it hears and measures meanwhile.

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

    def _book_changed(self) -> None:
        self._spawn(self._keeper.save_known_peers(self._book))

    async def _report_traffic(self) -> None:
        assert self._node is not None
        traffic = self._node.traffic
        sent_bytes, received_bytes, at_s = traffic.sent_bytes, traffic.received_bytes, clock.monotonic_s()
        while True:
            await asyncio.sleep(_TRAFFIC_EVERY_S)
            now_s = clock.monotonic_s()
            self._standing.capacity = self._standing.capacity.with_transfer(
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

    async def _watch_trainer(self) -> None:
        """Ends only with the training thread; its exception ends the peer."""
        await asyncio.shield(self._bridge.trainer.failure)

    def _twin_seen(self) -> None:
        if clock.monotonic_s() > self._twin_told_s + _TWIN_TOLD_EVERY_S:
            self._twin_told_s = clock.monotonic_s()
            self._events.emit(TwinSeen(peer=self._identity.peer_id))
