"""People's networks on one machine: routers of several kinds between an internet with delay and loss, and hosts.

Each host and each router is a network namespace; the internet is a switch (``benchmarks/home_switch.c``) that delays,
loses and slows frames, as Linux without netem cannot. Needs root, ``ip``, ``nft``, a C compiler and /dev/net/tun.
"""

import contextlib
import fcntl
import itertools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import pytest

Nat = Literal["none", "full", "restricted", "symmetric", "mapping", "upnp", "pmp"]
"""What stands before a host: nothing; a router that passes all that comes in (full cone); one that passes answers only,
but keeps the port (port restricted cone); one that takes another port for everybody that is called (symmetric); one
that is symmetric, but passes a port on to whoever asks for it by NAT-PMP (mapping); the same with the program that many
real routers run, miniupnpd, which is asked by UPnP only (upnp) or by NAT-PMP only (pmp)."""

NATS: tuple[Nat, ...] = ("full", "restricted", "symmetric")
_SWITCH = Path(__file__).parents[2] / "benchmarks" / "home_switch.c"
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_INSIDE = "192.168.1.2"
_numbers = itertools.count(1)
_MINIUPNPD = """
ext_ifname=wan
listening_ip=lan
enable_upnp={upnp}
enable_natpmp={pmp}
secure_mode=yes
lease_file={folder}/leases
uuid=70327074-7261-696e-0000-000000000000
upnp_table_name=mapped
upnp_nat_table_name=mapped
upnp_forward_chain=through_mapped
upnp_nat_chain=inward_mapped
upnp_nat_postrouting_chain=outward_mapped
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
_MAPPED = """
table inet mapped {
  chain through { type filter hook forward priority 1; jump through_mapped; }
  chain inward { type nat hook prerouting priority -100; jump inward_mapped; }
  chain outward { type nat hook postrouting priority 99; jump outward_mapped; }
  chain through_mapped {}
  chain inward_mapped {}
  chain outward_mapped {}
}
"""
"""What miniupnpd wants to find; it fills the last three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A host's line to the internet."""

    up_mbit: float = 20.0
    down_mbit: float = 50.0
    delay_ms: float = 10.0
    """One way, to the middle of the internet: two hosts are four times this apart, there and back."""
    loss_percent: float = 0.2
    """Of the frames, in each direction."""


FAST = Line(up_mbit=100.0, down_mbit=100.0, delay_ms=5.0, loss_percent=0.0)
"""A machine in a data centre."""


