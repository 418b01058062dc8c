"""How far a peer moves its slices on behalf of those who train the others.

Slices are trained side by side. Each peer sees the others' slices stand still, and moves its own until the error that
all of them see is gone: together they go up to N times too far, as in a block-Jacobi iteration. So a peer trains its
slices with a times the learning rate, and contributes 1/a of the way. While it trains, its slice stands in for the
others, which move alike. With a = N, slices that are alike and small steps, the model that a peer trains is the one
that N = 1 would train, and all contributions together are what N = 1 would contribute.

CoCoA+ adds the updates of blocks of coordinates by the same rule, with the quadratic term of each block's subproblem
scaled where the learning rate is here (Ma et al. 2015, arXiv:1502.03508, sigma' = gamma K). Measured in
docs/results/quality.md.
"""

from collections.abc import Collection

from p2ptrain.config.schema import RunConfig
from p2ptrain.ids import COMMON, SliceId, Version, slice_of


def amplification(run: RunConfig, owned: Collection[SliceId], round: Version) -> float:
    """How many times as far as it contributes a peer moves its numbered slices; the common part goes once as far.

    Args:
        run: its slicing says how much in the first round and in the last; in between it changes evenly. Nobody stands
            in for more slices than there are, so it is N at most.
        owned: what the peer trains. Who trains m slices stands in for m times fewer others, so it is a / m, at least 1.
        round: version that inner steps go on from.
    """
    first, last = run.slicing.amplification, run.slicing.last_amplification or run.slicing.amplification
    steps = max(1, run.rounds - 1)
    amplified = min(first + (last - first) * min(round, steps) / steps, run.slicing.slices)
    numbered = {slice_of(slice_id) for slice_id in owned} - {COMMON}
    return max(1.0, amplified / max(1, len(numbered)))
