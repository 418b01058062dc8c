"""Children end when they are told to, and when their parent does, however it does."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from p2ptrain.node.child_processes import Child, _is_stopped, die_with_parent_prefix, start_child, stop_children

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def eventually(is_so: Callable[[], bool], within_s: float) -> bool:
    end_s = time.monotonic() + within_s
    while not (so := is_so()) and time.monotonic() < end_s:
        time.sleep(0.005)
    return so


def is_running(pid: int) -> bool:
    """Zombies, whose parent has not looked at them, do not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def program(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]


def started(name: str, command: list[str], folder: Path) -> Child:
    child = start_child(name, command, folder / f"{name}.txt")
    assert eventually(lambda: "up" in child.log.read_text(), within_s=10)
    return child


def test_grandchild_is_gone_within_a_second_after_its_grandparent_was_killed() -> None:
    # The middle process starts one that would live for a minute; both were started with the prefix.
    middle = """
import subprocess, sys, time
from p2ptrain.node.child_processes import die_with_parent_prefix
child = subprocess.Popen([*die_with_parent_prefix(), "sleep", "60"])
print(child.pid, flush=True)
time.sleep(60)
"""
    head = f"""
import subprocess, sys, time
from p2ptrain.node.child_processes import die_with_parent_prefix
child = subprocess.Popen([*die_with_parent_prefix(), sys.executable, "-c", {middle!r}])
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", head], stdout=subprocess.PIPE, text=True) as grandparent:
        assert grandparent.stdout is not None
        pids = [int(grandparent.stdout.readline()), int(grandparent.stdout.readline())]
        assert eventually(lambda: any(program(pid) == "sleep" for pid in pids), within_s=5)
        grandparent.kill()
        killed_s = time.monotonic()
        assert eventually(lambda: not any(map(is_running, pids)), within_s=1)
        assert time.monotonic() - killed_s < 1


def test_command_does_not_start_when_the_parent_is_dead_already(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    prefix = die_with_parent_prefix()
    somebody_else = str(os.getpid() + 1)
    done = subprocess.run([*prefix[:-1], somebody_else, "touch", str(trace)], check=False)
    assert done.returncode == 1
    assert not trace.exists()


def test_command_keeps_its_pid_and_status_and_gets_default_signals(tmp_path: Path) -> None:
    # Python ignores SIGPIPE for itself and would pass that on; the shell tells what it was started with.
    with subprocess.Popen(
        [*die_with_parent_prefix(), "sh", "-c", "grep SigIgn /proc/self/status; echo $$; exit 7"],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        ignored, pid = child.stdout.read().splitlines()
    assert (int(pid), child.returncode) == (child.pid, 7)
    # Of the 31 ordinary signals; what becomes of the C library's own above them is up to whoever started the tests, and
    # so is what was ignored before Python began to ignore two more (nohup, a shell's background job).
    ours = re.search(r"SigIgn:\s*(\w+)", Path("/proc/self/status").read_text())
    assert ours is not None
    of_python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert int(ignored.split()[1], 16) & 0x7FFF_FFFF & ~(int(ours[1], 16) & ~of_python) == 0


def test_command_that_does_not_exist_is_one_sentence_and_status_127() -> None:
    done = subprocess.run([*die_with_parent_prefix(), "/no/such"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, "/no/such: No such file or directory\n")


def test_prefix_costs_less_than_a_tenth_of_a_second() -> None:
    def seconds(command: list[str]) -> float:
        start_s = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - start_s

    cost_s = min(seconds([*die_with_parent_prefix(), "true"]) for _ in range(5))
    assert cost_s < 0.1


def test_child_has_a_process_group_of_its_own_and_its_output_in_the_log(tmp_path: Path) -> None:
    child = started("a", SLEEP, tmp_path)
    try:
        assert os.getpgid(child.pid) == child.pid
        assert child.last_lines(3) == ["up"]
        assert child.exit_status() is None
    finally:
        assert child.kill() == -signal.SIGKILL


def test_only_the_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    polite, stubborn = started("polite", SLEEP, tmp_path), started("stubborn", STUBBORN, tmp_path)
    start_s = time.monotonic()
    assert stop_children([polite, stubborn], grace_s=0.3) == ["stubborn"]
    assert 0.3 <= time.monotonic() - start_s < 2
    assert (polite.exit_status(), stubborn.exit_status()) == (-signal.SIGTERM, -signal.SIGKILL)
    assert stop_children([polite, stubborn], grace_s=0.3) == []


def test_children_that_obey_are_not_waited_for_longer_than_they_take(tmp_path: Path) -> None:
    child = started("a", SLEEP, tmp_path)
    start_s = time.monotonic()
    assert stop_children([child], grace_s=30) == []
    assert time.monotonic() - start_s < 5


def test_frozen_child_makes_no_progress_and_still_obeys_sigterm(tmp_path: Path) -> None:
    busy = "import itertools\nfor i in itertools.count(): print('up', i, flush=True)"
    child = started("busy", [sys.executable, "-I", "-S", "-c", busy], tmp_path)
    assert child.freeze()
    size = child.log.stat().st_size
    time.sleep(0.05)
    assert child.log.stat().st_size == size
    child.send(signal.SIGCONT)
    assert eventually(lambda: child.log.stat().st_size > size, within_s=5)
    assert child.freeze()
    assert stop_children([child], grace_s=5) == []


def test_freezing_a_child_that_has_ended_says_so(tmp_path: Path) -> None:
    child = start_child("gone", ["true"], tmp_path / "log.txt")
    assert eventually(lambda: child.exit_status() is not None, within_s=5)
    assert child.freeze() is False


@pytest.mark.parametrize("name", ["a) T (b", "plain"])
def test_stopped_is_told_from_running_whatever_the_program_is_called(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.symlink_to("/bin/sleep")
    child = start_child("named", [str(file), "60"], tmp_path / "log.txt")
    try:
        assert eventually(lambda: program(child.pid) == str(file), within_s=5)
        assert not _is_stopped(child.pid)
        assert child.freeze()
        assert _is_stopped(child.pid)
    finally:
        child.kill()
