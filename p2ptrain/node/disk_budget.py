"""Keeping a peer's home to a number of bytes: what is least missed goes first, the last committed state never.

Replacing a file needs room for the old and the new one at once, so what the next checkpoint takes is kept free.
"""

import contextlib
import enum
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.errors import UsageError
from p2ptrain.ids import SliceId, slice_of
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.home import Home
from p2ptrain.node.journal import journal_files
from p2ptrain.node.rounds_on_disk import round_files
from p2ptrain.swarm.state import owned_blob_bytes

_SMALL_FILES_BYTES = 1 << 20
"""Identity, manifest, certificates, address book, promises: some 100 kB, and room for them to grow."""


class Worth(enum.IntEnum):
    """What is given up first has the lowest."""

    DAMAGED = 0
    """Checkpoints that were put aside."""
    OLD_JOURNAL = 1
    """Journal files that are full."""
    ROUND = 2
    """Rounds that a restarted peer could pass on; others have them, too."""
    PROGRESS = 3
    """AdamW's moments: training begins with new ones after a restart."""
    NEEDED = 4
    """Checkpoint, votes, identity, the journal that is written: never dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One file of a home."""

    path: Path
    size_bytes: int
    worth: Worth
    age_rank: int = 0
    """Among files of the same worth the lowest goes first."""


def to_drop(files: Sequence[StoredFile], budget_bytes: int, reserve_bytes: int) -> list[StoredFile]:
    """The files to remove so that the others and the reserve fit the budget, in the order of removal.

    Args:
        files: all of the home.
        budget_bytes: what the home may take.
        reserve_bytes: what has to stay free for files that are about to be replaced.
    """
    excess_bytes = sum(file.size_bytes for file in files) + reserve_bytes - budget_bytes
    dropped = []
    for file in sorted(files, key=lambda f: (f.worth, f.age_rank)):
        if excess_bytes <= 0 or file.worth is Worth.NEEDED:
            break
        dropped.append(file)
        excess_bytes -= file.size_bytes
    return dropped


def keep_within(home: Home, budget_bytes: int | None, reserve_bytes: int) -> list[StoredFile]:
    """Remove what does not fit the budget any more; returns what was removed. None keeps everything."""
    if budget_bytes is None:
        return []
    dropped = to_drop(_files(home), budget_bytes, reserve_bytes)
    for file in dropped:
        with contextlib.suppress(OSError):
            file.path.unlink()
    return dropped


def least_bytes(plan: SlicePlan, owned: frozenset[SliceId]) -> int:
    """The smallest budget with which a peer can own these slices: the checkpoint twice, the last votes, small files."""
    votes = sum(2 * plan.numel(slice_id) for slice_id in owned)  # averages of at most a byte an element, twice
    return 2 * checkpoint_bytes(plan, owned) + votes + _SMALL_FILES_BYTES


def checkpoint_bytes(plan: SlicePlan, owned: frozenset[SliceId]) -> int:
    """Bytes of a checkpoint: anchors and momenta of the owned slices, published weights of all."""
    return sum(2 * plan.numel(s) + (owned_blob_bytes(plan.numel(s)) if s in owned else 0) for s in plan.slice_ids)


def check_budget(budget_bytes: int | None, plan: SlicePlan, owned: frozenset[SliceId]) -> None:
    """Return if the budget is enough to save at all.

    Raises:
        UsageError: it is not.
    """
    needed, slices = least_bytes(plan, owned), ", ".join(sorted({slice_of(slice_id) for slice_id in owned}))
    if budget_bytes is not None and budget_bytes < needed:
        raise UsageError(
            f"limits.disk_gb = {budget_bytes / 1e9:.3g} is too small: with slices {slices} this peer"
            f" needs {needed / 1e9:.3g} GB, for a new checkpoint is complete before the old one goes. Raise the limit,"
            " or own fewer slices"
        )


def check_room(home: Home, plan: SlicePlan, owned: frozenset[SliceId]) -> None:
    """Return if there is room for a checkpoint in the home.

    Raises:
        UsageError: there is not, so that nothing this peer commits would outlive it.
    """
    needed = checkpoint_bytes(plan, owned)
    there = next(folder for folder in (home.path, *home.path.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UsageError(
            f"the disk of home {home.path} has {free / 1e6:.3g} MB free, and a checkpoint of this peer takes"
            f" {needed / 1e6:.3g} MB, twice while it is replaced. Make room, or choose another --home"
        )


def _files(home: Home) -> list[StoredFile]:
    worth: dict[Path, tuple[Worth, int]] = {}
    for rank, path in enumerate(sorted(home.path.glob(f"{home.checkpoint_path.stem}.corrupt-*"))):
        worth[path] = (Worth.DAMAGED, rank)
    for rank, path in enumerate(journal_files(home.journal_path)[:-1]):
        worth[path] = (Worth.OLD_JOURNAL, rank)
    for file in round_files(home):
        worth[file.path] = (Worth.ROUND, file.version)
    worth[home.progress_path] = (Worth.PROGRESS, 0)
    found = []
    for path in home.path.rglob("*"):
        with contextlib.suppress(OSError):  # it may be replaced just now
            if path.is_file() and not path.is_symlink():
                kind, rank = worth.get(path, (Worth.NEEDED, 0))
                found.append(StoredFile(path=path, size_bytes=path.stat().st_size, worth=kind, age_rank=rank))
    return found
