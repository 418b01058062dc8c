"""The inner optimizer: AdamW on what a peer owns, for any precision.

Both forms call the operation behind ``torch.optim.AdamW(fused=True)`` and have its numbers. That class itself loads
torch's compiler as soon as one is made, 0.8 s and 70 MB for every peer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress

import torch
from torch import Tensor, nn

from p2ptrain.config.schema import InnerConfig
from p2ptrain.model.sliced_linear import joined_master, split_master
from p2ptrain.model.transformer import Transformer
from p2ptrain.training.moments import LeafMoments

_CHUNK_ELEMENTS = 1 << 22
"""Elements whose master exists as float32 at a time, 16 MiB with half a dozen temporary tensors beside it, where the
embedding of a 7B model would take 0.5 GiB each."""
_EPS = 1e-8


def inner_optimizer(model: Transformer, inner: InnerConfig) -> "InnerOptimizer":
    """The optimizer for the model's dtype: plain, or one that keeps float32 masters of bfloat16 parameters."""
    low_bits = model.low_bits()
    are_cut = [model.plan.is_cut(tensor) for tensor in model.owned_tensors()]
    if low_bits:
        return SplitAdamW(model.owned_parameters(), low_bits, inner, are_cut)
    return AdamW(model.owned_parameters(), inner, are_cut)


class InnerOptimizer(ABC):
    """What changes the owned parameters, and what it remembers of past gradients.

    Args:
        parameters: leaves, each on its device.
        inner: betas, and weight decay, which is for matrices alone: it would pull norms towards 0, where they silence
            a layer.
        are_cut: of each parameter whether it belongs to a numbered slice; empty is none of them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], inner: InnerConfig, are_cut: Sequence[bool] = ()) -> None:
        self._inner = inner
        self._parameters = list(parameters)
        self._are_cut = list(are_cut) or [False] * len(self._parameters)
        # Made now and not in the first step, so that memory that is too small shows before anything has changed.
        self._means = [torch.zeros_like(p, dtype=torch.float32, requires_grad=False) for p in parameters]
        self._squares = [torch.zeros_like(p, dtype=torch.float32, requires_grad=False) for p in parameters]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters]

    @abstractmethod
    def update(self, gradients: Sequence[Tensor], lr: float, scale: Tensor, amplification: float = 1.0) -> None:
        """Update every parameter.

        Args:
            gradients: one a parameter, of its shape, bfloat16 or float32. May be changed.
            lr: learning rate.
            scale: scalar that gradients are multiplied with, for clipping.
            amplification: of the learning rate, in numbered slices.
        """

    def memory(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter index and torch's name, copied."""
        return {name: tensor.clone() for name, tensor in self._remembered()}

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Take over what ``memory`` of an optimizer of the same parameters gave."""
        for name, tensor in self._remembered():
            tensor.copy_(memory[name])

    def moments(self) -> list[LeafMoments]:
        """What it remembers of each parameter; zeros before the first update. Views: copy to keep."""
        kept = zip(self._means, self._squares, self._steps, strict=True)
        return [LeafMoments(mean, square, float(steps)) for mean, square, steps in kept]

    def set_moments(self, leaves: Sequence[LeafMoments]) -> None:
        """Go on with these, one a parameter."""
        for mean, square, steps, leaf in zip(self._means, self._squares, self._steps, leaves, strict=True):
            mean.copy_(leaf.mean)
            square.copy_(leaf.square)
            steps.fill_(leaf.steps)

    def _remembered(self) -> Iterable[tuple[str, Tensor]]:
        for name, tensors in (("exp_avg", self._means), ("exp_avg_sq", self._squares), ("step", self._steps)):
            for index, tensor in enumerate(tensors):
                yield f"{index}.{name}", tensor

    def _lrs(self, lr: float, amplification: float) -> list[float]:
        """Of each parameter."""
        return [lr * amplification if is_cut else lr for is_cut in self._are_cut]

    def _decay(self, parameter: Tensor) -> float:
        return self._inner.weight_decay if parameter.ndim > 1 else 0.0

    def _step(
        self,
        values: list[Tensor],
        gradients: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        steps: list[Tensor],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        """Update float32 ``values`` in place; ``steps`` count this one already."""
        torch._fused_adamw_(
            values,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=lr,
            beta1=self._inner.beta1,
            beta2=self._inner.beta2,
            weight_decay=weight_decay,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )


class AdamW(InnerOptimizer):
    """AdamW on float32 parameters, clipping in place as ``clip_grad_norm_`` does, so that both have the same bits."""

    def update(self, gradients: Sequence[Tensor], lr: float, scale: Tensor, amplification: float = 1.0) -> None:
        """As ``InnerOptimizer`` says; gradients are scaled in place and stay in ``grad``."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient.mul_(scale)
        torch._foreach_add_(self._steps, 1)
        values = [parameter.detach() for parameter in self._parameters]
        # All that have one decay and lr in one call: on a GPU few kernels for many small tensors.
        lrs = self._lrs(lr, amplification)
        kinds = [(self._decay(value), value_lr) for value, value_lr in zip(values, lrs, strict=True)]
        for kind in set(kinds):
            alike = [one == kind for one in kinds]
            chosen = (
                list(compress(those, alike)) for those in (values, gradients, self._means, self._squares, self._steps)
            )
            decay, value_lr = kind
            self._step(*chosen, lr=value_lr, weight_decay=decay)


class SplitAdamW(InnerOptimizer):
    """AdamW whose masters are a bfloat16 parameter and 16 more bits (``sliced_linear.split_master``).

    The numbers are those of AdamW on float32 masters; the memory is 2 bytes a parameter less, and the bfloat16 copy
    that the next step computes with is refreshed on the way.

    Args:
        parameters: bfloat16 leaves.
        low_bits: int16, of the same shapes.
        inner: betas and weight decay.
        are_cut: as for ``InnerOptimizer``.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        low_bits: Sequence[Tensor],
        inner: InnerConfig,
        are_cut: Sequence[bool] = (),
    ) -> None:
        super().__init__(parameters, inner, are_cut)
        self._low_bits = list(low_bits)

    def update(self, gradients: Sequence[Tensor], lr: float, scale: Tensor, amplification: float = 1.0) -> None:
        """As ``InnerOptimizer`` says."""
        lrs = self._lrs(lr, amplification)
        for index, parameter in enumerate(self._parameters):
            whole = (parameter.detach(), self._low_bits[index], gradients[index], self._means[index])
            decay, parameter_lr = self._decay(parameter), lrs[index]
            columns = max(1, parameter.numel() // parameter.shape[0])
            rows = max(1, _CHUNK_ELEMENTS // columns)
            pieces = zip(*(torch.split(tensor, rows) for tensor in (*whole, self._squares[index])), strict=True)
            self._steps[index] += 1
            for high, low, gradient, mean, square in pieces:
                master = joined_master(high, low)
                clipped = gradient.float() * scale
                moments = [mean], [square], [self._steps[index]]
                self._step([master], [clipped], *moments, lr=parameter_lr, weight_decay=decay)
                split_master(master, high, low)
