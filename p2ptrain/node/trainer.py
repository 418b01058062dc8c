"""The training thread: inner steps, round after round, exchanging immutable messages with the event loop.

At a cut-off the thread keeps a snapshot of each owned slice, hands it to the event loop as a ``RoundTrained`` and goes
on with the next round's inner steps, up to the manifest's ``overlap.delay_steps``, while the slices are averaged. What
the swarm decides comes back as ``Advance`` and ``Settled``, and weights change between two inner steps
(``training.footing``). The thread never waits for the event loop itself: only for slices that are not settled.

Where the manifest has fragments, "slice" means a fragment here, and a round has one *turn* after the other: some inner
steps, and the cut-off of the fragments whose turn it was (docs/decisions/0020-fragments.md).
"""

import asyncio
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from p2ptrain import clock
from p2ptrain.config.schema import RunConfig
from p2ptrain.errors import NonFiniteUpdate, StepBrokenOff
from p2ptrain.events import EngineLightened, Evaluated, InnerStepDone, ProgressDropped, TrainingFailed
from p2ptrain.ids import COMMON, GENESIS, SliceId, Version, fragment_index, slice_of
from p2ptrain.node.meter import Meter
from p2ptrain.node.trainer_messages import (
    Advance,
    CutOffBy,
    Memory,
    Message,
    Own,
    Phase,
    Remember,
    Rest,
    RoundTrained,
    Settled,
    SliceTrained,
    Swap,
    TrainerListener,
    UseThreads,
)
from p2ptrain.training.device import release_memory, use_threads
from p2ptrain.training.engine import describe
from p2ptrain.training.footing import Footing, Move, move, stretch, stretch_all
from p2ptrain.training.inner_loop import InnerLoop

EVALUATION_WINDOWS = 16
"""Windows of held-out text that each peer scores once a version: the time of about half an inner step."""


