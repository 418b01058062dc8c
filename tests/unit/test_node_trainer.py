"""The training thread by itself: what it hands over, what it goes on with, and when it waits."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from p2ptrain import clock
from p2ptrain.config.schema import (
    EngineConfig,
    InnerConfig,
    ModelConfig,
    OuterConfig,
    OverlapConfig,
    RunConfig,
    SlicingConfig,
)
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import NonFiniteUpdate, StepBrokenOff
from p2ptrain.events import EngineLightened, Event, InnerStepDone, TrainingFailed
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.node.trainer import Trainer, turn_steps
from p2ptrain.node.trainer_messages import (
    Advance,
    CutOffBy,
    Own,
    Phase,
    Rest,
    RoundTrained,
    Settled,
    SliceTrained,
    TrainerListener,
    UseThreads,
)
from p2ptrain.training import device
from p2ptrain.training.footing import Footing, Move, Moved, move
from p2ptrain.training.inner_loop import InnerLoop, StepReport
from p2ptrain.training.pseudo_gradient import pseudo_gradient

RUN = RunConfig(
    name="trainer",
    seed=1,
    rounds=4,
    model=ModelConfig(layers=1, width=16, heads=2, kv_heads=2, mlp_hidden=32, context=16),
    slicing=SlicingConfig(slices=1),
    inner=InnerConfig(steps=6, batch=1, lr=1e-3),
    outer=OuterConfig(lr=1.0, momentum=0.0),
    overlap=OverlapConfig(delay_steps=3),
)
TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)
CORPUS = Corpus(train=TEXT[1000:], validation=TEXT[:1000], fingerprint=Digest("0" * 64))
ZERO = SliceId("0")
TOKENS = 16


class Bench:
    """A trainer whose other side is the test."""

    def __init__(
        self,
        run: RunConfig = RUN,
        at: Mapping[str, int] | None = None,
        owned: frozenset[SliceId] | None = None,
    ) -> None:
        """The versions ``at`` which fragments are when training begins; all others are at 0. It owns all by default."""
        plan = SlicePlan.of(run.model, run.slicing)
        values = initial_values(run, plan)
        owned = frozenset(plan.slice_ids) if owned is None else owned
        self.inner = InnerLoop(run, plan, owned, values, CORPUS, PeerId("me"), EngineConfig())
        self.trained: list[RoundTrained] = []
        self.phases: list[Phase] = []
        self.events: list[Event] = []
        versions = {slice_id: Version((at or {}).get(slice_id, 0)) for slice_id in owned}
        footings = {slice_id: Footing.on(values[slice_id], versions[slice_id]) for slice_id in owned}
        self._versions = versions
        self.slices: list[frozenset[SliceId]] = []
        listener = TrainerListener(
            trained=self.trained.append, phase=self.phases.append, slices=self.slices.append, event=self.events.append
        )
        self.trainer = Trainer(self.inner, footings, listener, threads=1)

    def commit(self, number: int) -> None:
        """Everybody else did what we did: with lr 1 and no momentum the anchor is our snapshot."""
        for slice_id, one in self.trained[number].slices.items():
            whole = ((0, one.local.size),)
            self._versions[slice_id] = Version(self._versions[slice_id] + 1)
            to = Move(anchor=one.local, version=self._versions[slice_id], tokens=one.tokens, contained=whole)
            self.trainer.send(Advance(slice_id, to))
            self.trainer.send(Settled(slice_id))

    def void(self, number: int) -> None:
        """Nothing came of it."""
        for slice_id in self.trained[number].slices:
            self.trainer.send(Settled(slice_id))

    @property
    def cut(self) -> list[set[SliceId]]:
        """What was cut off each time."""
        return [set(one.slices) for one in self.trained]

    @property
    def steps(self) -> list[InnerStepDone]:
        return [event for event in self.events if isinstance(event, InnerStepDone)]


def drive(
    test: Callable[[Bench], Awaitable[None]],
    run: RunConfig = RUN,
    at: Mapping[str, int] | None = None,
    owned: frozenset[SliceId] | None = None,
) -> None:
    async def whole() -> None:
        bench = Bench(run, at, owned)
        bench.trainer.start()
        try:
            await test(bench)
        finally:
            await bench.trainer.stop()

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(50):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.002)


def test_training_goes_on_while_slices_are_averaged_and_waits_when_the_delay_is_used_up() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: any(phase.waits_for for phase in bench.phases))
        assert bench.phases == [Phase(Version(0)), Phase(Version(1)), Phase(Version(1), ("0", "common"))]
        assert [step.round for step in bench.steps] == [0] * 6 + [1] * 3
        assert [one.tokens for one in bench.trained[0].slices.values()] == [6 * TOKENS] * 2
        bench.commit(0)
        await until(lambda: len(bench.trained) == 2)
        assert [step.round for step in bench.steps[:12]] == [0] * 6 + [1] * 6
        for slice_id, one in bench.trained[1].slices.items():
            assert one.tokens == 6 * TOKENS
            assert np.array_equal(one.anchor, bench.trained[0].slices[slice_id].local)

    drive(test)


def test_overlapped_rounds_whose_anchor_is_our_own_snapshot_train_as_if_nothing_was_averaged() -> None:
    async def test(bench: Bench) -> None:
        for number in range(RUN.rounds):
            await until(lambda number=number: len(bench.trained) == number + 1)  # type: ignore[misc]
            bench.commit(number)
        alone = Bench().inner
        for round in range(RUN.rounds):
            for _ in range(RUN.inner.steps):
                alone.step(Version(round))
        for slice_id, one in bench.trained[-1].slices.items():
            # new anchor + (local - snapshot) rounds.
            np.testing.assert_allclose(one.local, alone.local_values(slice_id), atol=1e-5)
        assert [trained.tokens for trained in bench.trained] == [6 * TOKENS] * RUN.rounds

    drive(test)


def test_void_round_is_contributed_again_with_what_came_after_it() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        bench.void(0)
        await until(lambda: len(bench.trained) == 2)
        for slice_id, one in bench.trained[1].slices.items():
            assert one.tokens == 12 * TOKENS
            assert one.anchor is bench.trained[0].slices[slice_id].anchor
        batches = [(step.round, step.inner_step) for step in bench.steps[:12]]
        assert len(set(batches)) == 12, "no batch twice"

    drive(test)


def test_without_overlap_no_step_is_made_before_all_slices_are_settled() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: any(phase.waits_for for phase in bench.phases))
        bench.trainer.send(Settled(ZERO))
        await until(lambda: bench.phases[-1].waits_for == (COMMON,))
        assert len(bench.steps) == 6
        bench.trainer.send(Settled(COMMON))
        await until(lambda: len(bench.trained) == 2)

    drive(test, replace(RUN, overlap=OverlapConfig()))


def test_cut_off_that_others_ask_for_ends_the_round_once() -> None:
    slow = replace(RUN, inner=replace(RUN.inner, steps=100_000), overlap=OverlapConfig(delay_steps=100_000))

    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.steps) >= 2)
        for _ in range(2):
            bench.trainer.send(CutOffBy(COMMON, Version(0), clock.monotonic_s()))
        await until(lambda: len(bench.trained) == 1)
        bench.trainer.send(CutOffBy(ZERO, Version(0), clock.monotonic_s()))  # it had not heard of our contribution
        bench.commit(0)
        steps = len(bench.steps)
        await until(lambda: len(bench.steps) >= steps + 20)
        assert len(bench.trained) == 1
        bench.trainer.send(CutOffBy(ZERO, Version(1), clock.monotonic_s()))
        await until(lambda: len(bench.trained) == 2)
        assert sum(trained.tokens for trained in bench.trained) <= TOKENS * len(bench.steps)

    drive(test, slow)


def test_other_slices_are_trained_once_nothing_is_averaged_and_from_their_newest_anchor() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: any(phase.waits_for for phase in bench.phases))
        anchors = initial_values(RUN, SlicePlan.of(RUN.model, RUN.slicing))
        common = frozenset({COMMON})
        bench.trainer.send(Own(common, {COMMON: Footing.on(anchors[COMMON], Version(0))}))
        bench.commit(0)
        await until(lambda: bench.slices == [common])
        await until(lambda: len(bench.trained) == 2)
        assert set(bench.trained[1].slices) == common
        assert bench.trained[1].slices[COMMON].tokens == 6 * TOKENS
        both = frozenset({COMMON, ZERO})
        bench.trainer.send(Own(both, {s: Footing.on(anchors[s], Version(0)) for s in both}))
        newer = np.zeros_like(anchors[ZERO])
        bench.trainer.send(Advance(ZERO, Move(anchor=newer, version=Version(1))))
        bench.commit(1)
        await until(lambda: len(bench.trained) == 3)
        assert bench.trained[2].slices[ZERO].anchor is newer
        assert 0 < bench.trained[2].slices[ZERO].tokens <= bench.trained[2].slices[COMMON].tokens

    drive(test)


def test_who_trains_fewer_slices_from_now_on_goes_on_with_the_same_progress_stretched() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: bool(bench.trained))
        sent = bench.trained[0].slices[ZERO]
        assert sent.amplification == 1.0
        await until(lambda: any(phase.waits_for for phase in bench.phases))
        anchors = initial_values(run, SlicePlan.of(run.model, run.slicing))
        fewer = frozenset({COMMON, ZERO})
        bench.trainer.send(Own(fewer, {s: Footing.on(anchors[s], Version(0)) for s in fewer}))
        bench.void(0)
        await until(lambda: len(bench.trained) == 2)
        again = bench.trained[1].slices[ZERO]
        assert again.amplification == bench.trained[1].slices[COMMON].amplification * 2 == 2.0
        assert again.tokens > sent.tokens
        first, second = (pseudo_gradient(one.anchor, one.local, one.amplification) for one in (sent, again))
        # The second contribution goes as far along the first one as that did, and a little further.
        assert 1 < np.dot(second, first) / np.dot(first, first) < 1.5

    # The inner lr falls to a tenth at once, so that most of the progress is that of the first round.
    run = replace(RUN, slicing=SlicingConfig(slices=2, amplification=2.0), rounds=1)
    drive(test, run)


def test_progress_that_missed_a_version_counts_as_much_when_amplification_has_risen() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: bool(bench.trained))
        sent = bench.trained[0].slices[ZERO]
        for slice_id, one in bench.trained[0].slices.items():
            bench.trainer.send(Advance(slice_id, Move(anchor=one.anchor, version=Version(1))))
            bench.trainer.send(Settled(slice_id))
        await until(lambda: len(bench.trained) == 2)
        again = bench.trained[1].slices[ZERO]
        assert (sent.amplification, again.amplification) == (1.0, 2.0)
        first, second = (pseudo_gradient(one.anchor, one.local, one.amplification) for one in (sent, again))
        assert np.dot(second, first) > 1.1 * np.dot(first, first)

    run = replace(RUN, slicing=SlicingConfig(slices=2, amplification=1.0, last_amplification=2.0), rounds=2)
    drive(test, run, owned=frozenset({COMMON, ZERO}))


def test_commits_are_merged_and_scored_in_the_units_of_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[float] = []
    scored: list[bool] = []
    is_as_contributed = False
    as_contributed = Trainer._as_contributed

    def spy_on_move(footing: Footing, local: np.ndarray, to: Move, rule: OverlapConfig, amplification: float) -> Moved:
        merged.append(amplification)
        return move(footing, local, to, rule, amplification)

    @contextmanager
    def spy_on_weights(trainer: Trainer) -> Iterator[None]:
        nonlocal is_as_contributed
        with as_contributed(trainer):
            is_as_contributed = True
            yield
            is_as_contributed = False

    def score(loop: InnerLoop, num_windows: int) -> float:
        scored.append(is_as_contributed)
        return 1.0

    monkeypatch.setattr("p2ptrain.node.trainer.move", spy_on_move)
    monkeypatch.setattr(Trainer, "_as_contributed", spy_on_weights)
    monkeypatch.setattr(InnerLoop, "validation_loss", score)

    async def test(bench: Bench) -> None:
        await until(lambda: bool(bench.trained))
        bench.commit(0)
        await until(lambda: len(bench.trained) == 2)
        assert sorted(merged) == [1.0, 2.0]
        assert scored == [True] * len(scored) != []

    drive(test, replace(RUN, slicing=SlicingConfig(slices=2, amplification=2.0)), owned=frozenset({COMMON, ZERO}))


def test_step_that_gives_nan_throws_the_round_away_and_contributes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_step = InnerLoop.step

    def step(self: InnerLoop, round: Version, **options: Any) -> StepReport:
        if (self.round, self.inner_step) == (0, 3):
            self.inner_step += 1
            raise NonFiniteUpdate("as the test wants it")
        return whole_step(self, round, **options)

    monkeypatch.setattr(InnerLoop, "step", step)

    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        assert [type(e) for e in bench.events if not isinstance(e, InnerStepDone)][-1] is TrainingFailed
        for one in bench.trained[0].slices.values():
            assert one.tokens == 0
            assert np.array_equal(one.local, one.anchor)

    drive(test)


def test_step_that_gives_nan_between_a_commit_and_its_end_goes_back_to_what_was_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole_step, is_held, goes_on = InnerLoop.step, threading.Event(), threading.Event()

    def step(self: InnerLoop, round: Version, **options: Any) -> StepReport:
        if (self.round, self.inner_step) == (1, 1) and not is_held.is_set():
            is_held.set()
            assert goes_on.wait(50)
        elif is_held.is_set() and (self.round, self.inner_step) == (1, 2):
            self.inner_step += 1
            raise NonFiniteUpdate("as the test wants it")
        return whole_step(self, round, **options)

    monkeypatch.setattr(InnerLoop, "step", step)

    async def test(bench: Bench) -> None:
        await until(is_held.is_set)
        sent = bench.trained[0].slices
        for slice_id, one in sent.items():
            to = Move(anchor=one.local, version=Version(1), tokens=one.tokens, contained=((0, one.local.size),))
            bench.trainer.send(Advance(slice_id, to))
        goes_on.set()
        await until(lambda: any(isinstance(event, TrainingFailed) for event in bench.events))
        for slice_id in sent:
            bench.trainer.send(Settled(slice_id))
        await until(lambda: len(bench.trained) == 2)
        assert all(one.anchor is sent[slice_id].local for slice_id, one in bench.trained[1].slices.items())

    drive(test)


def test_how_long_news_waited_for_an_inner_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_step, is_held, goes_on = InnerLoop.step, threading.Event(), threading.Event()

    def step(self: InnerLoop, round: Version, **options: Any) -> StepReport:
        if (self.round, self.inner_step) == (0, 2):
            is_held.set()
            assert goes_on.wait(50)
        return whole_step(self, round, **options)

    monkeypatch.setattr(InnerLoop, "step", step)

    async def test(bench: Bench) -> None:
        await until(is_held.is_set)
        sent_s = clock.monotonic_s()
        bench.trainer.send(UseThreads(0))
        await asyncio.sleep(0.2)  # what is to be found as lag
        goes_on.set()
        await until(lambda: len(bench.trained) == 1)
        assert 0.2 <= bench.trained[0].lag_s <= clock.monotonic_s() - sent_s

    drive(test)


def test_each_round_tells_its_own_longest_wait_for_an_inner_step() -> None:
    async def whole() -> None:
        bench = Bench()
        bench.trainer._received((clock.monotonic_s() - 5.0, None))
        for _ in range(2):
            bench.trainer._cut_off(0, Version(0), 0)
        await asyncio.sleep(0)  # the listener hears of it
        first, second = bench.trained
        assert first.lag_s >= 5.0
        assert second.lag_s == 0.0

    asyncio.run(whole())


def test_time_of_a_round_is_all_accounted_for() -> None:
    async def test(bench: Bench) -> None:
        began_s = clock.monotonic_s()
        await until(lambda: any(phase.waits_for for phase in bench.phases))
        await asyncio.sleep(0.2)  # what is to be found as waiting
        bench.commit(0)
        await until(lambda: len(bench.trained) == 2)
        whole_s = clock.monotonic_s() - began_s
        one, two = bench.trained[:2]
        spent = [(t.training_s, t.waiting_s, t.other_s) for t in (one, two)]
        assert one.waiting_s == 0.0
        assert two.waiting_s > 0.15
        assert math.isclose(sum(map(sum, spent)), whole_s, abs_tol=0.5)

    drive(test)


def test_memory_that_runs_out_is_an_event_and_the_step_is_done_in_less(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Transformer.loss

    def too_large(self: Transformer, windows: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not self.lean:
            raise torch.OutOfMemoryError("injected")
        return whole(self, windows)

    monkeypatch.setattr(Transformer, "loss", too_large)

    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        lightened = [event.engine for event in bench.events if isinstance(event, EngineLightened)]
        assert lightened == ["float32 on cpu, the batch at once, nothing computed twice and little kept"]
        assert bench.trained[0].tokens == 6 * TOKENS

    drive(test)


def test_resting_gives_the_device_back_at_once_even_while_slices_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []
    monkeypatch.setattr(Trainer, "_move_to", lambda self, device: moves.append(device))

    async def test(bench: Bench) -> None:
        bench.trainer._device = "gpu"
        await until(lambda: any(phase.waits_for for phase in bench.phases))
        del moves[:]
        bench.trainer.send(Rest(True))
        await until(lambda: moves == ["cpu"])
        steps = len(bench.steps)
        bench.commit(0)
        bench.trainer.send(Rest(False))
        await until(lambda: len(bench.steps) > steps)
        assert moves[-1] == "gpu"

    drive(test)


def test_threads_change_between_two_inner_steps_and_back_to_what_torch_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "most_threads", lambda: 3)
    used: list[int] = []

    async def test(bench: Bench) -> None:
        own_choice = torch.get_num_threads()
        step = bench.inner.step

        def noting(round: Version, **options: Any) -> StepReport:
            used.append(torch.get_num_threads())
            return step(round, **options)

        bench.inner.step = noting  # type: ignore[method-assign]
        try:
            for number, (wanted, threads) in enumerate(((3, 3), (0, 0), (1000, 3), (2, 2))):
                bench.trainer.send(UseThreads(wanted))
                await until(lambda number=number: len(bench.trained) > number)  # type: ignore[misc]
                bench.commit(number)
                await until(lambda threads=threads: used[-1:] == [threads or own_choice])  # type: ignore[misc]
        finally:
            torch.set_num_threads(own_choice)

    drive(test)


def test_a_pause_does_not_wait_for_a_long_inner_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_step, has_begun, broken_off = InnerLoop.step, threading.Event(), threading.Event()

    def step(self: InnerLoop, round: Version, *, is_wanted: Callable[[], bool]) -> StepReport:
        if self.inner_step < 3 or broken_off.is_set():
            return whole_step(self, round)
        has_begun.set()
        while is_wanted():
            time.sleep(0.001)
        broken_off.set()
        raise StepBrokenOff("as it would be between two micro-batches")

    monkeypatch.setattr(InnerLoop, "step", step)

    async def test(bench: Bench) -> None:
        await until(has_begun.is_set)
        bench.trainer.send(Rest(True))
        await until(broken_off.is_set)
        bench.trainer.send(Rest(False))
        await until(lambda: len(bench.trained) == 1)
        assert [step.inner_step for step in bench.steps[:6]] == list(range(6)), "and then it is done once"

    drive(test)


TWO = replace(
    RUN,
    model=replace(RUN.model, layers=2),
    slicing=SlicingConfig(slices=1, fragments=2),
    inner=replace(RUN.inner, steps=5),
    overlap=OverlapConfig(),
)
FIRST, SECOND = {SliceId("common.0"), SliceId("0.0")}, {SliceId("common.1"), SliceId("0.1")}


def test_every_inner_step_of_a_round_belongs_to_one_turn() -> None:
    for fragments in range(1, 6):
        run = replace(TWO, slicing=SlicingConfig(slices=1, fragments=fragments))
        turns = [turn_steps(run, turn) for turn in range(fragments)]
        assert sum(turns) == 5
        assert max(turns) - min(turns) <= 1


def test_fragments_are_cut_off_one_after_the_other_and_each_once_a_round() -> None:
    async def test(bench: Bench) -> None:
        for number in range(2 * TWO.rounds):
            await until(lambda number=number: len(bench.trained) == number + 1)  # type: ignore[misc]
            assert len(bench.steps) == [2, 5][number % 2] + 5 * (number // 2)
            bench.commit(number)
        assert bench.cut == [FIRST, SECOND] * TWO.rounds
        assert [one.round for one in bench.trained] == [0, 0, 1, 1, 2, 2, 3, 3]
        tokens = [one.tokens for trained in bench.trained for one in trained.slices.values()]
        assert tokens == [2 * TOKENS] * 2 + [5 * TOKENS] * 14, "a whole round's, but for the very first"
        batches = [(step.round, step.inner_step) for step in bench.steps]
        assert batches == [(round, step) for round in range(4) for step in range(5)]

    drive(test, TWO)


def test_fragments_that_are_averaged_meanwhile_do_not_hold_each_other_up() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: bench.cut == [FIRST, SECOND])
        await until(lambda: bool(bench.phases[-1].waits_for))
        assert set(bench.phases[-1].waits_for) == FIRST, "which has five inner steps by now"
        assert len(bench.steps) == 7
        bench.commit(0)
        await until(lambda: bench.cut == [FIRST, SECOND, FIRST])
        bench.commit(2)
        await until(lambda: set(bench.phases[-1].waits_for) == SECOND)
        bench.commit(1)
        await until(lambda: len(bench.trained) >= 4)  # and it goes on: FIRST is settled
        assert bench.cut[3] == SECOND

    drive(test, replace(TWO, overlap=OverlapConfig(delay_steps=5)))


def test_a_void_fragment_has_its_turn_again_with_all_its_progress() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        bench.void(0)
        await until(lambda: len(bench.trained) == 2)
        assert bench.cut == [FIRST, FIRST]
        assert [one.tokens for one in bench.trained[1].slices.values()] == [4 * TOKENS] * 2
        bench.commit(1)
        await until(lambda: len(bench.trained) == 3)
        assert bench.cut[-1] == SECOND
        assert [one.tokens for one in bench.trained[2].slices.values()] == [7 * TOKENS] * 2

    drive(test, TWO)


def test_a_peer_that_joins_in_the_middle_of_a_round_begins_with_the_others_turn() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        assert (bench.cut, bench.trained[0].round, len(bench.steps)) == ([SECOND], 1, 3)
        bench.commit(0)
        await until(lambda: len(bench.trained) == 2)
        assert (bench.cut[-1], bench.trained[1].round) == (FIRST, 2)

    drive(test, TWO, at={"common.0": 2, "0.0": 2, "common.1": 1, "0.1": 1})


def test_who_asks_ends_the_turn_of_a_fragment_and_gets_another_one_out_of_turn() -> None:
    slow = replace(TWO, inner=replace(TWO.inner, steps=100_000), overlap=OverlapConfig(delay_steps=100_000))

    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.steps) >= 2)
        bench.trainer.send(CutOffBy(SliceId("0.1"), Version(0), clock.monotonic_s()))
        await until(lambda: len(bench.trained) == 1)
        assert bench.cut == [SECOND], "with the other fragments of that turn, which would else miss it"
        bench.trainer.send(CutOffBy(SliceId("common.0"), Version(0), clock.monotonic_s()))
        await until(lambda: len(bench.trained) == 2)
        assert bench.cut[1] == FIRST
        bench.trainer.send(CutOffBy(SliceId("common.1"), Version(1), clock.monotonic_s()))
        steps = len(bench.steps)
        await until(lambda: len(bench.steps) >= steps + 5)
        assert len(bench.trained) == 2, "a fragment's next cut-off waits for all of it"
        bench.commit(0)
        await until(lambda: len(bench.trained) == 3)
        assert bench.cut[2] == SECOND
        assert sum(one.tokens for one in bench.trained) <= TOKENS * len(bench.steps)

    drive(test, slow)


def test_a_peer_that_waits_for_one_fragment_gives_another_when_its_time_is_up() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        await until(lambda: set(bench.phases[-1].waits_for) == FIRST)
        by_s = clock.monotonic_s() + 0.1
        bench.trainer.send(CutOffBy(SliceId("common.1"), Version(0), by_s))
        await until(lambda: len(bench.trained) == 2)
        assert clock.monotonic_s() >= by_s, "until then it may still get what it waits for, and train"
        assert bench.cut == [FIRST, SECOND]
        assert len(bench.steps) == 2, "nobody would have trained: both wait for each other"

    drive(test, TWO)


def test_other_slices_are_taken_over_even_if_fragments_are_averaged_all_the_time() -> None:
    run = replace(TWO, overlap=OverlapConfig(delay_steps=5))

    async def test(bench: Bench) -> None:
        common = frozenset({SliceId("common.0"), SliceId("common.1")})
        await until(lambda: len(bench.trained) == 2)
        values = initial_values(run, SlicePlan.of(run.model, run.slicing))
        bench.trainer.send(Own(common, {s: Footing.on(values[s], Version(0)) for s in common}))
        bench.commit(0)
        await until(lambda: bool(bench.phases[-1].waits_for) and set(bench.phases[-1].waits_for) == SECOND)
        bench.commit(1)
        await until(lambda: bench.slices == [common])
        await until(lambda: len(bench.trained) >= 3)
        assert bench.cut[2] == {"common.0"}

    drive(test, run)


def test_a_round_whose_end_is_not_told_yet_counts_once_when_its_outcome_is_there() -> None:
    async def whole() -> None:
        bench = Bench(TWO)
        trainer, turns = bench.trainer, []
        for number in range(3):
            turns.append((trainer._turn, trainer._round))
            trainer._cut_off(number % 2, Version(0), 0)
            await asyncio.sleep(0)  # the listener hears of it
            for slice_id, one in bench.trained[number].slices.items():
                trainer._take(Advance(slice_id, Move(anchor=one.local, version=Version(number // 2 + 1))))
        assert turns == [(0, 0), (1, 0), (0, 1)]
        assert (trainer._turn, trainer._round) == (1, 1)

    asyncio.run(whole())


def zero_is_committed(bench: Bench, version: int, beside: int) -> None:
    """With what we gave; ``beside`` as another owner told it."""
    one = bench.trained[-1].slices[ZERO]
    whole = ((0, one.local.size),)
    bench.trainer.send(
        Advance(ZERO, Move(anchor=one.local, version=Version(version), tokens=one.tokens, contained=whole))
    )
    bench.trainer.send(Settled(ZERO, Version(beside)))


def common_goes_on(bench: Bench, version: int) -> None:
    """Others commit the common part up to this version, without us from the second one on; 0: the round is void."""
    anchor = bench.trained[-1].slices[COMMON].local
    if version:
        bench.trainer.send(Advance(COMMON, Move(anchor=anchor, version=Version(version))))
    bench.trainer.send(Settled(COMMON))


@pytest.mark.parametrize(
    ("beside", "version", "next_cut_off"),
    [
        (0, 1, {COMMON, ZERO}),  # nobody told
        (1, 1, {COMMON, ZERO}),  # everybody was cut off for the same two versions
        (1, 0, {COMMON, ZERO}),  # the same, and will be once more
        (2, 1, {COMMON}),  # another owner gave slice 0 with the common part's next version: so will we
        (2, 3, {COMMON, ZERO}),  # it did, while the others went on without us: we are with it again
        (10**18, 3, {COMMON}),  # a liar
    ],
)
def test_a_slice_in_which_we_are_ahead_is_left_out_of_one_cut_off(
    beside: int, version: int, next_cut_off: set[SliceId]
) -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        assert {one.beside for one in bench.trained[0].slices.values()} == {1}
        common_goes_on(bench, version)
        zero_is_committed(bench, 1, beside)
        await until(lambda: len(bench.trained) == 2)
        assert bench.cut[1] == next_cut_off
        steps = len(bench.steps)
        common_goes_on(bench, version + 1)
        if ZERO in next_cut_off:
            zero_is_committed(bench, 2, version + 1)
        await until(lambda: len(bench.trained) == 3)
        assert bench.cut[2] == {COMMON, ZERO}
        given = bench.trained[2].slices[ZERO].tokens
        assert given == TOKENS * (2 if next_cut_off == {COMMON} else 1) * RUN.inner.steps, "nothing is lost"
        assert len(bench.steps) == steps + RUN.inner.steps

    drive(test, replace(RUN, rounds=10, overlap=OverlapConfig(delay_steps=0)))


def test_whatever_is_said_of_it_the_common_part_is_never_left_out() -> None:
    async def test(bench: Bench) -> None:
        for number in range(3):
            await until(lambda number=number: len(bench.trained) == number + 1)
            anchor = bench.trained[-1].slices[COMMON].local
            bench.trainer.send(Advance(COMMON, Move(anchor=anchor, version=Version(number + 1))))
            bench.trainer.send(Settled(COMMON, Version(10**18)))
            zero_is_committed(bench, number + 1, 0)
        assert bench.cut == [{COMMON, ZERO}] * 3

    drive(test, replace(RUN, overlap=OverlapConfig(delay_steps=0)))


def test_a_slice_that_its_owners_wait_for_is_not_left_out() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        common_goes_on(bench, 1)
        zero_is_committed(bench, 1, 2)
        bench.trainer.send(CutOffBy(ZERO, Version(1), clock.monotonic_s() + 60))
        await until(lambda: len(bench.trained) == 2)
        assert bench.cut[1] == {COMMON, ZERO}

    # The message that settles the common part must not be the last one, or a turn could end before the ask is there.
    drive(test, replace(RUN, inner=replace(RUN.inner, steps=200), overlap=OverlapConfig(delay_steps=0)))


def test_a_slice_is_left_out_once_also_when_the_common_parts_round_is_void() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.trained) == 1)
        common_goes_on(bench, 1)
        zero_is_committed(bench, 1, 2)
        await until(lambda: len(bench.trained) == 2)
        assert bench.cut[1] == {COMMON}
        bench.trainer.send(Settled(COMMON))
        await until(lambda: len(bench.trained) == 3)
        assert bench.cut[2] == {COMMON, ZERO}

    drive(test, replace(RUN, overlap=OverlapConfig(delay_steps=0)))


def test_who_asks_between_a_commit_and_its_end_is_answered() -> None:
    slow = replace(RUN, inner=replace(RUN.inner, steps=100_000), overlap=OverlapConfig(delay_steps=100_000))

    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.steps) >= 2)
        bench.trainer.send(CutOffBy(COMMON, Version(0), clock.monotonic_s()))
        await until(lambda: len(bench.trained) == 1)
        anchors = {slice_id: one.local for slice_id, one in bench.trained[0].slices.items()}
        for slice_id, anchor in anchors.items():
            bench.trainer.send(Advance(slice_id, Move(anchor=anchor, version=Version(1))))
        bench.trainer.send(CutOffBy(COMMON, Version(1), clock.monotonic_s()))
        for slice_id in anchors:
            bench.trainer.send(Settled(slice_id))
        await until(lambda: len(bench.trained) == 2)

    drive(test, slow)


class Group:
    """Trainers that average with each other: whoever is cut off first asks the others, as in a real round."""

    def __init__(self, run: RunConfig, asked_within_s: float) -> None:
        self.benches: list[Bench] = []
        self.owners: dict[SliceId, list[Bench]] = {s: [] for s in SlicePlan.of(run.model, run.slicing).slice_ids}
        self.versions = dict.fromkeys(self.owners, 0)
        self.history: list[tuple[int, ...]] = []
        """Versions of the common part's fragments after each commit."""
        self._run = run
        self._asked_within_s = asked_within_s
        self._sent: dict[SliceId, dict[Bench, SliceTrained]] = {s: {} for s in self.owners}
        self.cut_offs: dict[Bench, list[dict[SliceId, int]]] = {}
        """What each was cut off with, and the versions that it went into."""

    def add(self, at: Mapping[str, int] | None = None, *, step_s: float = 0.0) -> Bench:
        """One more owner of everything, from these versions on; its inner steps take so much longer."""
        bench = Bench(self._run, at)
        bench.trainer._on_trained = lambda trained: self._heard(bench, trained)
        step = bench.inner.step

        def slowly(*arguments: Any, **options: Any) -> StepReport:
            time.sleep(step_s)
            return step(*arguments, **options)

        bench.inner.step = slowly  # type: ignore[method-assign]
        self.benches.append(bench)
        for owners in self.owners.values():
            owners.append(bench)
        return bench

    def start(self) -> None:
        for bench in self.benches:
            bench.trainer.start()

    async def stop(self) -> None:
        for bench in self.benches:
            await bench.trainer.stop()

    def _heard(self, bench: Bench, trained: RoundTrained) -> None:
        bench.trained.append(trained)
        self.cut_offs.setdefault(bench, []).append({s: self.versions[s] + 1 for s in trained.slices})
        for slice_id, one in trained.slices.items():
            sent = self._sent[slice_id]
            assert bench not in sent, "one contribution to a version"
            sent[bench] = one
            if self._lacks_others(slice_id):
                for other in self.owners[slice_id]:
                    if other not in sent:
                        by_s = clock.monotonic_s() + self._asked_within_s
                        other.trainer.send(CutOffBy(slice_id, Version(self.versions[slice_id]), by_s))
        for slice_id in trained.slices:
            if self._sent[slice_id] and not self._lacks_others(slice_id):
                self._commit(slice_id)

    def _lacks_others(self, slice_id: SliceId) -> bool:
        return len(self._sent[slice_id]) < len(self.owners[slice_id])

    def _commit(self, slice_id: SliceId) -> None:
        sent, self._sent[slice_id] = self._sent[slice_id], {}
        self.versions[slice_id] += 1
        self.history.append(tuple(version for s, version in self.versions.items() if s.startswith("common")))
        anchor = np.mean([one.local for one in sent.values()], axis=0, dtype=np.float32)
        for bench, one in sent.items():
            whole = ((0, anchor.size),) if one.tokens else ()
            to = Move(
                anchor=anchor, version=Version(self.versions[slice_id]), tokens=one.tokens or None, contained=whole
            )
            others = max((other.beside for peer, other in sent.items() if peer is not bench), default=Version(0))
            bench.trainer.send(Advance(slice_id, to))
            bench.trainer.send(Settled(slice_id, others))


