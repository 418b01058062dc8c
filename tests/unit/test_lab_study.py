"""Trials and studies: what is varied, what is compared, and that an interrupted study loses nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2ptrain.config.schema import InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import UsageError
from p2ptrain.ids import Digest
from p2ptrain.node.lab import Lab, Point, Row, Study, Trial, at_the_edge, compared

pytestmark = pytest.mark.usefixtures("one_thread")
BASE = RunConfig(
    name="study",
    seed=1,
    rounds=1,
    model=ModelConfig(layers=1, width=16, heads=2, kv_heads=2, mlp_hidden=16, context=16),
    slicing=SlicingConfig(slices=2),
    inner=InnerConfig(steps=1, batch=2, lr=4e-3),
    outer=OuterConfig(lr=0.5, momentum=0.7),
)
TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)
CORPUS = Corpus(train=TEXT[1000:], validation=TEXT[:1000], fingerprint=Digest("0" * 64))
TRIAL = Trial(
    slices=2,
    sliced_parts=("mlp", "heads"),
    peers=2,
    inner_steps=2,
    rounds=15,
    outer_lr=0.4,
    outer_momentum=0.7,
    seed=3,
)
STUDY = Study(
    slices=(2, 1),
    sliced_parts=(("mlp",), ("mlp", "heads")),
    peers=2,
    inner_steps=2,
    rounds=3,
    seeds=(0, 1),
    outer_lrs=(0.4, 0.8),
    outer_momenta=(0.7,),
)


class _Interrupted(BaseException):
    pass


def test_an_interrupted_trial_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = Lab(base=BASE, corpus=CORPUS).run(TRIAL)
    seen: list[int] = []

    def interrupt(trial: Trial, point: Point) -> None:
        seen.append(point.rounds)
        if len(seen) in (2, 5):
            raise _Interrupted

    lab = Lab(base=BASE, corpus=CORPUS, folder=tmp_path, report=interrupt)
    for _ in range(2):
        with pytest.raises(_Interrupted):
            lab.run(TRIAL)
        assert len(list(tmp_path.iterdir())) == 2, "a curve and one state"
    assert lab.run(TRIAL) == whole
    assert seen == [point.rounds for point in whole.curve], "no round was trained twice"
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    assert lab.run(TRIAL) == whole
    assert len(seen) == len(whole.curve), "a finished trial is read and not trained again"


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_trial_whose_state_is_damaged_starts_again(tmp_path: Path, damage: str) -> None:
    def interrupt(trial: Trial, point: Point) -> None:
        raise _Interrupted

    with pytest.raises(_Interrupted):
        Lab(base=BASE, corpus=CORPUS, folder=tmp_path, report=interrupt).run(TRIAL)
    (state,) = tmp_path.glob("*.safetensors")
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-8])
    else:
        state.unlink()
    assert Lab(base=BASE, corpus=CORPUS, folder=tmp_path).run(TRIAL) == Lab(base=BASE, corpus=CORPUS).run(TRIAL)


def test_a_trial_kept_under_other_settings_is_not_taken_for_this_one(tmp_path: Path) -> None:
    short = replace(TRIAL, rounds=2)
    lab = Lab(base=BASE, corpus=CORPUS, folder=tmp_path)
    row = lab.run(short)
    for changes in ({"common_lr_ratio": 2.0}, {"last_outer_lr": 0.8}, {"first_inner_steps": 1}, {"rounds": 3}):
        assert lab.run(replace(short, **changes)).curve != row.curve
    other_base = replace(BASE, inner=replace(BASE.inner, lr=1e-3))
    assert Lab(base=other_base, corpus=CORPUS, folder=tmp_path).run(short).curve != row.curve


def test_the_variants_of_a_study_have_one_baseline_and_equal_tokens() -> None:
    rows, tuning = Lab(base=BASE, corpus=CORPUS).study(STUDY)
    assert not tuning
    assert STUDY.variants() == [(1, ("mlp",)), (2, ("mlp",)), (2, ("mlp", "heads"))]
    assert len(rows) == 3 * 2 * 2
    assert {row.curve[-1].tokens for row in rows} == {2 * 3 * 2 * 2 * 16}
    by_slices = {row.trial.slices: row.curve[-1].tflop for row in rows}
    assert by_slices[2] < by_slices[1]
    assert all(row.vs_baseline_percent is not None for row in rows)


def test_tuning_tries_the_same_grid_for_each_variant_and_trains_the_best(tmp_path: Path) -> None:
    rows, tuning = Lab(base=BASE, corpus=CORPUS, folder=tmp_path).study(replace(STUDY, tune_rounds=2))
    assert [(row.trial.slices, row.trial.outer_lr) for row in tuning] == [(1, 0.4), (1, 0.8)] + 2 * [(2, 0.4), (2, 0.8)]
    assert {row.trial.rounds for row in tuning} == {2}
    assert len(rows) == 3 * 2
    for row in rows:
        tried = [
            t for t in tuning if (t.trial.slices, t.trial.sliced_parts) == (row.trial.slices, row.trial.sliced_parts)
        ]
        best = min(tried, key=lambda t: t.val_loss or 0.0)
        assert row.trial.outer_lr == best.trial.outer_lr


def row(slices: int, seed: int, losses: tuple[float | None, ...], lr: float = 0.4) -> Row:
    points = tuple(
        Point(rounds=i + 1, tokens=100 * (i + 1), tflop=(i + 1) * (1.0 if slices == 1 else 0.75), val_loss=loss)
        for i, loss in enumerate(losses)
    )
    return Row(trial=replace(TRIAL, slices=slices, seed=seed, outer_lr=lr), curve=points)


def test_rows_are_compared_with_the_best_baseline_of_their_seed() -> None:
    bad = [row(1, seed, (3.0, 2.5), lr=0.9) for seed in (0, 1)]
    good = [row(1, 0, (3.0, 2.0)), row(1, 1, (4.0, 2.4))]
    found = compared([*bad, *good, row(2, 0, (3.0, 2.1)), row(2, 1, (3.0, 2.1)), row(2, 2, (3.0, 2.1))])
    assert [r.vs_baseline_percent for r in found] == [25.0, 4.167, 0.0, 0.0, 5.0, -12.5, None]
    # 1.5 TFLOP are half way between the baseline's points.
    assert found[4].vs_baseline_percent_equal_flops == pytest.approx(100 * (2.1 / 2.5 - 1), abs=1e-3)


def test_a_best_value_at_the_edge_of_the_grid_is_pointed_out() -> None:
    study = replace(STUDY, sliced_parts=(("mlp",),), outer_lrs=(0.2, 0.4, 0.8), tune_rounds=2)

    def tuning(slices: int, best: float) -> list[Row]:
        losses = {lr: 2.0 + (lr != best) for lr in study.outer_lrs}
        rows = [row(slices, 0, (loss,), lr=lr) for lr, loss in losses.items()]
        return [replace(r, trial=replace(r.trial, sliced_parts=("mlp",))) for r in rows]

    (sentence,) = at_the_edge(study, [*tuning(1, 0.4), *tuning(2, 0.8)])
    assert sentence.startswith("n2-mlp-h2-lr0.8")
    assert sentence.endswith("add values to --outer-lr")
    assert not at_the_edge(study, [])


def test_a_diverged_trial_is_a_row_without_a_loss(tmp_path: Path) -> None:
    lab = Lab(base=BASE, corpus=CORPUS, folder=tmp_path)
    wild = replace(TRIAL, outer_lr=1e30)
    diverged = lab.run(wild)
    assert diverged.val_loss is None
    assert lab.run(wild) == diverged
    assert compared([row(1, 3, (3.0, 2.0)), diverged])[1].vs_baseline_percent is None
    assert compared([row(1, 0, (None,), lr=0.9), row(1, 0, (2.0,))])[1].vs_baseline_percent == 0.0


@pytest.mark.parametrize(("first", "mean", "rounds"), [(5, 20, 50), (1, 20, 7), (39, 20, 50), (20, 20, 3), (1, 1, 1)])
def test_growing_rounds_have_the_mean_that_was_asked_for(first: int, mean: int, rounds: int) -> None:
    trial = replace(TRIAL, inner_steps=mean, first_inner_steps=first, rounds=rounds)
    steps = [trial.steps_before(r + 1) - trial.steps_before(r) for r in range(rounds)]
    assert (sum(steps), steps[0]) == (mean * rounds, first)
    assert min(steps) > 0
    even = [first + 2 * (mean - first) * r / max(1, rounds - 1) for r in range(rounds)]
    assert all(abs(found - wanted) <= 1 for found, wanted in zip(steps, even, strict=True))


def test_a_trial_with_growing_rounds_sees_as_many_tokens() -> None:
    short = replace(TRIAL, rounds=4, inner_steps=3)
    growing = replace(short, first_inner_steps=1)
    plain, grown = (Lab(base=BASE, corpus=CORPUS).run(trial) for trial in (short, growing))
    assert grown.curve[-1].tokens == plain.curve[-1].tokens
    assert [point.tokens for point in grown.curve] == [tokens * 2 * 2 * 16 for tokens in (1, 3, 7, 12)]


def test_outer_lr_may_change_during_the_run_and_be_another_for_the_common_part() -> None:
    trial = replace(TRIAL, rounds=5, outer_lr=0.2, last_outer_lr=0.6, common_lr_ratio=2.0)
    assert (trial.run(BASE).outer.lr, trial.run(BASE).outer.last_lr) == pytest.approx((0.2, 0.6))
    assert trial.run(BASE).outer.common_lr_ratio == 2.0
    assert TRIAL.run(BASE).outer == OuterConfig(lr=0.4, momentum=0.7)
    study = replace(STUDY, common_lr_ratio=0.5, last_outer_lr_ratio=2.0)
    sliced, whole = (study.trial((n, ("mlp",)), 0.4, 0.7, 0, 3) for n in (2, 1))
    assert (sliced.common_lr_ratio, sliced.last_outer_lr) == (0.5, 0.8)
    assert (whole.common_lr_ratio, whole.last_outer_lr) == (1.0, 0.8)


def test_sliced_trials_amplify_and_the_baseline_does_not() -> None:
    study = replace(STUDY, amplification=1.5, last_amplification=3.0)
    slicings = [study.trial((n, ("mlp",)), 0.4, 0.7, 0, 3).run(BASE).slicing for n in (1, 2, 4)]
    assert [(one.amplification, one.last_amplification) for one in slicings] == [(1.0, 0.0), (1.5, 3.0), (1.5, 3.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"slices": (1, 4)}, "choose --peers 4 or more"), ({"first_inner_steps": 4}, "choose 1 to 3")],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(STUDY, **changes).check()
