"""Which windows of the text a step reads: pure functions of the run and the step, so anyone can replay them."""

import hashlib

import numpy as np

from p2ptrain.errors import DataError
from p2ptrain.ids import PeerId, Version


def training_windows(
    corpus_train: np.ndarray,
    *,
    seed: int,
    peer: PeerId,
    round: Version,
    inner_step: int,
    batch: int,
    length: int,
) -> np.ndarray:
    """The windows of one inner step.

    Each starts at an offset drawn uniformly (to one part in 2**64 / tokens) with the raw words of a Philox generator
    whose key is the hash of the other arguments: no state, no order, the same on every machine.

    Args:
        corpus_train: the training text, shape [tokens].
        seed: the run's.
        peer: whose step it is.
        round: version that the step's round would commit after.
        inner_step: within the round, from 0.
        batch: windows, B.
        length: tokens to predict in each window, T.

    Returns:
        Token ids, shape [B, T+1], int64.

    Raises:
        DataError: the text is shorter than one window.
    """
    require_window(corpus_train, length, part="training")
    place = f"p2ptrain/training-windows/{seed}/{peer}/{round}/{inner_step}"
    key = int.from_bytes(hashlib.sha256(place.encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(batch)
    offsets = (words % np.uint64(len(corpus_train) - length)).astype(np.int64)
    return _windows_at(corpus_train, offsets, length)


def validation_windows(corpus_validation: np.ndarray, *, num_windows: int, length: int) -> np.ndarray:
    """Windows spread evenly over the held-out text, the same for every peer and round.

    Args:
        corpus_validation: the held-out text, shape [tokens].
        num_windows: how many; they overlap where the text is short.
        length: tokens to predict in each window, T.

    Returns:
        Token ids, shape [num_windows, T+1], int64.

    Raises:
        DataError: the text is shorter than one window.
    """
    require_window(corpus_validation, length, part="validation")
    last = len(corpus_validation) - length - 1
    offsets = np.arange(num_windows, dtype=np.int64) * last // max(1, num_windows - 1)
    return _windows_at(corpus_validation, offsets, length)


def _windows_at(text: np.ndarray, offsets: np.ndarray, length: int) -> np.ndarray:
    windows: np.ndarray = text[offsets[:, None] + np.arange(length + 1)].astype(np.int64)
    return windows


def require_window(text: np.ndarray, length: int, *, part: str) -> None:
    """Raise DataError if ``text`` (shape [tokens]) has no window of ``length`` + 1 tokens; ``part`` names it."""
    if len(text) < length + 1:
        raise DataError(
            f"the {part} text has {len(text)} tokens and one window needs {length + 1};"
            " add text, change data.validation_percent, or make model.context smaller"
        )
