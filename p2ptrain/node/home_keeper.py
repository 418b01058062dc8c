"""What a running peer keeps in its home: each vote before it leaves, the slices as they move, and its own progress."""

import asyncio
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from p2ptrain import clock
from p2ptrain.config.schema import EngineConfig, LimitsConfig
from p2ptrain.events import CheckpointPostponed, CheckpointSaved, EventBus, MomentsUnsaved, ProgressRestored
from p2ptrain.ids import Digest, SliceId
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.disk_budget import Worth, check_budget, check_room, checkpoint_bytes, keep_within
from p2ptrain.node.home import Home
from p2ptrain.node.local_progress import LocalProgress, SavedResidual, is_due, load_progress, save_progress
from p2ptrain.node.rounds_on_disk import drop_rounds, load_rounds, save_rounds
from p2ptrain.node.rounds_since import RoundsSince, is_worth_it
from p2ptrain.node.saved_state import load_past, save_accepted, save_known_peers, save_promise, save_replicas
from p2ptrain.node.saving import Saving, retry_after_s
from p2ptrain.node.trainer import Trainer
from p2ptrain.node.trainer_messages import Memory
from p2ptrain.swarm.address_book import AddressBook
from p2ptrain.swarm.context import Past, Replica
from p2ptrain.swarm.history import PastRound
from p2ptrain.swarm.round_commands import Promise
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.wire.blob_store import OnDisk
from p2ptrain.wire.messages import Accepted

_CHECKPOINT_PAUSE_S = 0.5
_BOOK_EVERY_S = 10.0
_AGAIN_S = 600.0
"""After so long a disk gets again what it has refused, if there was something else that would do."""


