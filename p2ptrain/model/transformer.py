"""The decoder, all of it: a Llama whose slices train and whose other parameters only compute.

Shapes, by their letters:

    B  windows in a batch          V  vocabulary             Q  query heads
    T  tokens in a window          H  MLP hidden units       K  key/value heads, each serving Q/K query heads
    D  width                       E  elements of a head     F  Q*E

Pre-norm blocks of grouped-query attention with rotary positions and SwiGLU; RMSNorm; the embedding is also the head.
Source: Llama 2 (arXiv:2307.09288) and its Hugging Face form ``LlamaForCausalLM``, which ``export`` writes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2ptrain.config.schema import ModelConfig
from p2ptrain.ids import SliceId
from p2ptrain.model.sliced_linear import SlicedTensor, rows_as_inputs, rows_as_outputs
from p2ptrain.model.slicing import SlicePlan


class Transformer(nn.Module):
    """The model as one peer holds it: every parameter in full, gradients for what it owns.

    Args:
        config: sizes.
        plan: which rows belong to which slice.
        owned: the slices that train here; empty for evaluation and generation.
        dtype: of parameters and activations.
        device: where they are.

    All parameters are zero until ``load`` or ``plan.scatter(model.tensors(), ...)`` fills them.
    """

    def __init__(
        self,
        config: ModelConfig,
        plan: SlicePlan,
        owned: frozenset[SliceId],
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.config = config
        self.plan = plan
        self.head_size = config.width // config.heads
        self._parts = {
            name: SlicedTensor(torch.zeros(shape, dtype=dtype, device=device), plan.owned_rows(name, owned))
            for name, shape in plan.shapes.items()
        }
        self._owned = nn.ParameterList([leaf for part in self._parts.values() for leaf in part.owned])
        cos, sin = _rotations(config, self.head_size)
        self._cos_T1E = cos.to(dtype=dtype, device=device)
        self._sin_T1E = sin.to(dtype=dtype, device=device)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Scores of the next token at each position.

        Args:
            tokens_BT: token ids, shape [B, T] with T at most ``config.context``, int64.

        Returns:
            Logits, shape [B, T, V].
        """
        embedding_VD = self._parts["embedding"].whole
        x_BTD = F.embedding(tokens_BT, embedding_VD)
        for layer in range(self.config.layers):
            x_BTD = x_BTD + self._attention(layer, self._norm(f"layers.{layer}.attention_norm", x_BTD))
            x_BTD = x_BTD + self._mlp(layer, self._norm(f"layers.{layer}.mlp_norm", x_BTD))
        return F.linear(self._norm("final_norm", x_BTD), embedding_VD)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross entropy of each token given those before it.

        Args:
            windows: token ids, shape [B, T+1], int64.

        Returns:
            Scalar, nats per token.
        """
        logits_BTV = self(windows[:, :-1])
        return F.cross_entropy(logits_BTV.flatten(0, 1), windows[:, 1:].flatten())

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter in full by name, without gradients; writing into them changes the model."""
        return {name: part.full for name, part in self._parts.items()}

    def load(self, values: Mapping[SliceId, np.ndarray]) -> None:
        """Write slices into the model; each [numel], float32."""
        for slice_id, flat in values.items():
            self.plan.scatter(self.tensors(), slice_id, flat)

    def owned_parameters(self) -> list[nn.Parameter]:
        """The leaves that train: views into ``tensors()``, one for each run of owned rows."""
        return list(self._owned)

    def _norm(self, name: str, x_BTD: Tensor) -> Tensor:
        return F.rms_norm(x_BTD, (self.config.width,), self._parts[name].whole, self.config.norm_eps)

    def _attention(self, layer: int, x_BTD: Tensor) -> Tensor:
        q_BTQE = self._rotate(self._heads(rows_as_outputs(x_BTD, self._parts[f"layers.{layer}.q"])))
        k_BTKE = self._rotate(self._heads(rows_as_outputs(x_BTD, self._parts[f"layers.{layer}.k"])))
        v_BTKE = self._heads(rows_as_outputs(x_BTD, self._parts[f"layers.{layer}.v"]))
        mixed_BQTE = F.scaled_dot_product_attention(
            q_BTQE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        mixed_BTF = mixed_BQTE.transpose(1, 2).flatten(2)
        return rows_as_inputs(mixed_BTF, self._parts[f"layers.{layer}.o"])

    def _mlp(self, layer: int, x_BTD: Tensor) -> Tensor:
        gate_BTH = rows_as_outputs(x_BTD, self._parts[f"layers.{layer}.gate"])
        up_BTH = rows_as_outputs(x_BTD, self._parts[f"layers.{layer}.up"])
        return rows_as_inputs(F.silu(gate_BTH) * up_BTH, self._parts[f"layers.{layer}.down"])

    def _heads(self, x_BTF: Tensor) -> Tensor:
        return x_BTF.view(*x_BTF.shape[:2], -1, self.head_size)

    def _rotate(self, x_BTQE: Tensor) -> Tensor:
        tokens = x_BTQE.shape[1]
        swapped_BTQE = x_BTQE.roll(self.head_size // 2, dims=-1)
        return x_BTQE * self._cos_T1E[:tokens] + swapped_BTQE * self._sin_T1E[:tokens]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # The owned leaves are views into the full tensors; nn.Module would move each alone and part them.
        raise TypeError("a Transformer keeps its dtype and device; build another with the ones you want and load it")


def _rotations(config: ModelConfig, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines that turn each pair (i, i + E/2) by its angle, shape [context, 1, E] each, float64.

    The sines of the first half are negative: elements swapped between the halves need no sign of their own.
    """
    frequencies = config.rope_theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float64), frequencies)[:, None, :]
    return torch.cat((angles.cos(), angles.cos()), dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)