@pytest.mark.parametrize("delay_steps", [0, 2, 5])
@pytest.mark.parametrize("fragments", [2, 3])
def test_a_fast_and_a_slow_peer_have_the_same_turns_and_end_the_run_together(fragments: int, delay_steps: int) -> None:
    run = replace(
        TWO,
        rounds=8,
        model=replace(TWO.model, layers=3),
        slicing=SlicingConfig(slices=1, fragments=fragments),
        overlap=OverlapConfig(delay_steps=delay_steps),
    )

    async def whole() -> None:
        group = Group(run, asked_within_s=0.01)
        group.add()
        group.add(step_s=0.01)
        group.start()
        try:
            await until(lambda: set(group.versions.values()) == {run.rounds})
        finally:
            await group.stop()
        assert all(max(versions) - min(versions) <= 1 for versions in group.history)
        assert group.history == sorted(group.history), "no fragment twice before the others"
        assert all(sum(one.tokens for one in bench.trained) > 0 for bench in group.benches)

    asyncio.run(whole())


@pytest.mark.parametrize("delay_steps", [0, 2])
@pytest.mark.parametrize(("first", "second"), [(COMMON, ZERO), (ZERO, COMMON)])
def test_who_joins_between_the_commits_of_two_slices_is_soon_in_step_with_the_others(
    first: SliceId, second: SliceId, delay_steps: int
) -> None:
    run = replace(RUN, rounds=1000, overlap=OverlapConfig(delay_steps=delay_steps))

    async def whole() -> None:
        group = Group(run, asked_within_s=60.0)
        other = group.add(step_s=0.003)
        # The newcomer is waited for in one slice, and does not know yet that the other one is committed without it.
        joined = group.add({first: 1}, step_s=0.003)
        group.owners[first].remove(joined)
        other.trainer.start()
        await until(lambda: group.versions[first] == 1)
        group.owners[first].append(joined)
        joined.trainer.start()
        try:
            await until(lambda: min(map(len, (other.trained, joined.trained))) >= 12)
        finally:
            await group.stop()
        both = [[cut for cut in group.cut_offs[bench] if len(cut) == 2] for bench in group.benches]
        assert [len(cuts) >= len(group.cut_offs[other]) - 2 for cuts in both] == [True, True], "as one, but for once"
        ahead = [{cut[ZERO] - cut[COMMON] for cut in cuts[-8:]} for cuts in both]
        assert ahead[0] == ahead[1], group.cut_offs

    asyncio.run(whole())
