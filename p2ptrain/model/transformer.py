"""The decoder, all of it: a Llama whose slices train and whose other parameters only compute.

Shapes, by their letters:

    B  windows in a batch          V  vocabulary             Q  query heads
    T  tokens in a window          H  MLP hidden units       K  key/value heads, each serving Q/K query heads
    D  width                       E  elements of a head     F  Q*E

Pre-norm blocks of grouped-query attention with rotary positions and SwiGLU; RMSNorm; the embedding is also the head.
Source: Llama 2 (arXiv:2307.09288) and its Hugging Face form ``LlamaForCausalLM``, which ``export`` writes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from p2ptrain.config.schema import ModelConfig, Recompute
from p2ptrain.ids import SliceId
from p2ptrain.model import lean_ops
from p2ptrain.model.sliced_linear import SlicedTensor, rows_as_inputs, rows_as_outputs
from p2ptrain.model.slicing import SlicePlan

_BLOCK_TENSORS = ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")


class Transformer(nn.Module):
    """The model as one peer holds it: every parameter in full, gradients for what it owns.

    Args:
        config: sizes.
        plan: which rows belong to which slice.
        owned: the slices that train here; empty for evaluation and generation.
        dtype: of parameters and activations. In bfloat16 owned rows have float32 masters (``SlicedTensor``).
        device: where they are.
        lean: compute ``loss`` with ``lean_ops``: less memory, other rounding than plain autograd.
        recompute: what ``loss`` computes twice to keep even less: the MLPs or whole blocks. Implies ``lean``.
        compiled: compile the blocks of ``loss`` with ``torch.compile``. Implies ``lean``.

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
        lean: bool = False,
        recompute: Recompute = "nothing",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.lean = lean or compiled
        self.recompute: Recompute = recompute
        """This and ``lean`` may be changed between two losses."""
        self._block: _Block = torch.compile(_lean_block, dynamic=False) if compiled else _lean_block
        self.config = config
        self.plan = plan
        self.head_size = config.width // config.heads
        self._parts = {
            name: SlicedTensor(torch.zeros(shape, dtype=dtype, device=device), plan.owned_rows(name, owned))
            for name, shape in plan.shapes.items()
        }
        self._owned = nn.ParameterList([leaf for part in self._parts.values() for leaf in part.owned])
        cos, sin = rotations(config, self.head_size)
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
        if self.lean or self.recompute != "nothing":
            return self._lean_loss(windows)
        logits_BTV = self(windows[:, :-1])
        return F.cross_entropy(logits_BTV.flatten(0, 1), windows[:, 1:].flatten())

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter in full by name, without gradients; writing into them changes the model.

        In bfloat16, owned rows are written with ``write``, which sets their masters too.
        """
        return {name: part.full for name, part in self._parts.items()}

    def load(self, values: Mapping[SliceId, np.ndarray]) -> None:
        """Write slices into the model; each [numel], float32."""
        for slice_id, flat in values.items():
            self.write(slice_id, flat)

    def read(self, slice_id: SliceId) -> np.ndarray:
        """A copy of a slice, from the masters where it has them; shape [numel], float32."""
        flat = np.empty(self.plan.numel(slice_id), dtype=np.float32)
        for region, begin, end in self.plan.layout(slice_id):
            rows = self._parts[region.tensor].read(region.first, region.stop)
            torch.from_numpy(flat[begin:end]).copy_(rows.detach().flatten())
        return flat

    def write(self, slice_id: SliceId, values: np.ndarray) -> None:
        """Set a slice, and its masters where it has them; shape [numel], float32."""
        assert values.shape == (self.plan.numel(slice_id),), f"slice {slice_id}: {values.shape}"
        assert values.dtype == np.float32, f"slice {slice_id} must be float32, not {values.dtype}"
        source = torch.from_numpy(values if values.flags.writeable else values.copy())
        for region, begin, end in self.plan.layout(slice_id):
            shape = (region.stop - region.first, *self.plan.shapes[region.tensor][1:])
            self._parts[region.tensor].write(region.first, region.stop, source[begin:end].view(shape))

    def owned_parameters(self) -> list[nn.Parameter]:
        """The leaves that train: views into ``tensors()``, one for each run of owned rows."""
        return list(self._owned)

    def owned_tensors(self) -> list[str]:
        """By name, whose rows each of ``owned_parameters`` is."""
        return [name for name, part in self._parts.items() for _ in part.owned]

    def low_bits(self) -> list[Tensor]:
        """In bfloat16, the rest of each owned parameter's float32 master, in the order of ``owned_parameters``."""
        return [low for part in self._parts.values() for low in part.low_bits]

    def _lean_loss(self, windows: Tensor) -> Tensor:
        tied = lean_ops.TiedGradient()
        x_BTD = lean_ops.embedding(windows[:, :-1], self._parts["embedding"], tied)
        settings = _BlockSettings(self.config.norm_eps, self.head_size, self.recompute == "mlp")
        for layer in range(self.config.layers):
            weights = tuple(self._parts[f"layers.{layer}.{name}"] for name in _BLOCK_TENSORS)
            if self.recompute == "blocks":
                x_BTD = _computed_again(self._block, x_BTD, weights, self._cos_T1E, self._sin_T1E, settings)
            else:
                x_BTD = self._block(x_BTD, weights, self._cos_T1E, self._sin_T1E, settings)
        x_BTD = lean_ops.rms_norm(x_BTD, self._parts["final_norm"].whole, self.config.norm_eps)
        targets = windows[:, 1:].flatten()
        return lean_ops.linear_cross_entropy(x_BTD.flatten(0, 1), self._parts["embedding"], targets, tied)

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
        return _rotated(x_BTQE, self._cos_T1E, self._sin_T1E)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # The owned leaves are views into the full tensors; nn.Module would move each alone and part them.
        raise TypeError("a Transformer keeps its dtype and device; build another with the ones you want and load it")


