"""How long the claims that we have seen count, by our own monotonic clock: no wall clock need be right for it.

A claim says in wall time when it expires. Machines' clocks differ and jump, so that time is trusted only downwards: a
claim counts for the run's lease from the moment at which we first saw it renewed, or less if it says so. A peer whose
clock runs an hour ahead is forgotten as soon as any other when it dies, and a jump of our own clock kills nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from p2ptrain.ids import PeerId
from p2ptrain.swarm.directory import Claim


@dataclass(slots=True)
class Leases:
    """Remembers how far each peer's claims have been renewed."""

    lease_s: float
    _named_s: dict[PeerId, float] = field(default_factory=dict)
    """The expiry, in wall time, that each peer's newest claim names."""

    def renewed(self, found: Mapping[PeerId, Claim], *, monotonic_s: float, wall_s: float) -> dict[PeerId, Claim]:
        """Of the claims in the directory those that are newer than what we knew, ``expires_s`` by our monotonic clock.

        The last record of a peer that is gone is not newer, however long it lasts, and does not bring it back.
        """
        newer = {p: c for p, c in found.items() if c.expires_s > self._named_s.get(p, float("-inf"))}
        self._named_s |= {peer: claim.expires_s for peer, claim in newer.items()}
        return {
            peer: replace(claim, expires_s=monotonic_s + min(self.lease_s, max(0.0, claim.expires_s - wall_s)))
            for peer, claim in newer.items()
        }
