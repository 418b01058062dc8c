"""What a peer remembers beside the agreed state: AdamW's moments, what rounding took away, and where it is in its data.

None of it is agreed on or certified, so it may be lost: a peer without it trains on, a little worse for some rounds.
Therefore it has a file of its own that is replaced atomically but not synced, is written only as often as costs little,
and is dropped, not complained about, when it is damaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p2ptrain.ids import RunId, SliceId, Version, slice_order
from p2ptrain.node.sealed_file import Corrupt, read_sealed, write_sealed
from p2ptrain.wire.codec import Float32

FORMAT = "p2ptrain local progress 2"
_SHARE_OF_TIME = 0.05
"""Of a peer's time at most so much goes into writing this file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedResidual:
    """What encoding rounded away from this peer's contributions to a slice, up to a version."""

    version: Version
    values: Float32
    """[numel]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalProgress:
    """What training remembers; see the module."""

    run: RunId
    owned: frozenset[SliceId]
    """The slices that the moments are of."""
    precision: str
    """In which training computed, for the moments' form depends on it."""
    round: Version
    inner_step: int
    """Inner steps done in ``round``: with it, the position in the data."""
    moments: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """AdamW's memory by name, float32."""
    residuals: Mapping[SliceId, SavedResidual] = field(default_factory=dict)


def save_progress(path: Path, progress: LocalProgress) -> None:
    """Replace the file.

    Raises:
        StorageError: the disk is full or failing; the old file is as it was.
    """
    owned: list[SliceId] = sorted(progress.owned, key=slice_order)
    metadata = {
        "format": FORMAT,
        "run": str(progress.run),
        "owned": ",".join(owned),
        "precision": progress.precision,
        "round": str(progress.round),
        "inner_step": str(progress.inner_step),
    }
    tensors: dict[str, npt.NDArray[Any]] = {f"moment/{name}": value for name, value in progress.moments.items()}
    for slice_id, residual in progress.residuals.items():
        tensors[f"residual/{slice_id}"] = residual.values
        metadata[f"residual/{slice_id}.version"] = str(residual.version)
    write_sealed(path, tensors, metadata, is_synced=False)


def load_progress(path: Path, run: RunId) -> LocalProgress | None:
    """What the file holds; None when there is none, or it is damaged, unreadable or of another run."""
    try:
        with path.open("rb") as file:
            tensors, metadata = read_sealed(file, FORMAT, str(run))
    except (Corrupt, OSError):
        return None
    by_kind: dict[str, dict[str, npt.NDArray[np.float32]]] = {"moment": {}, "residual": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        by_kind[kind][rest] = tensor
    return LocalProgress(
        run=run,
        owned=frozenset(map(SliceId, metadata["owned"].split(","))),
        precision=metadata["precision"],
        round=Version(int(metadata["round"])),
        inner_step=int(metadata["inner_step"]),
        moments=by_kind["moment"],
        residuals={
            SliceId(slice_id): SavedResidual(
                version=Version(int(metadata[f"residual/{slice_id}.version"])), values=values
            )
            for slice_id, values in by_kind["residual"].items()
        },
    )


def is_due(now_s: float, last_began_s: float, last_took_s: float) -> bool:
    """Whether to write the file again, if the last time began then and took so long."""
    return now_s >= last_began_s + last_took_s / _SHARE_OF_TIME
