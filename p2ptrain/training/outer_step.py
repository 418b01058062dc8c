"""The outer step: Nesterov SGD on a slice's anchor, with the same bits on every owner's processor."""

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np

from p2ptrain.config.schema import OuterConfig
from p2ptrain.ids import Digest, Version


@dataclass(frozen=True, slots=True, eq=False)
class OuterState:
    """A slice's committed weights and the outer optimizer's memory; every owner of the slice holds the same bits."""

    anchor: np.ndarray
    """Shape [numel], float32."""
    momentum: np.ndarray
    """Shape [numel], float32."""

    @classmethod
    def initial(cls, anchor: np.ndarray) -> Self:
        """The state before the first outer step; ``anchor`` is copied, shape [numel], float32."""
        assert anchor.dtype == np.float32, f"the anchor must be float32, not {anchor.dtype}"
        return cls(anchor.copy(), np.zeros_like(anchor))

    def digest(self, version: Version) -> Digest:
        """SHA-256 over the version (8 bytes), the anchor and the momentum, all little endian."""
        total = hashlib.sha256(version.to_bytes(8, "little"))
        for array in (self.anchor, self.momentum):
            total.update(np.ascontiguousarray(array, dtype="<f4").data)
        return Digest(total.hexdigest())


def outer_step(state: OuterState, gradient: np.ndarray, config: OuterConfig) -> OuterState:
    """Move the anchor along the group's average.

    Each multiplication and addition is rounded on its own: a fused form would give other bits on processors with and
    without it, and the owners' digests would differ.

    Args:
        state: before the step; not changed.
        gradient: average of the group's pseudo-gradients, shape [numel], float32.
        config: learning rate and momentum.

    Returns:
        ``momentum' = mu momentum + g`` and ``anchor' = anchor - lr (g + mu momentum')``, new float32 arrays.

    Source: torch.optim.SGD(nesterov=True, dampening=0), the outer optimizer of DiLoCo (arXiv:2311.08105).
    """
    assert gradient.shape == state.anchor.shape, f"{gradient.shape} is not the shape of the anchor {state.anchor.shape}"
    assert gradient.dtype == np.float32, f"the gradient must be float32, not {gradient.dtype}"
    lr, mu = np.float32(config.lr), np.float32(config.momentum)
    momentum = state.momentum * mu
    momentum += gradient
    step = momentum * mu
    step += gradient
    step *= lr
    return OuterState(state.anchor - step, momentum)
