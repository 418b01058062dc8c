"""The outer step: SGD with momentum on a slice's anchor, with the same bits on every owner's processor."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from p2ptrain.config.schema import OuterConfig
from p2ptrain.ids import COMMON, Digest, SliceId, Version, slice_of


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


def outer_step(
    state: OuterState, gradient: np.ndarray, *, lr: float, momentum: float, nesterov: bool = True
) -> OuterState:
    """Move the anchor along the group's average.

    Each multiplication and addition is rounded on its own: a fused form would give other bits on processors with and
    without it, and the owners' digests would differ.

    Args:
        state: before the step; not changed.
        gradient: average of the group's pseudo-gradients, shape [numel], float32.
        lr: learning rate.
        momentum: mu, the share of the last steps' sum that goes on.
        nesterov: look ahead, or roll as a heavy ball.

    Returns:
        ``momentum' = mu momentum + g`` and ``anchor' = anchor - lr (g + mu momentum')``, or with a heavy ball
        ``anchor - lr momentum'``; new float32 arrays. On a quadratic with curvature h the first is stable for
        lr h < 2 (1 + mu) / (1 + 2 mu), the second for lr h < 2 (1 + mu).

    Source: torch.optim.SGD(dampening=0); with nesterov=True it is the outer optimizer of DiLoCo (arXiv:2311.08105),
    without that of Polyak, "Some methods of speeding up the convergence of iteration methods" (1964).
    """
    assert gradient.shape == state.anchor.shape, f"{gradient.shape} is not the shape of the anchor {state.anchor.shape}"
    assert gradient.dtype == np.float32, f"the gradient must be float32, not {gradient.dtype}"
    mu = np.float32(momentum)
    total = state.momentum * mu
    total += gradient
    if nesterov:
        step = total * mu
        step += gradient
        step *= np.float32(lr)
    else:
        step = total * np.float32(lr)
    return OuterState(state.anchor - step, total)


_COOLED = 0.3
"""What is left of the learning rate after the cooldown."""


def lr_of(config: OuterConfig, version: Version, rounds: int, slice_id: SliceId) -> float:
    """The learning rate of the outer step that makes a slice's version, from 1, in a run of so many rounds."""
    lr, place = config.lr, min(version, rounds)
    if config.last_lr:
        lr += (config.last_lr - config.lr) * (place - 1) / max(1, rounds - 1)
    begin = rounds * (1 - config.cooldown)
    if place > begin:
        lr *= 1 - (1 - _COOLED) * (place - begin) / (rounds - begin)
    return lr * config.common_lr_ratio if slice_of(slice_id) == COMMON else lr


def outer_rule(
    config: OuterConfig, rounds: int, slice_id: SliceId
) -> Callable[[Version, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A run's outer steps of one slice.

    Returns:
        (version to be made, anchor, momentum, averaged pseudo-gradient), arrays of shape [numel], to the new anchor
        and momentum.
    """

    def rule(
        version: Version, anchor: np.ndarray, momentum: np.ndarray, gradient: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        lr = lr_of(config, version, rounds, slice_id)
        state = outer_step(
            OuterState(anchor, momentum), gradient, lr=lr, momentum=config.momentum, nesterov=config.nesterov
        )
        return state.anchor, state.momentum

    return rule
