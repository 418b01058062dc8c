"""The training thread: inner steps in rounds, exchanging immutable messages with the event loop.

The loop sends ``Swap`` and ``Resume``; the thread answers each round with a ``RoundTrained``. Weights change only
between two inner steps.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from p2ptrain import clock
from p2ptrain.errors import NonFiniteUpdate
from p2ptrain.events import Evaluated, Event, InnerStepDone, TrainingFailed
from p2ptrain.ids import SliceId, Version
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.wire.codec import Float32

EVALUATION_WINDOWS = 16
"""Windows of held-out text that each peer scores after each round: the time of about half an inner step."""


@dataclass(frozen=True, slots=True)
class Swap:
    """New values of a slice."""

    slice: SliceId
    values: Float32
    """[numel]"""
    shift_from: Float32 | None = None
    """The anchor that local progress was made from; the progress is then kept on top of ``values``."""


@dataclass(frozen=True, slots=True)
class Own:
    """Train these slices from now on, and only compute with the others; their weights stay until a ``Swap``."""

    slices: frozenset[SliceId]


@dataclass(frozen=True, slots=True)
class Resume:
    """Train the round that starts from this version of the common part."""

    round: Version


@dataclass(frozen=True, slots=True)
class RoundTrained:
    """A round's inner steps are done, and training waits for ``Resume``."""

    values: Mapping[SliceId, Float32]
    """Owned slices as they are after the inner steps."""
    tokens: int
    """Since the last round; 0 when the cut-off came before the first inner step ended."""
    loss_nats: float


class Trainer:
    """Runs an ``InnerLoop`` in a thread of its own.

    Args:
        loop: the model and its optimizer; only the thread touches it after ``start``.
        on_trained: called in the event loop when a round's inner steps are done.
        emit: called in the event loop with what happened.
        threads: CPU threads for torch; 0 leaves its default.
    """

    def __init__(
        self,
        loop: InnerLoop,
        on_trained: Callable[[RoundTrained], None],
        emit: Callable[[Event], None],
        threads: int,
    ) -> None:
        self._inner = loop
        self._on_trained = on_trained
        self._emit = emit
        self._threads = threads
        self._inbox: queue.SimpleQueue[Swap | Own | Resume | None] = queue.SimpleQueue()
        self._cut_off_s: float | None = None
        self._stopping = threading.Event()
        self._event_loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)
        self.failure: asyncio.Future[None] = self._event_loop.create_future()
        """Done when the thread has ended; carries its exception."""

    def start(self) -> None:
        """Start the thread, which waits for the first ``Resume``."""
        self._thread.start()

    def send(self, message: Swap | Own | Resume) -> None:
        """Hand a message to the thread."""
        self._inbox.put(message)

    def cut_off_within(self, seconds: float) -> None:
        """End this round's inner steps by then, however many are done."""
        by_s = clock.monotonic_s() + seconds
        self._cut_off_s = by_s if self._cut_off_s is None else min(by_s, self._cut_off_s)

    async def stop(self) -> None:
        """End the thread after the inner step it is in."""
        self._stopping.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            while (round := self._wait_for_resume()) is not None:
                trained = self._train(round)
                if trained:
                    self._in_loop(self._on_trained, trained)
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

    def _wait_for_resume(self) -> Version | None:
        while (message := self._inbox.get()) is not None:
            if isinstance(message, Resume):
                return message.round
            self._change(message)
        return None

    def _train(self, round: Version) -> RoundTrained | None:
        inner, tokens, losses = self._inner, 0, 0.0
        if round != inner.round or inner.inner_step == 0:
            loss_nats = inner.validation_loss(EVALUATION_WINDOWS)
            self._in_loop(self._emit, Evaluated(round=round, loss_nats=loss_nats))
        for done in range(inner.run.inner.steps):
            if self._stopping.is_set():
                return None
            if self._cut_off_s is not None and clock.monotonic_s() > self._cut_off_s:
                break
            while not self._inbox.empty():
                message = self._inbox.get()
                if isinstance(message, Swap):
                    self._swap(message)
                else:  # ``Own`` comes between rounds too: a slice's tokens are those of its whole round
                    assert message is None, "a round is resumed only after it ended"
                    return None
            try:
                report = inner.step(round)
            except NonFiniteUpdate as error:
                self._in_loop(self._emit, TrainingFailed(reason=str(error)))
                tokens = 0
                break
            tokens += report.tokens
            losses += (report.loss_nats - losses) / (done + 1)
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
        self._cut_off_s = None
        values = {slice_id: inner.local_values(slice_id) for slice_id in inner.owned}
        return RoundTrained(values, tokens, losses)

    def _change(self, message: Swap | Own) -> None:
        match message:
            case Swap():
                self._swap(message)
            case Own(slices):
                self._inner = self._inner.owning(slices)

    def _swap(self, swap: Swap) -> None:
        values = swap.values
        if swap.shift_from is not None:
            progress: Float32 = self._inner.local_values(swap.slice) - swap.shift_from
            values = values + progress
        self._inner.replace(swap.slice, values)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._event_loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the event loop is closed: the peer has stopped, and nobody listens any more
            self._stopping.set()
