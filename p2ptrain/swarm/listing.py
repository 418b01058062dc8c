"""Whose claims the directory shows when more peers take part than all should read about: it goes by lot. Pure.

What everybody reads costs everybody. So no more than ``exchange.max_listed`` peers or so are listed by lot, and besides
them only those whom the others need: owners that a certificate names, newcomers, who holds a slice below its quorum.
The rest train, follow and pass on
what they hear, as holders do that are not drawn into a group (swarm/electorate.py), until they are drawn.

A peer is drawn at k halvings if the first k bits of a hash of its id and the draw's number are zero. So it stands for
2^k peers, and what all the drawn stand for adds up to how many take part (the estimator of Horvitz and Thompson, 1952),
whatever each of them took for k. Every peer's draws begin at moments of its own: the list changes little by little.
"""

import hashlib
import statistics
from collections.abc import Iterable

from p2ptrain.ids import PeerId
from p2ptrain.swarm.directory import Claim

DRAW_LEASES = 20
"""How many leases a draw holds: many rounds, and ten minutes with the usual lease."""
_MANY_AGAIN = 0.75
"""One halving less only if that lists so much less than may be: the estimate is off by a tenth now and then."""
_MAX_HALVINGS = 48


def draw_of(peer: PeerId, wall_s: float, lease_s: float) -> int:
    """The number of the peer's present draw."""
    draw_s = DRAW_LEASES * lease_s
    return int((wall_s + draw_s * share_of(f"{peer} begins")) // draw_s)


def is_drawn(peer: PeerId, draw: int, halvings: int) -> bool:
    """Whether the lot lists the peer in that draw."""
    return share_of(f"{peer} {draw}") < 0.5**halvings


def is_of_now(claim: Claim, wall_s: float, lease_s: float) -> bool:
    """Whether a claim names its peer's present draw, by clocks that may differ by one; while all are listed, any.

    Otherwise whoever wants to be counted for many would look for a draw in which the lot favours it.
    """
    return not claim.halvings or abs(claim.draw - draw_of(claim.peer, wall_s, lease_s)) <= 1


def num_peers(claims: Iterable[Claim]) -> int:
    """How many peers take part, by the claims of those that are listed; exact while all are.

    Nobody counts for more than two of the others, whatever it says: a claim's halvings are believed up to one more than
    the median of all.
    """
    drawn = [c for c in claims if is_drawn(c.peer, c.draw, c.halvings)]
    most = statistics.median_low([claim.halvings for claim in drawn]) + 1 if drawn else 0
    return sum(2 ** min(claim.halvings, most) for claim in drawn)


def next_halvings(before: int, num_peers: int, most: int) -> int:
    """How often the swarm is to be halved, so that the lot lists no more than ``most``."""
    halvings = before
    while num_peers > most * 2**halvings and halvings < _MAX_HALVINGS:
        halvings += 1
    while halvings and num_peers <= _MANY_AGAIN * most * 2 ** (halvings - 1):
        halvings -= 1
    return halvings


def share_of(text: str) -> float:
    """A hash as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
