"""What liars among the owners of a slice do to the loss, and what robust averaging costs when nobody lies."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np

from p2ptrain.config.schema import Averaging, RunConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import BadMessage, NonFiniteUpdate
from p2ptrain.ids import PeerId
from p2ptrain.node.virtual_swarm import Lie, VirtualSwarm, dealt_slices
from p2ptrain.wire.codec import Float32

_WINDOWS = 64
"""Of validation text; the error of the mean is below half a percent of the loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustRow:
    """One trained swarm."""

    averaging: Averaging
    attack: str
    """What the liars send; ``none`` when everybody is honest."""
    seed: int
    peers: int
    liars: int
    rounds: int
    val_loss: float | None
    """None: training diverged."""
    vs_honest_percent: float | None
    """Against the same seed and rule without liars."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def attacks(seed: int) -> Mapping[str, Lie]:
    """What liars send in place of an honest pseudo-gradient."""
    random = np.random.default_rng(seed)

    def noise(gradient: Float32) -> Float32:
        scale = float(np.linalg.norm(gradient)) / math.sqrt(gradient.size)
        return (3 * scale * random.standard_normal(gradient.size)).astype(np.float32)

    return {
        "sign flipped": lambda gradient: -gradient,
        "sign flipped, 5x": lambda gradient: -5 * gradient,
        "20x": lambda gradient: 20 * gradient,
        "random, 3x": noise,
    }


def robust_rows(
    run: RunConfig, corpus: Corpus, *, peers: int, liars: int, rounds: int, seed: int
) -> Iterator[RobustRow]:
    """Train the same swarm under each rule, honest and under each attack; the last ``liars`` peers lie.

    Args:
        run: model, slicing and training.
        corpus: its text.
        peers: virtual peers, each with one slice in turn.
        liars: how many of them lie.
        rounds: of each training.
        seed: of weights, batches and attacks.
    """
    for rule in get_args(Averaging):
        honest: float | None = None
        for attack, lie in {"none": None, **attacks(seed)}.items():
            exchange = replace(run.exchange, averaging=rule)
            config = replace(run, seed=seed, rounds=rounds, exchange=exchange)
            owned = dealt_slices(peers, run.slicing.slices)
            lying = dict.fromkeys(sorted(owned)[peers - liars :], lie) if lie else {}
            started_s = time.perf_counter()
            loss = _train(config, corpus, owned, lying)
            honest = loss if attack == "none" else honest
            yield RobustRow(
                averaging=rule,
                attack=attack,
                seed=seed,
                peers=peers,
                liars=len(lying),
                rounds=rounds,
                val_loss=loss,
                vs_honest_percent=100 * (loss / honest - 1) if loss is not None and honest else None,
                seconds=time.perf_counter() - started_s,
            )


def _train(
    run: RunConfig, corpus: Corpus, owned: Mapping[PeerId, frozenset[Any]], lies: Mapping[PeerId, Lie]
) -> float | None:
    swarm = VirtualSwarm(run, corpus, owned, lies=lies)
    try:
        for _ in range(run.rounds):
            swarm.train_round()
    except (NonFiniteUpdate, BadMessage):
        return None
    loss = swarm.validation_loss(_WINDOWS)
    return loss if math.isfinite(loss) else None
