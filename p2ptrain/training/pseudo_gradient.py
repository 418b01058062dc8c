"""What a peer contributes to its group after its inner steps."""

import numpy as np

from p2ptrain.errors import NonFiniteUpdate


def pseudo_gradient(anchor: np.ndarray, local: np.ndarray, amplification: float = 1.0) -> np.ndarray:
    """Direction the outer optimizer descends: from the anchor towards this peer's weights.

    Args:
        anchor: slice weights at the start of the round, shape [numel], float32.
        local: the same slice after the inner steps, shape [numel], float32.
        amplification: how many times as far as it contributes the peer has moved it (training/amplification.py).

    Returns:
        ``(anchor - local) / amplification``, shape [numel], float32. The sign is a gradient's: plain SGD with lr equal
        to the amplification moves the anchor onto ``local``, up to float32 rounding.

    Raises:
        NonFiniteUpdate: an element is NaN or infinite.

    Source: DiLoCo (arXiv:2311.08105), algorithm 1, outer gradient of one worker.
    """
    assert anchor.shape == local.shape, f"anchor {anchor.shape} and local {local.shape} are not the same slice"
    assert anchor.dtype == local.dtype == np.float32, f"{anchor.dtype} and {local.dtype} must both be float32"
    with np.errstate(over="ignore", invalid="ignore"):
        difference: np.ndarray = anchor - local
        if amplification != 1.0:
            difference /= np.float32(amplification)
    num_bad = difference.size - int(np.count_nonzero(np.isfinite(difference)))
    if num_bad:
        raise NonFiniteUpdate(
            f"{num_bad} of {difference.size} elements of the update are NaN or infinite; this contribution is withheld"
            " and training goes on from the last committed version. If it returns, lower inner.lr"
        )
    return difference
