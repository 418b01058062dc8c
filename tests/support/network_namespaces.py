"""Hosts with addresses of their own on one machine, and cables between them that can be cut; needs root."""

import itertools
import os
import subprocess
from collections.abc import Iterable

import pytest

_numbers = itertools.count(1)


class HostNetwork:
    """Hosts 1 to ``count`` at 10.9.0.<n>, each a network namespace, plugged into one of two switches."""

    def __init__(self, count: int) -> None:
        self._id = f"{os.getpid()}x{next(_numbers)}"
        self.count = count

    def __enter__(self) -> "HostNetwork":
        try:
            self._ip("netns", "add", self._core)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces need root and iproute2: {error}")
        for switch in ("together", "apart"):
            self._ip("-n", self._core, "link", "add", switch, "type", "bridge")
            self._ip("-n", self._core, "link", "set", switch, "up")
        for n in range(1, self.count + 1):
            self._ip("netns", "add", self.name(n))
            self._ip("-n", self.name(n), "link", "set", "lo", "up")
            peer = ["peer", "name", f"p{n}", "netns", self._core]
            self._ip("link", "add", "eth0", "netns", self.name(n), "type", "veth", *peer)
            self._ip("-n", self.name(n), "link", "set", "eth0", "up")
            self._ip("-n", self._core, "link", "set", f"p{n}", "up")
            self.set_address(n, self.address(n))
        self.plug("together", range(1, self.count + 1))
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in [*map(self.name, range(1, self.count + 1)), self._core]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def name(self, n: int) -> str:
        """The namespace of a host."""
        return f"p2pt-{self._id}-h{n}"

    def inside(self, n: int) -> list[str]:
        """What to put before a command so that it runs on a host."""
        return ["ip", "netns", "exec", self.name(n)]

    def address(self, n: int) -> str:
        """Where a host is at first."""
        return f"10.9.0.{n}"

    def set_address(self, n: int, address: str) -> None:
        """Give a host this address instead of the one that it has."""
        self._ip("-n", self.name(n), "addr", "flush", "dev", "eth0")
        self._ip("-n", self.name(n), "addr", "add", f"{address}/24", "dev", "eth0")

    def plug(self, switch: str, hosts: Iterable[int]) -> None:
        """Plug hosts into ``together`` or ``apart``; those at different ones do not reach each other."""
        for n in hosts:
            self._ip("-n", self._core, "link", "set", f"p{n}", "master", switch)

    def pull(self, n: int) -> None:
        """Pull a host's cable."""
        self._ip("-n", self._core, "link", "set", f"p{n}", "nomaster")

    @property
    def _core(self) -> str:
        return f"p2pt-{self._id}-core"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
