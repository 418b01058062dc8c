"""What fragments cost in loss, and how much less has to be sent at once: virtual swarms that differ in nothing else.

python benchmarks/fragments_quality.py --run docs/results/quality-small.toml --layers 4 --rounds 25 --seeds 1,2,3
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from p2ptrain.config.load import load_run
from p2ptrain.config.schema import OuterConfig, OverlapConfig, RunConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus, load_corpus
from p2ptrain.ids import fragment_index
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.trainer import turn_steps
from p2ptrain.node.virtual_swarm import VirtualSwarm, dealt_slices
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.wire.codec import encoded_bytes

VALIDATION_WINDOWS = 128
FRAGMENTS = (1, 2, 4)


def final_loss(run: RunConfig, corpus: Corpus, peers: int) -> float:
    """Validation loss of the anchors, in nats per byte, after all rounds."""
    swarm = VirtualSwarm(run, corpus, dealt_slices(peers, run.slicing.slices))
    for _ in range(run.rounds):
        swarm.train_round()
    return swarm.validation_loss(VALIDATION_WINDOWS)


def peak_bytes(run: RunConfig, window_steps: int) -> int:
    """Most bytes of contributions that one peer has cut off in any window of so many inner steps."""
    plan = SlicePlan.of(run.model, run.slicing)
    (owned, *_) = dealt_slices(1, run.slicing.slices).values()
    at_step, done = [], 0
    for _ in range(3):
        for turn in range(run.slicing.fragments):
            done += turn_steps(run, turn)
            mine = [s for s in plan.fragments(owned) if fragment_index(s) == turn]
            parts = [
                stop - start for s in mine for start, stop in part_bounds(plan.numel(s), run.exchange.part_elements)
            ]
            at_step.append((done, sum(encoded_bytes(run.exchange.codec, numel) for numel in parts)))
    return max(sum(size for step, size in at_step if begin <= step < begin + window_steps) for begin, _ in at_step)


def main() -> None:
    """Train each setting with each seed; print a JSON line after each, the last one of a setting has all seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--inner-steps", type=int, default=20)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--outer-lr", type=float, default=0.5)
    parser.add_argument("--delays", default="0,5", help="values of overlap.delay_steps")
    parser.add_argument("--seeds", default="1,2,3")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = load_run(arguments.run)
    corpus = load_corpus(base.data, base=arguments.run.parent)
    base = replace(
        base,
        rounds=arguments.rounds,
        model=replace(base.model, layers=arguments.layers),
        inner=replace(base.inner, steps=arguments.inner_steps),
    )
    tried = list(product(map(int, arguments.delays.split(",")), FRAGMENTS))
    losses: list[list[float]] = [[] for _ in tried]
    for seed in map(int, arguments.seeds.split(",")):
        for (delay_steps, fragments), of_setting in zip(tried, losses, strict=True):
            run = replace(
                base,
                seed=seed,
                slicing=SlicingConfig(slices=arguments.slices, parts=base.slicing.parts, fragments=fragments),
                outer=OuterConfig(lr=arguments.outer_lr, momentum=base.outer.momentum),
                overlap=OverlapConfig(delay_steps=delay_steps),
            )
            of_setting.append(final_loss(run, corpus, arguments.peers))
            percent = [100 * (loss / other - 1) for loss, other in zip(of_setting, losses[0], strict=True)]
            row = {
                "fragments": fragments,
                "delay_steps": delay_steps,
                "losses_nats": of_setting,
                "percent": percent,
                "mean": statistics.fmean(percent),
                "peak_bytes": peak_bytes(run, turn_steps(replace(run, slicing=replace(run.slicing, fragments=4)), 0)),
            }
            sys.stdout.write(f"{json.dumps(row)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
