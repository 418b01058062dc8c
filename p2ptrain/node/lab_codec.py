"""What an exchange encoding costs in loss: one swarm trained with each, from the same weights on the same tokens."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from p2ptrain.config.schema import Codec, RunConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.node.lab import VALIDATION_WINDOWS
from p2ptrain.node.virtual_swarm import VirtualSwarm, dealt_slices
from p2ptrain.wire.codec import encoded_bytes

BASELINE: Codec = "float32"
CODECS: tuple[Codec, ...] = ("float32", "int8", "int4")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRow:
    """One encoding over all seeds."""

    codec: Codec
    bits: float
    """Sent per element, scales included."""
    losses_nats: tuple[float, ...]
    """Per seed the validation loss at the end of the run."""
    vs_float32_percent: tuple[float, ...]
    """Per seed the distance to float32's loss."""

    @property
    def mean_percent(self) -> float:
        """The distance to float32's loss, over all seeds."""
        return statistics.fmean(self.vs_float32_percent)


def compare_codecs(
    base: RunConfig,
    corpus: Corpus,
    *,
    peers: int,
    seeds: Sequence[int],
    report: Callable[[Codec, int, float], None],
) -> list[CodecRow]:
    """Train ``base`` with every encoding and seed; slices are dealt to the peers in turn.

    Args:
        base: the manifest; its codec and seed are replaced.
        corpus: its text.
        peers: virtual peers, at least one a slice.
        seeds: of initial weights and batches.
        report: told each run's validation loss, in nats per token.
    """
    losses: dict[Codec, list[float]] = {}
    for codec in CODECS:
        for seed in seeds:
            run = replace(base, seed=seed, exchange=replace(base.exchange, codec=codec))
            swarm = VirtualSwarm(run, corpus, dealt_slices(peers, run.slicing.slices))
            for _ in range(run.rounds):
                swarm.train_round()
            loss_nats = swarm.validation_loss(VALIDATION_WINDOWS)
            losses.setdefault(codec, []).append(loss_nats)
            report(codec, seed, loss_nats)
    numel = 1 << 20
    return [
        CodecRow(
            codec=codec,
            bits=8 * encoded_bytes(codec, numel) / numel,
            losses_nats=tuple(losses[codec]),
            vs_float32_percent=tuple(
                100 * (loss / baseline - 1) for loss, baseline in zip(losses[codec], losses[BASELINE], strict=True)
            ),
        )
        for codec in CODECS
    ]
