"""A trained model as a folder that others can load: Hugging Face's ``LlamaForCausalLM``, float32.

model.safetensors   weights under Hugging Face's names, matrices as [outputs, inputs]
config.json         sizes; the head is tied to the embedding
tokenizer.json      and tokenizer_config.json, where the run has a tokenizer
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from p2ptrain.config.schema import ModelConfig
from p2ptrain.errors import UsageError
from p2ptrain.model.slicing import parameter_shapes

_NAMES = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_ROWS_ARE_INPUTS = {"o", "down"}
_WEIGHTS_FILE = "model.safetensors"
_CONFIG_FILE = "config.json"
_TOKENIZER_FILE = "tokenizer.json"
_TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_NOT_USED_BY_RUNS = {"post_processor": None, "truncation": None, "padding": None}
"""Of a ``tokenizer.json``: a beginning-of-text token, for one, that the model has never seen."""


@dataclass(frozen=True, slots=True)
class ExportedTokenizer:
    """What goes with a model so that others read and write its tokens."""

    file: bytes
    """A ``tokenizer.json``."""
    end_token: str
    """"" for none."""
    end_id: int | None


def export_model(
    model: ModelConfig, tensors: Mapping[str, Tensor], out: Path, tokenizer: ExportedTokenizer | None = None
) -> Path:
    """Write the model; the folder appears complete or not at all.

    Args:
        model: sizes.
        tensors: full tensors by name, as ``Transformer.tensors`` or ``SlicePlan.assemble`` give them.
        out: the folder to make; it may exist if it is empty.
        tokenizer: of the run; None where every byte is a token.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` is a file or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is already there and not an empty folder; choose another place or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        weights = {}
        for name in parameter_shapes(model):
            weight = tensors[name].detach().float().cpu()
            turned = weight.t() if name.rpartition(".")[2] in _ROWS_ARE_INPUTS else weight
            weights[_hugging_face_name(name)] = turned.contiguous()
        save_file(weights, unfinished / _WEIGHTS_FILE, metadata={"format": "pt"})
        config = _config_json(model)
        if tokenizer is not None:
            config["eos_token_id"] = tokenizer.end_id
            _write_json(unfinished / _TOKENIZER_FILE, json.loads(tokenizer.file) | _NOT_USED_BY_RUNS)
            _write_json(unfinished / _TOKENIZER_CONFIG_FILE, _tokenizer_json(model, tokenizer))
        _write_json(unfinished / _CONFIG_FILE, config)
        unfinished.chmod(0o755)
        unfinished.replace(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return out


def load_exported(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read what ``export_model`` wrote.

    Returns:
        The sizes, and full float32 tensors by this project's names.

    Raises:
        UsageError: the folder does not hold such a model.
    """
    try:
        config = json.loads((path / _CONFIG_FILE).read_text(encoding="utf-8"))
        model = ModelConfig(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            mlp_hidden=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            context=config["max_position_embeddings"],
            rope_theta=config["rope_theta"],
            norm_eps=config["rms_norm_eps"],
        )
        weights = load_file(path / _WEIGHTS_FILE)
        tensors = {}
        for name, shape in parameter_shapes(model).items():
            weight = weights[_hugging_face_name(name)]
            tensors[name] = weight.t().contiguous() if name.rpartition(".")[2] in _ROWS_ARE_INPUTS else weight
            if tensors[name].shape != torch.Size(shape):
                raise ValueError(f"{_hugging_face_name(name)} has shape {tuple(weight.shape)}")  # noqa: TRY301
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UsageError(f"{path} holds no model exported by p2ptrain ({error}); export it again") from error
    return model, tensors


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _tokenizer_json(model: ModelConfig, tokenizer: ExportedTokenizer) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.context,
        **({"eos_token": tokenizer.end_token} if tokenizer.end_token else {}),
    }


def _hugging_face_name(name: str) -> str:
    prefix, _, kind = name.rpartition(".")
    return f"model.{prefix}.{_NAMES[kind]}.weight" if prefix else f"{_NAMES[kind]}.weight"


def _config_json(model: ModelConfig) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model.width,
        "intermediate_size": model.mlp_hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.width // model.heads,
        "vocab_size": model.vocabulary,
        "max_position_embeddings": model.context,
        "rope_theta": model.rope_theta,
        "rms_norm_eps": model.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }
