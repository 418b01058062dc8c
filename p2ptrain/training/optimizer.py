"""The inner optimizer: AdamW on what a peer owns, for any precision."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from p2ptrain.config.schema import InnerConfig
from p2ptrain.model.transformer import Transformer
from p2ptrain.training.moments import LeafMoments
from p2ptrain.training.split_adamw import SplitAdamW


class InnerOptimizer(Protocol):
    """What changes the owned parameters."""

    def update(self, gradients: Sequence[Tensor], lr: float, scale: Tensor) -> None:
        """Update each parameter with its gradient times ``scale``."""

    def memory(self) -> dict[str, Tensor]:
        """What it remembers of past gradients, by name, copied."""

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Take over what ``memory`` of an optimizer of the same parameters gave."""

    def moments(self) -> list[LeafMoments]:
        """What it remembers of each parameter; zeros before the first update. May be views: copy to keep."""

    def set_moments(self, leaves: Sequence[LeafMoments]) -> None:
        """Go on with these, one a parameter."""


def inner_optimizer(model: Transformer, inner: InnerConfig) -> InnerOptimizer:
    """The optimizer for the model's dtype: torch's own, or one that keeps float32 masters of bfloat16 parameters."""
    low_bits = model.low_bits()
    if low_bits:
        return SplitAdamW(model.owned_parameters(), low_bits, inner)
    return TorchAdamW(model.owned_parameters(), inner)


class TorchAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``, clipping in place as ``clip_grad_norm_`` does, so that both have the same bits."""

    def __init__(self, parameters: list[nn.Parameter], inner: InnerConfig) -> None:
        self._parameters = parameters
        # Decay would pull the norms towards 0, where they silence a layer, so it is for matrices alone.
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": inner.weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        filled = [group for group in groups if group["params"]]
        super().__init__(filled, lr=inner.lr, betas=(inner.beta1, inner.beta2), fused=True)

    def update(self, gradients: Sequence[Tensor], lr: float, scale: Tensor) -> None:
        """Update each parameter with its gradient times ``scale``; they are scaled in place and stay in ``grad``."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient.mul_(scale)
        for group in self.param_groups:
            group["lr"] = lr
        self.step()

    def memory(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter index and name, copied; empty before the first update."""
        state = self.state_dict()["state"]
        return {f"{index}.{key}": value.clone() for index, entry in state.items() for key, value in entry.items()}

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Take over what ``memory`` of an optimizer of the same parameters gave."""
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in memory.items():
            index, _, key = name.partition(".")
            entries.setdefault(int(index), {})[key] = value
        self.load_state_dict({**self.state_dict(), "state": entries})

    def moments(self) -> list[LeafMoments]:
        """What it remembers of each parameter; zeros before the first update. May be views: copy to keep."""
        return [
            LeafMoments(known["exp_avg"], known["exp_avg_sq"], float(known["step"]))
            if (known := self.state.get(parameter))
            else LeafMoments(torch.zeros_like(parameter), torch.zeros_like(parameter), 0.0)
            for parameter in self._parameters
        ]

    def set_moments(self, leaves: Sequence[LeafMoments]) -> None:
        """Go on with these, one a parameter."""
        for parameter, leaf in zip(self._parameters, leaves, strict=True):
            self.state[parameter] = {
                "step": torch.tensor(leaf.steps, dtype=torch.float32, device=parameter.device),
                "exp_avg": leaf.mean.detach().to(parameter),
                "exp_avg_sq": leaf.square.detach().to(parameter),
            }
