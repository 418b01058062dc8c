"""What a step takes is pinned: FLOPs and peak memory at 1.3B, counted with fake tensors, never seconds."""

import json
from dataclasses import replace

import pytest

from p2ptrain.cli.main import main
from p2ptrain.config.schema import EngineConfig, ModelConfig, SlicingConfig
from p2ptrain.errors import DoesNotFit
from p2ptrain.ids import COMMON, SliceId
from p2ptrain.training.benchmark_memory import GIB, memory_rows, sliced_cost
from p2ptrain.training.benchmark_models import named_model
from p2ptrain.training.fit import USABLE, Fixed, fit

BF16 = EngineConfig(precision="bfloat16")
SMALL = ModelConfig(layers=2, width=64, heads=8, kv_heads=8, mlp_hidden=192, vocabulary=64, context=256)
CUT = SlicingConfig(slices=8, parts=("mlp", "heads"))
CUT_IN_TWO = SlicingConfig(slices=2)
MIB = 1 << 20


@pytest.mark.timeout(300)  # it counts for 15 s on an idle core, and machines are shared
def test_flops_and_memory_of_the_1_3b_step_stay_as_published() -> None:
    """With a quarter of its layers: each costs the same, and counting all of them takes four times as long."""
    rows = memory_rows(
        replace(named_model("1.3b"), layers=6),
        slices=(4, 8),
        parts=("mlp", "heads"),
        batch=8,
        recomputes=("nothing",),
        engine=BF16,
    )
    plain, whole, four, eight = rows
    assert whole.flops_ratio == pytest.approx(1.0, abs=0.001)
    assert whole.memory_ratio < 0.72
    assert plain.tflop == pytest.approx(18.142, abs=0.001)
    assert plain.peak_gib == pytest.approx(11.324, rel=0.02)
    assert (four.flops_ratio, eight.flops_ratio) == (pytest.approx(0.794, abs=0.001), pytest.approx(0.760, abs=0.001))
    assert four.memory_ratio < 0.415
    assert eight.memory_ratio < 0.385


def test_one_window_of_the_1_3b_model_fits_a_card_of_8_gib() -> None:
    cost = sliced_cost(named_model("1.3b"), CUT, frozenset({COMMON, SliceId("0")}), batch=1, engine=BF16)
    assert cost.peak_bytes < 6.0 * GIB


def test_recomputation_costs_flops_and_saves_memory() -> None:
    rows = memory_rows(
        SMALL, slices=(8,), parts=("mlp",), batch=8, recomputes=("nothing", "mlp", "blocks"), engine=BF16
    )
    nothing, mlp, blocks = (row for row in rows if row.slices == 8)
    assert nothing.tflop < mlp.tflop < blocks.tflop
    assert nothing.peak_gib > mlp.peak_gib > blocks.peak_gib


def test_head_and_embedding_have_one_gradient_between_them() -> None:
    model = ModelConfig(layers=1, width=1024, heads=8, kv_heads=8, mlp_hidden=64, vocabulary=200_000, context=32)
    cost = sliced_cost(model, SlicingConfig(slices=1), frozenset({COMMON, SliceId("0")}), batch=1, engine=BF16)
    # Weights 2 bytes, the masters' other half 2, AdamW's moments 8, one gradient 2: autograd took 18.3, two and a sum.
    assert 14 < cost.peak_bytes / (200_000 * 1024) < 15.5


@pytest.fixture(scope="module")
def needs() -> dict[int, int]:
    counted = {}
    for slices in (1, 8):
        owned = frozenset({COMMON, *(SliceId(str(i)) for i in range(slices))})
        engine = EngineConfig(precision="bfloat16", micro_batch=1)
        counted[slices] = sliced_cost(SMALL, CUT, owned, batch=2, engine=engine).peak_bytes
    return counted