class Trainer:
    """Runs an ``InnerLoop`` in a thread of its own until the run's rounds are done or ``stop``.

    Args:
        loop: the model and its optimizer; only the thread touches it after ``start``.
        footings: per owned slice what its weights stand on.
        listener: told what happens.
        threads: CPU threads for torch; 0 is its own choice.
    """

    def __init__(
        self,
        loop: InnerLoop,
        footings: Mapping[SliceId, Footing],
        listener: TrainerListener,
        threads: int,
    ) -> None:
        assert set(footings) == loop.owned
        self._inner = loop
        self._footings = dict(footings)
        self._on_trained = listener.trained
        self._on_phase = listener.phase
        self._on_slices = listener.slices
        self._emit = listener.event
        self._threads = threads
        self._inbox: queue.SimpleQueue[tuple[float, Message | None]] = queue.SimpleQueue()
        """With the monotonic time at which each was sent."""
        self._lag_s = 0.0
        """Longest that a message lay there since the last cut-off."""
        self._in_flight: dict[SliceId, int] = {}
        """Slices that are being averaged, with the inner steps done since their cut-off."""
        self._cut_at: dict[SliceId, Version] = {}
        """The versions that slices were at when they were last cut off."""
        self._beside: dict[SliceId, Version] = {}
        """The versions of the common part that these cut-offs went into."""
        self._left_out: dict[SliceId, Version] = {}
        """Slices that are no part of the next cut-off, if it is for up to this version of the common part: we are ahead
        in them."""
        self._asks: dict[SliceId, CutOffBy] = {}
        self._to_own: Own | None = None
        self._is_resting = False
        self._is_step_wanted = True
        """False: break the inner step off that is under way. Set by the event loop, only looked at by the thread."""
        self._device = loop.engine.device
        self._evaluated: Version | None = None
        self._loss_nats = math.nan
        self._phase: Phase | None = None
        self._meter = Meter()
        self._stopping = threading.Event()
        self._event_loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)
        self.failure: asyncio.Future[None] = self._event_loop.create_future()
        """Done when the thread has ended; carries its exception."""

    def start(self) -> None:
        """Start training."""
        self._thread.start()

    def send(self, message: Message) -> None:
        """Hand a message to the thread."""
        if isinstance(message, Rest):
            self._is_step_wanted = not message.is_resting
        self._inbox.put((clock.monotonic_s(), message))

    async def remember(self) -> Memory:
        """What training remembers; answered between two inner steps, and not at all once the thread has ended."""
        answer: asyncio.Future[Memory] = self._event_loop.create_future()
        self.send(Remember(answer))
        return await answer

    def last_memory(self) -> Memory:
        """What training remembered when the thread had ended."""
        assert not self._thread.is_alive()
        return Memory.of(self._inner)

    async def stop(self) -> None:
        """End the thread after the inner step it is in, if it was started."""
        self._stopping.set()
        self._is_step_wanted = False
        self._inbox.put((clock.monotonic_s(), None))
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._give_back)  # what is saved afterwards takes its time

    def _run(self) -> None:
        use_threads(self._threads)
        try:
            while self._round_may_begin():
                self._train()
        except BaseException as error:  # noqa: BLE001 - whatever ends the thread must end the peer, with its reason
            self._in_loop(self._end, error)
        else:
            self._in_loop(self._end, None)

    def _end(self, error: BaseException | None) -> None:
        if self.failure.done():
            return
        if error is None:
            self.failure.set_result(None)
        else:
            self.failure.set_exception(error)

    # Rounds.

    @property
    def _next_versions(self) -> dict[int, Version]:
        """By fragment what its next cut-off is to follow: by that time, what is in flight should be committed."""
        versions = {}
        for slice_id, footing in self._footings.items():
            if slice_of(slice_id) == COMMON:
                sent = self._cut_at[slice_id] + 1 if slice_id in self._in_flight else 0
                # Its Advance may be here, and its Settled not yet.
                versions[fragment_index(slice_id)] = Version(max(footing.version, sent))
        return versions

    @property
    def _round(self) -> Version:
        """The round of the next inner step."""
        return min(self._next_versions.values())

    @property
    def _turn(self) -> int:
        """The fragments that are cut off next, by index: those that lag behind, or else the first ones."""
        versions = self._next_versions
        return min(versions, key=lambda index: (versions[index], index))

    @property
    def _version(self) -> Version:
        """Rounds that are committed."""
        return min(footing.version for s, footing in self._footings.items() if slice_of(s) == COMMON)

    def _round_may_begin(self) -> bool:
        """Rests once the run is over, or may be; False: the thread is to end."""
        while self._round >= self._inner.run.rounds and not self._stopping.is_set():
            if self._in_flight:
                self._show(Phase(self._round, tuple(sorted(self._in_flight))))
            self._take(self._received(self._meter.waiting(self._inbox.get)))
        return not self._stopping.is_set()

    def _train(self) -> None:
        """The inner steps of one turn, which is a round where there are no fragments, and the cut-off."""
        if not self._may_step(None):
            return
        round, turn, tokens, losses, done = self._round, self._turn, 0, 0.0, 0
        steps = turn_steps(self._inner.run, turn)
        while self._may_step(ending := turn if done == steps else None):
            # Who asks for the cut-off while we still average is answered as soon as that is settled.
            asked = self._asked()
            if turn in asked or (done == steps and not self._late(ending)):
                self._cut_off(turn, round, tokens)
                return
            if asked:
                self._cut_off(min(asked), round, tokens)
                tokens = 0
                continue
            self._show(Phase(round))
            self._begin_round(round)
            engine = self._inner.engine
            try:
                report = self._meter.training(lambda: self._inner.step(round, is_wanted=lambda: self._is_step_wanted))
            except StepBrokenOff:
                continue
            except NonFiniteUpdate as error:
                self._in_loop(self._emit, TrainingFailed(reason=str(error)))
                self._give_up_progress()
                tokens, done = 0, steps
                continue
            if self._inner.engine != engine:
                self._in_loop(self._emit, EngineLightened(engine=describe(self._inner.engine)))
            tokens, done = tokens + report.tokens, done + 1
            losses += (report.loss_nats - losses) / done
            self._loss_nats = losses
            for slice_id in self._inner.owned:
                self._footings[slice_id] = self._footings[slice_id].trained(report.tokens)
            for slice_id in self._in_flight:
                self._in_flight[slice_id] += 1
            self._in_loop(
                self._emit,
                InnerStepDone(
                    round=round,
                    inner_step=report.inner_step,
                    loss_nats=report.loss_nats,
                    tokens=report.tokens,
                    seconds=report.seconds,
                ),
            )

    def _begin_round(self, round: Version) -> None:
        if round != self._inner.round:
            before = {slice_id: self._inner.amplification_of(slice_id) for slice_id in self._inner.owned}
            self._inner.begin_round(round)
            stretch_all(self._footings, self._inner, before)

    def _may_step(self, ending: int | None) -> bool:
        """Take what has come, and wait for slices that are in flight for too long; False: the turn ends here.

        Args:
            ending: the turn whose inner steps are done; None while there are more.
        """
        while not self._inbox.empty():
            self._take(self._received(self._inbox.get()))
        while late := self._late(ending):
            if self._stopping.is_set():
                return False
            if self._asked():
                return True
            self._show(Phase(self._round, tuple(sorted(late))))
            self._meter.waiting(self._wait)
        self._rest()
        if self._stopping.is_set() or self._version >= self._inner.run.rounds:
            return False
        if not self._is_resting:
            if not self._in_flight:
                self._own()
            if not self._in_flight or ending is not None:
                self._evaluate()
        return True

    def _late(self, ending: int | None) -> frozenset[SliceId]:
        """Slices that must be settled before anything else is done; ``ending`` as for ``_may_step``."""
        delay_steps = self._inner.run.overlap.delay_steps
        late = {s for s, steps in self._in_flight.items() if steps >= delay_steps}
        if ending is not None:  # other slices are taken over only while nothing is being averaged
            late |= {s for s in self._in_flight if fragment_index(s) == ending or self._to_own}
        return frozenset(late)

    def _askers(self) -> list[CutOffBy]:
        """What others ask for and can be given: fragments of which none is being averaged."""
        averaged = {fragment_index(slice_id) for slice_id in self._in_flight}
        return [ask for ask in self._asks.values() if fragment_index(ask.slice) not in averaged]

    def _asked(self) -> frozenset[int]:
        """Turns of which others wait for a fragment now."""
        now_s = clock.monotonic_s()
        return frozenset(fragment_index(ask.slice) for ask in self._askers() if self._is_resting or ask.by_s <= now_s)

    def _wait(self) -> None:
        """Take the next message, or return when something that others ask for is due.

        Two peers that wait for one fragment each, and for the other's contribution, would else wait for a deadline.
        """
        due_s = min((ask.by_s for ask in self._askers()), default=None)
        try:
            sent = self._inbox.get(timeout=None if due_s is None else max(0.0, due_s - clock.monotonic_s()))
        except queue.Empty:
            return
        self._take(self._received(sent))

    def _rest(self) -> None:
        """While resting: nothing, until somebody waits for our contribution or rest is over."""
        while self._is_resting and not self._stopping.is_set() and not self._asked():
            self._take(self._received(self._meter.waiting(self._inbox.get)))
        if not self._is_resting:
            self._move_to(self._device)

    def _give_back(self) -> None:
        """The device's memory, and what of the machine's holds nothing that is needed."""
        self._move_to("cpu")
        self._inner.drop_gradients()
        release_memory()

    def _move_to(self, device: str) -> None:
        if self._inner.engine.device != device:
            self._inner = self._inner.on_device(device)

    def _show(self, phase: Phase) -> None:
        if phase != self._phase:
            self._phase = phase
            self._in_loop(self._on_phase, phase)

    def _own(self) -> None:
        """Go over to other slices, if asked to; inner steps on a slice that is dropped, since its cut-off, are lost."""
        if self._to_own is None:
            return
        own, self._to_own = self._to_own, None
        for slice_id in own.slices - self._inner.owned:
            self._inner.replace(slice_id, own.footings[slice_id].anchor)
        before = {slice_id: self._inner.amplification_of(slice_id) for slice_id in self._inner.owned}
        self._inner = self._inner.owning(own.slices)
        stretch_all(self._footings, self._inner, before)
        self._footings = {s: self._footings.get(s, own.footings[s]) for s in own.slices}
        self._asks = {s: ask for s, ask in self._asks.items() if s in own.slices}
        self._in_loop(self._on_slices, own.slices)

    def _evaluate(self) -> None:
        version = self._version
        if version != self._evaluated:
            self._evaluated = version
            with self._as_contributed():
                loss_nats = self._inner.validation_loss(EVALUATION_WINDOWS)
            self._in_loop(self._emit, Evaluated(round=version, loss_nats=loss_nats))

    @contextmanager
    def _as_contributed(self) -> Iterator[None]:
        """Meanwhile slices are only as far from their anchors as what would be contributed."""
        further = {}
        try:
            for slice_id, footing in self._footings.items():
                amplification = self._inner.amplification_of(slice_id)
                if amplification != 1.0:
                    further[slice_id] = self._inner.local_values(slice_id)
                    contributed = stretch(replace(footing, snapshots=()), further[slice_id], 1 / amplification)[1]
                    self._inner.replace(slice_id, contributed)
            yield
        finally:
            for slice_id, values in further.items():
                self._inner.replace(slice_id, values)

    def _cut_off(self, turn: int, round: Version, tokens: int) -> None:
        """Hand over all owned fragments of a turn, so that slices stay together whoever asks for one of them."""
        slices, goes_into = {}, Version(self._next_versions[turn] + 1)
        for slice_id in self._inner.owned:
            if fragment_index(slice_id) != turn or self._is_left_out(slice_id, goes_into):
                continue
            local = self._inner.local_values(slice_id)
            footing = self._footings[slice_id]
            amplification = self._inner.amplification_of(slice_id)
            slices[slice_id] = SliceTrained(footing.anchor, local, footing.tokens, goes_into, amplification)
            self._footings[slice_id] = footing.cut_off(local)
            self._in_flight[slice_id], self._cut_at[slice_id] = 0, footing.version
            self._beside[slice_id] = goes_into
            self._asks.pop(slice_id, None)
        training_s, waiting_s, other_s = self._meter.lap()
        trained = RoundTrained(
            round=round,
            slices=slices,
            tokens=tokens,
            loss_nats=self._loss_nats,
            training_s=training_s,
            waiting_s=waiting_s,
            other_s=other_s,
            lag_s=self._lag_s,
        )
        self._lag_s = 0.0
        self._in_loop(self._on_trained, trained)

    def _give_up_progress(self) -> None:
        """Back to what is on its way to the others, or to the anchor."""
        for slice_id, footing in self._footings.items():
            # Where it was committed and the anchor has it already, the anchor is what there is to go back to.
            if slice_id in self._in_flight and footing.snapshots:
                sent = footing.snapshots[-1]
                self._footings[slice_id] = footing.trained(sent.tokens - footing.tokens)
                self._inner.replace(slice_id, sent.values)
            else:
                self._footings[slice_id] = Footing.on(footing.anchor, footing.version)
                self._inner.replace(slice_id, footing.anchor)

    # Messages.

    def _received(self, sent: tuple[float, Message | None]) -> Message | None:
        sent_s, message = sent
        self._lag_s = max(self._lag_s, clock.monotonic_s() - sent_s)
        return message

    def _take(self, message: Message | None) -> None:
        match message:
            case Swap(slice_id, published):
                self._inner.replace(slice_id, published.values)
            case Advance(slice_id, to):
                self._advance(slice_id, to)
            case Settled(slice_id, beside):
                self._in_flight.pop(slice_id, None)
                self._compare_step(slice_id, beside)
            case Remember(answer):
                self._in_loop(_answer, answer, Memory.of(self._inner))
            case Own():
                self._to_own = message
            case CutOffBy(slice_id, version) if slice_id in self._footings:
                footing = self._footings[slice_id]
                # Its Advance may be here, and its Settled not yet: then what is in flight is for the version before.
                is_given = slice_id in self._in_flight and version == self._cut_at[slice_id]
                if version >= footing.version and not is_given:
                    self._asks[slice_id] = message
            case CutOffBy():  # for a slice that is trained no more: the event loop answers when it hears that
                pass
            case Rest(is_resting):
                self._is_resting, self._phase = is_resting, None
                if is_resting:  # at once, also while slices are averaged
                    self._give_back()
            case UseThreads(threads):
                use_threads(threads)
            case None:
                assert self._stopping.is_set()

    def _advance(self, slice_id: SliceId, to: Move) -> None:
        if self._to_own and slice_id in self._to_own.slices:
            footings = {**self._to_own.footings, slice_id: Footing.on(to.anchor, to.version)}
            self._to_own = Own(self._to_own.slices, footings)
        if slice_id not in self._footings:
            return
        local, rule = self._inner.local_values(slice_id), self._inner.run.overlap
        moved = move(self._footings[slice_id], local, to, rule, self._inner.amplification_of(slice_id))
        self._footings[slice_id] = moved.footing
        self._inner.replace(slice_id, moved.local)
        if slice_id in self._asks and self._asks[slice_id].version < to.version:
            del self._asks[slice_id]
        if moved.dropped_tokens:
            event = ProgressDropped(slice=slice_id, tokens=moved.dropped_tokens, version=to.version)
            self._in_loop(self._emit, event)

    def _compare_step(self, slice_id: SliceId, beside: Version) -> None:
        """Where another owner gave a slice at a later cut-off than we did, leave it out until we are there, too.

        If we gave it at every cut-off, that owner and we would train in turn and wait for each other in between, for
        good (docs/decisions/0022-peers-out-of-step.md).
        """
        if slice_of(slice_id) == COMMON:  # that is what all others are compared by
            return
        if slice_id in self._footings and beside > self._beside.get(slice_id, beside):
            # Nobody can have been cut off for more than the next version, whatever it says.
            next_version = Version(self._next_versions[fragment_index(slice_id)] + 1)
            self._left_out[slice_id] = min(beside, next_version)

    def _is_left_out(self, slice_id: SliceId, goes_into: Version) -> bool:
        """Once, and not if its owners wait for us: then they have gone on already."""
        return goes_into <= self._left_out.pop(slice_id, GENESIS) and slice_id not in self._asks

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._event_loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the event loop is closed: the peer has stopped, and nobody listens any more
            self._stopping.set()


def turn_steps(run: RunConfig, turn: int) -> int:
    """Inner steps of a round's turn, from 0: the last one ends with the round, the others are as long, or nearly."""
    steps, turns = run.inner.steps, run.slicing.fragments
    return steps * (turn + 1) // turns - steps * turn // turns


def _answer(answer: "asyncio.Future[Memory]", memory: Memory) -> None:
    if not answer.done():  # whoever asked may have been cancelled
        answer.set_result(memory)
