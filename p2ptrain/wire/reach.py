"""Whether others can call this machine, by which means, and what its router does: pure judgements on what others saw.

libp2p finds this out, too, but looks for the first time after 15 s and wants several others; a bootstrap that is asked
tells at once (``callback.py``).
"""

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from p2ptrain.ids import PeerId

Way = Literal["direct", "mapped", "relayed"]
"""How a node arranges to be called: at its own addresses; at a router's, which passes calls on; through relays."""

Nat = Literal["none", "open", "cone", "symmetric", "unknown"]
"""What the router before a machine does, as far as seen. ``open`` passes on calls from anybody; ``cone`` shows
everybody the same port, so that holes can be punched; ``symmetric`` shows each another one."""

_UNMEASURED_RELAYED_MBPS = 5.0
"""A quarter of a usual home uplink."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What one other node saw of us."""

    by: PeerId
    ip: str
    """Where our call came from."""
    port: int
    """From which port."""
    could_dial: bool
    """Whether a connection to our port at that address succeeded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What the sightings mean."""

    way: Way
    nat: Nat
    public: str = ""
    """``ip:port`` at which others can call, if they can."""
    seen: str = ""
    """``ip:port`` at which a router that keeps ports shows us to everybody, so that holes can be punched."""
    reason: str


def first_guess(own_ips: Collection[str], bootstrap_ips: Collection[str]) -> Way:
    """How to start, before anybody was asked: wrong guesses cost a restart of the daemon.

    Args:
        own_ips: of this machine's interfaces.
        bootstrap_ips: of the bootstraps; names count as public.
    """
    if any(map(_is_public, own_ips)) or not any(map(_is_public, bootstrap_ips)):
        return "direct"
    return "relayed"


def judged(own_ips: Collection[str], port: int, sightings: Sequence[Sighting], guess: Way) -> Reach:
    """How to be reached.

    Args:
        own_ips: of this machine's interfaces.
        port: TCP, where we listen.
        sightings: of nodes that were asked to call back; none if nobody can be asked.
        guess: what to keep to if nobody saw us.
    """
    if not sightings:
        return Reach(way=guess, nat="unknown", reason="no bootstrap node could be asked to call back")
    nat = nat_kind(own_ips, port, sightings)
    if guess == "direct" and nat in ("cone", "symmetric"):
        nat = "unknown"  # such a node dials from any port, so what others saw says nothing; the next look tells
    reached = next((s for s in sightings if s.could_dial), None)
    asked = f"{sum(s.could_dial for s in sightings)} of {len(sightings)} bootstrap nodes could call back"
    if reached is None:
        before = "a firewall refuses calls" if nat == "none" else f"a router ({_IN_WORDS[nat]}) is in between"
        seen = f"{sightings[0].ip}:{sightings[0].port}" if nat == "cone" else ""
        return Reach(way="relayed", nat=nat, seen=seen, reason=f"{asked}; {before}")
    public = f"{reached.ip}:{port}"
    if nat == "none":
        return Reach(way="direct", nat=nat, public=public, reason=asked)
    return Reach(way="mapped", nat=nat, public=public, reason=f"{asked}, through a router that passes port {port} on")


def nat_kind(own_ips: Collection[str], port: int, sightings: Sequence[Sighting]) -> Nat:
    """What the router does to our ports, from the ports that others saw."""
    if not sightings:
        return "unknown"
    if all(s.ip in own_ips for s in sightings):
        return "none"
    if any(s.could_dial for s in sightings):
        return "open"
    ports = {s.port for s in sightings}
    if len(sightings) > 1:
        return "cone" if len(ports) == 1 else "symmetric"
    return "cone" if ports == {port} else "unknown"


def planned_relayed_mbps(measured_mbps: float) -> float:
    """The uplink that a relayed peer announces: half of what it measured, since the relay's line is shared.

    Args:
        measured_mbps: 0 if nothing was measured; then it gets less to reduce than those who were.
    """
    return measured_mbps / 2 if measured_mbps else _UNMEASURED_RELAYED_MBPS


def described(reach: Reach, others: Mapping[PeerId, Way | None], paths: Mapping[PeerId, bool]) -> tuple[str, str]:
    """One word for how this peer is connected with the others, and the reason.

    Args:
        reach: how we can be called.
        others: the peers that we work with, and how each says that it can be called.
        paths: of the peers that we are connected to, whether only by a relay.
    """
    through_relay = [peer for peer in others if paths.get(peer)]
    straight = [peer for peer in others if paths.get(peer) is False]
    punched = [peer for peer in straight if others[peer] == "relayed"]
    ways = f"{len(straight)} peers connected directly, {len(through_relay)} by a relay"
    if reach.way != "relayed":
        return "direct", f"{reach.reason}; {ways}"
    if punched and not through_relay:
        return "hole-punched", f"{reach.reason}; {ways}"
    return "relayed", f"{reach.reason}; {ways}"


def is_relayed(address: str) -> bool:
    """Whether a multiaddress leads through a relay."""
    return "/p2p-circuit" in address


def _is_public(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_global
    except ValueError:
        return True  # a name


_IN_WORDS: dict[Nat, str] = {
    "none": "none",
    "open": "passes calls on",
    "cone": "keeps ports, so that holes can be punched",
    "symmetric": "symmetric: another port for everybody",
    "unknown": "of unknown kind",
}
