"""``p2ptrain generate`` and ``export``: a home's weights as a model."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from p2ptrain.cli import main as cli
from p2ptrain.cli.model_commands import readable
from p2ptrain.config.load import parse_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.errors import HomeError
from p2ptrain.ids import COMMON, RunId, SliceId, Version
from p2ptrain.model.export import load_exported
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node import checkpoint
from p2ptrain.node.checkpoint import Checkpoint, OwnedTensors, PublishedTensors
from p2ptrain.node.home import Home
from p2ptrain.node.trained_model import load_trained
from p2ptrain.wire.codec import round_to_bf16

NANO = preset_text("nano")
RUN = parse_run(NANO, "nano")
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
VALUES = initial_values(RUN, PLAN)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of a model this small wait for each other, for seconds when the machine is busy."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(previous)


def owned(values: np.ndarray) -> OwnedTensors:
    return OwnedTensors(version=Version(3), anchor=values, momentum=np.zeros_like(values), certificate=b"c")


def published(values: np.ndarray) -> PublishedTensors:
    return PublishedTensors(version=Version(3), weights=round_to_bf16(values), certificate=b"c")


def example() -> Checkpoint:
    """As the owner of slice 0 and the common part has it after it received slice 1."""
    return Checkpoint(
        run=run_id(RUN),
        owned={slice_id: owned(VALUES[slice_id]) for slice_id in (COMMON, SliceId("0"))},
        # Its own slices' published weights lag behind its anchors.
        published={
            slice_id: published(VALUES[slice_id] * (1 if slice_id == "1" else 0)) for slice_id in PLAN.slice_ids
        },
    )


def home_with(path: Path, saved: Checkpoint | None) -> Home:
    home = Home.open(path, NANO, run_id(RUN))
    if saved is not None:
        checkpoint.save(home.checkpoint_path, saved)
    return home


def test_model_has_the_peer_s_own_anchors_and_published_weights_of_the_rest(tmp_path: Path):
    with home_with(tmp_path, example()):
        model = load_trained(Home.inspect(tmp_path))
    for slice_id in (COMMON, SliceId("0")):
        assert np.array_equal(PLAN.gather(model.tensors(), slice_id), VALUES[slice_id])
    received = torch.from_numpy(VALUES[SliceId("1")]).bfloat16().float().numpy()
    assert np.array_equal(PLAN.gather(model.tensors(), SliceId("1")), received)
    assert model.owned_parameters() == []


def test_checkpoint_without_a_slice_is_refused_by_its_name(tmp_path: Path):
    whole = example()
    home = home_with(tmp_path, Checkpoint(run=whole.run, owned=whole.owned))
    with home, pytest.raises(HomeError, match="lacks slice 1; let the peer run until"):
        load_trained(home)


def test_slice_of_another_size_is_refused(tmp_path: Path):
    whole = example()
    short = {**whole.published, SliceId("1"): published(np.zeros(5, np.float32))}
    home = home_with(tmp_path, Checkpoint(run=whole.run, owned=whole.owned, published=short))
    with home, pytest.raises(HomeError, match=f"has 5 elements instead of {PLAN.numel(SliceId('1'))} for slice 1"):
        load_trained(home)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path):
    with (
        home_with(tmp_path, Checkpoint(run=RunId("0" * 64))) as home,
        pytest.raises(HomeError, match="belongs to run 0000"),
    ):
        load_trained(home)


def test_generated_text_is_the_same_for_the_same_seed(tmp_path: Path, capsys):
    with home_with(tmp_path, example()):  # as it is while its peer runs
        texts = []
        for seed in ("1", "1", "2"):
            options = ["--prompt", "def f(", "--bytes", "30", "--seed", seed]
            assert cli.main(["generate", "--home", str(tmp_path), *options]) == 0
            texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("def f(")
    assert texts[0].endswith("\n")


def test_export_is_the_model_of_the_home(tmp_path: Path, capsys):
    home_with(tmp_path / "home", example()).close()
    assert cli.main(["export", "--home", str(tmp_path / "home"), "--out", str(tmp_path / "model")]) == 0
    num_parameters = sum(PLAN.numel(slice_id) for slice_id in PLAN.slice_ids)
    assert f"{num_parameters:,} parameters" in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    _, tensors = load_exported(tmp_path / "model")
    assert np.array_equal(PLAN.gather(tensors, SliceId("0")), VALUES[SliceId("0")])


def test_folder_that_is_no_home_is_a_usage_error(tmp_path: Path, capsys):
    assert cli.main(["generate", "--home", str(tmp_path)]) == 2
    assert "is no peer's home" in capsys.readouterr().err
    assert cli.main(["export", "--home", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_corrupt_checkpoint_is_a_usage_error_with_the_remedy(tmp_path: Path, capsys):
    home_with(tmp_path, example()).close()
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    assert cli.main(["generate", "--home", str(tmp_path)]) == 2
    assert "--refetch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([b"\xc3", b"\xa9"], "é"),
        ([b"a\xff\xc3b"], "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"),
        ([b"\x1b[2Jx\n\ty"], "\N{REPLACEMENT CHARACTER}[2Jx\n\ty"),
        ([b"end\xe2\x82"], "end\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_whatever_a_model_says_cannot_disturb_the_terminal(chunks, text):
    assert "".join(readable(chunks)) == text
