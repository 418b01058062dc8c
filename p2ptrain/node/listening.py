"""Where a node listens when the volunteer did not say."""

from p2ptrain.config.schema import NetworkConfig

LOOPBACK = "127.0.0.1"
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - a peer that others cannot reach cannot average for them


def listen_host(network: NetworkConfig) -> str:
    """The address to listen on: as configured, else loopback when every bootstrap is on this machine."""
    if network.host:
        return network.host
    local = all(f"/{LOOPBACK}/" in address or "/ip6/::1/" in address for address in network.bootstraps)
    return LOOPBACK if network.bootstraps and local else _EVERYWHERE
