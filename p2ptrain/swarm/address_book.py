"""Where peers of the run were last seen, so that they are found again when no bootstrap answers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from p2ptrain.ids import PeerId

MAX_PEERS = 64
"""Enough to find one that is still there; the file and what is passed on stay small."""
MAX_ADDRESSES = 8
"""Of one peer: several interfaces and a relay or two."""
_MAX_ADDRESS_CHARS = 300


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it listens."""

    peer: PeerId
    addresses: tuple[str, ...]
    seen_s: float
    """Wall time at which it answered us; 0 when we only heard of it."""


@dataclass(slots=True)
class AddressBook:
    """Contacts by peer, bounded; those that answered most recently are kept."""

    me: PeerId
    contacts: dict[PeerId, Contact] = field(default_factory=dict)

    def met(self, peer: PeerId, addresses: Iterable[str], now_s: float) -> None:
        """A peer answered and said itself where it listens; an empty list leaves what we had."""
        before = self.contacts.get(peer)
        usable = _usable(peer, addresses) or (before.addresses if before else ())
        self._keep(Contact(peer, usable, now_s))

    def heard_of(self, peer: PeerId, addresses: Iterable[str]) -> None:
        """Somebody else said where a peer listens; what the peer said itself stays."""
        if peer not in self.contacts:
            self._keep(Contact(peer, _usable(peer, addresses), 0.0))

    def newest(self, count: int) -> list[Contact]:
        """Those that answered last, first."""
        return sorted(self.contacts.values(), key=lambda c: (-c.seen_s, c.peer))[:count]

    def addresses(self) -> list[str]:
        """All addresses, those of peers that answered last first."""
        return [address for contact in self.newest(MAX_PEERS) for address in contact.addresses]

    def to_json(self) -> str:
        """For the disk."""
        return json.dumps(
            [{"peer": c.peer, "addresses": c.addresses, "seen_s": c.seen_s} for c in self.newest(MAX_PEERS)]
        )

    @classmethod
    def from_json(cls, me: PeerId, text: str) -> "AddressBook":
        """What ``to_json`` wrote; entries that are damaged are left out, for all of it can be learned anew."""
        book = cls(me)
        try:
            entries = json.loads(text)
            for entry in entries:
                peer, seen_s = PeerId(str(entry["peer"])), float(entry["seen_s"])
                book._keep(Contact(peer, _usable(peer, map(str, entry["addresses"])), seen_s))
        except (ValueError, TypeError, KeyError):
            return book
        return book

    def _keep(self, contact: Contact) -> None:
        if contact.peer == self.me or not contact.addresses:
            return
        self.contacts[contact.peer] = contact
        if len(self.contacts) > MAX_PEERS:
            del self.contacts[self.newest(MAX_PEERS + 1)[-1].peer]


def _usable(peer: PeerId, addresses: Iterable[str]) -> tuple[str, ...]:
    """Those that have the form of the peer's address; strangers send what they like."""
    fitting = [
        a for a in addresses if len(a) <= _MAX_ADDRESS_CHARS and a.startswith("/") and a.endswith(f"/p2p/{peer}")
    ]
    return tuple(dict.fromkeys(fitting))[:MAX_ADDRESSES]


def worth_telling(addresses: Sequence[str]) -> list[str]:
    """Our addresses as others can use them: those of this machine alone are left out if there are any others."""
    local = ("/ip4/127.", "/ip6/::1/")
    beyond = [address for address in addresses if not address.startswith(local)]
    return (beyond or list(addresses))[:MAX_ADDRESSES]
