"""``p2ptrain generate`` and ``export``: a home's weights as a model."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2ptrain.cli import main as cli
from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.cli.model_commands import readable
from p2ptrain.config.load import parse_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.data.tokenizer import FileTokenizer
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
from tests.support.texts import folder_of_texts, tokenizer_for

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
    return OwnedTensors(version=Version(3), anchor=values, momentum=np.zeros_like(values), certificate=b"")


def published(values: np.ndarray) -> PublishedTensors:
    return PublishedTensors(version=Version(3), weights=round_to_bf16(values), certificate=b"")


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
    published = {slice_id: one for slice_id, one in whole.published.items() if slice_id != "1"}
    home = home_with(tmp_path, Checkpoint(run=whole.run, owned=whole.owned, published=published))
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
            options = ["--prompt", "def f(", "--tokens", "30", "--seed", seed]
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


@pytest.mark.filterwarnings("ignore")
def test_export_with_a_tokenizer_is_what_transformers_loads_and_continues_alike(tmp_path: Path, capsys):
    transformers: Any = import_module("transformers")  # not to be read by mypy, which would take a minute
    plain = tokenizer_for(folder_of_texts(tmp_path / "text", 5), tmp_path / "tokenizer.json", vocabulary=300)
    end = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    first = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    template = {
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {end["id"]: end},
    }
    file = json.dumps(json.loads(plain) | {"post_processor": {"type": "TemplateProcessing", **template}}).encode()
    (tmp_path / "tokenizer.json").write_bytes(file)
    changes = ManifestChanges(seed=1, text=tmp_path / "text", pattern="*.py", tokenizer=tmp_path / "tokenizer.json")
    run = write_manifest("nano", tmp_path / "run.toml", changes)
    plan = SlicePlan.of(run.model, run.slicing)
    assert run.model.vocabulary == 320
    chance = np.random.default_rng(1)
    values = {s: chance.standard_normal(plan.numel(s)).astype(np.float32) * 0.3 for s in plan.slice_ids}
    saved = Checkpoint(
        run=run_id(run),
        owned={slice_id: owned(values[slice_id]) for slice_id in plan.slice_ids},
        published={slice_id: published(values[slice_id]) for slice_id in plan.slice_ids},
    )
    home = tmp_path / "home"
    with Home.open(home, (tmp_path / "run.toml").read_text(), run_id(run), file) as opened:
        checkpoint.save(opened.checkpoint_path, saved)

    assert cli.main(["export", "--home", str(home), "--out", str(tmp_path / "model")]) == 0
    assert "with its tokenizer of 300 tokens" in capsys.readouterr().out
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert tokenizer.eos_token_id == model.config.eos_token_id == FileTokenizer(file, "<|endoftext|>").end_id
    prompt = tokenizer("def naïve(", return_tensors="pt")  # without the beginning that published ones put there
    assert prompt["input_ids"].tolist() == [FileTokenizer(file, "").encode_prompt("def naïve(".encode())]
    # In transformers nothing keeps the ids that only pad the vocabulary from being chosen.
    beyond = list(range(300, 320))
    continued = model.generate(**prompt, do_sample=False, max_new_tokens=16, suppress_tokens=beyond, eos_token_id=None)
    expected = tokenizer.decode(continued[0], clean_up_tokenization_spaces=False)

    options = ["--prompt", "def naïve(", "--tokens", "16", "--temperature", "0"]
    assert cli.main(["generate", "--home", str(home), *options]) == 0
    assert capsys.readouterr().out == "".join(readable([expected.encode()])) + "\n"


def test_home_without_its_tokenizer_says_so(tmp_path: Path, capsys):
    text = NANO.replace("[data]\n", f'[data]\ntokenizer = "t.json"\ntokenizer_hash = "{"ab" * 32}"\n')
    with Home.open(tmp_path, text, run_id(parse_run(text, "nano"))) as home:
        checkpoint.save(home.checkpoint_path, Checkpoint(run=home.run_id))
    assert cli.main(["generate", "--home", str(tmp_path)]) == 2
    assert f"{tmp_path / 'tokenizer.json'} is missing; start the peer again" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").write_text("{}")
    assert cli.main(["generate", "--home", str(tmp_path)]) == 2
    assert "the manifest's data.tokenizer_hash is abababab" in capsys.readouterr().err


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
