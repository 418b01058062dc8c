"""Where training meets the swarm: slices go from the training thread to their owners, and back as the swarm moved them.

A round at this peer: the training thread does its inner steps, and the difference to each owned slice's anchor goes
to that slice's owner in the swarm. Training goes on meanwhile, as far as the manifest's ``overlap`` allows. A slice's
new anchor, and whatever others own, reaches the weights when it arrives, between two inner steps.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from p2ptrain import clock
from p2ptrain.config.schema import RunConfig
from p2ptrain.errors import NonFiniteUpdate
from p2ptrain.events import ComputeUsed, EventBus, Refused
from p2ptrain.ids import COMMON, PeerId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.home_keeper import HomeKeeper
from p2ptrain.node.standing import Standing
from p2ptrain.node.trainer import Trainer
from p2ptrain.node.trainer_messages import (
    Advance,
    CutOffBy,
    Own,
    Phase,
    Rest,
    RoundTrained,
    Settled,
    SliceTrained,
    Swap,
    TrainerListener,
)
from p2ptrain.swarm.context import Past, Replica
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.swarm.round_commands import Promise
from p2ptrain.swarm.state import OwnedState, genesis
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.training.footing import Footing, Move
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.training.pseudo_gradient import pseudo_gradient
from p2ptrain.wire.messages import Accepted

_LAG_EVERY_S = 0.25
_LOOK_AT_NEWCOMERS_EVERY_S = 0.5


class Bridge:
    """Between one peer's training thread and its part in the swarm, which it listens to (``swarm.context.Listener``).

    Args:
        me: this peer.
        run: its manifest.
        plan: of the run's slices.
        keeper: of the peer's home: what must be on disk before others hear of it.
        standing: told what the peer does.
        events: told what happens.
        spawn: begins work that goes on beside training and ends with it.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        run: RunConfig,
        plan: SlicePlan,
        keeper: HomeKeeper,
        standing: Standing,
        events: EventBus,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._me = me
        self._run = run
        self._plan = plan
        self._keeper = keeper
        self._standing = standing
        self._events = events
        self._spawn = spawn
        self._trainer: Trainer | None = None
        self._is_resting = False
        self._averaged_s = -math.inf
        """When averaging began last; monotonic."""
        self._unsettled: set[SliceId] = set()
        self._asked: set[SliceId] = set()
        """Slices whose other owners are ready for a round that we have not contributed to."""
        self._utilisation_percent: float | None = None
        """Of the last round; None before its end."""
        self._loop_lag_s = 0.0
        """Longest since the last report."""
        self._trained: frozenset[SliceId] = frozenset()
        """What the training thread trains."""
        self._to_train: frozenset[SliceId] = frozenset()
        """What it shall train as soon as nothing is being averaged."""

    @property
    def trainer(self) -> Trainer:
        """The training thread, once there is one."""
        assert self._trainer is not None
        return self._trainer

    def join(self, swarm: Swarm, inner: InnerLoop, threads: int) -> None:
        """Both sides are there: make the training thread, which is not started yet.

        Args:
            swarm: that the peer has joined.
            inner: the model with the newest values.
            threads: of the CPU; 0 is torch's own choice.
        """
        self._swarm = swarm
        self._trained = self._to_train = inner.owned
        listener = TrainerListener(
            trained=self._round_trained,
            phase=self._phase_began,
            slices=self._slices_taken,
            event=self._standing.trained,
        )
        self._trainer = Trainer(inner, self._footings(inner.owned), listener, threads)

    async def rest(self, reason: str) -> None:
        """Compute nothing from the next inner step on, give the device's memory back, and say so to the others."""
        if self._standing.state == "COMPLETE":
            return
        if (self._standing.state, self._standing.reason) != ("PAUSED", reason):
            self._standing.enter("PAUSED", reason)
        if not self._is_resting:
            self._is_resting = True
            self.trainer.send(Rest(True))
            await self._swarm.roster.be_away(True)

    async def wake(self) -> None:
        """Train again after ``rest``."""
        if self._is_resting:
            self._is_resting = False
            self.trainer.send(Rest(False))
            await self._swarm.roster.be_away(False)

    async def measure_loop_lag(self) -> None:
        """Never returns; each round's end reports how late the event loop was at worst."""
        while True:
            due_s = clock.monotonic_s() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._loop_lag_s = max(self._loop_lag_s, clock.monotonic_s() - due_s)

    def complete_if_done(self) -> None:
        """Enter COMPLETE if all rounds of the run are committed and nothing of ours is on its way."""
        common = self._plan.fragments([COMMON])
        rounds = min(self._swarm.replica(slice_id).published.version for slice_id in common)
        if rounds >= self._run.rounds and not self._unsettled and self._standing.state != "COMPLETE":
            reason = f"all {self._run.rounds} rounds are done; serving the others until stopped"
            self._standing.enter("COMPLETE", reason)
            for slice_id in self._asked:
                self._contribute_nothing(slice_id)

    # From the training thread to the swarm.

    def _round_trained(self, trained: RoundTrained) -> None:
        """The inner steps are done: average every slice that was cut off with its other owners."""
        self._standing.tokens += trained.tokens
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
        if self._standing.state == "COMPLETE":  # the run's last version came while this was on its way
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
            # Neither paused nor, with overlap, training meanwhile.
            if newcomers != said and self._standing.state == "AVERAGING":
                said = newcomers
                reason = f"the round waits so that newcomers can follow on our uplink; {said} now"
                self._standing.enter("AVERAGING", reason)
            await asyncio.sleep(min(wait_s, _LOOK_AT_NEWCOMERS_EVERY_S))
        self._averaged_s = clock.monotonic_s()

    async def _contribute(self, slice_id: SliceId, trained: SliceTrained, loss_nats: float) -> None:
        tokens = trained.tokens
        try:
            gradient = await asyncio.to_thread(pseudo_gradient, trained.anchor, trained.local, trained.amplification)
        except NonFiniteUpdate as error:
            self._events.emit(Refused(peer=self._me, reason=f"our own pseudo-gradient: {error}"))
            gradient, tokens = np.zeros_like(trained.local), 0
        await self._swarm.owners[slice_id].contribute(gradient, tokens, loss_nats, trained.beside)

    def _contribute_nothing(self, slice_id: SliceId) -> None:
        nothing = np.zeros(self._plan.numel(slice_id), np.float32)
        self._spawn(self._swarm.owners[slice_id].contribute(nothing, 0, math.nan))

    def _phase_began(self, phase: Phase) -> None:
        """The training thread trains, or waits for slices that are not settled."""
        if self._standing.state == "COMPLETE" or self._is_resting:
            return
        of = f"round {phase.round + 1} of {self._run.rounds}"
        if phase.waits_for:
            delay_steps = self._run.overlap.delay_steps
            after = f" for more than {delay_steps} inner steps" if delay_steps else ""
            self._standing.enter("AVERAGING", f"slices {', '.join(phase.waits_for)} with their other owners{after}")
        elif self._utilisation_percent is None:
            self._standing.enter("TRAINING", of)
        else:
            self._standing.enter("TRAINING", f"{of}; {self._utilisation_percent:.0f} % of the last one in inner steps")

    def _slices_taken(self, trained: frozenset[SliceId]) -> None:
        """The training thread has gone over to these slices."""
        dropped, self._trained = self._trained - trained, trained
        for slice_id in dropped:
            self.trainer.send(Swap(slice_id, self._swarm.replica(slice_id).published))
        for slice_id in self._asked - trained:
            self._contribute_nothing(slice_id)
        self._asked &= trained

    def _footings(self, slices: frozenset[SliceId]) -> dict[SliceId, Footing]:
        footings = {}
        for slice_id in slices:
            owned = self._swarm.owners[slice_id].replica.owned
            assert owned is not None
            footings[slice_id] = Footing.on(owned.anchor, owned.version)
        return footings

    # From the swarm to the training thread.

    def cut_off_wanted(self, slice_id: SliceId, within_s: float) -> None:
        """Other owners are ready: end the inner steps within this time."""
        if self._standing.state == "COMPLETE" or slice_id not in self._trained:
            self._contribute_nothing(slice_id)
        else:
            self._asked.add(slice_id)
            version = self._swarm.replica(slice_id).published.version
            self.trainer.send(CutOffBy(slice_id, version, clock.monotonic_s() + within_s))

    def round_settled(self, slice_id: SliceId, beside: Version) -> None:
        """The round that this peer contributed to was committed or is void; ``beside`` as in ``Settled``."""
        if slice_id in self._unsettled:  # else it is a slice that we own without training it
            self._unsettled.discard(slice_id)
            self.trainer.send(Settled(slice_id, beside))
        self.complete_if_done()

    def slice_moved(self, slice_id: SliceId) -> None:
        """A slice is at a new version: the training thread gets it between two inner steps."""
        self._keeper.moved()
        if self._trainer is None:  # training will start from whatever we have then
            return
        replica = self._swarm.replica(slice_id)
        if replica.owned is None or slice_id not in self._trained | self._to_train:
            self.trainer.send(Swap(slice_id, replica.published))
        else:
            self.trainer.send(Advance(slice_id, self._move_to(slice_id, replica)))
            self.complete_if_done()

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

    def slices_changed(self, trained: frozenset[SliceId]) -> None:
        """Train these slices as soon as nothing is being averaged, and no others."""
        self._to_train = trained
        self.trainer.send(Own(trained, self._footings(trained)))

    def is_training(self, slice_id: SliceId) -> bool:
        """Whether a slice is still trained, or a contribution to it is on its way."""
        return slice_id in self._trained or slice_id in self._unsettled

    # From the disk, and to it.

    def past_of(self, slice_id: SliceId) -> Past:
        """What this peer last promised and voted for as an owner of the slice."""
        return self._keeper.pasts([slice_id])[slice_id]

    def initial_state(self, slice_id: SliceId) -> OwnedState:
        """Version 0 of a slice."""
        return genesis(initial_values(self._run, self._plan)[slice_id])[0]

    def save_promise(self, slice_id: SliceId, promise: Promise) -> None:
        """Put the ballot that we take part in on disk before we say so."""
        self._keeper.save_promise(slice_id, promise)

    def save_accepted(self, slice_id: SliceId, accepted: Accepted, averages: Sequence[bytes | memoryview]) -> None:
        """Put what we are about to vote for, and its averages, on disk before the vote leaves."""
        self._keeper.save_accepted(slice_id, accepted, averages)
