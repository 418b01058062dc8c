"""With one slice a run is DiLoCo, to the last bit: here is DiLoCo again, with nothing of the engine in it."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from p2ptrain.config.schema import InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.data.sampler import training_windows
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.training.inner_loop import InnerLoop, learning_rate
from p2ptrain.training.outer_step import OuterState, outer_step
from p2ptrain.training.pseudo_gradient import pseudo_gradient

pytestmark = pytest.mark.usefixtures("one_thread")
RUN = RunConfig(
    name="diloco",
    seed=1,
    rounds=3,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_hidden=64, context=24),
    slicing=SlicingConfig(slices=1, parts=("mlp", "heads")),
    inner=InnerConfig(steps=4, batch=4, lr=4e-3, warmup_steps=2),
    outer=OuterConfig(lr=0.7, momentum=0.9),
)
TEXT = np.frombuffer(hashlib.shake_256(b"text").digest(4000), dtype=np.uint8) % 16
CORPUS = Corpus(train=TEXT, validation=TEXT, fingerprint=Digest("0" * 64))
PEERS = (PeerId("a"), PeerId("b"))


def plain_loss(weights: dict[str, Tensor], windows: Tensor) -> Tensor:
    """The decoder with plain autograd, over the same layout of the matrices."""
    model = RUN.model
    head_size = model.width // model.heads
    angles = torch.outer(
        torch.arange(model.context, dtype=torch.float64),
        model.rope_theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size),
    )[:, None, :]
    cos = torch.cat((angles.cos(), angles.cos()), dim=-1).float()
    sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).float()

    def norm(name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (model.width,), weights[name], model.norm_eps)

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, head_size)

    def rotate(x: Tensor) -> Tensor:
        return x * cos + x.roll(head_size // 2, dims=-1) * sin

    x = F.embedding(windows[:, :-1], weights["embedding"])
    for layer in range(model.layers):
        w = {name: weights[f"layers.{layer}.{name}"] for name in ("q", "k", "v", "o", "gate", "up", "down")}
        y = norm(f"layers.{layer}.attention_norm", x)
        q, k, v = rotate(heads(y @ w["q"].t())), rotate(heads(y @ w["k"].t())), heads(y @ w["v"].t())
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        x = x + mixed @ w["o"]
        y = norm(f"layers.{layer}.mlp_norm", x)
        x = x + (F.silu(y @ w["gate"].t()) * (y @ w["up"].t())) @ w["down"]
    logits = F.linear(norm("final_norm", x), weights["embedding"])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def reference_diloco() -> dict[str, Tensor]:
    plan = SlicePlan.of(RUN.model, RUN.slicing)
    anchor = plan.assemble(initial_values(RUN, plan))
    momentum = {name: torch.zeros_like(tensor) for name, tensor in anchor.items()}
    workers = []
    for _ in PEERS:
        weights = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in anchor.items()}
        groups = [
            {"params": [p for p in weights.values() if p.ndim > 1], "weight_decay": RUN.inner.weight_decay},
            {"params": [p for p in weights.values() if p.ndim == 1], "weight_decay": 0.0},
        ]
        workers.append((weights, torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)))
    for round_number in range(RUN.rounds):
        for peer, (weights, adamw) in zip(PEERS, workers, strict=True):
            with torch.no_grad():
                for name, parameter in weights.items():
                    parameter.copy_(anchor[name])
            for step in range(RUN.inner.steps):
                windows = training_windows(
                    TEXT,
                    seed=RUN.seed,
                    peer=peer,
                    round=Version(round_number),
                    inner_step=step,
                    batch=RUN.inner.batch,
                    length=RUN.model.context,
                )
                adamw.zero_grad()
                plain_loss(weights, torch.from_numpy(windows)).backward()
                torch.nn.utils.clip_grad_norm_(weights.values(), RUN.inner.clip)
                for group in adamw.param_groups:
                    group["lr"] = learning_rate(RUN, round_number * RUN.inner.steps + step)
                adamw.step()
        for name in anchor:
            first, second = (anchor[name] - weights[name].detach() for weights, _ in workers)
            gradient = (first + second) * 0.5
            momentum[name] = momentum[name] * RUN.outer.momentum
            momentum[name] = momentum[name] + gradient
            direction = momentum[name] * RUN.outer.momentum
            direction = direction + gradient
            direction = direction * RUN.outer.lr
            anchor[name] = anchor[name] - direction
    return anchor


def engine() -> dict[str, Tensor]:
    plan = SlicePlan.of(RUN.model, RUN.slicing)
    values = initial_values(RUN, plan)
    loops = [InnerLoop(RUN, plan, frozenset(plan.slice_ids), values, CORPUS, peer) for peer in PEERS]
    states: dict[SliceId, OuterState] = {slice_id: OuterState.initial(values[slice_id]) for slice_id in plan.slice_ids}
    for round_number in range(RUN.rounds):
        for loop in loops:
            for _ in range(RUN.inner.steps):
                loop.step(Version(round_number))
        for slice_id, state in states.items():
            first, second = (pseudo_gradient(state.anchor, loop.local_values(slice_id)) for loop in loops)
            states[slice_id] = outer_step(state, (first + second) * np.float32(0.5), lr=0.7, momentum=0.9)
            for loop in loops:
                loop.replace(slice_id, states[slice_id].anchor)
    return plan.assemble({slice_id: state.anchor for slice_id, state in states.items()})


def test_a_run_with_one_slice_has_the_bits_of_a_reference_diloco() -> None:
    expected, found = reference_diloco(), engine()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