class HomeKeeper:
    """Writes what must outlive the process, in time and within the volunteer's disk budget.

    Args:
        home: the peer's folder, in use by us.
        plan: how the model is cut.
        engine: how inner steps are computed.
        limits: the disk budget among them.
        slices: those that this peer will own at least.
        checkpointed: what the checkpoint on disk holds.
        events: told of checkpoints and of a disk that fails.

    Raises:
        UsageError: the budget is smaller than what the slices need.
    """

    def __init__(
        self,
        home: Home,
        plan: SlicePlan,
        engine: EngineConfig,
        limits: LimitsConfig,
        slices: frozenset[SliceId],
        checkpointed: Mapping[SliceId, Replica],
        events: EventBus,
    ) -> None:
        self._home = home
        self._plan = plan
        self._precision = engine.precision
        self._events = events
        self._saving = Saving(events)
        self._moved = asyncio.Event()
        self._budget_bytes: int | None = None
        self._has_room_for_progress = True
        self.set_limit(limits, slices)
        self._no_rounds_before_s = -math.inf
        """The disk has refused something, so it gets nothing but checkpoints until then; monotonic."""
        self._no_checkpoint_before_s = -math.inf
        """It has refused a checkpoint that can wait, so it gets nothing but rounds until then."""
        self._progress_saved_s = (0.0, 0.0)
        """When the last writing of local progress began, and how long it took."""
        self._since = RoundsSince(checkpointed)
        self._checkpoint_saved_s = -math.inf
        self._book_saved_s = -_BOOK_EVERY_S

    def begin(self) -> None:
        """Called in the event loop, before anything is kept."""
        self._saving.loop = asyncio.get_running_loop()

    @property
    def trouble(self) -> str:
        """Why the last write failed; empty when it did not."""
        return self._saving.trouble

    @property
    def is_failing(self) -> bool:
        """Whether the disk takes nothing at the moment, so that no vote may be cast."""
        return bool(self._saving.failures)

    def check_room(self, owned: frozenset[SliceId]) -> None:
        """Return if there is a checkpoint, or room for a first one.

        Raises:
            UsageError: there is neither, so nothing that this peer commits would outlive it.
        """
        if not self._home.checkpoint_path.exists():
            check_room(self._home, self._plan, owned)

    def set_limit(self, limits: LimitsConfig, owned: frozenset[SliceId]) -> None:
        """Keep the home to so much from the next save on.

        Raises:
            UsageError: the last committed state of what is owned would not fit; the limit is as it was.
        """
        self.check_limit(limits, owned)
        self._budget_bytes, self._has_room_for_progress = _budget_bytes(limits), True

    def check_limit(self, limits: LimitsConfig, owned: frozenset[SliceId]) -> None:
        """Return if ``set_limit`` would.

        Raises:
            UsageError: the last committed state of what is owned would not fit.
        """
        check_budget(_budget_bytes(limits), self._plan, owned)

    # Votes: on disk before they leave.

    def save_promise(self, slice_id: SliceId, promise: Promise) -> None:
        """Put the ballot that we take part in on disk before we say so.

        Raises:
            StorageError: the disk did not take it.
        """
        with self._home.writing[self._home.promise_path(slice_id)]:
            self._saving.must(lambda: save_promise(self._home, slice_id, promise))

    def save_accepted(self, slice_id: SliceId, accepted: Accepted, averages: Sequence[bytes | memoryview]) -> None:
        """Put what we are about to vote for, and its averages, on disk before the vote leaves.

        Raises:
            StorageError: the disk did not take it.
        """
        with self._home.writing[self._home.accepted_path(slice_id)]:
            self._saving.must(lambda: save_accepted(self._home, slice_id, accepted, averages))

    def pasts(self, slices: Iterable[SliceId]) -> dict[SliceId, Past]:
        """What this peer last promised and voted for in the rounds of these slices.

        Raises:
            HomeError: a file is damaged.
        """
        return load_past(self._home, slices)

    async def histories(self, replicas: Mapping[SliceId, Replica]) -> dict[SliceId, list[PastRound]]:
        """The rounds that led to these replicas, to pass on."""
        chains = await asyncio.to_thread(load_rounds, self._home, replicas)
        if self._rounds_stay:
            return chains
        return {slice_id: [replace(one, place=None) for one in chain] for slice_id, chain in chains.items()}

    @property
    def _rounds_stay(self) -> bool:
        """Whether rounds on disk are there for as long as others may want them; else they are kept in memory, too."""
        return self._budget_bytes is None

    # Slices, as they move.

    def moved(self) -> None:
        """A slice is at a new version."""
        self._moved.set()

    async def keep(self, swarm: Swarm, trainer: Trainer) -> None:
        """Never returns: save whenever a slice has moved; what moves meanwhile is in the next file."""
        while True:
            await self._moved.wait()
            # All slices of a round move within moments of each other: one file for all of them.
            await asyncio.sleep(_CHECKPOINT_PAUSE_S)
            await self.save(swarm)
            while self._saving.failures:
                await asyncio.sleep(retry_after_s(self._saving.failures))
                await self.save(swarm)
            now_s, (began_s, took_s) = clock.monotonic_s(), self._progress_saved_s
            if is_due(now_s, began_s, took_s) and is_worth_it(now_s, began_s, _size_bytes(self._home.progress_path)):
                await self.save_progress(swarm, await trainer.remember())

    async def save(self, swarm: Swarm, *, is_last: bool = False) -> None:
        """Save all slices as they are now: in a checkpoint, or as the rounds that lead to them from the last one.

        Args:
            swarm: has the slices.
            is_last: the peer ends; whoever starts it again shall not have to compute anything.
        """
        self._moved.clear()
        budget_bytes = self._budget_bytes  # a limit that comes while we write is for the next time
        if budget_bytes is not None:  # others may want rounds that it makes us drop
            await self._recall_rounds(swarm)
        replicas = {slice_id: swarm.replica(slice_id) for slice_id in self._plan.slice_ids}
        histories = {slice_id: swarm.history(slice_id).rounds() for slice_id in self._plan.slice_ids}
        size_bytes = checkpoint_bytes(self._plan, frozenset(swarm.owners))
        takes_rounds = clock.monotonic_s() >= self._no_rounds_before_s
        can_wait = self._since.lead_to(replicas, histories) and takes_rounds and budget_bytes is None
        now_s = clock.monotonic_s()
        is_old = is_worth_it(now_s, self._checkpoint_saved_s, size_bytes) or self._since.takes_much_room(size_bytes)
        needs_checkpoint = is_last or not can_wait or (is_old and now_s >= self._no_checkpoint_before_s)
        # Rounds first, and dropped last: at any moment the disk has what leads to what was said to be saved.
        if takes_rounds:
            written: list[tuple[SliceId, Digest, OnDisk]] = []
            takes_rounds = await self._saving.attempt(
                lambda: written.extend(
                    save_rounds(self._home, histories, unwritten=self._since.unwritten, is_synced=not needs_checkpoint)
                )
            )
            if not takes_rounds:
                self._no_rounds_before_s = clock.monotonic_s() + _AGAIN_S
            for slice_id, value_hash, place in written if budget_bytes is None else ():
                swarm.history(slice_id).saved(value_hash, place)
        if needs_checkpoint or not takes_rounds:
            if can_wait and takes_rounds:
                await self._renew_checkpoint(replicas)
            elif not await self._save_checkpoint(swarm, replicas):
                return
        else:
            self._since.written()
        self._saving.all_is_kept()
        versions = {slice_id: replica.published.version for slice_id, replica in replicas.items()}
        self._events.emit(CheckpointSaved(versions=versions))
        known = {slice_id: {one.certificate.value.version for one in past} for slice_id, past in histories.items()}
        await asyncio.to_thread(
            drop_rounds, self._home, lambda s, v: v in known.get(s, ()) or self._since.is_needed(s, v)
        )
        if budget_bytes is not None:
            await asyncio.to_thread(self._keep_within, budget_bytes, frozenset(swarm.owners))

    async def _renew_checkpoint(self, replicas: Mapping[SliceId, Replica]) -> None:
        """Save one that could wait: if the disk has no room for a second one, what is there leads to the same state."""
        began_s = clock.monotonic_s()
        if problem := await self._saving.try_once(lambda: save_replicas(self._home, replicas)):
            await asyncio.to_thread(os.sync)  # these rounds were to be needed for a moment only
            self._since.written()
            self._no_checkpoint_before_s = clock.monotonic_s() + _AGAIN_S
            self._events.emit(CheckpointPostponed(reason=problem))
            return
        self._since.begin(replicas)
        self._checkpoint_saved_s = began_s

    async def _save_checkpoint(self, swarm: Swarm, replicas: Mapping[SliceId, Replica]) -> bool:
        began_s = clock.monotonic_s()
        if await self._saving.attempt(lambda: save_replicas(self._home, replicas), is_checkpoint=True):
            self._since.begin(replicas)
            self._checkpoint_saved_s = began_s
            return True
        # On a full disk rounds may be what is in the way; but for those since the checkpoint they are not worth a vote.
        self._no_rounds_before_s = clock.monotonic_s() + _AGAIN_S
        await self._recall_rounds(swarm)
        await asyncio.to_thread(drop_rounds, self._home, self._since.is_needed)
        return False

    async def _recall_rounds(self, swarm: Swarm) -> None:
        for slice_id in self._plan.slice_ids:
            await swarm.history(slice_id).recall()

    def _keep_within(self, budget_bytes: int, owned: frozenset[SliceId]) -> None:
        dropped = keep_within(self._home, budget_bytes, checkpoint_bytes(self._plan, owned))
        if any(file.worth is Worth.PROGRESS for file in dropped):
            self._has_room_for_progress = False

    # Progress: what only this peer knows.

    async def save_progress(self, swarm: Swarm, memory: Memory) -> None:
        """Save what training remembers, and what rounding has left out so far, if there is room."""
        if not self._has_room_for_progress:
            return
        began_s = clock.monotonic_s()
        rounded_away = {
            slice_id: (owner.replica.published.version, owner.residual) for slice_id, owner in swarm.owners.items()
        }

        def write() -> None:
            progress = LocalProgress(
                run=self._home.run_id,
                owned=memory.owned,
                precision=self._precision,
                round=memory.round,
                inner_step=memory.inner_step,
                moments=memory.moments,
                residuals={
                    slice_id: SavedResidual(version=version, values=np.concatenate(parts))
                    for slice_id, (version, parts) in rounded_away.items()
                },
            )
            save_progress(self._home.progress_path, progress)

        if problem := await self._saving.try_once(write):
            self._events.emit(MomentsUnsaved(reason=problem))
        self._progress_saved_s = (began_s, clock.monotonic_s() - began_s)

    def restore_progress(self, swarm: Swarm, inner: InnerLoop) -> None:
        """Before training starts: go on with the moments and at the place in the data where we stopped."""
        saved = load_progress(self._home.progress_path, self._home.run_id)
        if saved is None:
            return
        inner.round, inner.inner_step = saved.round, saved.inner_step
        same_form = saved.owned == inner.owned and saved.precision == self._precision
        if has_moments := bool(same_form and saved.moments):
            inner.restore_optimizer({name: torch.from_numpy(value) for name, value in saved.moments.items()})
        kept = []
        for slice_id, owner in swarm.owners.items():
            residual = saved.residuals.get(slice_id)
            if residual is not None and residual.version == owner.replica.published.version:
                owner.restore_residual(residual.values)
                kept.append(slice_id)
        self._events.emit(
            ProgressRestored(round=saved.round, inner_step=saved.inner_step, has_moments=has_moments, residuals=kept)
        )

    # Where the others are.

    async def save_known_peers(self, book: AddressBook) -> None:
        """Save the address book, unless that was done a moment ago."""
        if clock.monotonic_s() > self._book_saved_s + _BOOK_EVERY_S:
            self._book_saved_s = clock.monotonic_s()
            await self._saving.attempt(lambda: save_known_peers(self._home, book))


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _budget_bytes(limits: LimitsConfig) -> int | None:
    return int(limits.disk_gb * 1e9) if limits.disk_gb else None
