"""Hosts with home connections on one machine: network namespaces joined by ``home_switch.c``.

Needs root, ``ip``, a C compiler and /dev/net/tun. Everything it makes has a name with this process's id in it and is
removed at the end.
"""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from p2ptrain.node.child_processes import die_with_parent_prefix

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class HomeNetwork:
    """Hosts ``0`` to ``hosts - 1`` at 10.99.0.1 and up, each with its own uplink and downlink.

    Args:
        hosts: how many.
        up_mbit: uplink of each.
        down_mbit: downlink of each.
        rtt_ms: round trip between any two.
        queue_kb: longest queue of each direction; 256 KiB are 100 ms at 20 Mbit/s.
    """

    def __init__(
        self, hosts: int, *, up_mbit: float = 20, down_mbit: float = 50, rtt_ms: float = 80, queue_kb: float = 256
    ) -> None:
        self.names = [f"home{os.getpid()}-{number}" for number in range(hosts)]
        self._queue_kb = queue_kb
        self._line = f"{up_mbit}:{down_mbit}:{rtt_ms / 4}:0"
        self._folder = tempfile.TemporaryDirectory(prefix="home-network-")
        self._switch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = Path(self._folder.name) / "home_switch"
        source = Path(__file__).with_name("home_switch.c")
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
        fds: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to stop"))  # through __exit__
        try:
            for number, name in enumerate(self.names):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
                fds.append(_tap(name, number))
                _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
                _ip("-n", name, "link", "set", "eth0", "up")
            command = [str(program), str(self._queue_kb), *(f"{fd}:{self._line}" for fd in fds)]
            self._switch = subprocess.Popen([*die_with_parent_prefix(), *command], pass_fds=fds, stdout=subprocess.PIPE)
            assert self._switch.stdout
            assert self._switch.stdout.readline() == b"ready\n"
        except BaseException:
            self.__exit__(None, None, None)
            raise
        finally:
            for fd in fds:
                os.close(fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.names:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for pid in pids.split():
                subprocess.run(["kill", "-9", pid], check=False, stderr=subprocess.DEVNULL)
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
        if self._switch:
            self._switch.kill()
            self._switch.wait()
        self._folder.cleanup()

    def address(self, number: int) -> str:
        """The host's IPv4 address."""
        return f"10.99.0.{number + 1}"

    def sent_bytes(self, number: int) -> int:
        """What the host has sent so far, headers included."""
        counter = ["cat", "/sys/class/net/eth0/statistics/tx_bytes"]
        return int(subprocess.run(self.on(number, counter), capture_output=True, text=True, check=True).stdout)

    def on(self, number: int, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` on a host."""
        return ["ip", "netns", "exec", self.names[number], *command]


def _tap(namespace: str, number: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"t{os.getpid() % 1000000}x{number}"
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    _ip("link", "set", name, "netns", namespace, "name", "eth0")
    return fd


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
