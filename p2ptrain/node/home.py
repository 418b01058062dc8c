"""A peer's home: the folder of its identity, checkpoint and journal, bound to one run and used by one process.

- ``identity.key``: the peer's key, made on first use.
- ``manifest.toml``: copy of the run's manifest, the one last given; binds the folder to the run.
- ``tokenizer.json``: the run's tokenizer, if it has one, for newcomers and for whoever uses the model.
- ``checkpoint.safetensors``: committed state, some minutes old for large models.
- ``progress.safetensors``: what training remembers beside it.
- ``promise-<slice>.bin``, ``accepted-<slice>.bin``: the ballot that the peer last took part in and what it last voted
  for; a crash must not make it vote twice.
- ``rounds``: those of every slice since the checkpoint, and the last ones for peers that missed them.
- ``known_peers.json``: where other peers were last seen.
- ``events.jsonl``: journal.
- ``lock``: held while a process uses the folder; names its process id.
"""

import contextlib
import fcntl
import os
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from p2ptrain.config.load import load_run, parse_run
from p2ptrain.config.load import run_id as id_of_run
from p2ptrain.config.schema import RunConfig
from p2ptrain.errors import ConfigError, HomeError
from p2ptrain.ids import RunId, SliceId, short
from p2ptrain.node.atomic_file import remove_unfinished, replace_file

MANIFEST = "manifest.toml"
TOKENIZER = "tokenizer.json"


@dataclass(slots=True)
class FolderLock:
    """Exclusive use of a folder until ``release``, or until the process ends in whatever way."""

    _descriptor: int | None

    @classmethod
    def acquire(cls, folder: Path) -> Self:
        """Lock ``folder``, made when missing, for this process.

        Raises:
            HomeError: another process holds it, or the folder cannot be made or written.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(f"home {folder} cannot be used: {error.strerror}; choose another --home") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise HomeError(
                f"home {folder} is in use by process {holder or 'unknown'}; stop that process, or choose"
                " another --home for a second peer"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Give the folder up; the lock file stays, because removing it could unlock somebody else's folder."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # Unlocked, not only closed: a forked child may still have the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@dataclass(slots=True)
class Home:
    """A home folder in use by this process, or looked at; ``with Home.open(...)`` gives it up at the end."""

    path: Path
    run: RunConfig
    run_id: RunId
    _lock: FolderLock | None = field(default=None, repr=False)
    writing: defaultdict[Path, threading.Lock] = field(
        default_factory=lambda: defaultdict(threading.Lock), repr=False, compare=False
    )
    """By file. A cancelled task leaves its thread writing, and the file's next writer must not meet it there."""

    @classmethod
    def open(cls, path: Path, run_text: str, run_id: RunId, tokenizer_file: bytes = b"") -> Self:
        """Use the folder ``path``, made when missing, for a peer of a run; written to only if all is well.

        Args:
            path: the home folder.
            run_text: the manifest, of which a new home keeps a copy.
            run_id: the id of the run in the manifest.
            tokenizer_file: the run's ``tokenizer.json``, of which a new home keeps a copy; b"" where it has none.

        Raises:
            HomeError: the folder belongs to another run or is in use, or cannot be written.
            ConfigError: the manifest is wrong.
            StorageError: the disk is full.
        """
        run = parse_run(run_text, source="manifest")
        assert id_of_run(run) == run_id
        # Asked before locking, too, so that a mistaken --home leaves no trace in somebody's folder.
        _check_same_run(path, run_id)
        lock = FolderLock.acquire(path)
        with contextlib.ExitStack() as undo:
            undo.enter_context(lock)
            home = cls(path, run, run_id, lock)
            manifest = run_text.encode()
            # A newer text of the same run may list other bootstrap nodes, which newcomers get from us.
            if not _check_same_run(path, run_id) or home.manifest_path.read_bytes() != manifest:
                replace_file(home.manifest_path, [manifest], size_bytes=len(manifest))
            if tokenizer_file and home.tokenizer_file() != tokenizer_file:
                replace_file(home.tokenizer_path, [tokenizer_file], size_bytes=len(tokenizer_file))
            remove_unfinished(home.manifest_path)
            remove_unfinished(home.tokenizer_path)
            remove_unfinished(home.checkpoint_path)
            remove_unfinished(home.progress_path)
            undo.pop_all()
        return home

    @classmethod
    def inspect(cls, path: Path) -> Self:
        """The home ``path``, only to read what its peer has saved; works while that peer runs.

        Raises:
            HomeError: there is no such home, or its peer has saved nothing yet.
        """
        if not (path / MANIFEST).is_file():
            what = f"is no peer's home: it has no {MANIFEST}" if path.is_dir() else "does not exist"
            raise HomeError(f"home {path} {what}; name the folder that you gave to: p2ptrain peer --home")
        run = _bound_run(path)
        home = cls(path, run, id_of_run(run))
        if not home.checkpoint_path.is_file():
            raise HomeError(
                f"home {path} has no checkpoint yet; its peer saves the first one after a committed round, so wait for"
                " it, or start the peer"
            )
        return home

    @property
    def identity_path(self) -> Path:
        """The peer's private key."""
        return self.path / "identity.key"

    @property
    def manifest_path(self) -> Path:
        """Copy of the run's manifest."""
        return self.path / MANIFEST

    @property
    def tokenizer_path(self) -> Path:
        """Copy of the run's tokenizer."""
        return self.path / TOKENIZER

    def tokenizer_file(self) -> bytes:
        """The run's tokenizer; b"" where every byte is a token, or there is no copy."""
        return self.tokenizer_path.read_bytes() if self.tokenizer_path.is_file() else b""

    @property
    def checkpoint_path(self) -> Path:
        """Last committed state."""
        return self.path / "checkpoint.safetensors"

    @property
    def progress_path(self) -> Path:
        """AdamW's moments, rounded-away rests and the position in the data."""
        return self.path / "progress.safetensors"

    @property
    def rounds_path(self) -> Path:
        """Folder of the last rounds of every slice."""
        return self.path / "rounds"

    @property
    def known_peers_path(self) -> Path:
        """Where other peers were last seen."""
        return self.path / "known_peers.json"

    @property
    def journal_path(self) -> Path:
        """Events of all times that the peer ran."""
        return self.path / "events.jsonl"

    def accepted_path(self, slice_id: SliceId) -> Path:
        """What the peer last voted for in the rounds of a slice."""
        return self.path / f"accepted-{slice_id}.bin"

    def promise_path(self, slice_id: SliceId) -> Path:
        """The ballot that the peer last took part in, for a slice."""
        return self.path / f"promise-{slice_id}.bin"

    def close(self) -> None:
        """Let another process use the folder."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check_same_run(path: Path, ours: RunId) -> bool:
    """Whether the folder is bound to run ``ours`` already; False when to no run yet."""
    if path.exists() and not path.is_dir():
        raise HomeError(f"home {path} is a file; choose a folder, or a name that is still free")
    if not (path / MANIFEST).exists():
        return False
    run = _bound_run(path)
    theirs = id_of_run(run)
    if ours != theirs:
        raise HomeError(
            f"home {path} belongs to run {short(theirs)} ({run.name}), and the manifest is of run {short(ours)};"
            f" choose another --home, or delete {path} if you no longer need what it holds"
        )
    return True


def _bound_run(path: Path) -> RunConfig:
    try:
        return load_run(path / MANIFEST)
    except ConfigError as error:
        raise HomeError(
            f"home {path} has a damaged copy of its manifest, or one of another version: {error}. Copy the run's"
            f" manifest to {path / MANIFEST} again"
        ) from error
