"""Replacing a file so that a crash at any moment leaves the old one or the new one, whole."""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from p2ptrain.errors import StorageError

Chunk = bytes | memoryview


def replace_file(path: Path, chunks: Iterable[Chunk], size_bytes: int, *, is_synced: bool = True) -> None:
    """Put ``chunks``, ``size_bytes`` in all, where ``path`` is; on disk when this returns, if ``is_synced``.

    The caller makes sure that it is the only writer of ``path``. Not synced, a kill leaves a whole file all the same,
    but a power cut may leave an empty or damaged one.

    Raises:
        StorageError: the disk is full or failing; the old file is as it was.
    """
    beside = _unfinished(path)
    try:
        _write(beside, chunks, is_synced=is_synced)
        os.replace(beside, path)
        if is_synced:
            _sync_folder(path.parent)
    except OSError as error:
        # Also makes room: on a full disk the unfinished file holds the last free bytes. On a read-only one there is
        # nothing to remove, and no way to.
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        state = "The last saved state is intact" if path.exists() else "Nothing was saved before"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"{path} could not be saved: {error.strerror}; {size_bytes} bytes are needed beside the old file and"
                f" {_free_bytes(path.parent)} are free. {state}; make room on that disk"
            ) from error
        raise StorageError(
            f"{path} could not be saved: {error.strerror}. {state}; check the disk and the folder's permissions"
        ) from error


def remove_unfinished(path: Path) -> None:
    """Remove what a crash in the middle of ``replace_file(path, ...)`` left behind, if anything."""
    _unfinished(path).unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def _write(path: Path, chunks: Iterable[Chunk], *, is_synced: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            # One write moves at most 2 GiB, and less when the disk fills up: the next then says why.
            while rest:
                rest = rest[file.write(rest) :]
        # Before the rename, or a power cut could leave the new name on an empty file.
        if is_synced:
            os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
