"""The engine a peer starts with: chosen for the device by prediction and a trial step, in words."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from p2ptrain.cli.engine_options import choose_engine_here, engine_wish
from p2ptrain.cli.main import main
from p2ptrain.config.schema import (
    EngineConfig,
    EngineWish,
    InnerConfig,
    ModelConfig,
    OuterConfig,
    RunConfig,
    SlicingConfig,
)
from p2ptrain.errors import DoesNotFit, UsageError
from p2ptrain.ids import COMMON, SliceId, numbered_slices
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.training import choose
from p2ptrain.training import device as devices
from p2ptrain.training.benchmark_memory import GIB, plain_cost, sliced_cost
from p2ptrain.training.choose import Choice, choose_engine, swarm_bytes
from p2ptrain.training.device import Device, find_device
from p2ptrain.training.fit import USABLE, Fixed, fit, least_bytes, most_bytes, slices_that_fit
from p2ptrain.training.trial import Trial, try_step

MIB = 1 << 20
RUN = RunConfig(
    name="choose",
    seed=1,
    rounds=10,
    model=ModelConfig(layers=1, width=64, heads=8, kv_heads=8, mlp_hidden=192, vocabulary=256, context=256),
    slicing=SlicingConfig(slices=4, parts=("mlp", "heads")),
    inner=InnerConfig(steps=2, batch=4, lr=5e-3),
    outer=OuterConfig(lr=0.7, momentum=0.9),
)
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
OWNED = frozenset({COMMON, SliceId("0")})
CPU = Device(name="cpu", model="", free_bytes=64 * GIB, best_precision="float32")
GPU = Device(name="cuda:0", model="GPU", free_bytes=64 * GIB, best_precision="bfloat16")


def peak(engine: EngineConfig, *, slices: int = 1, windows: int = RUN.inner.batch) -> int:
    owned = frozenset({COMMON, *numbered_slices(slices)})
    return sliced_cost(RUN.model, RUN.slicing, owned, batch=windows, engine=engine).peak_bytes


def no_trial(engine: EngineConfig) -> Trial | None:
    raise AssertionError("a small model is not tried")


def test_a_model_that_is_small_beside_a_cpu_trains_as_plainly_as_the_lab_does_without_a_trial() -> None:
    choice = choose_engine(EngineWish(), CPU, RUN, OWNED, no_trial)
    assert choice.engine == EngineConfig()
    assert choice.slices_that_fit == 4
    assert "of 64.0 GiB, room for all 4 slices" in choice.reason


def test_a_gpu_gets_the_precision_it_is_best_at_and_wishes_are_kept() -> None:
    assert choose_engine(EngineWish(), GPU, RUN, OWNED, no_trial).engine == EngineConfig(
        device="cuda:0", precision="bfloat16"
    )
    wish = EngineWish(precision="float32", micro_batch=2, recompute="mlp", compile=True)
    assert choose_engine(wish, GPU, RUN, OWNED, no_trial).engine == EngineConfig(
        device="cuda:0", micro_batch=2, recompute="mlp", compile=True
    )


@pytest.mark.parametrize(
    "model",
    [
        RUN.model,
        replace(RUN.model, layers=3, mlp_hidden=2560),
        replace(RUN.model, vocabulary=50000),
    ],
)
def test_the_most_that_a_step_can_take_is_more_than_plain_autograd_takes(model: ModelConfig) -> None:
    counted = plain_cost(model, batch=4, engine=EngineConfig()).peak_bytes
    assert counted < most_bytes(model, batch=4) < 5 * counted


def test_a_tight_budget_takes_what_was_predicted_and_names_trial_and_room() -> None:
    lean = EngineConfig(lean=True)
    reserved = swarm_bytes(RUN, OWNED)
    budget = int((peak(lean) + reserved) * 1.001 / USABLE)
    choice = choose_engine(
        EngineWish(memory_bytes=budget), CPU, RUN, OWNED, lambda _: Trial(peak_bytes=5 * MIB, seconds=0.25)
    )
    assert choice.engine == lean
    assert choice.slices_that_fit == 1
    assert "predicted and 5 MiB in a trial step of 0.25 s" in choice.reason
    assert "room for 1 of 4 slices" in choice.reason


def test_a_trial_that_takes_more_than_was_predicted_steps_down_until_it_fits() -> None:
    tried: list[EngineConfig] = []

    def greedy(engine: EngineConfig) -> Trial | None:
        tried.append(engine)
        if len(tried) == 1:
            return None
        return Trial(peak_bytes=GIB if len(tried) == 2 else 5 * MIB, seconds=0.1)

    budget = int((peak(EngineConfig(lean=True)) + swarm_bytes(RUN, OWNED)) * 1.1 / USABLE)
    choice = choose_engine(EngineWish(memory_bytes=budget), CPU, RUN, OWNED, greedy)
    assert [engine.micro_batch for engine in tried] == [0, 2, 1]
    assert choice.engine == tried[-1]
    assert "the batch at once, nothing computed twice and little kept ran out of memory" in choice.reason
    assert "micro-batches of 2, nothing computed twice and little kept took 1.0 GiB" in choice.reason


def test_nothing_that_fits_is_an_error_with_the_smallest_budget_before_anything_starts() -> None:
    with pytest.raises(DoesNotFit, match=r"too little for one slice of 4.*smallest budget that would do is 0\.\d GiB"):
        choose_engine(EngineWish(memory_bytes=MIB, micro_batch=1), CPU, RUN, OWNED, no_trial)
    budget = int((peak(EngineConfig(lean=True)) + swarm_bytes(RUN, OWNED)) * 1.1 / USABLE)
    refusal = rf"blocks computed twice ran out of memory in a trial.*give more than {budget >> 20} MiB"
    with pytest.raises(DoesNotFit, match=refusal):
        choose_engine(EngineWish(memory_bytes=budget), CPU, RUN, OWNED, lambda _: None)
    # What was measured and what the swarm needs beside it, on a CPU the same memory, of which 8 % are kept free.
    took = Trial(peak_bytes=int(USABLE * GIB), seconds=0.1)
    with pytest.raises(DoesNotFit, match=r"took 942 MiB in a trial step.*give at least 1\.1 GiB"):
        choose_engine(EngineWish(memory_bytes=budget), CPU, RUN, OWNED, lambda _: took)


def test_the_least_that_one_slice_needs_is_what_fits_and_less_does_not() -> None:
    least = least_bytes(RUN.model, RUN.slicing, batch=RUN.inner.batch, engine=EngineConfig())
    assert least < peak(EngineConfig(lean=True)), "not all windows at once"

    def fitted(budget_bytes: float) -> None:
        fixed = Fixed(slices=1, recompute="nothing")
        limits = {"batch": RUN.inner.batch, "budget_bytes": int(budget_bytes)}
        fit(RUN.model, RUN.slicing, **limits, engine=EngineConfig(), fixed=fixed)

    fitted(1.001 * least / USABLE)
    with pytest.raises(DoesNotFit):
        fitted(0.999 * least / USABLE)


def test_slices_that_fit_counts_what_a_budget_owns_at_once() -> None:
    engine = EngineConfig(precision="bfloat16", micro_batch=1, lean=True)
    budget = int((peak(engine, slices=2, windows=2) + peak(engine, slices=3, windows=2)) / 2 / USABLE)

    def fitting(budget_bytes: int) -> int:
        return slices_that_fit(RUN.model, RUN.slicing, batch=4, budget_bytes=budget_bytes, engine=engine)

    assert fitting(budget) == 2
    assert fitting(MIB) == 0
    assert fitting(64 * GIB) == 4


def test_a_trial_step_measures_what_the_count_predicts() -> None:
    model = replace(RUN.model, layers=2, width=256, mlp_hidden=1024, context=512)
    run = replace(RUN, model=model)
    trial = try_step(run, SlicePlan.of(model, run.slicing), OWNED, EngineConfig(lean=True))
    assert trial is not None
    assert trial.seconds > 0
    assert trial.peak_bytes is not None
    predicted = sliced_cost(model, run.slicing, OWNED, batch=4, engine=EngineConfig(lean=True)).peak_bytes
    # The first one also loads the libraries' code and workspaces.
    assert 0.7 * predicted < trial.peak_bytes < 1.3 * predicted + 128 * MIB


def test_a_trial_without_enough_memory_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(self: Transformer, windows: Tensor) -> Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")

    monkeypatch.setattr(Transformer, "loss", too_large)
    assert try_step(RUN, PLAN, OWNED, EngineConfig()) is None


def test_auto_prefers_cuda_to_mps_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_cuda, has_mps, expected in ((True, True, "cuda:0"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has_cuda: has)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda has=has_mps: has)
        assert devices.best_device() == expected


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("cuda:3", "--device cuda:3: torch sees 0 CUDA devices"),
        ("mps", "--device mps is not here; choose auto, cpu"),
        ("tpu", "--device tpu is not here"),
        ("cpu:1", "--device cpu:1 is not here"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str, sentence: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=sentence):
        find_device(wanted)
    assert find_device().name == "cpu"


def test_a_container_with_less_memory_than_the_machine_is_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "_CGROUP_LIMIT", limit)
    limit.write_text("max\n")
    machine = devices.device_memory_bytes("cpu")
    limit.write_text(f"{machine}\n")
    assert devices.device_memory_bytes("cpu") == machine // 2


def test_the_options_of_the_command_are_the_wish_and_the_answer_is_for_this_machine() -> None:
    wish = engine_wish(
        device="cpu", precision="bfloat16", memory="2GiB", micro_batch=2, recompute="blocks", compiled=False
    )
    assert wish == EngineWish(
        device="cpu", precision="bfloat16", memory_bytes=2 * GIB, micro_batch=2, recompute="blocks"
    )
    assert choose_engine_here(wish, RUN, None, 1, 0).engine == EngineConfig(
        precision="bfloat16", micro_batch=2, recompute="blocks"
    )


def test_an_engine_is_for_as_many_slices_as_the_volunteer_allows_and_memory_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def two_fit(_wish: EngineWish, _device: Device, _run: RunConfig, owned: frozenset[SliceId], _try: object) -> Choice:
        asked.append(len(owned) - 1)
        if asked[-1] > 2:
            raise DoesNotFit("too many")
        return Choice(engine=EngineConfig(), slices_that_fit=asked[-1], reason="it fits")

    monkeypatch.setattr(choose, "choose_engine", two_fit)
    assert choose_engine_here(EngineWish(device="cpu"), RUN, None, 9, 0).slices_that_fit == 2
    assert asked == [4, 3, 2]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--precision", "fp8"], "--precision fp8 is not known; choose from auto, float32, bfloat16"),
        (["--recompute", "all"], "--recompute all is not known; choose from auto, nothing, mlp, blocks"),
        (["--memory", "lots"], "--memory lots is not an amount of memory; write for example 8GiB"),
    ],
)
def test_wrong_engine_options_are_refused_before_the_network_is_touched(
    capsys: pytest.CaptureFixture[str], option: list[str], sentence: str
) -> None:
    assert main(["peer", "--run", "nowhere.toml", "--home", "nowhere", *option]) == 2
    assert sentence in capsys.readouterr().err
