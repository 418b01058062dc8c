"""The engine's choices: bfloat16 with split masters, micro-batches, stepping down when memory runs out."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from p2ptrain.config.schema import EngineConfig, InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import OutOfMemory
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.sliced_linear import joined_master, split_master
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.training import optimizer
from p2ptrain.training.engine import lighter_engine
from p2ptrain.training.inner_loop import InnerLoop

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = SliceId("1")
RUN = RunConfig(
    name="engine",
    seed=1,
    rounds=10,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_hidden=64, context=32),
    slicing=SlicingConfig(slices=2, parts=("mlp", "heads")),
    inner=InnerConfig(steps=5, batch=4, lr=5e-3, warmup_steps=3),
    outer=OuterConfig(lr=0.7, momentum=0.9),
)
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
VALUES = initial_values(RUN, PLAN)
TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)
CORPUS = Corpus(train=TEXT[1000:], validation=TEXT[:1000], fingerprint=Digest("0" * 64))
OWNED = frozenset({COMMON, ONE})


def loop(engine: EngineConfig, owned: frozenset[SliceId] = OWNED) -> InnerLoop:
    return InnerLoop(RUN, PLAN, owned, VALUES, CORPUS, PeerId("a"), engine)


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_a_master_taken_apart_and_joined_has_its_bits_and_a_high_half_nearest_to_it(
    bits: list[int],
) -> None:
    master = torch.from_numpy(np.array(bits, dtype=np.uint32).view(np.float32).copy())
    master[~master.isfinite() | (master.abs() > 3e38)] = 0.5
    high, low = torch.empty_like(master, dtype=torch.bfloat16), torch.empty_like(master, dtype=torch.int16)
    split_master(master, high, low)
    assert torch.equal(joined_master(high, low).view(torch.int32), master.view(torch.int32))
    nearest = master.bfloat16()
    assert torch.equal((high.double() - master.double()).abs(), (nearest.double() - master.double()).abs())


def test_adamw_has_the_numbers_of_torchs_and_split_adamw_has_them_on_float32_masters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimizer, "_CHUNK_ELEMENTS", 30)
    chance = torch.Generator().manual_seed(1)
    masters = [torch.randn(shape, generator=chance) for shape in ((7, 12), (9,))]
    highs = [torch.nn.Parameter(torch.empty_like(m, dtype=torch.bfloat16)) for m in masters]
    lows = [torch.empty_like(m, dtype=torch.int16) for m in masters]
    for master, high, low in zip(masters, highs, lows, strict=True):
        split_master(master, high.data, low)
    plain = [torch.nn.Parameter(m.clone()) for m in masters]
    groups = [{"params": [plain[0]], "weight_decay": 0.1}, {"params": [plain[1]], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), fused=True)
    ours = [torch.nn.Parameter(m.clone()) for m in masters]
    whole, split = optimizer.AdamW(ours, RUN.inner), optimizer.SplitAdamW(highs, lows, RUN.inner)
    for _ in range(5):
        gradients = [torch.randn(m.shape, generator=chance).bfloat16() for m in masters]
        for parameter, gradient in zip(plain, gradients, strict=True):
            parameter.grad = gradient.float() * 0.5
        reference.step()
        split.update(gradients, 0.01, torch.tensor(0.5))
        whole.update([gradient.float() for gradient in gradients], 0.01, torch.tensor(0.5))
    for parameter, same, high, low in zip(plain, ours, highs, lows, strict=True):
        assert torch.equal(same, parameter)
        torch.testing.assert_close(joined_master(high.data, low), parameter.data, rtol=1e-6, atol=1e-7)


def test_bfloat16_training_follows_float32_and_moves_weights_by_less_than_bfloat16_can_say() -> None:
    plain, mixed = loop(EngineConfig()), loop(EngineConfig(precision="bfloat16"))
    assert np.array_equal(mixed.local_values(ONE), VALUES[ONE])
    for step in range(10):
        expected, found = plain.step(Version(step // 5)), mixed.step(Version(step // 5))
        assert found.loss_nats == pytest.approx(expected.loss_nats, abs=0.03)
    assert not np.array_equal(mixed.local_values(ONE), torch.from_numpy(mixed.local_values(ONE)).bfloat16().float())
    moved, wanted = mixed.local_values(ONE) - VALUES[ONE], plain.local_values(ONE) - VALUES[ONE]
    assert np.dot(moved, wanted) > 0.95 * np.linalg.norm(moved) * np.linalg.norm(wanted)


def test_a_slice_swapped_in_in_bfloat16_keeps_its_float32_values_where_it_is_owned() -> None:
    mixed = loop(EngineConfig(precision="bfloat16"))
    for slice_id in PLAN.slice_ids:
        values = VALUES[slice_id] * np.float32(1.0001)
        mixed.replace(slice_id, values)
        found = mixed.local_values(slice_id)
        if slice_id in OWNED:
            assert np.array_equal(found, values)
        else:
            assert np.array_equal(found, torch.from_numpy(values).bfloat16().float().numpy())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_micro_batches_and_recomputation_change_no_more_than_rounding(precision: str) -> None:
    whole = EngineConfig(precision=precision, lean=True)  # type: ignore[arg-type]
    reference = loop(whole)
    expected = reference.step(Version(0))
    others = [replace(whole, micro_batch=1), replace(whole, micro_batch=3, recompute="mlp")]
    for engine in [*others, replace(whole, recompute="blocks")]:
        other = loop(engine)
        found = other.step(Version(0))
        assert found.loss_nats == pytest.approx(expected.loss_nats, rel=1e-3 if precision == "bfloat16" else 1e-6)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-2 if precision == "bfloat16" else 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs with g++")
def test_a_compiled_step_trains_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, compiled = loop(EngineConfig(lean=True)), loop(EngineConfig(compile=True))
    for version in range(2):
        expected, found = plain.step(Version(version)), compiled.step(Version(version))
        assert found.loss_nats == pytest.approx(expected.loss_nats, rel=1e-6)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    assert list(tmp_path.rglob("*.so")), "nothing was compiled"


def test_memory_that_runs_out_steps_down_and_the_step_is_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Transformer.loss

    def too_large(self: Transformer, windows: Tensor) -> Tensor:
        if len(windows) > 1 or self.recompute == "nothing":
            raise torch.OutOfMemoryError("injected")
        return whole(self, windows)

    expected, found = loop(EngineConfig()), loop(EngineConfig())
    for _ in range(2):
        expected.step(Version(0))
    monkeypatch.setattr(Transformer, "loss", too_large)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found.step(Version(0))
    assert found.engine == EngineConfig(lean=True, micro_batch=1, recompute="mlp")
    assert "memory ran out (injected); going on with float32 on cpu, micro-batches of 1, MLPs computed" in caplog.text
    np.testing.assert_allclose(found.local_values(ONE), expected.local_values(ONE), atol=2e-4)


def test_a_step_that_keeps_little_anyhow_goes_on_so_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Transformer.loss

    def too_large(self: Transformer, windows: Tensor) -> Tensor:
        assert self.lean, "or it would keep all that plain autograd keeps"
        if len(windows) > 1:
            raise torch.OutOfMemoryError("injected")
        return whole(self, windows)

    monkeypatch.setattr(Transformer, "loss", too_large)
    found = loop(EngineConfig(precision="bfloat16"))
    found.step(Version(0))
    assert found.engine.micro_batch == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("injected"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_memory_that_runs_out_in_the_optimizer_ends_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    trained = loop(EngineConfig())

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(trained._optimizer, "update", full)
    with pytest.raises(OutOfMemory, match=r"in the optimizer's update .* with fewer slices, .* p2ptrain bench fit"):
        trained.step(Version(0))


def test_an_evaluation_takes_no_more_windows_at_once_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = Transformer.loss, []

    def noting(self: Transformer, windows: Tensor) -> Tensor:
        seen.append(len(windows))
        return whole(self, windows)

    monkeypatch.setattr(Transformer, "loss", noting)
    expected = loop(EngineConfig()).validation_loss(20)
    assert max(seen) == RUN.inner.batch
    del seen[:]
    assert loop(EngineConfig(micro_batch=2, lean=True)).validation_loss(20) == pytest.approx(expected, rel=1e-5)
    assert seen == [2] * 10


def test_memory_too_small_for_anything_says_what_to_do_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(self: Transformer, windows: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(Transformer, "loss", too_large)
    trained = loop(EngineConfig())
    with pytest.raises(OutOfMemory, match=r"round 0 inner step 0: memory ran out \(injected\).*p2ptrain bench fit"):
        trained.step(Version(0))
    assert np.array_equal(trained.local_values(ONE), VALUES[ONE])


def test_other_errors_of_the_backward_pass_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Transformer, windows: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Transformer, "loss", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        loop(EngineConfig()).step(Version(0))


def test_each_lighter_engine_is_another_and_the_ladder_ends() -> None:
    engine: EngineConfig | None = EngineConfig(precision="bfloat16")
    seen = []
    while engine is not None:
        seen.append((engine.micro_batch, engine.recompute))
        engine = lighter_engine(engine, 6)
    assert seen == [(0, "nothing"), (3, "nothing"), (2, "nothing"), (1, "nothing"), (1, "mlp"), (1, "blocks")]


def test_deterministic_mode_is_torchs() -> None:
    try:
        loop(EngineConfig(deterministic=True)).step(Version(0))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_split_optimizer_goes_on_with_the_same_bits_after_its_memory_moved_to_another() -> None:
    inner = InnerConfig(steps=1, batch=1, lr=0.01)
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(6, 4, generator=generator, dtype=torch.float32) for _ in range(3)]

    def fresh() -> tuple[torch.nn.Parameter, optimizer.SplitAdamW]:
        parameter = torch.nn.Parameter(torch.ones(6, 4, dtype=torch.bfloat16), requires_grad=False)
        return parameter, optimizer.SplitAdamW([parameter], [torch.zeros(6, 4, dtype=torch.int16)], inner)

    (one, first), (other, second) = fresh(), fresh()
    first.update(gradients[:1], 0.01, torch.ones(()))
    second.update(gradients[1:2], 0.01, torch.ones(()))
    second.restore(first.memory())
    assert all(torch.equal(a, b) for a, b in zip(first.memory().values(), second.memory().values(), strict=True))
    with torch.no_grad():
        other.copy_(one)
    first.update(gradients[2:], 0.01, torch.ones(()))
    assert not torch.equal(first.memory()["0.exp_avg"], second.memory()["0.exp_avg"])
    second.update(gradients[2:], 0.01, torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(first.memory().values(), second.memory().values(), strict=True))
