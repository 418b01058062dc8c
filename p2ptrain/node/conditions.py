"""Measuring what limits depend on: programs, GPU, battery, temperature. Slow enough to run in a worker thread."""

import contextlib
import os
from typing import Any

import psutil

from p2ptrain import clock
from p2ptrain.config.schema import LimitsConfig
from p2ptrain.node.limits import Conditions

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
"""Of what psutil lists, those that measure the processor; the first that is there counts."""

_BUSY_PERCENT = 20
"""Of the GPU's processors: a desktop that draws windows takes a few percent, a game most of them."""
_BUSY_OVER_S = 2.0


class Probe:
    """Measures for one peer; opens the GPU driver's library once, when it is first needed.

    Args:
        device: what the peer trains on, as torch calls it.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._nvml: Any = None
        self._handle: Any = None
        self._has_tried = False

    def measure(self, limits: LimitsConfig, *, month_bytes: int, quota_turn: float) -> Conditions:
        """What the limits in force depend on, and nothing else: reading all programs' names takes 20 ms."""
        return Conditions(
            programs=_running() if limits.pause_while_running else frozenset(),
            gpu_users=self._gpu_users() if limits.pause_while_gpu_in_use else frozenset(),
            on_battery=_on_battery() if limits.pause_on_battery else None,
            temperature_c=self.temperature_c() if limits.max_temperature_c else None,
            month_bytes=month_bytes,
            quota_turn=quota_turn,
        )

    def temperature_c(self) -> float | None:
        """Of the device that trains; None where it cannot be measured."""
        if self._open():
            with contextlib.suppress(self._nvml.NVMLError):
                return float(self._nvml.nvmlDeviceGetTemperature(self._handle, self._nvml.NVML_TEMPERATURE_GPU))
        if self._device.startswith("cuda") or not hasattr(psutil, "sensors_temperatures"):
            return None
        sensors = psutil.sensors_temperatures()
        return next((max(s.current for s in sensors[name]) for name in _CPU_SENSORS if sensors.get(name)), None)

    def set_power_limit(self, watts: float) -> str:
        """Limit the GPU's power, 0 restores its default; returns a sentence when that is not possible, else ""."""
        if not self._open():
            return "the power limit has no effect: no NVIDIA GPU is in use" if watts else ""
        try:
            milliwatts = int(watts * 1000) or self._nvml.nvmlDeviceGetPowerManagementDefaultLimit(self._handle)
            self._nvml.nvmlDeviceSetPowerManagementLimit(self._handle, milliwatts)
        except self._nvml.NVMLError as error:
            return f"the power limit of {watts:g} W was not set: {error}; it usually needs root" if watts else ""
        return ""

    def cap_memory(self, gib: float) -> str:
        """Let torch take no more than this on the GPU, 0 all of it; returns a sentence when that is not possible."""
        if not self._device.startswith("cuda"):
            return "the memory limit has no effect: the peer does not train on a GPU" if gib else ""
        import torch

        total_bytes = torch.cuda.get_device_properties(self._device).total_memory
        fraction = min(1.0, gib * 2**30 / total_bytes) if gib else 1.0
        torch.cuda.set_per_process_memory_fraction(fraction, self._device)
        return ""

    def gpu(self) -> dict[str, float]:
        """Use in percent, memory in bytes, temperature in Celsius, power in watts: what can be measured of them."""
        if not self._open():
            return {}
        nvml, found = self._nvml, {}
        with contextlib.suppress(nvml.NVMLError):
            found["used_percent"] = float(nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        with contextlib.suppress(nvml.NVMLError):
            found["memory_total_bytes"] = float(nvml.nvmlDeviceGetMemoryInfo(self._handle).total)
        with contextlib.suppress(nvml.NVMLError):
            found["power_w"] = nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        with contextlib.suppress(nvml.NVMLError):
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
                if process.pid == os.getpid() and process.usedGpuMemory:
                    found["memory_used_bytes"] = float(process.usedGpuMemory)
        return found

    def _gpu_users(self) -> frozenset[str]:
        """Programs that compute on it, and those that only draw but keep it busy: games do, desktops do not."""
        if not self._open():
            return frozenset()
        nvml, pids = self._nvml, set()
        with contextlib.suppress(nvml.NVMLError):
            pids |= {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        with contextlib.suppress(nvml.NVMLError):
            since_us = int((clock.wall_s() - _BUSY_OVER_S) * 1e6)
            samples = nvml.nvmlDeviceGetProcessUtilization(self._handle, since_us)
            pids |= {sample.pid for sample in samples if sample.smUtil >= _BUSY_PERCENT}
        # In a container the driver tells numbers of processes outside, ours among them, which mean nothing here.
        return frozenset(name for pid in pids - {os.getpid()} if (name := _name(pid)))

    def _open(self) -> bool:
        """Whether the GPU that we train on answers."""
        if not self._has_tried and self._device.startswith("cuda"):
            self._has_tried = True
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                index = self._device.partition(":")[2] or "0"
                self._handle = pynvml.nvmlDeviceGetHandleByIndex(int(index))
                self._nvml = pynvml
        return self._handle is not None


def be_nice(niceness: int) -> None:
    """Let other programs come first on the processor: this process, all its threads.

    Lowering it again needs rights that volunteers do not have; then it stays as it is until the next start.
    """
    for thread in psutil.Process().threads():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread.id, niceness)


def _running() -> frozenset[str]:
    return frozenset(process.info["name"] or "" for process in psutil.process_iter(["name"]))


def _name(pid: int) -> str | None:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return None


def _on_battery() -> bool | None:
    battery = psutil.sensors_battery()
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged
