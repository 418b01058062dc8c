"""AdamW for bfloat16 parameters whose float32 masters are kept as two halves."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from p2ptrain.config.schema import InnerConfig
from p2ptrain.model.sliced_linear import joined_master, split_master
from p2ptrain.training.moments import LeafMoments

_CHUNK_ELEMENTS = 1 << 22
"""Elements whose master exists as float32 at a time, 16 MiB with half a dozen temporary tensors beside it, where the
embedding of a 7B model would take 0.5 GiB each."""


class SplitAdamW:
    """AdamW whose masters are a bfloat16 parameter and 16 more bits (``sliced_linear.split_master``).

    The numbers are those of ``torch.optim.AdamW(fused=True)`` on float32 masters; the memory is 2 bytes a parameter
    less, and the bfloat16 copy that the next step computes with is refreshed on the way.

    Args:
        parameters: bfloat16 leaves.
        low_bits: int16, of the same shapes.
        inner: betas and weight decay, which is for matrices alone.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], low_bits: Sequence[Tensor], inner: InnerConfig) -> None:
        self._inner = inner
        self._parameters = list(parameters)
        self._low_bits = list(low_bits)
        # Made now and not in the first step, so that memory that is too small shows before anything has changed.
        self._means = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
        self._squares = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
        self._done = [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters]

    def update(self, gradients: Sequence[Tensor], lr: float, scale: Tensor) -> None:
        """Update every parameter.

        Args:
            gradients: one a parameter, of its shape, bfloat16 or float32.
            lr: learning rate.
            scale: scalar that gradients are multiplied with, for clipping.
        """
        for index, parameter in enumerate(self._parameters):
            decay = self._inner.weight_decay if parameter.ndim > 1 else 0.0
            whole = (parameter.detach(), self._low_bits[index], gradients[index], self._means[index])
            columns = max(1, parameter.numel() // parameter.shape[0])
            rows = max(1, _CHUNK_ELEMENTS // columns)
            pieces = zip(*(torch.split(tensor, rows) for tensor in (*whole, self._squares[index])), strict=True)
            self._done[index] += 1
            for high, low, gradient, mean, square in pieces:
                master = joined_master(high, low)
                torch._fused_adamw_(
                    [master],
                    [gradient.float() * scale],
                    [mean],
                    [square],
                    [],
                    [self._done[index]],
                    lr=lr,
                    beta1=self._inner.beta1,
                    beta2=self._inner.beta2,
                    weight_decay=decay,
                    eps=1e-8,
                    amsgrad=False,
                    maximize=False,
                )
                split_master(master, high, low)

    def memory(self) -> dict[str, Tensor]:
        """Moments and step counts by name and parameter index, copied."""
        return {
            f"{name}.{index}": tensor.clone()
            for name, tensors in self._remembered().items()
            for index, tensor in enumerate(tensors)
        }

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Take over what ``memory`` of an optimizer of the same parameters gave."""
        for name, tensors in self._remembered().items():
            for index, tensor in enumerate(tensors):
                tensor.copy_(memory[f"{name}.{index}"])

    def moments(self) -> list[LeafMoments]:
        """What it remembers of each parameter, as views."""
        kept = zip(self._means, self._squares, self._done, strict=True)
        return [LeafMoments(mean, square, float(done)) for mean, square, done in kept]

    def set_moments(self, leaves: Sequence[LeafMoments]) -> None:
        """Go on with these, one a parameter."""
        kept = zip(self._means, self._squares, self._done, leaves, strict=True)
        for mean, square, done, leaf in kept:
            mean.copy_(leaf.mean)
            square.copy_(leaf.square)
            done.fill_(leaf.steps)

    def _remembered(self) -> dict[str, list[Tensor]]:
        return {"mean": self._means, "square": self._squares, "done": self._done}
