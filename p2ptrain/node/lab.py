"""Does slicing cost quality? The same training with other numbers of slices, side by side, in one process.

A *trial* is one training run with one setting and one seed. A *study* is all trials of a question: its rows compare
slices with the same peers, tokens and seeds, and the baseline (one slice, plain DiLoCo) is tuned over the same grid.
"""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from p2ptrain.config.load import run_id
from p2ptrain.config.schema import RunConfig, SlicedParts, SlicingConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import BadMessage, NonFiniteUpdate, UsageError
from p2ptrain.node.atomic_file import replace_file
from p2ptrain.node.virtual_swarm import VirtualSwarm, dealt_slices

POINTS = 12
"""Evaluations in a trial; progress is saved at each."""
VALIDATION_WINDOWS = 128
"""The same ones for all trials."""
_FORM = 2
"""Of what is saved: a trial that another form of it was saved of begins anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One training run."""

    slices: int
    sliced_parts: tuple[SlicedParts, ...]
    peers: int
    inner_steps: int
    """H, on average over the run."""
    rounds: int
    outer_lr: float
    outer_momentum: float
    seed: int
    common_lr_ratio: float = 1.0
    """Outer lr of the common part, as a multiple of the slices'."""
    last_outer_lr: float | None = None
    """Outer lr of the last round, where it is another; it changes by the same amount from round to round."""
    first_inner_steps: int | None = None
    """H of the first round, where it is another; it then changes by the same amount from round to round."""
    look_back: float = 0.0
    """Share of a slice's last update that those who do not own it leave out of what they compute with."""
    amplification: float = 1.0
    """How many times as far as it contributes a peer moves its slice (training/amplification.py)."""
    last_amplification: float = 0.0
    """In the last round, where it is another; it changes by the same amount from round to round."""

    def run(self, base: RunConfig) -> RunConfig:
        """The manifest that real peers would need for this."""
        return replace(
            base,
            seed=self.seed,
            rounds=self.rounds,
            slicing=SlicingConfig(
                slices=self.slices,
                parts=self.sliced_parts,
                fragments=base.slicing.fragments,
                amplification=self.amplification,
                last_amplification=self.last_amplification,
            ),
            inner=replace(base.inner, steps=self.inner_steps),
            outer=replace(
                base.outer,
                lr=self.outer_lr,
                momentum=self.outer_momentum,
                last_lr=self.last_outer_lr or 0.0,
                common_lr_ratio=self.common_lr_ratio,
            ),
        )

    def steps_before(self, round: int) -> int:
        """Inner steps of each peer before this round, from 0; ``rounds`` asks for all."""
        last = self.rounds - 1
        if self.first_inner_steps is None or last == 0:
            return self.inner_steps * round
        growth = 2 * (self.inner_steps - self.first_inner_steps) / last
        return int(self.first_inner_steps * round + growth * round * (round - 1) / 2 + 0.5)

    @property
    def name(self) -> str:
        """For files and progress: what people tell trials apart by."""
        parts = "-".join(self.sliced_parts) if self.slices > 1 else "whole"
        return f"n{self.slices}-{parts}-h{self.inner_steps}-lr{self.outer_lr:g}-m{self.outer_momentum:g}-s{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The model at one moment of a trial."""

    rounds: int
    tokens: int
    """Trained on by all peers."""
    tflop: float
    """Spent by all peers in products with weights."""
    val_loss: float | None
    """Nats per token; None when the trial has diverged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A finished trial, compared."""

    trial: Trial
    curve: tuple[Point, ...]
    vs_baseline_percent: float | None = None
    """How much higher the loss is than that of the baseline with the same seed, at equal tokens."""
    vs_baseline_percent_equal_flops: float | None = None
    """The same against the baseline's curve where it had spent as many FLOPs: its learning rate was not down yet."""

    @property
    def val_loss(self) -> float | None:
        """At the end."""
        return self.curve[-1].val_loss

    def as_json(self) -> dict[str, Any]:
        """The row as ``p2ptrain lab quality --json`` prints it."""
        fields = asdict(self.trial)
        fields["sliced_parts"] = list(self.trial.sliced_parts) if self.trial.slices > 1 else []
        end = self.curve[-1]
        return fields | {
            "tokens": end.tokens,
            "tflop": end.tflop,
            "val_loss": end.val_loss,
            "vs_baseline_percent": self.vs_baseline_percent,
            "vs_baseline_percent_equal_flops": self.vs_baseline_percent_equal_flops,
            "curve": [asdict(point) for point in self.curve],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What to compare."""

    slices: tuple[int, ...]
    sliced_parts: tuple[tuple[SlicedParts, ...], ...]
    """Each way of cutting; one slice is trained once for all of them."""
    peers: int
    inner_steps: int
    rounds: int
    seeds: tuple[int, ...]
    outer_lrs: tuple[float, ...]
    outer_momenta: tuple[float, ...]
    tune_rounds: int = 0
    """Length of the trials that choose each variant's outer lr and momentum, all with the first seed; 0 chooses none,
    and every combination is trained in full with every seed."""
    common_lr_ratio: float = 1.0
    """Outer lr of the common part over that of the slices, where slices > 1."""
    last_outer_lr_ratio: float | None = None
    """Outer lr of the last round over that of the first."""
    first_inner_steps: int | None = None
    look_back: float = 0.0
    amplification: float = 1.0
    """Of each trial with more than one slice."""
    last_amplification: float = 0.0

    def check(self) -> None:
        """Raise UsageError if the study cannot be carried out."""
        for num_slices in self.slices:
            if num_slices > self.peers:
                raise UsageError(
                    f"--slices {num_slices} with --peers {self.peers}: each peer owns one slice, so some would have"
                    f" no owner; choose --peers {num_slices} or more"
                )
        if self.first_inner_steps is not None and not 0 < self.first_inner_steps < 2 * self.inner_steps:
            raise UsageError(
                f"--first-inner-steps {self.first_inner_steps}: the mean is to be --inner-steps {self.inner_steps},"
                f" so the last round would have none left; choose 1 to {2 * self.inner_steps - 1}"
            )

    def variants(self) -> list[tuple[int, tuple[SlicedParts, ...]]]:
        """Numbers of slices with what is cut, the baseline first."""
        listed = [
            (num_slices, self.sliced_parts[0] if num_slices == 1 else parts)
            for parts in self.sliced_parts
            for num_slices in sorted(self.slices)
        ]
        return sorted(dict.fromkeys(listed), key=lambda variant: variant[0] != 1)

    def trial(
        self, variant: tuple[int, tuple[SlicedParts, ...]], lr: float, momentum: float, seed: int, rounds: int
    ) -> Trial:
        """One of the study's trials."""
        num_slices, parts = variant
        last_lr = lr * self.last_outer_lr_ratio if self.last_outer_lr_ratio is not None else None
        return Trial(
            slices=num_slices,
            sliced_parts=parts,
            peers=self.peers,
            inner_steps=self.inner_steps,
            rounds=rounds,
            outer_lr=lr,
            outer_momentum=momentum,
            seed=seed,
            common_lr_ratio=self.common_lr_ratio if num_slices > 1 else 1.0,
            last_outer_lr=last_lr,
            first_inner_steps=self.first_inner_steps,
            look_back=self.look_back if num_slices > 1 else 0.0,
            amplification=self.amplification if num_slices > 1 else 1.0,
            last_amplification=self.last_amplification if num_slices > 1 else 0.0,
        )


@dataclass(kw_only=True)
class Lab:
    """Carries out studies.

    Attributes:
        base: the manifest that trials vary.
        corpus: its text.
        folder: where finished and half-finished trials are kept; a later lab goes on with them. None keeps nothing.
        report: told each evaluation.
    """

    base: RunConfig
    corpus: Corpus
    folder: Path | None = None
    report: Callable[[Trial, Point], None] = field(default=lambda trial, point: None)

    def study(self, study: Study) -> tuple[list[Row], list[Row]]:
        """The compared rows, and those of the trials that chose outer lr and momentum.

        Raises:
            UsageError: the study contradicts itself.
            SlicingError: the model cannot be cut so.
            StorageError: progress could not be saved.
        """
        study.check()
        rows, tuning = [], []
        for variant in study.variants():
            grid = list(product(study.outer_lrs, study.outer_momenta))
            if study.tune_rounds and len(grid) > 1:
                tried = [
                    self.run(study.trial(variant, lr, momentum, study.seeds[0], study.tune_rounds))
                    for lr, momentum in grid
                ]
                tuning += tried
                best = min(tried, key=_end_loss).trial
                grid = [(best.outer_lr, best.outer_momentum)]
            rows += [
                self.run(study.trial(variant, lr, momentum, seed, study.rounds))
                for lr, momentum in grid
                for seed in study.seeds
            ]
        return compared(rows), compared(tuning)

    def run(self, trial: Trial) -> Row:
        """Train one trial to its end, from where an earlier lab left it."""
        kept = _Kept(self.folder, trial, self._fingerprint(trial))
        curve, saved = kept.load()
        if curve and curve[-1].rounds >= trial.rounds:
            return Row(trial=trial, curve=tuple(curve))
        run = trial.run(self.base)
        owned = dealt_slices(trial.peers, trial.slices)
        swarm = VirtualSwarm(run, self.corpus, owned, look_back=trial.look_back)
        if saved is not None:
            swarm.restore(saved)
        tokens = curve[-1].tokens if curve else 0
        stops = sorted({-(-trial.rounds * point // POINTS) for point in range(1, POINTS + 1)})
        for stop in (stop for stop in stops if stop > swarm.version):
            try:
                while swarm.version < stop:
                    tokens += self._round(trial, swarm)
                point = self._point(swarm, tokens)
            except (NonFiniteUpdate, BadMessage):
                point = Point(rounds=trial.rounds, tokens=tokens, tflop=swarm.flops(tokens) / 1e12, val_loss=None)
            curve.append(point)
            kept.save(curve, swarm.save() if point.rounds < trial.rounds else None)
            self.report(trial, point)
            if point.val_loss is None:
                break
        return Row(trial=trial, curve=tuple(curve))

    def _round(self, trial: Trial, swarm: VirtualSwarm) -> int:
        if trial.first_inner_steps is None:
            return swarm.train_round()
        begin, end = trial.steps_before(swarm.version), trial.steps_before(swarm.version + 1)
        return swarm.train_round(dict.fromkeys(swarm.peers, end - begin), position=begin)

    def _point(self, swarm: VirtualSwarm, tokens: int) -> Point:
        loss_nats = swarm.validation_loss(VALIDATION_WINDOWS)
        if not np.isfinite(loss_nats):
            raise NonFiniteUpdate(f"the validation loss is {loss_nats}")
        return Point(
            rounds=swarm.version, tokens=tokens, tflop=swarm.flops(tokens) / 1e12, val_loss=round(loss_nats, 6)
        )

    def _fingerprint(self, trial: Trial) -> str:
        whole = {
            "run": run_id(trial.run(self.base)),
            "text": self.corpus.fingerprint,
            "windows": VALIDATION_WINDOWS,
            "form": _FORM,
            **asdict(trial),
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def at_the_edge(study: Study, tuning: Sequence[Row]) -> list[str]:
    """A sentence for each variant that did best with the lowest or highest value tried: a better one may lie beyond."""
    found = []
    for num_slices, parts in study.variants():
        tried = [row for row in tuning if (row.trial.slices, row.trial.sliced_parts) == (num_slices, parts)]
        if not tried:
            continue
        best = min(tried, key=_end_loss).trial
        for option, value, values in (
            ("--outer-lr", best.outer_lr, study.outer_lrs),
            ("--outer-momentum", best.outer_momentum, study.outer_momenta),
        ):
            if len(values) > 1 and value in (min(values), max(values)):
                found.append(f"{best.name} has the best loss at the edge of what was tried: add values to {option}")
    return found


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows with their distance to the baseline: one slice with the outer setting that is best over the seeds."""
    settings: dict[tuple[float, float], dict[int, Row]] = {}
    for row in rows:
        if row.trial.slices == 1:
            settings.setdefault((row.trial.outer_lr, row.trial.outer_momentum), {})[row.trial.seed] = row
    if not settings:
        return list(rows)
    best = min(settings.values(), key=lambda by_seed: statistics.fmean(map(_end_loss, by_seed.values())))
    return [_against(row, best) for row in rows]


def _against(row: Row, baselines: Mapping[int, Row]) -> Row:
    baseline = baselines.get(row.trial.seed)
    if baseline is None or baseline.val_loss is None or row.val_loss is None:
        return row
    known = [point for point in baseline.curve if point.val_loss is not None]
    losses = [point.val_loss or 0.0 for point in known]
    at_equal_flops = float(np.interp(row.curve[-1].tflop, [point.tflop for point in known], losses))
    return replace(
        row,
        vs_baseline_percent=round(100 * (row.val_loss / baseline.val_loss - 1), 3),
        vs_baseline_percent_equal_flops=round(100 * (row.val_loss / at_equal_flops - 1), 3),
    )


def _end_loss(row: Row) -> float:
    return float("inf") if row.val_loss is None else row.val_loss


@dataclass(frozen=True, slots=True)
class _Kept:
    """A trial's files: its curve so far, and between two evaluations what it needs to go on."""

    folder: Path | None
    trial: Trial
    fingerprint: str

    def load(self) -> tuple[list[Point], bytes | None]:
        """The curve so far, and the swarm's state at its last point; a finished trial has no state.

        Without a sound state a trial starts again.
        """
        if self.folder is None or not self._curve.exists():
            return [], None
        kept = json.loads(self._curve.read_text())
        curve = [Point(**point) for point in kept["curve"]]
        if curve[-1].rounds >= self.trial.rounds:
            return curve, None
        # Written before the curve that names it, and removed after the next.
        path = self._state(curve[-1].rounds)
        state = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(state).hexdigest() == kept["state_sha256"]:
            return curve, state
        return [], None

    def save(self, curve: Sequence[Point], state: bytes | None) -> None:
        """Replace what was kept; a crash in between leaves the one or the other."""
        if self.folder is None:
            return
        kept: dict[str, Any] = {"trial": asdict(self.trial), "curve": [asdict(point) for point in curve]}
        if state is not None:
            kept["state_sha256"] = hashlib.sha256(state).hexdigest()
            replace_file(self._state(curve[-1].rounds), [state], len(state))
        text = json.dumps(kept, indent=1)
        replace_file(self._curve, [text.encode()], len(text))
        if len(curve) > 1:
            self._state(curve[-2].rounds).unlink(missing_ok=True)

    @property
    def _curve(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.trial.name}-{self.fingerprint}.json"

    def _state(self, rounds: int) -> Path:
        return self._curve.with_suffix(f".round-{rounds}.safetensors")
