"""Pieces of the decoder whose backward passes keep little and compute gradients for owned rows alone.

What plain autograd keeps of a block for the backward pass, and what these keep, in widths D and MLP sizes H a token:

                                    plain autograd          here
    both norms                      inputs, outputs: 4D     inputs: 2D       outputs are computed again
    attention                       q, k, v, result: 4D     the same 4D      products, which cost FLOPs to make again
    SwiGLU                          gate, up, silu, h: 4H   gate, up: 2H     h again, and for the owned columns alone
    loss                            logits, 3 times         nothing          gradient computed in the forward pass

Nothing that costs a matrix product is computed twice, so this adds no FLOPs. Savings in the docstrings are of the 1.3B
model with 8 x 1024 tokens in bfloat16, where plain autograd peaks at 33.8 GiB (docs/results/engine.md).

Shapes: n tokens, D width, H MLP hidden units, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from p2ptrain.model.sliced_linear import RowRanges, SlicedTensor

_LOSS_CHUNK_ELEMENTS = 1 << 24
"""Logits that exist at a time at least: 64 MiB in float32, about 500 tokens of a vocabulary of 32000."""

_WIDE_CHUNK_ELEMENTS = 1 << 22
"""Elements that exist as float32 at a time beside bfloat16: 16 MiB, a few chunks for the norm of a large batch."""


def normed_products(x: Tensor, scale: Tensor, eps: float, weights: Sequence[SlicedTensor]) -> tuple[Tensor, ...]:
    """``rms_norm(x) Wᵀ`` for each of several matrices whose rows are outputs.

    Keeps ``x``, once for all of them and for the norm: 33.5 MB a layer less than keeping the norm's output as well.

    Args:
        x: shape [..., D].
        scale: the norm's weight, shape [D].
        eps: the norm's.
        weights: shape [rows, D] each.

    Returns:
        One tensor of shape [..., rows] for each matrix.
    """
    flat: tuple[Tensor, ...] = _NormedProducts.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]),
        scale,
        eps,
        tuple(weight.ranges for weight in weights),
        *(weight.full for weight in weights),
        *(leaf for weight in weights for leaf in weight.owned),
    )
    return tuple(y.view(*x.shape[:-1], -1) for y in flat)


def swiglu_down(gate: Tensor, up: Tensor, down: SlicedTensor) -> Tensor:
    """``(silu(gate) * up) W``: the second half of the MLP.

    Keeps ``gate`` and ``up``; plain autograd keeps ``silu(gate)`` and the product as well, 180 MB more a layer.

    Args:
        gate: shape [..., H].
        up: shape [..., H].
        down: shape [H, D]; its rows are inputs.

    Returns:
        Shape [..., D].
    """
    hidden = gate.shape[-1]
    flat: Tensor = _SwigluDown.apply(  # type: ignore[no-untyped-call]
        gate.reshape(-1, hidden), up.reshape(-1, hidden), down.ranges, down.full, *down.owned
    )
    return flat.view(*gate.shape[:-1], -1)


def recomputed_mlp(
    x: Tensor, scale: Tensor, eps: float, gate: SlicedTensor, up: SlicedTensor, down: SlicedTensor
) -> Tensor:
    """``swiglu_down`` after ``normed_products``, keeping ``x`` alone: ``gate`` and ``up`` are computed again.

    Saves 4.3 GB of the 1.3B model for 14 % of a full step's FLOPs; checkpointing would compute the third product too.

    Args:
        x: shape [..., D].
        scale: the norm's weight, shape [D].
        eps: the norm's.
        gate: shape [H, D].
        up: shape [H, D].
        down: shape [H, D].

    Returns:
        Shape [..., D].
    """
    weights = (gate, up, down)
    flat: Tensor = _RecomputedMlp.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]),
        scale,
        eps,
        tuple(weight.ranges for weight in weights),
        *(weight.full for weight in weights),
        *(leaf for weight in weights for leaf in weight.owned),
    )
    return flat.view(x.shape)


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """``x / rms(x) * scale``, keeping ``x`` alone; torch's own keeps three float32 tensors of its size on the CPU.

    Args:
        x: shape [..., D].
        scale: shape [D], same dtype.
        eps: added to the mean square.
    """
    y: Tensor = _RmsNorm.apply(x, scale, eps)  # type: ignore[no-untyped-call]
    return y


class TiedGradient:
    """Takes the head's gradient to the embedding, which is the same parameter: one tensor instead of two and their sum.

    Autograd would keep both until it can add them, 0.5 GB of a 7B model. The head's part is computed in the forward
    pass, the embedding's at the very end of the backward pass, so it is added in place then. One for each loss.
    """

    __slots__ = ("_gradient", "_scale")

    def __init__(self) -> None:
        self._gradient: Tensor | None = None
        self._scale: Tensor | None = None

    def leave(self, gradient: Tensor) -> None:
        """Called by the head in the forward pass; the gradient of the loss, before it is scaled."""
        self._gradient = gradient

    def scale(self, dloss: Tensor) -> None:
        """Called by the head in the backward pass."""
        self._scale = dloss

    def take(self) -> Tensor:
        """Called by the embedding at the end of the backward pass, once."""
        gradient, scale = self._gradient, self._scale
        self._gradient = self._scale = None
        assert gradient is not None, "a loss has one backward pass"
        assert scale is not None, "the head's backward pass comes before the embedding's"
        return gradient.mul_(scale.to(gradient.dtype))


def linear_cross_entropy(x: Tensor, weight: SlicedTensor, targets: Tensor, tied: TiedGradient | None = None) -> Tensor:
    """Mean cross entropy of ``x Wᵀ`` against ``targets``, without ever holding all logits.

    Logits are made for about 1000 tokens at a time, and their gradient at once with them; what the backward pass needs
    is the gradient of ``x`` and ``W`` only. Saves the whole logits in bfloat16 and twice in float32: 2.6 GB.

    Args:
        x: shape [n, D].
        weight: the head, shape [V, D], owned as a whole or not at all.
        targets: token ids, shape [n], int64.
        tied: where to leave the gradient of an owned ``weight`` for ``embedding``; None hands it to autograd.

    Returns:
        Scalar, nats, float32 (float64 if ``x`` is).
    """
    owned = weight.owned if torch.is_grad_enabled() else ()  # or an evaluation would make the head's gradient, too
    loss: Tensor = _LinearCrossEntropy.apply(x, targets, tied, weight.full, *owned)  # type: ignore[no-untyped-call]
    return loss


def embedding(tokens: Tensor, weight: SlicedTensor, tied: TiedGradient | None = None) -> Tensor:
    """Rows of ``weight`` for ``tokens``; gradients of a token that occurs often are summed in float32 at least.

    Args:
        tokens: ids, any shape, int64.
        weight: shape [V, D], owned as a whole or not at all.
        tied: where the head leaves its gradient of the same weight, to which this one's is added.

    Returns:
        Shape [*tokens.shape, D].
    """
    x: Tensor = _Embedding.apply(tokens, tied, weight.full, *weight.owned)  # type: ignore[no-untyped-call]
    return x


class _NormedProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, eps: float, ranges: tuple[RowRanges, ...], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        fulls = weights[: len(ranges)]
        ctx.eps, ctx.ranges = eps, ranges
        ctx.save_for_backward(x, scale, *fulls)
        y = _normed(x, scale, eps)
        return tuple(y @ full.t() for full in fulls)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, scale, *fulls = ctx.saved_tensors
        y = _normed(x, scale, ctx.eps) if any(ctx.ranges) else None
        owned = _products_owned(y, gradients, ctx.ranges)
        del y
        needs_dx, needs_dscale = ctx.needs_input_grad[:2]
        dx = dscale = None
        if needs_dx or needs_dscale:
            dy = _products_input(gradients, fulls)
            dscale = _rms_norm_backward(dy, x, scale, ctx.eps, needs_dscale=needs_dscale, into=dy)
            dx = dy
        return dx, dscale, None, None, *(None for _ in fulls), *owned


class _SwigluDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, ranges: RowRanges, full: Tensor, *owned: Tensor) -> Tensor:
        ctx.ranges = ranges
        ctx.save_for_backward(gate, up, full)
        return F.silu(gate).mul_(up) @ full

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        gate, up, full = ctx.saved_tensors
        dgate, dup, owned = _swiglu_down_backward(dy, gate, up, full, ctx.ranges)
        return dgate, dup, None, None, *owned


class _RecomputedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, eps: float, ranges: tuple[RowRanges, ...], *weights: Tensor
    ) -> Tensor:
        gate_full, up_full, down_full = weights[:3]
        ctx.eps, ctx.ranges = eps, ranges
        ctx.save_for_backward(x, scale, gate_full, up_full, down_full)
        y = _normed(x, scale, eps)
        return F.silu(y @ gate_full.t()).mul_(y @ up_full.t()) @ down_full

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, scale, gate_full, up_full, down_full = ctx.saved_tensors
        y = _normed(x, scale, ctx.eps)
        gate, up = y @ gate_full.t(), y @ up_full.t()
        dgate, dup, down_owned = _swiglu_down_backward(dy, gate, up, down_full, ctx.ranges[2])
        del gate, up
        owned = _products_owned(y, (dgate, dup), ctx.ranges[:2])
        del y
        dx = _products_input((dgate, dup), (gate_full, up_full))
        del dgate, dup
        dscale = _rms_norm_backward(dx, x, scale, ctx.eps, needs_dscale=ctx.needs_input_grad[1], into=dx)
        return dx, dscale, None, None, None, None, None, *owned, *down_owned


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, scale)
        return _normed(x, scale, eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, scale = ctx.saved_tensors
        dx = torch.empty_like(x)
        dscale = _rms_norm_backward(dy, x, scale, ctx.eps, needs_dscale=ctx.needs_input_grad[1], into=dx)
        return dx, dscale, None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, targets: Tensor, tied: TiedGradient | None, full: Tensor, *owned: Tensor
    ) -> Tensor:
        tokens, vocabulary = x.shape[0], full.shape[0]
        wide = _accumulator(x.dtype)
        loss = x.new_zeros((), dtype=wide)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight: Tensor | None = None
        # With D/2 tokens the logits are half as large as the float32 sums that more chunks would need.
        chunk = max(x.shape[1] // 2, _LOSS_CHUNK_ELEMENTS // vocabulary, 1)
        for first in range(0, tokens, chunk):
            x_chunk, wanted = x[first : first + chunk], targets[first : first + chunk, None]
            scores = (x_chunk @ full.t()).to(wide)
            log_total = scores.logsumexp(dim=-1, keepdim=True)
            loss += (log_total - scores.gather(1, wanted)).sum()
            if dx is None and not owned:
                continue
            gradient = scores.sub_(log_total).exp_().mul_(1 / tokens)
            gradient.scatter_add_(1, wanted, gradient.new_full((), -1 / tokens).expand_as(wanted))
            gradient = gradient.to(x.dtype)
            del scores
            if dx is not None:
                torch.mm(gradient, full, out=dx[first : first + chunk])
            if owned:
                part = gradient.t() @ x_chunk
                dweight = part if tokens <= chunk else part.to(wide) if dweight is None else dweight.add_(part)
                del part
            del gradient
        ctx.tied = None
        if dweight is not None:
            dweight = dweight.to(full.dtype)
            if tied is not None:
                tied.leave(dweight)
                ctx.tied, dweight = tied, None
        ctx.num_owned = len(owned)
        ctx.save_for_backward(dx, dweight)
        return loss / tokens

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> Any:
        dx, dweight = ctx.saved_tensors
        if dx is not None:
            dx = dx * dloss.to(dx.dtype)
        if ctx.tied is not None:
            ctx.tied.scale(dloss)
        owned = [None] * ctx.num_owned if dweight is None else [dweight * dloss.to(dweight.dtype)]
        return dx, None, None, None, *owned


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, tied: TiedGradient | None, full: Tensor, *owned: Tensor) -> Tensor:
        ctx.rows, ctx.num_owned, ctx.tied = full.shape[0], len(owned), tied
        ctx.save_for_backward(tokens)
        return F.embedding(tokens, full)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Any:
        if not ctx.num_owned:
            return None, None, None
        (tokens,) = ctx.saved_tensors
        wide = _accumulator(dx.dtype)
        dweight = dx.new_zeros((ctx.rows, dx.shape[-1])) if ctx.tied is None else ctx.tied.take()
        # In columns, so that the float32 sums of a large vocabulary never exist whole: 0.5 GB of a 7B model.
        columns = max(1, _WIDE_CHUNK_ELEMENTS // ctx.rows)
        for into, part in zip(torch.split(dweight, columns, 1), torch.split(dx, columns, -1), strict=True):
            into.add_(torch.ops.aten.embedding_dense_backward(part.to(wide), tokens, ctx.rows, -1, False))
        return None, None, None, dweight


def _products_owned(y: Tensor | None, gradients: Sequence[Tensor], ranges: Sequence[RowRanges]) -> list[Tensor]:
    """Weight gradients of the owned rows of several ``y Wᵀ``, in order."""
    owned = []
    for gradient, rows in zip(gradients, ranges, strict=True):
        for first, stop in rows:
            assert y is not None
            owned.append(gradient[:, first:stop].t() @ y)
    return owned


def _products_input(gradients: Sequence[Tensor], fulls: Sequence[Tensor]) -> Tensor:
    """Gradient of ``y`` in several ``y Wᵀ``, summed in place."""
    dy = gradients[0] @ fulls[0]
    for gradient, full in zip(gradients[1:], fulls[1:], strict=True):
        dy.addmm_(gradient, full)
    return dy


def _swiglu_down_backward(
    dy: Tensor, gate: Tensor, up: Tensor, full: Tensor, ranges: RowRanges
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of ``gate``, ``up`` and the owned rows; three tensors of size H exist besides, two at the end."""
    activated = F.silu(gate)
    owned = []
    for first, stop in ranges:
        hidden = activated[:, first:stop] * up[:, first:stop]
        owned.append(hidden.t() @ dy)
        del hidden
    dh = dy @ full.t()
    dup = activated.mul_(dh)
    dh.mul_(up)
    return torch.ops.aten.silu_backward.grad_input(dh, gate, grad_input=dh), dup, owned


