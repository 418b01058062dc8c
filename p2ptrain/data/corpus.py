"""The text that a run learns from, as tokens, split into what is trained on and what is held out.

Everything is ordered and split by the files' names and sizes, so two machines with the same files have the same tokens.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2ptrain.config.schema import DataConfig, RunConfig
from p2ptrain.data.token_cache import cache_folder, cached_tokens
from p2ptrain.data.tokenizer import ByteTokenizer, load_tokenizer, read_tokenizer_file
from p2ptrain.errors import DataError
from p2ptrain.ids import Digest, short

STDLIB_BYTES = 12_000_000
"""Enough for models that train in minutes; reading more would only make starting slower."""

_SPLIT_RULE = "1"
"""Another one with each change of what is held out."""
_MANY_FILES = 100
"""From so many on whole files are held out; of fewer the end of each, since one in twenty may be none."""

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
    """Token ids, shape [tokens], uint8, uint16 or uint32, read-only."""
    validation: np.ndarray
    """The same form; nobody trains on it."""
    fingerprint: Digest
    """SHA-256 over each file's relative name and the hash of its content."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of the text."""

    path: Path
    name: str
    """Relative to the text's folder."""
    sha256: bytes
    size_bytes: int

    def read(self) -> bytes:
        """Its content.

        Raises:
            DataError: it cannot be read, or is not what it was when the text was looked at.
        """
        content = _content_of(self.path)
        if hashlib.sha256(content).digest() != self.sha256:
            raise DataError(
                f"{self.path} was changed while the text was read; start again when nothing writes to it any more"
            )
        return content


@dataclass(frozen=True, slots=True)
class Extract:
    """A part of a file."""

    file: TextFile
    start: int
    stop: int
    """In bytes."""

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.stop - self.start

    def read(self) -> bytes:
        """Its content.

        Raises:
            DataError: the file cannot be read.
        """
        return self.file.read()[self.start : self.stop]


def load_corpus(
    run: RunConfig,
    base: Path,
    tokenizer_file: bytes | None = None,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Corpus:
    """Read the run's text.

    Args:
        run: which text; ``data.fingerprint``, if set, is what it must be.
        base: folder that ``data.path`` and ``data.tokenizer`` are relative to: the manifest's.
        tokenizer_file: the run's ``tokenizer.json``, where it is known already; otherwise it is read.
        report: told how many bytes of how many have become tokens, unless they were kept from an earlier time.

    Raises:
        DataError: nothing to read, nothing left for one of the two parts, another text or tokenizer than the
            manifest's, or one with more tokens than the model.
    """
    data = run.data
    tokenizer = load_tokenizer(run, read_tokenizer_file(data, base) if tokenizer_file is None else tokenizer_file)
    files, origin = text_files(data, base)
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
    train, validation = split(files, data, origin)
    parts = {"train": train, "validation": validation}

    total_bytes, done_bytes = sum(file.size_bytes for file in files), 0

    def texts(part: str) -> Iterator[bytes]:
        nonlocal done_bytes
        for extract in parts[part]:
            yield extract.read()
            done_bytes += extract.size_bytes
            report(min(done_bytes, total_bytes), total_bytes)  # what cannot be kept is made once more

    def tokens(part: str) -> np.ndarray:
        def made() -> Iterator[np.ndarray]:
            return tokenizer.encode(texts(part))

        if isinstance(tokenizer, ByteTokenizer):  # as quick to read as to make
            in_memory = np.concatenate([*made()])
            in_memory.flags.writeable = False
            return in_memory
        made_from = (part, _SPLIT_RULE, fingerprint, str(data.validation_percent), tokenizer.identity)
        return cached_tokens(made_from, made, tokenizer.dtype, cache_folder())

    return Corpus(train=tokens("train"), validation=tokens("validation"), fingerprint=fingerprint)


def text_files(data: DataConfig, base: Path) -> tuple[list[TextFile], str]:
    """The files of a run's text, in order, and where they are, in words.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    if data.source == "python-stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        origin = f"the standard library of Python {platform.python_version()} in {root}"
        files = _in_order(root, _stdlib_names(root), max_bytes=STDLIB_BYTES)
    else:
        root = base / data.path
        origin = f"{root} ({data.pattern})"
        if not root.is_dir():
            raise DataError(
                f"data.path: {root} is not a folder; put the run's text there, or say where it is with --text FOLDER"
                " (another data.path in the manifest makes it another run)"
            )
        try:
            names = [found.relative_to(root).as_posix() for found in root.glob(data.pattern) if found.is_file()]
        except (ValueError, NotImplementedError) as error:
            raise DataError(f'data.pattern = "{data.pattern}": {error}; choose one like "**/*.txt"') from error
        files = _in_order(root, names, max_bytes=None)
    if not files:
        raise DataError(f"no files to learn from in {origin}; check data.path and data.pattern")
    return files, origin


def split(files: Sequence[TextFile], data: DataConfig, origin: str) -> tuple[list[Extract], list[Extract]]:
    """What is trained on, and what is held out: whole files by the hash of their names, or the end of every file.

    Args:
        files: of the text, in order.
        data: how much to hold out.
        origin: where they are, in words.

    Raises:
        DataError: a file cannot be read, or nothing is left for one of the two.
    """
    train, validation = [], []
    for file in files:
        if len(files) >= _MANY_FILES:
            is_held_out = _hash_number("split", file.name) % 100 < data.validation_percent
            cut = 0 if is_held_out else file.size_bytes
        else:
            cut = _cut(file.read(), file.size_bytes * (100 - data.validation_percent) // 100)
        if cut or not file.size_bytes:
            train.append(Extract(file, 0, cut))
        if cut < file.size_bytes:
            validation.append(Extract(file, cut, file.size_bytes))
    if not train or not validation:
        raise DataError(
            f"data.validation_percent = {data.validation_percent} holds out {len(validation)} of {len(files)} files in"
            f" {origin}, and both parts need at least one; add files or change the percentage"
        )
    return train, validation


def _cut(text: bytes, before: int) -> int:
    """Where a line ends shortly before ``before``; if none does, where a character does."""
    near = max(256, len(text) // 100)  # a line may be as long as a book
    if line_end := text.rfind(b"\n", max(0, before - near), before) + 1:
        return line_end
    while 0 < before < len(text) and text[before] & 0xC0 == 0x80:  # a continuation byte of UTF-8
        before -= 1
    return before


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


def _in_order(root: Path, names: list[str], *, max_bytes: int | None) -> list[TextFile]:
    """Files in the order of their names' hashes, up to ``max_bytes`` in total."""
    files: list[TextFile] = []
    total_bytes = 0
    for name in sorted(names, key=lambda name: (_hash_number("order", name), name)):
        content = _content_of(root / name)
        total_bytes += len(content)
        if max_bytes is not None and total_bytes > max_bytes:
            break
        files.append(TextFile(root / name, name, hashlib.sha256(content).digest(), len(content)))
    return files


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable or narrow data.pattern") from error


def _hash_number(purpose: str, name: str) -> int:
    # One hash for both purposes would hold out a run of neighbours in the order.
    return int.from_bytes(hashlib.sha256(os.fsencode(f"p2ptrain/{purpose}/{name}")).digest()[:8], "big")


def _fingerprint(files: list[TextFile]) -> Digest:
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(os.fsencode(file.name)).digest())
        total.update(file.sha256)
    return Digest(total.hexdigest())
