"""Bootstrap nodes that a manifest lists: which forms an address may have.

The list stands beside the run's values and not among them: nodes move while a run goes on, and its id must not change
with them. The authority's signature covers it all the same.
"""

import re
import tomllib

BOOTSTRAPS = "bootstraps"
"""The manifest's key."""
MAX_BOOTSTRAPS = 16
"""Peers stay in touch with each of them."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_NODE = re.compile(rf"/(?:ip4/[0-9.]+|ip6/[0-9A-Fa-f:.]+|dns[46]?/{_NAME})/[a-z0-9/._-]+/p2p/12D3KooW\w{{44}}")
_DNS_LIST = re.compile(rf"/dnsaddr/({_NAME})")


def is_node(address: str) -> bool:
    """Whether this is the address of one node."""
    return _NODE.fullmatch(address) is not None


def dns_list(address: str) -> str | None:
    """The name under which DNS has a list of nodes; None when this is no such address."""
    found = _DNS_LIST.fullmatch(address)
    return found[1] if found else None


def problems_of_list(value: object) -> list[str]:
    """What is wrong with a manifest's list, as sentences without the file's name."""
    if not isinstance(value, list):
        return [f"{BOOTSTRAPS} = {value!r} is not a list; choose addresses of bootstrap nodes, or leave it out"]
    found = [
        f"{BOOTSTRAPS}[{i}] = {str(address)[:120]!r} is not usable; choose an address as `p2ptrain bootstrap` prints"
        " it, like /dns4/boot.example.org/tcp/31337/p2p/12D3KooW..., or a list in DNS, like /dnsaddr/example.org"
        for i, address in enumerate(value)
        if not isinstance(address, str) or not (is_node(address) or dns_list(address))
    ]
    if len(value) > MAX_BOOTSTRAPS:
        found.append(f"{BOOTSTRAPS} has {len(value)} addresses; choose at most {MAX_BOOTSTRAPS}, or a list in DNS")
    return found


def listed_bootstraps(text: str) -> tuple[str, ...]:
    """The addresses that a manifest lists.

    Args:
        text: TOML that ``parse_run`` has accepted.
    """
    return tuple(tomllib.loads(text).get(BOOTSTRAPS, ()))