class Internet:
    """Hosts by name; those with a router before them have a private address.

    Args:
        hosts: what stands before each of them.
        line: of hosts behind routers; the others have a fast one.
    """

    def __init__(self, hosts: Mapping[str, Nat], line: Line | None = None) -> None:
        self._id = f"{os.getpid()}x{next(_numbers)}"
        self.hosts = dict(hosts)
        self._line = line or Line()
        self._public = {name: f"44.77.0.{10 + n}" for n, name in enumerate(hosts)}
        self._folder: Path
        """Made on the way in, since a test that is skipped there never comes out."""
        self._switch: subprocess.Popen[bytes] | None = None
        self.at_end = contextlib.ExitStack()
        """What lives on the hosts and must end before them."""

    def __enter__(self) -> Self:
        tools = ["ip", "nft", "cc", *(["miniupnpd"] if {"upnp", "pmp"} & set(self.hosts.values()) else [])]
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if missing or os.geteuid() != 0 or not os.access("/dev/net/tun", os.W_OK):
            pytest.skip(
                f"emulated networks need root, /dev/net/tun and {', '.join(tools)}; missing: {missing or 'rights'}"
            )
        self._folder = Path(tempfile.mkdtemp(prefix="p2ptrain-internet-"))
        program = self._folder / "home_switch"
        fds: list[int] = []
        try:
            subprocess.run(["cc", "-O2", "-o", program, _SWITCH], check=True)
            ports = []
            for name, nat in self.hosts.items():
                line = FAST if nat == "none" else self._line
                fds.append(self._connect(name, nat))
                ports.append(f"{fds[-1]}:{line.up_mbit}:{line.down_mbit}:{line.delay_ms}:{line.loss_percent}")
            self._switch = subprocess.Popen([program, "256", *ports], pass_fds=fds, stdout=subprocess.PIPE)
            assert self._switch.stdout
            assert self._switch.stdout.readline() == b"ready\n"
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"network namespaces cannot be made here: {error.stderr or error}")
        except BaseException:
            self.__exit__()
            raise
        finally:
            for fd in fds:
                os.close(fd)
        return self

    def __exit__(self, *_: object) -> None:
        self.at_end.close()
        for namespace in [name for host in self.hosts for name in (self._host(host), self._router(host))]:
            listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
            for pid in listed.stdout.split():  # they would survive their namespace
                subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
        if self._switch:
            self._switch.kill()
            with self._switch:
                pass
        shutil.rmtree(self._folder)

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs on a host."""
        return ["ip", "netns", "exec", self._host(name)]

    def public_address(self, name: str) -> str:
        """The address that a host, or the router before it, has in the internet."""
        return self._public[name]

    def host_address(self, name: str) -> str:
        """The address that a host itself has."""
        return self._public[name] if self.hosts[name] == "none" else _INSIDE

    def move(self, name: str, address: str) -> None:
        """The provider gives a router, or a host without one, another address; connections of the old one are dead."""
        at, device = (self._host(name), "eth0") if self.hosts[name] == "none" else (self._router(name), "wan")
        _ip("-n", at, "addr", "flush", "dev", device)
        _ip("-n", at, "addr", "add", f"{address}/24", "dev", device)
        self._public[name] = address
        if at == self._router(name):
            self._make_router(name)  # forgets what was translated, too

    def pull(self, name: str) -> None:
        """Pull the cable to the internet."""
        at, device = (self._host(name), "eth0") if self.hosts[name] == "none" else (self._router(name), "wan")
        _ip("-n", at, "link", "set", device, "down")

    def plug(self, name: str) -> None:
        """Put it back."""
        at, device = (self._host(name), "eth0") if self.hosts[name] == "none" else (self._router(name), "wan")
        _ip("-n", at, "link", "set", device, "up")

    def sent_bytes(self, name: str) -> int:
        """What a host's line has carried towards the internet, headers included."""
        at, device = (self._host(name), "eth0") if self.hosts[name] == "none" else (self._router(name), "wan")
        counter = f"/sys/class/net/{device}/statistics/tx_bytes"
        return int(_run("ip", "netns", "exec", at, "cat", counter))

    def _connect(self, name: str, nat: Nat) -> int:
        host, router = self._host(name), self._router(name)
        _ip("netns", "add", host)
        _ip("-n", host, "link", "set", "lo", "up")
        public = f"{self._public[name]}/24"
        if nat == "none":
            fd = _tap(host, "eth0")
            _ip("-n", host, "addr", "add", public, "dev", "eth0")
            return fd
        _ip("netns", "add", router)
        fd = _tap(router, "wan")
        _ip("-n", router, "addr", "add", public, "dev", "wan")
        _ip("link", "add", "lan", "netns", router, "type", "veth", "peer", "name", "eth0", "netns", host)
        _ip("-n", router, "addr", "add", "192.168.1.1/24", "dev", "lan")
        _ip("-n", router, "link", "set", "lan", "up")
        _ip("-n", host, "addr", "add", f"{_INSIDE}/24", "dev", "eth0")
        _ip("-n", host, "link", "set", "eth0", "up")
        _ip("-n", host, "route", "add", "default", "via", "192.168.1.1")
        _run("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._make_router(name)
        if nat == "mapping":
            self._serve_in_router(name, sys.executable, str(Path(__file__).with_name("nat_pmp_router.py")))
        elif nat in ("upnp", "pmp"):
            folder = self._folder / name
            folder.mkdir()
            config = folder / "miniupnpd.conf"
            switches = {"upnp": "no", "pmp": "no", nat: "yes"}
            config.write_text(_MINIUPNPD.format(folder=folder, **switches))
            self._serve_in_router(name, "miniupnpd", "-d", "-4", "-f", str(config), "-P", str(folder / "pid"))
        return fd

    def _serve_in_router(self, name: str, *service: str) -> None:
        process = subprocess.Popen([*self._in_router(name), *service], stderr=subprocess.DEVNULL)
        self.at_end.callback(process.wait)
        self.at_end.callback(process.kill)

    def _make_router(self, name: str) -> None:
        nat = self.hosts[name]
        inward = f"iif wan dnat to {_INSIDE}" if nat == "full" else ""
        outward = "masquerade" if nat in ("full", "restricted") else "masquerade fully-random"
        rules = f"""flush ruleset
            table ip home {{
              chain inward {{ type nat hook prerouting priority -100; {inward}
              }}
              chain outward {{ type nat hook postrouting priority 100; oif wan {outward}
              }}
              chain through {{ type filter hook forward priority 0; policy drop;
                ct state established,related accept
                iif lan accept
                ct status dnat accept
              }}
              chain itself {{ type filter hook input priority 0; policy accept; iif wan ct state new drop
              }}
            }}"""
        if nat in ("upnp", "pmp"):
            rules += _MAPPED
        command = [*self._in_router(name), "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, check=True, capture_output=True)
        # What was translated before goes on being translated, unless it is forgotten.
        subprocess.run([*self._in_router(name), "conntrack", "-F"], check=False, capture_output=True)

    def _in_router(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self._router(name)]

    def _host(self, name: str) -> str:
        return f"p2pt-{self._id}-{name}"

    def _router(self, name: str) -> str:
        return f"p2pt-{self._id}-{name}-r"


def _tap(namespace: str, name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    made = f"tp{os.getpid() % 1000000}x{next(_numbers)}"
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", made.encode(), _IFF_TAP | _IFF_NO_PI))
    _ip("link", "set", made, "netns", namespace, "name", name)
    _ip("-n", namespace, "link", "set", name, "up")
    return fd


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
