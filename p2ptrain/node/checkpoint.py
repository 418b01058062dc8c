"""A peer's last committed state in one file: what it owns in full, and what it computes with of the rest.

The file is a safetensors file under hashes (``sealed_file``), with ``owned.<slice>.anchor``, ``owned.<slice>.momentum``
(F32) and ``published.<slice>`` (BF16). Its metadata holds the run, and per slice the version and certificate (base64).
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from p2ptrain.errors import HomeError
from p2ptrain.ids import RunId, SliceId, Version, slice_order
from p2ptrain.node.sealed_file import Corrupt, read_sealed, write_sealed
from p2ptrain.wire.codec import Bf16Bits, Float32

FORMAT = "p2ptrain checkpoint 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnedTensors:
    """A slice's agreed state as its owners hold it."""

    version: Version
    anchor: Float32
    """[numel]"""
    momentum: Float32
    """[numel]"""
    certificate: bytes
    """The commit certificate of ``version``; empty for version 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTensors:
    """A slice as non-owners compute with it."""

    version: Version
    weights: Bf16Bits
    """[numel], bit patterns."""
    certificate: bytes
    """The commit certificate of ``version``; empty for version 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a peer needs to go on where it stopped. A slice may be in both parts: its owner publishes it, too."""

    run: RunId
    owned: Mapping[SliceId, OwnedTensors] = field(default_factory=dict)
    published: Mapping[SliceId, PublishedTensors] = field(default_factory=dict)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in ``path`` atomically; on disk when this returns.

    Raises:
        StorageError: the disk is full or failing; the old checkpoint is as it was.
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    metadata = {"format": FORMAT, "run": str(checkpoint.run)}
    for slice_id in sorted(checkpoint.owned, key=slice_order):
        owned = checkpoint.owned[slice_id]
        name = f"owned.{slice_id}"
        tensors[f"{name}.anchor"] = owned.anchor
        tensors[f"{name}.momentum"] = owned.momentum
        metadata |= _provenance(name, owned.version, owned.certificate)
    for slice_id in sorted(checkpoint.published, key=slice_order):
        published = checkpoint.published[slice_id]
        name = f"published.{slice_id}"
        tensors[name] = published.weights
        metadata |= _provenance(name, published.version, published.certificate)
    write_sealed(path, tensors, metadata)


def load(path: Path, run: RunId | None = None) -> Checkpoint | None:
    """The checkpoint in ``path``, every byte checked; None when there is no such file.

    Args:
        path: a file that ``save`` wrote.
        run: refuse the checkpoint of any other run.

    Raises:
        HomeError: the file is corrupt, of another run or unreadable; the message names the tensor and the remedy.
    """
    try:
        with path.open("rb") as file:
            tensors, metadata = read_sealed(file, FORMAT, run)
    except FileNotFoundError:
        return None
    except Corrupt as fault:
        raise HomeError(
            f"{path} {fault}. Start the peer with --refetch: that puts the file aside as {_aside(path).name} and"
            " fetches the state from the swarm"
        ) from fault
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror}; check the disk and its permissions") from error
    return _checkpoint(tensors, metadata)


def put_aside(path: Path) -> Path:
    """Rename a corrupt checkpoint to the first free ``checkpoint.corrupt-<n>`` beside it; returns that path."""
    target = _aside(path)
    path.rename(target)
    return target


def _aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.stem}.corrupt-{number}")).exists():
        number += 1
    return target


def _checkpoint(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> Checkpoint:
    owned: dict[SliceId, OwnedTensors] = {}
    published: dict[SliceId, PublishedTensors] = {}
    for name in tensors:
        kind, _, slice_id = name.partition(".")
        slice_id, _, part = slice_id.rpartition(".") if kind == "owned" else (slice_id, "", "")
        source = f"{kind}.{slice_id}"
        version = Version(int(metadata[f"{source}.version"]))
        certificate = base64.b64decode(metadata[f"{source}.certificate"])
        if kind == "published":
            published[SliceId(slice_id)] = PublishedTensors(
                version=version, weights=tensors[name], certificate=certificate
            )
        elif part == "anchor":
            owned[SliceId(slice_id)] = OwnedTensors(
                version=version,
                anchor=tensors[f"{source}.anchor"],
                momentum=tensors[f"{source}.momentum"],
                certificate=certificate,
            )
    return Checkpoint(run=RunId(metadata["run"]), owned=owned, published=published)


def _provenance(name: str, version: Version, certificate: bytes) -> dict[str, str]:
    return {f"{name}.version": str(version), f"{name}.certificate": base64.b64encode(certificate).decode()}
