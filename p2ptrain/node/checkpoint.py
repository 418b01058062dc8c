"""A peer's last committed state in one file: what it owns in full, and what it computes with of the rest.

The file is a plain safetensors file, readable by that library: ``owned.<slice>.anchor`` and ``owned.<slice>.momentum``
in F32, ``published.<slice>`` in BF16. Its metadata holds the run, per slice the version and the certificate (base64),
per tensor a SHA-256, and as ``seal`` the SHA-256 of the header without the seal. So every byte of the file is covered:
the header by the seal, the data by the hashes, the length before the header by the file's size.

Format: https://huggingface.co/docs/safetensors/index#format
"""

import base64
import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p2ptrain.errors import HomeError
from p2ptrain.ids import RunId, SliceId, Version, short, slice_order
from p2ptrain.node.atomic_file import Chunk, replace_file
from p2ptrain.wire.codec import Bf16Bits, Float32

FORMAT = "p2ptrain checkpoint 1"

_LARGEST_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""
_DTYPES: Mapping[str, str] = {"F32": "<f4", "BF16": "<u2"}


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


class _Corrupt(Exception):
    """What is wrong with a file, as the words that follow its name."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in ``path`` atomically; on disk when this returns.

    Raises:
        StorageError: the disk is full or failing; the old checkpoint is as it was.
    """
    tensors: dict[str, tuple[str, memoryview]] = {}
    metadata = {"format": FORMAT, "run": str(checkpoint.run)}
    for slice_id in sorted(checkpoint.owned, key=slice_order):
        owned = checkpoint.owned[slice_id]
        name = f"owned.{slice_id}"
        tensors[f"{name}.anchor"] = ("F32", _raw(owned.anchor, "<f4"))
        tensors[f"{name}.momentum"] = ("F32", _raw(owned.momentum, "<f4"))
        metadata |= _provenance(name, owned.version, owned.certificate)
    for slice_id in sorted(checkpoint.published, key=slice_order):
        published = checkpoint.published[slice_id]
        name = f"published.{slice_id}"
        tensors[name] = ("BF16", _raw(published.weights, "<u2"))
        metadata |= _provenance(name, published.version, published.certificate)

    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, data) in tensors.items():
        begin, end = end, end + data.nbytes
        numel = data.nbytes // np.dtype(_DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": [numel], "data_offsets": [begin, end]}
        metadata[f"{name}.sha256"] = hashlib.sha256(data).hexdigest()
    metadata["seal"] = _seal(header)
    encoded = _encode_header(header)
    chunks: list[Chunk] = [struct.pack("<Q", len(encoded)), encoded, *(data for _, data in tensors.values())]
    replace_file(path, chunks, size_bytes=8 + len(encoded) + end)


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
            return _read(file, run)
    except FileNotFoundError:
        return None
    except _Corrupt as fault:
        raise HomeError(
            f"{path} {fault}. Start the peer with --refetch: that puts the file aside as {_aside(path).name} and"
            " fetches the state from the swarm"
        ) from fault
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror}; check the disk and its permissions") from error


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


def _read(file: io.BufferedReader, run: RunId | None) -> Checkpoint:
    size_bytes = os.fstat(file.fileno()).st_size
    header, data_begin = _read_header(file, size_bytes)
    metadata: dict[str, str] = header.pop("__metadata__")
    if metadata["format"] != FORMAT:
        raise _Corrupt(f"has the form {metadata['format']!r}, and this p2ptrain reads {FORMAT!r}")
    if run is not None and metadata["run"] != run:
        raise _Corrupt(f"belongs to run {short(metadata['run'])}, and this is run {short(run)}")
    data_bytes = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size_bytes != data_begin + data_bytes:
        raise _Corrupt(f"has {size_bytes} bytes instead of {data_begin + data_bytes}")

    tensors = {name: _read_tensor(file, name, entry, metadata) for name, entry in header.items()}
    owned: dict[SliceId, OwnedTensors] = {}
    published: dict[SliceId, PublishedTensors] = {}
    for name in tensors:
        kind, slice_id, *rest = name.split(".")
        source = f"{kind}.{slice_id}"
        version = Version(int(metadata[f"{source}.version"]))
        certificate = base64.b64decode(metadata[f"{source}.certificate"])
        if kind == "published":
            published[SliceId(slice_id)] = PublishedTensors(
                version=version, weights=tensors[name], certificate=certificate
            )
        elif rest == ["anchor"]:
            owned[SliceId(slice_id)] = OwnedTensors(
                version=version,
                anchor=tensors[f"{source}.anchor"],
                momentum=tensors[f"{source}.momentum"],
                certificate=certificate,
            )
    return Checkpoint(run=RunId(metadata["run"]), owned=owned, published=published)


def _read_header(file: io.BufferedReader, size_bytes: int) -> tuple[dict[str, Any], int]:
    """The sealed header and where the data begins. Behind the seal everything is as ``save`` wrote it."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise _Corrupt(f"is cut off after {size_bytes} bytes")
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > min(size_bytes - 8, _LARGEST_HEADER_BYTES):
        raise _Corrupt(f"is cut off or damaged: a header of {header_bytes} bytes in a file of {size_bytes}")
    raw = file.read(header_bytes)
    try:
        header = json.loads(raw)
        seal = header["__metadata__"]["seal"]
        intact = _encode_header(header) == raw
        del header["__metadata__"]["seal"]
        intact = intact and seal == _seal(header)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Corrupt("has a damaged header") from error
    if not intact:
        raise _Corrupt("has a damaged header")
    return header, 8 + header_bytes


def _read_tensor(
    file: io.BufferedReader, name: str, entry: dict[str, Any], metadata: dict[str, str]
) -> npt.NDArray[Any]:
    tensor = np.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
    view = tensor.data.cast("B")
    filled = 0
    while filled < view.nbytes:
        count = file.readinto(view[filled:])
        if not count:
            raise _Corrupt(f"is cut off in tensor {name}")
        filled += count
    if hashlib.sha256(view).hexdigest() != metadata[f"{name}.sha256"]:
        raise _Corrupt(f"is damaged in tensor {name}, whose SHA-256 is not the recorded one")
    return tensor


def _raw(values: npt.NDArray[Any], dtype: str) -> memoryview:
    assert values.ndim == 1
    assert values.dtype == np.dtype(dtype)
    return np.ascontiguousarray(values, dtype=dtype).data.cast("B")


def _provenance(name: str, version: Version, certificate: bytes) -> dict[str, str]:
    return {f"{name}.version": str(version), f"{name}.certificate": base64.b64encode(certificate).decode()}


def _encode_header(header: Mapping[str, Any]) -> bytes:
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # Padded as the safetensors library does, so that tensors can be mapped at aligned addresses.
    return encoded + b" " * (-len(encoded) % 8)


def _seal(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode_header(header)).hexdigest()
