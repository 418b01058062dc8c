"""Tokens of a text on disk, because a tokenizer takes minutes for a gigabyte and peers start more often than that."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


def cache_folder() -> Path | None:
    """Where this user's programs keep what they can make again: ``$XDG_CACHE_HOME``, or ``~/.cache``; None: nowhere."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path("~/.cache").expanduser()) / "p2ptrain" / "tokens"
    except RuntimeError:  # a user without a home
        return None


def cached_tokens(
    made_from: tuple[str, ...], make: Callable[[], Iterator[np.ndarray]], dtype: np.dtype, folder: Path | None
) -> np.ndarray:
    """Tokens, read from ``folder`` or made and kept there; in memory where nothing can be kept.

    Args:
        made_from: all that the tokens depend on.
        make: gives them, in pieces of shape [tokens].
        dtype: of the tokens.
        folder: made when missing; None keeps nothing.

    Returns:
        Shape [tokens], read-only; mapped from the file, so that peers of one machine share its memory.
    """
    if folder is not None:
        name = hashlib.sha256(repr(made_from).encode()).hexdigest()
        with contextlib.suppress(OSError):
            if (found := _find(folder, name, dtype)) is not None:
                return found
            _write(folder, name, dtype, make())
            if (found := _find(folder, name, dtype)) is not None:
                return found
    tokens = np.concatenate([np.zeros(0, dtype), *make()])
    tokens.flags.writeable = False
    return tokens


def _find(folder: Path, name: str, dtype: np.dtype) -> np.ndarray | None:
    """A file is named by what its tokens were made from, and by how many there must be."""
    for path in folder.glob(f"{name}.*.{dtype.name}"):
        count = path.name.split(".")[1]
        if path.stat().st_size == int(count) * dtype.itemsize:
            # An empty file cannot be mapped.
            return np.memmap(path, dtype=dtype, mode="r") if int(count) else np.zeros(0, dtype)
    return None


def _write(folder: Path, name: str, dtype: np.dtype, pieces: Iterator[np.ndarray]) -> None:
    """All of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as unfinished:
        try:
            count = 0
            for piece in pieces:
                unfinished.write(piece.tobytes())
                count += len(piece)
            unfinished.flush()
            os.fsync(unfinished.fileno())
            unfinished.close()
            Path(unfinished.name).replace(folder / f"{name}.{count}.{dtype.name}")
        except BaseException:
            Path(unfinished.name).unlink(missing_ok=True)
            raise
