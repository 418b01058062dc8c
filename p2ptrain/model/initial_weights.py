"""Version 0 of every slice: the same bits on any processor, for any number of slices.

Peers that never met must start from equal anchors, so nothing here depends on how a library or a processor rounds a
logarithm: the randomness is integer arithmetic, and each weight is one float32 product.
"""

import hashlib
import math

import numpy as np
import torch

from p2ptrain.config.schema import RunConfig
from p2ptrain.ids import SliceId
from p2ptrain.model.slicing import SlicePlan

STD = 0.02
"""Standard deviation of the matrices, as in GPT-2 and Llama."""


def initial_values(run: RunConfig, plan: SlicePlan) -> dict[SliceId, np.ndarray]:
    """The weights that a run starts from.

    Norms are 1. Matrices are close to normal with standard deviation 0.02; those that write into the residual stream
    (``o``, ``down``) have 0.02 / sqrt(2 layers), so that its size does not grow with depth (GPT-2).

    Returns:
        Each slice's elements, shape [numel], float32.
    """
    tensors = {}
    for name, shape in plan.shapes.items():
        kind = name.rpartition(".")[2]
        if kind.endswith("norm"):
            values = np.ones(shape, dtype=np.float32)
        else:
            std = STD / math.sqrt(2 * run.model.layers) if kind in {"o", "down"} else STD
            values = _bell(f"{run.seed}/{name}", math.prod(shape), std).reshape(shape)
        tensors[name] = torch.from_numpy(values)
    return {slice_id: plan.gather(tensors, slice_id) for slice_id in plan.slice_ids}


def _bell(key: str, count: int, std: float) -> np.ndarray:
    """Sums of four uniform 16-bit integers, centred and scaled: a bell that ends at 3.46 standard deviations.

    numpy promises the raw words of a bit generator for ever (NEP 19), and not what it makes of them.
    """
    seed = int.from_bytes(hashlib.sha256(f"p2ptrain/initial-weights/{key}".encode()).digest()[:16], "little")
    words = np.random.Philox(key=seed).random_raw(count)
    total = np.zeros(count, dtype=np.int64)
    for shift in (0, 16, 32, 48):
        total += ((words >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
    total -= 2 * 0xFFFF
    # Below 2**24, so exact in float32; one rounding follows, in the product.
    return total.astype(np.float32) * np.float32(std / math.sqrt((65536**2 - 1) / 3))
