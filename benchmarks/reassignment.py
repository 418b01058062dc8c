"""What must move with a slice that changes its owner? The loss with and without outer state and inner moments.

Four virtual peers, one owner for each of four slices (the hardest case: nobody who stays remembers anything), two pairs
of which exchange their slices every few rounds. Everything else is as in ``p2ptrain lab``.

Example: python benchmarks/reassignment.py --rounds 48 --every 4 --seeds 3 --json reassignment.json
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch

from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import OuterConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus, load_corpus
from p2ptrain.node.virtual_swarm import Carry, VirtualSwarm, dealt_slices

ARMS: tuple[Carry | None, ...] = (None, "inner moments", "outer state", "nothing")
"""None: nobody moves."""
WINDOWS = 256


def trial(corpus: Corpus, carry: Carry | None, *, rounds: int, every: int, seed: int) -> float:
    """Validation loss at the end, nats per byte."""
    tiny = parse_run(preset_text("tiny"), "tiny")
    run = replace(
        tiny,
        seed=seed,
        rounds=rounds,
        model=replace(tiny.model, layers=2, width=64, mlp_hidden=256, heads=4, kv_heads=2, context=64),
        slicing=SlicingConfig(slices=4),
        outer=OuterConfig(lr=0.35, momentum=0.7),
    )
    swarm = VirtualSwarm(run, corpus, dealt_slices(4, 4))
    for round in range(rounds):
        if carry and round and round % every == 0:
            a, b, c, d = swarm.peers if (round // every) % 2 else (swarm.peers[i] for i in (0, 2, 1, 3))
            swarm.exchange_slices(a, b, carry)
            swarm.exchange_slices(c, d, carry)
        swarm.train_round()
    return swarm.validation_loss(WINDOWS)


def main() -> None:
    """Print a table in Markdown and, if wanted, write all losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=48)
    parser.add_argument("--every", type=int, default=4, help="rounds between two exchanges")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tiny = parse_run(preset_text("tiny"), "tiny")
    corpus = load_corpus(replace(tiny, data=replace(tiny.data, fingerprint="")), Path.cwd())
    losses: dict[str, list[float]] = {str(arm): [] for arm in ARMS}
    for seed in range(1, arguments.seeds + 1):
        for carry in ARMS:
            loss = trial(corpus, carry, rounds=arguments.rounds, every=arguments.every, seed=seed)
            losses[str(carry)].append(loss)
            sys.stdout.write(f"seed {seed}, {carry}: {loss:.4f}\n")
            sys.stdout.flush()
    stays = losses["None"]
    sys.stdout.write(
        "| what moves | loss, nats/byte: median (range) | against nobody moving, median of pairs |\n|---|---|---|\n"
    )
    for arm, values in losses.items():
        ratio = statistics.median(value / stay - 1 for value, stay in zip(values, stays, strict=True))
        spread = f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"
        sys.stdout.write(f"| {'(nobody moves)' if arm == 'None' else arm} | {spread} | {ratio:+.2%} |\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"settings": vars(arguments) | {"json": ""}, "losses": losses}, indent=1))


if __name__ == "__main__":
    main()
