"""How p2pd is told to listen, to announce itself and to be reached: NodeOptions in its words. Pure."""

from collections.abc import Sequence
from typing import Any

from p2ptrain.wire.reach import Reach

_MAX_CONNECTIONS = 4096
"""Above it p2pd closes the idlest down to half of it. A home peer never gets there; a bootstrap of a thousand peers
must not drop them."""


def daemon_options(
    reach: Reach,
    *,
    listen: Sequence[str],
    own_ips: Sequence[str],
    port: int,
    announce: Sequence[str],
    relays: Sequence[str],
    is_alone: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments for hivemind's ``P2P.create``, and flags of p2pd that it does not know.

    Args:
        reach: how the node is to be reached.
        listen: multiaddresses to listen on.
        own_ips: of this machine's interfaces, for announcements beside the router's address.
        port: TCP, on which it listens.
        announce: what the operator wants to be announced instead of all else.
        relays: bootstraps' addresses, at which a relayed node takes a place.
        is_alone: nobody outside this machine is concerned.
    """
    # p2pd's own relay service would compete with ours, and every peer would be one.
    flags = ["-relayService=0", f"-connHi={_MAX_CONNECTIONS}", f"-connLo={_MAX_CONNECTIONS // 2}"]
    # auto_nat is what hivemind calls hole punching, too.
    options: dict[str, Any] = {"host_maddrs": list(listen), "auto_nat": not is_alone}
    if announce:
        options["announce_maddrs"] = list(announce)
    elif not is_alone and reach.way != "direct":
        ip, _, outside = reach.public.rpartition(":")
        options["announce_maddrs"] = [
            *([tcp_address(ip, int(outside))] if reach.way == "mapped" else ()),
            *(tcp_address(own, port) for own in own_ips),
            *(f"{relay}/p2p-circuit" for relay in relays),
        ]
    return options, flags


def daemon_environment(reach: Reach) -> dict[str, str]:
    """Variables for p2pd's process, beside ours.

    p2pd dials from the port on which it listens. Behind a router that is what keeps the router's port open, and what
    holes are punched from. Where there is none it does harm: of two such nodes that dial each other in one moment, TCP
    makes one connection, both ends begin the handshake as the caller, and both fail (docs/log.md). So nodes that are
    dialled where they are dial from any port.

    Args:
        reach: how the node is to be reached.
    """
    return {"LIBP2P_TCP_REUSEPORT": "false"} if reach.way == "direct" else {}


def tcp_address(ip: str, port: int) -> str:
    """A multiaddress."""
    return f"/{'ip6' if ':' in ip else 'ip4'}/{ip}/tcp/{port}"
