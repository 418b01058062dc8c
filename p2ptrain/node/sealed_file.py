"""A safetensors file of which every byte is covered by a hash, readable by that library.

Its metadata holds per tensor a SHA-256, and as ``seal`` the SHA-256 of the header without the seal. So the header is
covered by the seal, the data by the hashes, and the length before the header by the file's size.

Format: https://huggingface.co/docs/safetensors/index#format
"""

import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p2ptrain.node.atomic_file import Chunk, replace_file

_LARGEST_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""
_DTYPES: Mapping[str, str] = {"F32": "<f4", "BF16": "<u2"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


class Corrupt(Exception):
    """What is wrong with a file, as the words that follow its name."""


def write_sealed(
    path: Path, tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str], *, is_synced: bool = True
) -> None:
    """Replace the file in ``path`` atomically.

    Args:
        path: the file.
        tensors: by name; float32, or uint16 as the bit patterns of bfloat16.
        metadata: whatever else the file says, covered by the seal.
        is_synced: the file is on disk when this returns. Without that a power cut can leave a file that is refused.

    Raises:
        StorageError: the disk is full or failing; the old file is as it was.
    """
    said = dict(metadata)
    header: dict[str, Any] = {"__metadata__": said}
    chunks: list[Chunk] = []
    end = 0
    for name, tensor in tensors.items():
        dtype = _NAMES[tensor.dtype.newbyteorder("<")]
        data = np.ascontiguousarray(tensor, dtype=_DTYPES[dtype]).reshape(-1).view(np.uint8).data
        begin, end = end, end + data.nbytes
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        said[f"{name}.sha256"] = hashlib.sha256(data).hexdigest()
        chunks.append(data)
    said["seal"] = _seal(header)
    encoded = _encode_header(header)
    whole = [struct.pack("<Q", len(encoded)), encoded, *chunks]
    replace_file(path, whole, size_bytes=8 + len(encoded) + end, is_synced=is_synced)


def read_sealed(
    file: io.BufferedReader, format_name: str, run: str | None
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The tensors and metadata of a file, every byte checked.

    Args:
        file: opened for reading.
        format_name: what its metadata must name as ``format``.
        run: what its metadata must name as ``run``; None takes any.

    Raises:
        Corrupt: it is damaged, of another format or of another run.
        OSError: it cannot be read.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    header, data_begin = _read_header(file, size_bytes)
    metadata: dict[str, str] = header.pop("__metadata__")
    if metadata["format"] != format_name:
        raise Corrupt(f"has the form {metadata['format']!r}, and this p2ptrain reads {format_name!r}")
    if run is not None and metadata["run"] != run:
        raise Corrupt(f"belongs to run {metadata['run'][:8]}, and this is run {run[:8]}")
    data_bytes = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size_bytes != data_begin + data_bytes:
        raise Corrupt(f"has {size_bytes} bytes instead of {data_begin + data_bytes}")
    return {name: _read_tensor(file, name, entry, metadata) for name, entry in header.items()}, metadata


def _read_header(file: io.BufferedReader, size_bytes: int) -> tuple[dict[str, Any], int]:
    """The sealed header and where the data begins. Behind the seal everything is as ``save`` wrote it."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise Corrupt(f"is cut off after {size_bytes} bytes")
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > min(size_bytes - 8, _LARGEST_HEADER_BYTES):
        raise Corrupt(f"is cut off or damaged: a header of {header_bytes} bytes in a file of {size_bytes}")
    raw = file.read(header_bytes)
    try:
        header = json.loads(raw)
        seal = header["__metadata__"]["seal"]
        intact = _encode_header(header) == raw
        del header["__metadata__"]["seal"]
        intact = intact and seal == _seal(header)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt("has a damaged header") from error
    if not intact:
        raise Corrupt("has a damaged header")
    return header, 8 + header_bytes


def _read_tensor(
    file: io.BufferedReader, name: str, entry: dict[str, Any], metadata: dict[str, str]
) -> npt.NDArray[Any]:
    tensor = np.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
    view = tensor.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < view.nbytes:
        count = file.readinto(view[filled:])
        if not count:
            raise Corrupt(f"is cut off in tensor {name}")
        filled += count
    if hashlib.sha256(view).hexdigest() != metadata[f"{name}.sha256"]:
        raise Corrupt(f"is damaged in tensor {name}, whose SHA-256 is not the recorded one")
    return tensor


def _encode_header(header: Mapping[str, Any]) -> bytes:
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # Padded as the safetensors library does, so that tensors can be mapped at aligned addresses.
    return encoded + b" " * (-len(encoded) % 8)


def _seal(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode_header(header)).hexdigest()
