"""Child processes that cannot outlive us.

Linux kills a child when its parent dies if the child asked for it (``PR_SET_PDEATHSIG``, prctl(2)). The request
survives ``execve`` but not ``fork``, so each process that starts others must see that they make it too. A chain of such
children is gone when its head is, with nobody left to clean up.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2ptrain import clock

_POLL_S = 0.01
_REAP_TIMEOUT_S = 60.0
"""To die, a killed process needs a turn on the processor, and gets none for seconds where many want it (5 s were too
few on two cores with twelve who wanted them). It never dies in an uninterruptible disk wait."""

_DIE_WITH_PARENT = """\
import ctypes, os, sys, _signal
if ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0):
    sys.exit("cannot ask to be killed with the parent: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
_signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
_signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.stderr.write(sys.argv[2] + ": " + error.strerror + "\\n")
    os._exit(127)
"""


def die_with_parent_prefix() -> list[str]:
    """What to put before a command line so that the command is killed (SIGKILL) when this process ends, in any way.

    The command keeps its pid: the prefix replaces itself by it. It costs 10 ms, nine of which are Python's start
    (2 cores, Python 3.11, median of 30). A command that cannot be started ends with status 127, as in a shell.

    The kernel watches the *thread* that starts the command, so that must be one that lives as long as the process: call
    it from the main thread, or from an event loop that runs there.
    """
    # The parent may have died before the child asked to be told: then somebody else is its parent already, and no
    # signal will ever come. Hence our pid as an argument.
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]


@dataclass(frozen=True, slots=True)
class Child:
    """A running or ended child process and the file that has its output."""

    name: str
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self.process.pid

    def exit_status(self) -> int | None:
        """None while it runs; negative numbers are signals, as in ``subprocess``."""
        return self.process.poll()

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to this one process, unless it has ended."""
        self.process.send_signal(signal_number)

    def freeze(self, within_s: float = 1.0) -> bool:
        """SIGSTOP it, and return once no thread of it runs any more; False if that took longer, or it has ended."""
        self.send(signal.SIGSTOP)
        deadline_s = clock.monotonic_s() + within_s
        while self.exit_status() is None and clock.monotonic_s() < deadline_s:
            if _is_stopped(self.pid):
                return True
            time.sleep(0.0005)
        return False

    def kill(self) -> int:
        """SIGKILL it, and return its exit status."""
        self.process.kill()
        return self.process.wait(_REAP_TIMEOUT_S)

    def last_lines(self, count: int) -> list[str]:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace").splitlines()[-count:]


def start_child(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Child:
    """Start ``command`` so that it dies with this process, in a process group of its own, with its output in ``log``.

    In its own group a child is not reached by Ctrl-C in the terminal: this process decides what happens to it.
    """
    assert threading.current_thread() is threading.main_thread(), "a child dies with the thread that started it"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - the commands are ours
            [*die_with_parent_prefix(), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            process_group=0,
        )
    return Child(name=name, log=log, process=process)


def stop_children(children: Iterable[Child], grace_s: float) -> list[str]:
    """SIGTERM all of them, SIGKILL those that still run after ``grace_s``, and return the names of the latter."""
    running = [child for child in children if child.exit_status() is None]
    for child in running:
        child.send(signal.SIGTERM)
        child.send(signal.SIGCONT)  # a frozen process handles no SIGTERM
    deadline_s = clock.monotonic_s() + grace_s
    while any(child.exit_status() is None for child in running) and clock.monotonic_s() < deadline_s:
        time.sleep(_POLL_S)
    stubborn = [child for child in running if child.exit_status() is None]
    for child in stubborn:
        child.process.kill()
    for child in stubborn:
        child.process.wait(_REAP_TIMEOUT_S)
    return [child.name for child in stubborn]


def _is_stopped(pid: int) -> bool:
    """Whether each thread of a process is stopped: ``T`` in the third field of its stat file, proc(5)."""
    try:
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False
    # The second field is the program's name in parentheses, and may contain both spaces and parentheses.
    return bool(stats) and all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
