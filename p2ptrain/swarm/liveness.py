"""Whose claim counts although it has expired: whoever answers, and everybody while it is our own line that is cut.

A record may be late, and clocks may differ, so silence has to confirm what an expired claim says. And silence is only
the others' if our own line works: a peer that went on alone each time its line was cut would make a branch each time,
which somebody then has to give up (docs/decisions/0013).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from p2ptrain.ids import PeerId
from p2ptrain.swarm.directory import Claim

ALONE_LEASES = 10
"""How many leases long a peer that nobody answers, no bootstrap node either, takes the others for alive."""
_ASKED_FOR_LINE = 3
"""Peers with fresh claims that are asked whether our line works, before the bootstrap nodes are."""


@dataclass(kw_only=True)
class Liveness:
    """Asks; remembers since when nobody has answered."""

    me: PeerId
    lease_s: float
    answers: Callable[[PeerId], Awaitable[bool]]
    """Whether a peer answers, asked now; soon False if not."""
    any_bootstrap_answers: Callable[[], Awaitable[bool]]
    _alone_since_s: float | None = None

    async def living(self, claims: Mapping[PeerId, Claim], *, now_s: float) -> dict[PeerId, Claim]:
        """The claims that count now; an expired one that does holds for another half of a lease.

        Args:
            claims: with their expiry by our monotonic clock (``leases``); ours does not matter.
            now_s: monotonic.
        """
        expired = [peer for peer, claim in claims.items() if claim.expires_s < now_s and peer != self.me]
        if not expired:
            return dict(claims)
        # In this order: if our line worked before they were asked, their silence is theirs.
        line_works = await self._line_works(sorted(claims.keys() - {*expired, self.me}))
        alive = dict(zip(expired, await asyncio.gather(*map(self.answers, expired)), strict=True))
        if line_works or any(alive.values()):
            self._alone_since_s = None
        elif self._alone_since_s is None:
            self._alone_since_s = now_s
        is_short = self._alone_since_s is None or now_s - self._alone_since_s < ALONE_LEASES * self.lease_s
        keeps_all = not line_works and is_short
        later_s = now_s + self.lease_s / 2
        kept = {p: replace(claims[p], expires_s=later_s) for p in expired if alive[p] or keeps_all}
        return {peer: claim for peer, claim in claims.items() if peer not in alive} | kept

    async def _line_works(self, others: list[PeerId]) -> bool:
        asked = random.sample(others, min(_ASKED_FOR_LINE, len(others)))
        return any(await asyncio.gather(*map(self.answers, asked))) or await self.any_bootstrap_answers()
