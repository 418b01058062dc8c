"""What the machine is doing: processor, memory, temperature, and NVIDIA GPUs where their driver answers."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
"""Names under which Linux reports the processor's temperature, best first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSample:
    """One GPU; None is what its driver does not tell."""

    name: str
    busy_percent: float | None = None
    memory_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSample:
    """The machine at one moment; None is not measured."""

    cpu_percent: float | None = None
    """Of all cores."""
    cores: int | None = None
    memory_bytes: int | None = None
    """In use by everybody."""
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    peer_cpu_percent: float | None = None
    """Of the peer's process and its children; 100 is one core."""
    peer_memory_bytes: int | None = None
    gpus: Sequence[GpuSample] = ()
    no_gpu_reason: str = ""
    """Why there is no figure of a GPU."""


class DeviceProbe:
    """Measures this machine; each ``sample`` is since the one before."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._processes: dict[int, Any] = {}
        self._nvml, self._no_gpu_reason = _nvml()
        psutil.cpu_percent()  # begins the first interval

    def sample(self, peer_pid: int | None) -> DeviceSample:
        """The machine now, and the process ``peer_pid`` with its children if there is one. Takes milliseconds."""
        memory = self._psutil.virtual_memory()
        peer_cpu, peer_memory = self._peer(peer_pid)
        return DeviceSample(
            cpu_percent=self._psutil.cpu_percent(),
            cores=self._psutil.cpu_count(),
            memory_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            temperature_c=self._temperature(),
            peer_cpu_percent=peer_cpu,
            peer_memory_bytes=peer_memory,
            gpus=self._gpus(),
            no_gpu_reason=self._no_gpu_reason,
        )

    def _peer(self, pid: int | None) -> tuple[float | None, int | None]:
        if pid is None:
            return None, None
        cpu, memory, alive = 0.0, 0, {}
        with contextlib.suppress(self._psutil.Error):
            peer = self._processes.get(pid) or self._psutil.Process(pid)
            for process in [peer, *peer.children(recursive=True)]:
                process = self._processes.get(process.pid, process)
                with contextlib.suppress(self._psutil.Error):
                    cpu += process.cpu_percent()
                    memory += process.memory_info().rss
                    alive[process.pid] = process
        self._processes = alive
        return (cpu, memory) if alive else (None, None)

    def _temperature(self) -> float | None:
        if not hasattr(self._psutil, "sensors_temperatures"):
            return None
        sensors: Mapping[str, Any] = self._psutil.sensors_temperatures()
        for name in _SENSORS:
            if sensors.get(name):
                return float(max(one.current for one in sensors[name]))
        return None

    def _gpus(self) -> list[GpuSample]:
        if self._nvml is None:
            return []
        nvml, found = self._nvml, []
        with contextlib.suppress(nvml.NVMLError):
            found = [self._gpu(nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())]
        return found

    def _gpu(self, handle: Any) -> GpuSample:
        nvml = self._nvml

        def ask(question: Any, *arguments: Any) -> Any:
            # Each figure alone: laptops' and virtual GPUs leave some of them out.
            try:
                return question(handle, *arguments)
            except nvml.NVMLError:
                return None

        name = ask(nvml.nvmlDeviceGetName) or "GPU"
        rates, memory = ask(nvml.nvmlDeviceGetUtilizationRates), ask(nvml.nvmlDeviceGetMemoryInfo)
        power, limit = ask(nvml.nvmlDeviceGetPowerUsage), ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
        temperature = ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        return GpuSample(
            name=name.decode() if isinstance(name, bytes) else str(name),
            busy_percent=None if rates is None else float(rates.gpu),
            memory_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            temperature_c=None if temperature is None else float(temperature),
            power_w=None if power is None else power / 1000,
            power_limit_w=None if limit is None else limit / 1000,
        )


def _nvml() -> tuple[Any, str]:
    """NVIDIA's management library, or why there is none."""
    try:
        import pynvml
    except ImportError:
        return None, "not measured: package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"not measured: no NVIDIA driver ({clean_reason(error)})"
    return pynvml, ""


def clean_reason(error: Exception) -> str:
    """What NVML says, without its number."""
    return str(error).strip().rstrip(".") or type(error).__name__


def pid_in_lock(path: Path) -> int | None:
    """The process that uses a home, by the home's lock file; None when there is none or it has ended."""
    try:
        pid = int(path.read_text(encoding="ascii", errors="replace").strip())
    except (OSError, ValueError):
        return None
    return pid if Path(f"/proc/{pid}").exists() else None
