"""Text from a trained model, byte by byte."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from p2ptrain.errors import UsageError
from p2ptrain.model.transformer import Transformer


def generate(
    model: Transformer, prompt: bytes, num_bytes: int, temperature: float, seed: int, top_p: float = 1.0
) -> Iterator[bytes]:
    """Continue ``prompt``; the same arguments give the same bytes on the same machine.

    Args:
        model: a model of bytes, on the CPU or elsewhere.
        prompt: what to continue; the model sees its last ``context`` bytes. Empty starts as after a file's end.
        num_bytes: how many bytes to add.
        temperature: 0 takes the likeliest byte each time, 1 samples as the model believes; 0.8 reads well.
        seed: which of the possible texts.
        top_p: sample among the likeliest bytes that have this probability together.

    Yields:
        The bytes that follow the prompt, one at a time.

    Raises:
        UsageError: temperature, top_p or num_bytes out of range, or the model has fewer than 256 tokens.
    """
    if temperature < 0 or not 0 < top_p <= 1 or num_bytes < 0:
        raise UsageError(
            f"temperature = {temperature}, top_p = {top_p}, num_bytes = {num_bytes}; choose temperature and num_bytes"
            " of at least 0 and top_p in (0, 1]"
        )
    if model.config.vocabulary < 256:
        raise UsageError(
            f"this model has {model.config.vocabulary} tokens and text needs 256; choose one made of bytes"
        )
    return _continue(model, prompt or b"\f", num_bytes, temperature, seed, top_p)


def _continue(
    model: Transformer, prompt: bytes, num_bytes: int, temperature: float, seed: int, top_p: float
) -> Iterator[bytes]:
    text = bytearray(prompt)
    device = model.tensors()["embedding"].device
    for index in range(num_bytes):
        tokens = torch.tensor([list(text[-model.config.context :])], device=device)
        with torch.no_grad():
            logits = model(tokens)[0, -1, :256].double().cpu().numpy()
        text.append(_choose(logits, temperature, top_p, _uniform(seed, index)))
        yield bytes(text[-1:])


def _choose(logits: np.ndarray, temperature: float, top_p: float, uniform: float) -> int:
    """The next byte, from 256 float64 logits and one number in [0, 1)."""
    if temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order]) / weights.sum()
    kept = int(np.searchsorted(mass, top_p)) + 1
    mass = mass[:kept]
    position = int(np.searchsorted(mass, uniform * mass[-1], side="right"))
    return int(order[min(position, len(mass) - 1)])


def _uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 53 random bits, a pure function of its place."""
    word = hashlib.sha256(f"p2ptrain/generation/{seed}/{index}".encode()).digest()[:8]
    return (int.from_bytes(word, "little") >> 11) / 2**53
