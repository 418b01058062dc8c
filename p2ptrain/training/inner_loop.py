"""Inner steps: local AdamW on the owned slices, while everything else of the model only computes."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from p2ptrain import clock
from p2ptrain.config.schema import EngineConfig, RunConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.data.sampler import require_window, training_windows
from p2ptrain.errors import NonFiniteUpdate, OutOfMemory
from p2ptrain.ids import COMMON, PeerId, SliceId, Version, slice_of
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training import evaluation
from p2ptrain.training.amplification import amplification
from p2ptrain.training.backward import batch_gradients, clip_scale, gradient_norm
from p2ptrain.training.engine import describe, engine_transformer, is_lean, is_out_of_memory, lighter_engine
from p2ptrain.training.moments import SliceMoments, fill_moments, slice_moments
from p2ptrain.training.optimizer import inner_optimizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one inner step did."""

    round: Version
    inner_step: int
    """Within the round, from 0."""
    loss_nats: float
    """Training loss of the batch, per token, before the step."""
    tokens: int
    seconds: float
    lr: float
    """Of the common part; that of numbered slices is the loop's amplification times as high."""
    grad_norm: float
    """Over what the peer owns, before clipping."""


class InnerLoop:
    """One peer's model and inner optimizer. Not for use by two threads at once.

    Args:
        run: what all peers share.
        plan: ``SlicePlan.of(run.model, run.slicing)``.
        owned: the slices that train here, usually the common part and one or more numbered ones.
        values: weights of all slices, each [numel], float32.
        corpus: the run's text.
        peer: whose batches to draw.
        engine: where and how to compute.

    Raises:
        DataError: the text is shorter than one window.
    """

    def __init__(
        self,
        run: RunConfig,
        plan: SlicePlan,
        owned: frozenset[SliceId],
        values: Mapping[SliceId, np.ndarray],
        corpus: Corpus,
        peer: PeerId,
        engine: EngineConfig = EngineConfig(),  # noqa: B008 - frozen
    ) -> None:
        assert owned, "a peer without a slice has nothing to train"
        assert set(values) == set(plan.slice_ids), "the forward pass needs the values of every slice"
        require_window(corpus.train, run.model.context, part="training")
        require_window(corpus.validation, run.model.context, part="validation")
        self.run = run
        self.plan = plan
        self.owned = owned
        self.peer = peer
        self.round = Version(0)
        self.inner_step = 0
        """Inner steps done in this round."""
        self.engine = engine
        """Lighter than what was given, once memory has run out."""
        self._corpus = corpus
        if engine.deterministic:
            torch.use_deterministic_algorithms(True)
        self._model = engine_transformer(run.model, plan, owned, engine)
        self._model.load(values)
        self._optimizer = inner_optimizer(self._model, run.inner)

    def amplification_of(self, slice_id: SliceId) -> float:
        """How many times as far as it contributes the loop moves an owned slice in this round."""
        return 1.0 if slice_of(slice_id) == COMMON else amplification(self.run, self.owned, self.round)

    def begin_round(self, round: Version) -> None:
        """Count inner steps from 0 again if ``round`` is another than the present one.

        Where the run's amplification changes, the caller stretches what is not contributed yet
        (``training.footing.stretch_all``).
        """
        if round != self.round:
            self.round = round
            self.inner_step = 0

    def step(
        self, round: Version, *, position: int | None = None, is_wanted: Callable[[], bool] = lambda: True
    ) -> StepReport:
        """Train on one batch, which depends on (run seed, peer, round, inner step) alone.

        Args:
            round: version that the step's round would commit after.
            position: inner steps from the start of the run, for the learning rate; None counts ``inner.steps`` for
                each round before this one.
            is_wanted: asked between two micro-batches.

        Raises:
            StepBrokenOff: it is not wanted any more; as if it had not begun.
            NonFiniteUpdate: the loss or a gradient is NaN or infinite; weights, optimizer and counter are as before.
            OutOfMemory: even the lightest way to compute the step needs more than there is, or the optimizer does,
                which may have changed some weights by then: this loop is not to be used any more.
        """
        started_s = clock.monotonic_s()
        self.begin_round(round)
        inner = self.run.inner
        windows = training_windows(
            self._corpus.train,
            seed=self.run.seed,
            peer=self.peer,
            round=round,
            inner_step=self.inner_step,
            batch=inner.batch,
            length=self.run.model.context,
        )
        loss, gradients = self._gradients(torch.from_numpy(windows).to(self.engine.device), is_wanted)
        loss_nats = loss.item()
        if not math.isfinite(loss_nats):
            raise NonFiniteUpdate(self._sentence(f"the training loss is {loss_nats}"))
        norm = gradient_norm(gradients)
        grad_norm = norm.item()
        if not math.isfinite(grad_norm):
            raise NonFiniteUpdate(self._sentence(f"the gradient's norm is {grad_norm}"))
        lr = learning_rate(self.run, round * inner.steps + self.inner_step if position is None else position)
        self._update(gradients, lr, clip_scale(norm, inner.clip))
        report = StepReport(
            round=round,
            inner_step=self.inner_step,
            loss_nats=loss_nats,
            tokens=inner.batch * self.run.model.context,
            seconds=clock.monotonic_s() - started_s,
            lr=lr,
            grad_norm=grad_norm,
        )
        self.inner_step += 1
        return report

    def local_values(self, slice_id: SliceId) -> np.ndarray:
        """A copy of a slice as it is now, shape [numel], float32."""
        return self._model.read(slice_id)

    def replace(self, slice_id: SliceId, values: np.ndarray) -> None:
        """Swap in a slice, owned or not, between two inner steps; [numel], float32. AdamW's moments stay."""
        self._model.write(slice_id, values)

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """AdamW's memory by name, copied; with ``restore_optimizer`` another loop goes on with the same bits."""
        return self._optimizer.memory()

    def restore_optimizer(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what ``optimizer_state`` of a loop with the same model and owned slices gave."""
        self._optimizer.restore(state)

    def owning(self, owned: frozenset[SliceId]) -> "InnerLoop":
        """The loop of a peer that owns other slices from now on, at the same inner step of the same round.

        Weights are as they are; AdamW's memory is kept of slices that are owned before and after. This loop is not to
        be used any more.

        Args:
            owned: what trains in the new loop.
        """
        values = {slice_id: self.local_values(slice_id) for slice_id in self.plan.slice_ids}
        kept = {slice_id: self.moments(slice_id) for slice_id in owned & self.owned}
        loop = InnerLoop(self.run, self.plan, owned, values, self._corpus, self.peer, self.engine)
        loop.remember(kept)
        loop.round, loop.inner_step = self.round, self.inner_step
        return loop

    def on_device(self, device: str) -> "InnerLoop":
        """The same loop elsewhere, with the same bits to go on with; this one is not to be used any more."""
        values = {slice_id: self.local_values(slice_id) for slice_id in self.plan.slice_ids}
        engine = replace(self.engine, device=device)
        moved = InnerLoop(self.run, self.plan, self.owned, values, self._corpus, self.peer, engine=engine)
        moved.restore_optimizer(self.optimizer_state())
        moved.round, moved.inner_step = self.round, self.inner_step
        return moved

    def drop_gradients(self) -> None:
        """Forget the last step's, which are kept only because they are cheaper to replace than to make anew."""
        for parameter in self._model.owned_parameters():
            parameter.grad = None

    def moments(self, slice_id: SliceId) -> SliceMoments:
        """A copy of AdamW's memory of an owned slice."""
        return slice_moments(self.plan, self.owned, self._optimizer.moments(), slice_id)

    def remember(self, moments: Mapping[SliceId, SliceMoments]) -> None:
        """Take over AdamW's memory of these owned slices; the rest stays as it is."""
        self._optimizer.set_moments(fill_moments(self.plan, self.owned, self._optimizer.moments(), moments))

    def validation_loss(self, num_windows: int) -> float:
        """Loss of the model as it is now on held-out text, nats per token."""
        at_once = self.engine.micro_batch or self.run.inner.batch
        return evaluation.validation_loss(self._model, self._corpus, num_windows, at_once=at_once)

    def _gradients(self, windows: Tensor, is_wanted: Callable[[], bool]) -> tuple[Tensor, list[Tensor]]:
        while True:
            try:
                return batch_gradients(self._model, windows, self.engine.micro_batch, is_wanted)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Outside the except block, whose traceback keeps the tensors of the failed pass alive.
            self._lighten(len(windows), reason)

    def _update(self, gradients: list[Tensor], lr: float, scale: Tensor) -> None:
        try:
            self._optimizer.update(gradients, lr, scale, amplification(self.run, self.owned, self.round))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise OutOfMemory(
                f"round {self.round} inner step {self.inner_step}: memory ran out in the optimizer's update ({reason}),"
                " which no lighter step makes smaller. Start again, from the last committed version, with fewer slices,"
                " or see what fits with: p2ptrain bench fit"
            ) from error

    def _lighten(self, batch: int, reason: str) -> None:
        lighter = lighter_engine(self.engine, batch)
        if lighter is None:
            raise OutOfMemory(
                f"round {self.round} inner step {self.inner_step}: memory ran out ({reason}) with one window at a time"
                " and all computed twice that can be. Own fewer slices, or see what fits with: p2ptrain bench fit"
            )
        logger.warning("memory ran out (%s); going on with %s", reason, describe(lighter))
        self.engine = lighter
        self._model.lean, self._model.recompute = is_lean(lighter), lighter.recompute
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _sentence(self, what: str) -> str:
        return (
            f"round {self.round} inner step {self.inner_step}: {what}; the step changed nothing."
            " Start again from the last committed version; if it returns, lower inner.lr"
        )


def learning_rate(run: RunConfig, inner_step: int) -> float:
    """Linear warm-up, then a cosine from ``inner.lr`` down to a tenth of it at the end of the run.

    Args:
        run: its length is ``rounds * inner.steps``.
        inner_step: from 0, counted from the start of the run.
    """
    inner = run.inner
    if inner_step < inner.warmup_steps:
        return inner.lr * (inner_step + 1) / inner.warmup_steps
    decay_steps = max(1, run.rounds * inner.steps - inner.warmup_steps)
    progress = min(1.0, (inner_step - inner.warmup_steps) / decay_steps)
    return inner.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