def test_where_sums_of_gradients_outweigh_a_window_the_whole_batch_is_the_lightest() -> None:
    model = ModelConfig(layers=2, width=256, heads=4, kv_heads=4, mlp_hidden=1024, vocabulary=64, context=8)
    owned = frozenset({COMMON, SliceId("0")})
    whole, windows = (
        sliced_cost(model, CUT_IN_TWO, owned, batch=2, engine=replace(BF16, micro_batch=size)).peak_bytes
        for size in (0, 1)
    )
    assert whole < windows
    fixed = Fixed(slices=1)
    found = fit(model, CUT_IN_TWO, batch=2, budget_bytes=int((whole + windows) / 2 / USABLE), fixed=fixed)
    assert (found.engine.micro_batch, found.accumulation) == (0, 1)
    with pytest.raises(DoesNotFit, match="too little for one slice of 2, 2 windows at a time"):
        fit(model, CUT_IN_TWO, batch=2, budget_bytes=MIB, fixed=fixed)


def test_a_large_budget_takes_every_slice_and_the_whole_batch() -> None:
    found = fit(SMALL, CUT, batch=4, budget_bytes=GIB)
    assert len(found.owned) == 9
    assert (found.engine.micro_batch, found.engine.recompute, found.accumulation) == (0, "nothing", 1)
    assert "8 of 8 slices" in found.reason
    assert "that is all there is to take" in found.reason


def test_a_budget_for_some_slices_says_what_stands_against_more(needs: dict[int, int]) -> None:
    budget = int((needs[1] + needs[8]) / 2 / 0.92)
    found = fit(SMALL, CUT, batch=4, budget_bytes=budget)
    assert 1 < len(found.owned) - 1 < 8
    assert found.predicted_bytes <= found.budget_bytes
    assert f"{len(found.owned)} slices would need" in found.reason


def test_a_small_budget_computes_twice_and_a_smaller_one_is_told_what_would_do() -> None:
    cut = SlicingConfig(slices=1)
    everything = frozenset({COMMON, SliceId("0")})
    blocks = EngineConfig(precision="bfloat16", recompute="blocks")
    least = int(sliced_cost(SMALL, cut, everything, batch=1, engine=blocks).peak_bytes / 0.92) + 2
    assert fit(SMALL, cut, batch=1, budget_bytes=least).engine.recompute != "nothing"
    with pytest.raises(DoesNotFit, match=r"the smallest budget that would do is 0\.\d GiB"):
        fit(SMALL, cut, batch=1, budget_bytes=least // 2)


def test_bench_memory_prints_json_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(named_model.__globals__["MODELS"], "step", SMALL)
    arguments = ["bench", "memory", "--model", "step", "--slices", "8", "--recompute", "nothing", "--json"]
    assert main([*arguments, "--micro-batch", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["config"]["layers"] == 2
    keys = {"variant", "slices", "sliced_parts", "micro_batch", "recompute", "tflop", "peak_gib"}
    for row in report["rows"]:
        assert keys | {"flops_ratio", "memory_ratio"} <= row.keys()
    listed = [(row["variant"], row["slices"], row["sliced_parts"]) for row in report["rows"]]
    assert listed == [("plain", 1, []), ("sliced", 1, []), ("sliced", 8, ["mlp", "heads"])], "with both baselines"


def test_bench_step_prints_json_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(named_model.__globals__["MODELS"], "step", SMALL)
    assert main(["bench", "step", "--slices", "1,8", "--batch", "1", "-n", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["device"].startswith("cpu")
    for row in report["rows"]:
        assert {"slices", "sliced_parts", "n", "seconds_median", "seconds_min", "seconds_max", "speedup"} <= row.keys()
    assert [row["slices"] for row in report["rows"]] == [1, 1, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory", "--model", "9b"], "--model 9b is not known; choose from step, 150m, 1.3b, 7b"),
        (["memory", "--slices", "0"], "--slices 0 is not a list of numbers; write for example 1,4,8"),
        (["step", "--parts", "norms"], "--parts norms is not known; choose from mlp, heads"),
        (["fit", "--memory", "8"], "--memory 8 is not an amount of memory; write for example 8GiB"),
        (["fit", "--slices", "7"], "slicing.slices = 7 cannot cut"),
    ],
)
def test_wrong_options_are_refused_with_what_to_write(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
