"""Text from a trained model, token by token."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from p2ptrain.errors import UsageError
from p2ptrain.model.transformer import Transformer


def generate(
    model: Transformer,
    prompt: Sequence[int],
    num_tokens: int,
    temperature: float,
    seed: int,
    *,
    vocabulary: int,
    top_p: float = 1.0,
) -> Iterator[int]:
    """Continue ``prompt``; the same arguments give the same tokens on the same machine.

    Args:
        model: on the CPU or elsewhere.
        prompt: token ids to continue, one at least; the model sees the last ``context`` of them.
        num_tokens: how many to add.
        temperature: 0 takes the likeliest token each time, 1 samples as the model believes; 0.8 reads well.
        seed: which of the possible texts.
        vocabulary: of the tokenizer; the model may have more ids, which mean nothing.
        top_p: sample among the likeliest tokens that have this probability together.

    Yields:
        The tokens that follow the prompt, one at a time.

    Raises:
        UsageError: temperature, top_p or num_tokens out of range, no prompt, or a token that the model does not have.
    """
    if temperature < 0 or not 0 < top_p <= 1 or num_tokens < 0:
        raise UsageError(
            f"temperature = {temperature}, top_p = {top_p}, num_tokens = {num_tokens}; choose temperature and"
            " num_tokens of at least 0 and top_p in (0, 1]"
        )
    if not prompt or max(*prompt, vocabulary - 1) >= model.config.vocabulary:
        raise UsageError(
            f"the prompt has {len(prompt)} tokens up to {max(prompt, default=-1)}, the tokenizer {vocabulary} and the"
            f" model {model.config.vocabulary}; give a prompt, in the tokens of the model's own tokenizer"
        )

    def added() -> Iterator[int]:
        text = [*prompt]
        device = model.tensors()["embedding"].device
        for index in range(num_tokens):
            tokens = torch.tensor([text[-model.config.context :]], device=device)
            with torch.no_grad():
                logits = model(tokens)[0, -1, :vocabulary].double().cpu().numpy()
            text.append(_choose(logits, temperature, top_p, _uniform(seed, index)))
            yield text[-1]

    return added()  # a function of its own, so that wrong arguments are refused before the first token is asked for


def _choose(logits: np.ndarray, temperature: float, top_p: float, uniform: float) -> int:
    """The next token, from float64 logits and one number in [0, 1)."""
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
