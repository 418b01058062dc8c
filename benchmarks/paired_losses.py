"""Training virtual swarms that differ in one thing, seed by seed, and how far each is from the first of its seed."""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from p2ptrain.config.load import load_run
from p2ptrain.config.schema import OuterConfig, RunConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus, load_corpus
from p2ptrain.node.virtual_swarm import VirtualSwarm, dealt_slices

VALIDATION_WINDOWS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One of the things that are compared."""

    name: Mapping[str, Any]
    """What its line says beside the losses."""
    run: RunConfig
    """With any seed."""


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every comparison has; a script adds its own."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--run", type=Path, required=True)
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--peers", type=int, default=4)
    options.add_argument("--slices", type=int, default=2)
    options.add_argument("--outer-lr", type=float, default=0.5)
    options.add_argument("--seeds", default="1,2,3")
    return options


def base_run(arguments: argparse.Namespace) -> RunConfig:
    """What all variants have in common."""
    run = load_run(arguments.run)
    return replace(
        run,
        rounds=arguments.rounds,
        slicing=SlicingConfig(slices=arguments.slices, parts=run.slicing.parts),
        outer=OuterConfig(lr=arguments.outer_lr, momentum=run.outer.momentum),
    )


def compare(arguments: argparse.Namespace, variants: Sequence[Variant]) -> None:
    """Train each variant with each seed; print a JSON line after each, the last one of a variant has all seeds."""
    torch.set_num_threads(1)
    corpus = load_corpus(variants[0].run, base=arguments.run.parent)
    losses: list[list[float]] = [[] for _ in variants]
    for seed in map(int, arguments.seeds.split(",")):
        for variant, of_variant in zip(variants, losses, strict=True):
            of_variant.append(_final_loss(replace(variant.run, seed=seed), corpus, arguments.peers))
            percent = [100 * (loss / first - 1) for loss, first in zip(of_variant, losses[0], strict=True)]
            row = {**variant.name, "losses_nats": of_variant, "percent": percent, "mean": statistics.fmean(percent)}
            sys.stdout.write(f"{json.dumps(row)}\n")
            sys.stdout.flush()


def _final_loss(run: RunConfig, corpus: Corpus, peers: int) -> float:
    """Validation loss of the anchors, in nats per byte, after all rounds."""
    swarm = VirtualSwarm(run, corpus, dealt_slices(peers, run.slicing.slices))
    for _ in range(run.rounds):
        swarm.train_round()
    return swarm.validation_loss(VALIDATION_WINDOWS)