def _normed(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """``rms_norm``; on CUDA one kernel. On the CPU torch's makes several float32 copies, here only of some rows."""
    if x.device.type == "cuda":
        return F.rms_norm(x, scale.shape, scale, eps)
    y = torch.empty_like(x)
    for x_rows, y_rows in zip(_in_rows(x), _in_rows(y), strict=True):
        wide = x_rows.to(_accumulator(x.dtype))
        r = (wide.square().mean(-1, keepdim=True) + eps).rsqrt_()
        torch.mul(wide * r, scale, out=y_rows) if wide.dtype == y.dtype else y_rows.copy_((wide * r).mul_(scale))
    return y


def _rms_norm_backward(
    dy: Tensor, x: Tensor, scale: Tensor, eps: float, *, needs_dscale: bool, into: Tensor
) -> Tensor | None:
    """Gradients of ``x̂ * scale`` with ``x̂ = x r``, ``r = 1 / rms(x)``: ``dx = r (g - x̂ mean(g x̂))``, ``g = dy scale``.

    Done for some rows at a time, so that float32 copies of bfloat16 tensors stay small.

    Args:
        dy: shape [..., D].
        x: the norm's input, shape [..., D].
        scale: shape [D].
        eps: the norm's.
        needs_dscale: whether to compute the gradient of ``scale``.
        into: receives dx; may be ``dy``.

    Returns:
        The gradient of ``scale``, or None.
    """
    wide = _accumulator(x.dtype)
    scale_wide = scale.to(wide)
    dscale = torch.zeros_like(scale_wide) if needs_dscale else None
    for x_rows, dy_rows, into_rows in zip(_in_rows(x), _in_rows(dy), _in_rows(into), strict=True):
        x_wide = x_rows.to(wide)
        r = (x_wide.square().mean(-1, keepdim=True) + eps).rsqrt_()
        normed = x_wide * r
        g = dy_rows * normed
        if dscale is not None:
            dscale += g.sum(0)
        projection = g.mul_(scale_wide).mean(-1, keepdim=True)
        torch.mul(dy_rows, scale_wide, out=g)
        into_rows.copy_(g.sub_(normed.mul_(projection)).mul_(r))
    return None if dscale is None else dscale.to(scale.dtype)


def _in_rows(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x.view(-1, x.shape[-1]), max(1, _WIDE_CHUNK_ELEMENTS // x.shape[-1]))


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
