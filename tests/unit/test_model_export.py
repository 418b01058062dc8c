import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from p2ptrain.config.schema import ModelConfig
from p2ptrain.errors import UsageError
from p2ptrain.model import export
from p2ptrain.model.export import export_model, load_exported
from p2ptrain.model.slicing import parameter_shapes

MODEL = ModelConfig(layers=2, width=16, heads=4, kv_heads=2, mlp_hidden=24, vocabulary=32, context=8, rope_theta=500.0)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=chance) for name, shape in parameter_shapes(MODEL).items()}


def test_what_is_exported_comes_back(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    out = export_model(MODEL, tensors, tmp_path / "runs" / "model")
    model, loaded = load_exported(out)
    assert model == MODEL
    assert list(loaded) == list(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]


def test_weights_have_hugging_faces_names_and_orientation(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    out = export_model(MODEL, tensors, tmp_path / "model")
    weights = load_file(out / "model.safetensors")
    assert len(weights) == 2 + 2 * 9
    assert weights["model.embed_tokens.weight"].shape == (32, 16)
    assert torch.equal(weights["model.layers.1.mlp.up_proj.weight"], tensors["layers.1.up"])
    assert torch.equal(weights["model.layers.1.mlp.down_proj.weight"], tensors["layers.1.down"].t())
    assert torch.equal(weights["model.layers.0.self_attn.o_proj.weight"], tensors["layers.0.o"].t())
    assert weights["model.layers.0.self_attn.k_proj.weight"].shape == (8, 16)
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert config["num_key_value_heads"] == 2


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    (tmp_path / "model").mkdir()
    export_model(MODEL, tensors, tmp_path / "model")
    with pytest.raises(UsageError, match="not an empty folder"):
        export_model(MODEL, tensors, tmp_path / "model")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        export_model(MODEL, tensors, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_export_that_fails_midway_leaves_nothing(
    tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(model: ModelConfig) -> dict[str, object]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_config_json", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_model(MODEL, tensors, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["nothing there", "no weights", "cut weights", "no json", "wrong sizes"])
def test_a_folder_without_a_whole_model_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], damage: str
) -> None:
    out = tmp_path / "model"
    if damage != "nothing there":
        export_model(MODEL, tensors, out)
    if damage == "no weights":
        (out / "model.safetensors").unlink()
    if damage == "cut weights":
        whole = (out / "model.safetensors").read_bytes()
        (out / "model.safetensors").write_bytes(whole[:-100])
    if damage == "no json":
        (out / "config.json").write_text("{")
    if damage == "wrong sizes":
        (out / "config.json").write_text((out / "config.json").read_text().replace("24", "28"))
    with pytest.raises(UsageError, match="holds no model exported by p2ptrain"):
        load_exported(out)
