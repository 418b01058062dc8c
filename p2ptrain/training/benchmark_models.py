"""Models by name for benchmarks, and the plain training step that they are compared with."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2ptrain.config.schema import ModelConfig
from p2ptrain.errors import UsageError
from p2ptrain.model import lean_ops
from p2ptrain.model.slicing import parameter_shapes
from p2ptrain.model.transformer import rotations

Norm = Callable[[Tensor, Tensor, float], Tensor]

MODELS = {
    "step": ModelConfig(layers=6, width=1024, heads=16, kv_heads=16, mlp_hidden=2752, vocabulary=256, context=256),
    "150m": ModelConfig(layers=12, width=1024, heads=16, kv_heads=16, mlp_hidden=2752, vocabulary=32000, context=1024),
    "1.3b": ModelConfig(layers=24, width=2048, heads=16, kv_heads=16, mlp_hidden=5504, vocabulary=32000, context=1024),
    "7b": ModelConfig(layers=32, width=4096, heads=32, kv_heads=8, mlp_hidden=14336, vocabulary=32000, context=2048),
}


def named_model(name: str) -> ModelConfig:
    """The model of that name.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    if name not in MODELS:
        raise UsageError(f"--model {name} is not known; choose from {', '.join(MODELS)}")
    return MODELS[name]


class PlainTransformer(nn.Module):
    """The same decoder as people train it today: plain autograd, every parameter, whole logits, nothing recomputed.

    Parameters are float32 masters; they and the residual stream are cast to ``dtype``, where everything but the norms'
    statistics and the loss is computed. Norms keep their input alone, as the fused CUDA kernels do, and not the three
    float32 tensors that torch keeps on the CPU: the baseline is not to look worse than it is on a GPU.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: torch.dtype, device: str = "cpu", norm: Norm = lean_ops.rms_norm
    ) -> None:
        super().__init__()
        self.config = config
        self._dtype = dtype
        self._loss_dtype = torch.promote_types(dtype, torch.float32)
        self._norm = norm
        self.head_size = config.width // config.heads
        self._names = {name: name.replace(".", "_") for name in parameter_shapes(config)}
        for name, shape in parameter_shapes(config).items():
            # Matrices lie as nn.Linear has them, outputs first.
            turned = shape[::-1] if name.rpartition(".")[2] in ("o", "down") else shape
            value = torch.ones(turned, device=device) if len(shape) == 1 else torch.randn(turned, device=device) * 0.02
            self.register_parameter(self._names[name], nn.Parameter(value))
        cos, sin = rotations(config, self.head_size)
        self._cos_T1E = cos.to(dtype=dtype, device=device)
        self._sin_T1E = sin.to(dtype=dtype, device=device)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross entropy, nats per token; ``windows`` has shape [B, T+1], int64."""
        eps = self.config.norm_eps
        embedding_VD = self._weight("embedding")
        x_BTD = F.embedding(windows[:, :-1], embedding_VD)
        for layer in range(self.config.layers):
            prefix = f"layers.{layer}."
            y_BTD = self._norm(x_BTD, self._weight(prefix + "attention_norm"), eps)
            q, k, v = (self._heads(F.linear(y_BTD, self._weight(prefix + name))) for name in "qkv")
            mixed = F.scaled_dot_product_attention(
                self._rotated(q).transpose(1, 2),
                self._rotated(k).transpose(1, 2),
                v.transpose(1, 2),
                is_causal=True,
                enable_gqa=True,
            )
            x_BTD = x_BTD + F.linear(mixed.transpose(1, 2).flatten(2), self._weight(prefix + "o"))
            y_BTD = self._norm(x_BTD, self._weight(prefix + "mlp_norm"), eps)
            gate, up = F.linear(y_BTD, self._weight(prefix + "gate")), F.linear(y_BTD, self._weight(prefix + "up"))
            x_BTD = x_BTD + F.linear(F.silu(gate) * up, self._weight(prefix + "down"))
        logits = F.linear(self._norm(x_BTD, self._weight("final_norm"), eps), embedding_VD)
        return F.cross_entropy(logits.to(self._loss_dtype).flatten(0, 1), windows[:, 1:].flatten())

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, self._names[name])
        return weight.to(self._dtype)

    def _heads(self, x_BTF: Tensor) -> Tensor:
        return x_BTF.view(*x_BTF.shape[:2], -1, self.head_size)

    def _rotated(self, x_BTQE: Tensor) -> Tensor:
        tokens = x_BTQE.shape[1]
        return x_BTQE * self._cos_T1E[:tokens] + x_BTQE.roll(self.head_size // 2, dims=-1) * self._sin_T1E[:tokens]
