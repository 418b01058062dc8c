"""What limits depend on, as sensors tell it: all of them injected, since no test machine has them."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from p2ptrain.config.schema import LimitsConfig
from p2ptrain.node.conditions import Probe
from p2ptrain.node.limits import Conditions

GAME, RENDER, DESKTOP, OUTSIDE = 101, 102, 103, 999_999
NAMES = {GAME: "doom", RENDER: "blender", DESKTOP: "gnome-shell", os.getpid(): "python"}


class NvmlError(Exception):
    pass


class Driver:
    """pynvml with one GPU, on which several programs run."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, may_set_power: bool = True) -> None:
        self.milliwatts = 350_000
        self.may_set_power = may_set_power
        self.index: int | None = None

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.index = index
        return "gpu"

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return 71

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: str) -> int:
        return 350_000

    def nvmlDeviceSetPowerManagementLimit(self, handle: str, milliwatts: int) -> None:
        if not self.may_set_power:
            raise NvmlError("Insufficient Permissions")
        self.milliwatts = milliwatts

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=1 << 30) for pid in (RENDER, os.getpid(), OUTSIDE)]

    def nvmlDeviceGetProcessUtilization(self, handle: str, since_us: int) -> list[Any]:
        return [SimpleNamespace(pid=pid, smUtil=busy) for pid, busy in ((GAME, 80), (DESKTOP, 4), (os.getpid(), 99))]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 123_000

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        raise NvmlError("Not Supported")

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(total=24 << 30)


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def __init__(self, pid: int | None = None) -> None:
            if pid not in NAMES:
                raise psutil.NoSuchProcess(pid or 0)
            self._pid = pid

        def name(self) -> str:
            return NAMES[self._pid]

    monkeypatch.setattr("p2ptrain.node.conditions.psutil.Process", Process)


def probe(monkeypatch: pytest.MonkeyPatch, driver: Driver, device: str = "cuda:1") -> Probe:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return Probe(device)


def measured(on: Probe, **limits: Any) -> Conditions:
    return on.measure(LimitsConfig(**limits), month_bytes=7, quota_turn=0.5)


def test_only_what_a_limit_asks_for_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    assert measured(probe(monkeypatch, driver)) == Conditions(month_bytes=7, quota_turn=0.5)
    assert driver.index is None


def test_others_use_the_gpu_if_they_compute_or_keep_it_busy_and_we_are_not_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = measured(probe(monkeypatch, Driver()), pause_while_gpu_in_use=True)
    assert found.gpu_users == {"doom", "blender"}


def test_temperature_is_that_of_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    assert measured(probe(monkeypatch, driver), max_temperature_c=80.0).temperature_c == 71
    assert driver.index == 1


def test_without_a_gpu_temperature_is_the_processors_or_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = {"coretemp": [SimpleNamespace(current=51.0), SimpleNamespace(current=64.0)], "nvme": []}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: hot, raising=False)
    assert measured(Probe("cpu"), max_temperature_c=80.0).temperature_c == 64
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    assert measured(Probe("cpu"), max_temperature_c=80.0).temperature_c is None


@pytest.mark.parametrize(("plugged", "on_battery"), [(True, False), (False, True), (None, None)])
def test_battery_is_asked(monkeypatch: pytest.MonkeyPatch, plugged: bool | None, on_battery: bool | None) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: SimpleNamespace(power_plugged=plugged), raising=False)
    assert measured(Probe("cpu"), pause_on_battery=True).on_battery is on_battery


def test_power_is_limited_restored_and_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    on = probe(monkeypatch, driver)
    assert on.set_power_limit(200.0) == ""
    assert driver.milliwatts == 200_000
    assert on.set_power_limit(0.0) == ""
    assert driver.milliwatts == 350_000
    refused = probe(monkeypatch, Driver(may_set_power=False)).set_power_limit(200.0)
    assert refused == "the power limit of 200 W was not set: Insufficient Permissions; it usually needs root"
    assert "no NVIDIA GPU is in use" in Probe("cpu").set_power_limit(200.0)


def test_a_cap_on_memory_without_a_gpu_is_said_to_have_no_effect() -> None:
    assert "does not train on a GPU" in Probe("cpu").cap_memory(4.0)
    assert Probe("cpu").cap_memory(0.0) == ""


def test_what_the_driver_does_not_measure_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe(monkeypatch, Driver()).gpu() == {
        "memory_total_bytes": float(24 << 30),
        "power_w": 123.0,
        "memory_used_bytes": float(1 << 30),
    }


def test_niceness_reaches_every_thread() -> None:
    program = """
import os, threading
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
from p2ptrain.node.conditions import be_nice
before = os.nice(0)
be_nice(min(19, before + 7))
print([os.getpriority(os.PRIO_PROCESS, int(t)) - before for t in os.listdir("/proc/self/task")], min(7, 19 - before))
stop.set()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    found, wanted = done.stdout.rsplit(" ", 1)
    assert set(eval(found)) == {int(wanted)}
    assert len(eval(found)) >= 2
