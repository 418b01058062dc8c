"""Tokens of a text on disk, because a tokenizer takes minutes for a gigabyte and peers start more often than that."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


def cache_folder() -> Path:
    """Where this user's programs keep what they can make again: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "p2ptrain" / "tokens"


def cached_tokens(
    made_from: tuple[str, ...], make: Callable[[], Iterator[np.ndarray]], dtype: np.dtype, folder: Path
) -> np.ndarray:
    """Tokens, read from ``folder`` or made and kept there; in memory where nothing can be kept.

    Args:
        made_from: all that the tokens depend on.
        make: gives them, in pieces of shape [tokens].
        dtype: of the tokens.
        folder: made when missing.

    Returns:
        Shape [tokens], read-only; mapped from the file, so that peers of one machine share its memory.
    """
    path = folder / f"{hashlib.sha256(repr(made_from).encode()).hexdigest()}.{dtype.name}"
    with contextlib.suppress(OSError):
        return _mapped(path, dtype)
    try:
        _write(path, make())
        return _mapped(path, dtype)
    except OSError:
        tokens = np.concatenate([np.zeros(0, dtype), *make()])
        tokens.flags.writeable = False
        return tokens


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def _write(path: Path, pieces: Iterator[np.ndarray]) -> None:
    """All of it or nothing, even if the power fails: nobody would notice that tokens are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as unfinished:
        try:
            for piece in pieces:
                unfinished.write(piece.tobytes())
            unfinished.flush()
            os.fsync(unfinished.fileno())
            Path(unfinished.name).replace(path)
        except BaseException:
            Path(unfinished.name).unlink(missing_ok=True)
            raise
