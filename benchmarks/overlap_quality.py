"""What overlap costs in loss: virtual swarms that differ only in when and how outer steps are merged.

python benchmarks/overlap_quality.py --run docs/results/quality-small.toml --rounds 25 --seeds 1,2,3
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from p2ptrain.config.load import load_run
from p2ptrain.config.schema import OuterConfig, OverlapConfig, RunConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus, load_corpus
from p2ptrain.node.virtual_swarm import VirtualSwarm, dealt_slices

VALIDATION_WINDOWS = 128


def settings(steps: int) -> list[OverlapConfig]:
    """No overlap first: the others are compared with it."""
    shifts = [OverlapConfig(delay_steps=delay) for delay in (0, steps // 4, steps // 2, steps)]
    mixes = [OverlapConfig(delay_steps=steps // 4, merge="mix", mixing=alpha) for alpha in (0.0, 0.5)]
    return [*shifts, *mixes, OverlapConfig(delay_steps=steps // 2, merge="mix", mixing=0.5)]


def final_loss(run: RunConfig, corpus: Corpus, peers: int) -> float:
    """Validation loss in nats per byte after all rounds."""
    swarm = VirtualSwarm(run, corpus, dealt_slices(peers, run.slicing.slices))
    for _ in range(run.rounds):
        swarm.train_round()
    return swarm.validation_loss(VALIDATION_WINDOWS)


def main() -> None:
    """Train each setting with each seed; print a JSON line after each, the last one of a setting has all seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--outer-lr", type=float, default=0.5)
    parser.add_argument("--seeds", default="1,2,3")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = load_run(arguments.run)
    corpus = load_corpus(base.data, base=arguments.run.parent)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    tried = settings(base.inner.steps)
    losses: list[list[float]] = [[] for _ in tried]
    for seed in seeds:
        for overlap, of_setting in zip(tried, losses, strict=True):
            run = replace(
                base,
                seed=seed,
                rounds=arguments.rounds,
                slicing=SlicingConfig(slices=arguments.slices, parts=base.slicing.parts),
                outer=OuterConfig(lr=arguments.outer_lr, momentum=base.outer.momentum),
                overlap=overlap,
            )
            of_setting.append(final_loss(run, corpus, arguments.peers))
            percent = [100 * (loss / other - 1) for loss, other in zip(of_setting, losses[0], strict=True)]
            row = asdict(overlap) | {"losses_nats": of_setting, "percent": percent, "mean": statistics.fmean(percent)}
            sys.stdout.write(f"{json.dumps(row)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
