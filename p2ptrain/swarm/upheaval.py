"""When this machine's place in the network has changed, so that its old connections are worth nothing.

TCP does not notice: a connection from an address that the machine no longer has looks alive until a keepalive fails,
40 s later (measured). So the machine is asked once a second by which of its addresses it would reach each of the
others, which sends nothing, and how long it slept, which its clock since boot knows.
"""

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LOOK_EVERY_S = 1.0
ASLEEP_S = 15.0
"""No look for so long: the machine or this process was suspended. A busy machine delays a look by a second or two."""
MAX_TARGETS = 16
"""Others whose route is looked up; they share a few routes at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """Where this machine stood at one look."""

    looked_s: float
    """Seconds since boot, sleep included."""
    sources: Mapping[str, str]
    """By another host's address, the own address by which it would be reached; empty where there is no route."""


def upheaval(before: Ground, now: Ground) -> str:
    """Why the connections made before are to be dropped; empty when they are not.

    A route that is gone is no reason yet, for there is nowhere to go; one that is there again is.
    """
    slept_s = now.looked_s - before.looked_s
    if slept_s > ASLEEP_S:
        return f"this machine or process slept for {slept_s:.0f} s"
    moved = [host for host, source in now.sources.items() if source and before.sources.get(host, source) != source]
    if not moved:
        return ""
    if all(before.sources[host] for host in moved):
        return "this machine has another address than before"
    return "this machine has a network again"


def source_of(host: str) -> str:
    """The own address by which this machine would reach another one now; empty without a route. Sends nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # a datagram socket's connect asks the routing table only
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def hosts_in(addresses: Iterable[str]) -> list[str]:
    """The other machines in some multiaddresses, at most ``MAX_TARGETS``, without names and this machine itself."""
    hosts: dict[str, None] = {}
    for address in addresses:
        parts = address.split("/")
        if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
            continue
        try:
            if not ipaddress.ip_address(parts[2]).is_loopback:
                hosts[parts[2]] = None
        except ValueError:
            continue
    return list(hosts)[:MAX_TARGETS]