class _BlockSettings(NamedTuple):
    norm_eps: float
    head_size: int
    recompute_mlp: bool


_Block = Callable[[Tensor, tuple[SlicedTensor, ...], Tensor, Tensor, _BlockSettings], Tensor]


def _lean_block(
    x_BTD: Tensor, weights: tuple[SlicedTensor, ...], cos_T1E: Tensor, sin_T1E: Tensor, settings: _BlockSettings
) -> Tensor:
    """One block with ``lean_ops``; ``weights`` are in the order of ``_BLOCK_TENSORS``."""
    attention_norm, q, k, v, o, mlp_norm, gate, up, down = weights
    products = lean_ops.normed_products(x_BTD, attention_norm.whole, settings.norm_eps, (q, k, v))
    q_BTQE, k_BTKE, v_BTKE = (y.view(*y.shape[:2], -1, settings.head_size) for y in products)
    mixed_BQTE = F.scaled_dot_product_attention(
        _rotated(q_BTQE, cos_T1E, sin_T1E).transpose(1, 2),
        _rotated(k_BTKE, cos_T1E, sin_T1E).transpose(1, 2),
        v_BTKE.transpose(1, 2),
        is_causal=True,
        enable_gqa=True,
    )
    mixed_BTQE = mixed_BQTE.transpose(1, 2)
    x_BTD = x_BTD + rows_as_inputs(mixed_BTQE.flatten(2), o, keep_whole=mixed_BTQE.is_contiguous())
    if settings.recompute_mlp:
        return x_BTD + lean_ops.recomputed_mlp(x_BTD, mlp_norm.whole, settings.norm_eps, gate, up, down)
    gate_BTH, up_BTH = lean_ops.normed_products(x_BTD, mlp_norm.whole, settings.norm_eps, (gate, up))
    return x_BTD + lean_ops.swiglu_down(gate_BTH, up_BTH, down)


def _computed_again(compute: Callable[..., Tensor], *arguments: object) -> Tensor:
    """``compute(*arguments)``, keeping its arguments alone and computing it again in the backward pass."""
    result: Tensor = checkpoint(compute, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


def _rotated(x_BTQE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    tokens, head_size = x_BTQE.shape[1], x_BTQE.shape[3]
    return x_BTQE * cos_T1E[:tokens] + x_BTQE.roll(head_size // 2, dims=-1) * sin_T1E[:tokens]


def rotations(config: ModelConfig, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines that turn each pair (i, i + E/2) by its angle, shape [context, 1, E] each, float64.

    The sines of the first half are negative: elements swapped between the halves need no sign of their own.
    """
    frequencies = config.rope_theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float64), frequencies)[:, None, :]
    return torch.cat((angles.cos(), angles.cos()), dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)
