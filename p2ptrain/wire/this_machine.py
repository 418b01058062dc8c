"""What this machine can be called at: its addresses, and whether a port of it is free."""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Sequence

import psutil

from p2ptrain.errors import NetworkSetupError


def hosts(addresses: Sequence[str]) -> list[str]:
    """IP addresses and names that multiaddresses begin with."""
    return [parts[2] for parts in (address.split("/") for address in addresses) if len(parts) > 2]


def is_loopback(host: str) -> bool:
    """Whether calls to it do not leave this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_ips() -> list[str]:
    """Of all interfaces but the loopback's."""
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses]
    ips = []
    for text in found:
        with contextlib.suppress(ValueError):  # hardware addresses
            ip = ipaddress.ip_address(text)
            if not ip.is_loopback and not ip.is_link_local:
                ips.append(text)
    return ips


def free_port(host: str) -> int:
    """One that nobody listens on, TCP; another program may take it before we do."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_can_listen(host: str, port: int) -> None:
    """Return if this machine can listen there; p2pd does not say that its port is taken, so this is tried first.

    Raises:
        NetworkSetupError: it cannot, and why. Only a race can get past this.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            place = f"{host} port {port}"
            if error.errno == errno.EADDRINUSE:
                hint = "another program uses it; choose another --port, or 0 for any free one"
            else:
                hint = f"{error.strerror or error}; choose an address of this machine (--host) and a port (--port)"
            raise NetworkSetupError(f"cannot listen on {place}: {hint}") from error
