"""What a machine can compute on: the best device, its name and how much memory it has for training."""

import contextlib
import ctypes
import gc
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from p2ptrain.config.schema import Precision
from p2ptrain.errors import UsageError

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""A container's own limit, where there is one; reading it from outside a container gives the word ``max``."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device to train on."""

    name: str
    """As torch calls it: ``cpu``, ``cuda:0``, ``mps``."""
    model: str
    """For people: the GPU's name; empty for a CPU."""
    free_bytes: int
    """For training: a GPU's free memory, or half of the machine's."""
    best_precision: Precision
    """bfloat16 where it is faster: on GPUs that have it."""


def find_device(wanted: str = "auto") -> Device:
    """The device that ``--device`` means.

    Args:
        wanted: ``auto``, or what torch calls a device.

    Raises:
        UsageError: there is no such device.
    """
    name = best_device() if wanted == "auto" else wanted
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return Device(name="cpu", model="", free_bytes=device_memory_bytes("cpu"), best_precision="float32")
    if kind == "mps" and not index and torch.backends.mps.is_available():
        return Device(name="mps", model="Apple GPU", free_bytes=device_memory_bytes(name), best_precision="bfloat16")
    if kind == "cuda" and (index.isdigit() or name == "cuda"):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) < found:
            name = f"cuda:{int(index or 0)}"
            with torch.cuda.device(name):
                has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
            return Device(
                name=name,
                model=torch.cuda.get_device_name(name),
                free_bytes=device_memory_bytes(name),
                best_precision="bfloat16" if has_bfloat16 else "float32",
            )
        built = "" if torch.version.cuda or torch.version.hip else f" (torch {torch.__version__} is built without CUDA)"
        raise UsageError(f"--device {wanted}: torch sees {found} CUDA devices{built}; choose auto or cpu")
    raise UsageError(f"--device {wanted} is not here; choose auto, cpu, cuda, cuda:1 and so on, or mps on an Apple GPU")


def best_device() -> str:
    """CUDA before Apple's GPU before the CPU."""
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def use_threads(count: int) -> None:
    """Compute with so many CPU threads in the calling thread from now on; 0 is torch's own choice.

    Never with more than there are processors: a thousand on two took 85 times as long, waiting for each other.
    """
    own_choice = _torchs_choice()
    torch.set_num_threads(min(count, most_threads()) or own_choice)


def most_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@cache
def _torchs_choice() -> int:
    """Asked before it is overridden for the first time."""
    return torch.get_num_threads()


def release_memory() -> None:
    """Give the GPU and the system back what is free: torch and the C library keep it for the next step otherwise."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Have the C library keep up to 256 MiB of what is freed, for this process's next arrays.

    By default it gives blocks above 128 KiB back at once and asks for them again, and the system clears each page anew:
    two fifths of the CPU time that a peer spends on reducing 100 MB (benchmarks/reduce.py). Blocks above 32 MiB go
    back as before, the most that glibc lets us choose.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 256 * 1024**2)
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)


def device_memory_bytes(device: str) -> int:
    """Memory that a device has free for training: a GPU's free memory, or half of the machine's for the CPU."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    if device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _container_bytes()) // 2


def _container_bytes() -> int:
    try:
        return int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # no control groups, or the word for no limit
        return 1 << 62
