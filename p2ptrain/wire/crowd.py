"""Which connections to a public node are too many: pure. p2pd limits how many there are, but not from whom.

An address is one IPv4 address, or the first 64 bits of an IPv6 address, which is what a household gets.
"""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field

from p2ptrain.ids import PeerId

PER_ADDRESS = 64
"""A university behind one address has a few dozen peers; a flood has thousands."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One that is open now."""

    peer: PeerId
    address: str
    """IP, as the node sees it; empty through a relay."""


@dataclass(slots=True)
class Crowd:
    """Remembers who was here first, so that it is the newcomers who have to go."""

    per_address: int = PER_ADDRESS
    cut: int = 0
    """Peers that were told to go since the start."""
    busiest: str = ""
    """The address from which too many came at the last look; empty when none did."""
    _arrival: dict[PeerId, int] = field(default_factory=dict)
    _count: int = 0

    @property
    def present(self) -> int:
        """Peers that were connected at the last look."""
        return len(self._arrival)

    def too_many(self, open_now: Collection[Connection]) -> list[PeerId]:
        """The peers to hang up on, given all connections."""
        for connection in open_now:
            if connection.peer not in self._arrival:
                self._count += 1
                self._arrival[connection.peer] = self._count
        here = {connection.peer for connection in open_now}
        self._arrival = {peer: turn for peer, turn in self._arrival.items() if peer in here}
        by_address: dict[str, set[PeerId]] = {}
        for connection in open_now:
            if connection.address:
                by_address.setdefault(_household(connection.address), set()).add(connection.peer)
        crowded = {a: peers for a, peers in by_address.items() if len(peers) > self.per_address}
        self.busiest = max(crowded, key=lambda a: len(crowded[a]), default="")
        gone = [
            peer
            for peers in crowded.values()
            for peer in sorted(peers, key=self._arrival.__getitem__)[self.per_address :]
        ]
        self.cut += len(gone)
        return gone


def _household(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4:
        return address
    return str(ipaddress.ip_network((ip, 64), strict=False))
