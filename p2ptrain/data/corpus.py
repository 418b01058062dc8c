"""The text that a run learns from, as bytes, split by file into what is trained on and what is held out.

Everything is ordered and split by hashes of the files' names, so two machines with the same files have the same bytes.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2ptrain.config.schema import DataConfig
from p2ptrain.errors import DataError
from p2ptrain.ids import Digest, short

FILE_END = b"\f"
"""Between files. A form feed is white space to Python and rare in text, so the model can learn what it means."""

STDLIB_BYTES = 12_000_000
"""Enough for models that train in minutes; reading more would only make starting slower."""

_STDLIB_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages"}  # other people's
    | {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"}  # left out by some distributions
    | {"encodings", "__pycache__"}  # tables of numbers
)
_STDLIB_SKIPPED_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize")
"""Beginnings of names of files that differ between builds of the same Python version."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Corpus:
    """A run's text."""

    train: np.ndarray
    """Shape [bytes], uint8, read-only."""
    validation: np.ndarray
    """Shape [bytes], uint8, read-only; nobody trains on it."""
    fingerprint: Digest
    """SHA-256 over each file's relative name and the hash of its content."""


def load_corpus(data: DataConfig, base: Path) -> Corpus:
    """Read the run's text.

    Args:
        data: which text; ``fingerprint``, if set, is what it must be.
        base: folder that ``data.path`` is relative to: the manifest's.

    Raises:
        DataError: nothing to read, nothing left for one of the two parts, or another text than the manifest's.
    """
    if data.source == "python-stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        origin = f"the standard library of Python {platform.python_version()} in {root}"
        names = _stdlib_names(root)
        files = _read(root, names, max_bytes=STDLIB_BYTES)
    else:
        root = base / data.path
        origin = f"{root} ({data.pattern})"
        if not root.is_dir():
            raise DataError(f"data.path: {root} is not a folder; put the run's text there or correct data.path")
        names = [found.relative_to(root).as_posix() for found in root.glob(data.pattern) if found.is_file()]
        files = _read(root, names, max_bytes=None)
    if not files:
        raise DataError(f"no files to learn from in {origin}; check data.path and data.pattern")

    fingerprint = _fingerprint(files)
    if data.fingerprint and data.fingerprint != fingerprint:
        remedy = (
            "use the Python version that made the manifest, or a run with data.source = 'folder'"
            if data.source == "python-stdlib"
            else "copy the folder again from where the manifest came from"
        )
        raise DataError(
            f"{origin} has the fingerprint {short(fingerprint)} and the manifest says {short(data.fingerprint)}:"
            f" peers with other text would never meet in a group; {remedy}"
        )
    held_out = {name for name, _ in files if _hash_number("split", name) % 100 < data.validation_percent}
    train = _join(content for name, content in files if name not in held_out)
    validation = _join(content for name, content in files if name in held_out)
    if not len(train) or not len(validation):
        raise DataError(
            f"data.validation_percent = {data.validation_percent} holds out {len(held_out)} of {len(files)} files in"
            f" {origin}, and both parts need at least one; add files or change the percentage"
        )
    return Corpus(train=train, validation=validation, fingerprint=fingerprint)


def _stdlib_names(root: Path) -> list[str]:
    names = []
    for folder, subfolders, files in os.walk(root):
        # Not entered at all: site-packages can be a hundred times larger than the library.
        subfolders[:] = [name for name in subfolders if name not in _STDLIB_SKIPPED_FOLDERS]
        names += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if name.endswith(".py") and not name.startswith(_STDLIB_SKIPPED_FILES)
        ]
    return names


def _read(root: Path, names: list[str], *, max_bytes: int | None) -> list[tuple[str, bytes]]:
    """Names and contents in the order of the names' hashes, up to ``max_bytes`` in total."""
    files = []
    total_bytes = 0
    for name in sorted(names, key=lambda name: (_hash_number("order", name), name)):
        try:
            content = (root / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {root / name}: {error.strerror}; make it readable or narrow data.pattern"
            ) from error
        total_bytes += len(content)
        if max_bytes is not None and total_bytes > max_bytes:
            break
        files.append((name, content))
    return files


def _hash_number(purpose: str, name: str) -> int:
    # One hash for both purposes would hold out a run of neighbours in the order.
    return int.from_bytes(hashlib.sha256(f"p2ptrain/{purpose}/{name}".encode()).digest()[:8], "big")


def _fingerprint(files: list[tuple[str, bytes]]) -> Digest:
    total = hashlib.sha256()
    for name, content in files:
        total.update(hashlib.sha256(name.encode()).digest())
        total.update(hashlib.sha256(content).digest())
    return Digest(total.hexdigest())


def _join(contents: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(content + FILE_END for content in contents), dtype=np.uint8)
