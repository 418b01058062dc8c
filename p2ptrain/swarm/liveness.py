"""Whose claim counts although it has expired: whoever answers, and everybody while it is our own line that is cut.

A record may be late, and clocks may differ, so silence has to confirm what an expired claim says. And silence is only
the others' if our own line works: a peer that went on alone each time its line was cut would make a branch each time,
which somebody then has to give up (docs/decisions/0013).

One answer that did not come is enough to go on without a peer, but not to forget it: it is asked again for some leases,
and is back when it answers. Its records alone would bring it back, too, unless its clock is so wrong that no node of
the directory takes them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from p2ptrain.ids import PeerId
from p2ptrain.swarm.directory import Claim

ALONE_LEASES = 10
"""How many leases long a peer that nobody answers, no bootstrap node either, takes the others for alive."""
MISSED_LEASES = 3
"""How many leases long a peer that was silent is asked again, twice in each."""
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
    _kept_until_s: float = 0.0
    """How long the claims hold that we kept then."""
    _missed: dict[PeerId, tuple[Claim, float]] = field(default_factory=dict)
    """Claims of peers that were silent, and since when."""
    _ask_missed_s: float = 0.0
    """When they are asked again, all at once, for an answer that does not come holds everything up."""

    async def living(self, claims: Mapping[PeerId, Claim], *, now_s: float) -> dict[PeerId, Claim]:
        """The claims that count now; an expired or missed one that does holds for another half of a lease.

        Args:
            claims: with their expiry by our monotonic clock (``leases``); ours does not matter.
            now_s: monotonic.
        """
        back = await self._missed_that_answer(claims, now_s)
        claims = {**claims, **back}
        if any(claim.expires_s > self._kept_until_s for peer, claim in claims.items() if peer != self.me):
            self._alone_since_s = None  # a record has come since, and the next cut counts from its own beginning
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
        if keeps_all:
            self._kept_until_s = later_s
        kept = {p: replace(claims[p], expires_s=later_s) for p in expired if alive[p] or keeps_all}
        if not self._missed:
            self._ask_missed_s = later_s
        # Not those that have left, and said so.
        self._missed |= {p: (claims[p], now_s) for p in expired if p not in kept and claims[p].slices}
        return {peer: claim for peer, claim in claims.items() if peer not in alive} | kept

    async def _missed_that_answer(self, claims: Mapping[PeerId, Claim], now_s: float) -> dict[PeerId, Claim]:
        oldest_s = now_s - MISSED_LEASES * self.lease_s
        self._missed = {p: missed for p, missed in self._missed.items() if p not in claims and missed[1] > oldest_s}
        if not self._missed or now_s < self._ask_missed_s:
            return {}
        self._ask_missed_s = later_s = now_s + self.lease_s / 2
        asked = list(self._missed)
        answers = await asyncio.gather(*map(self.answers, asked))
        back = [peer for peer, is_there in zip(asked, answers, strict=True) if is_there]
        return {peer: replace(self._missed[peer][0], expires_s=later_s) for peer in back}

    async def _line_works(self, others: list[PeerId]) -> bool:
        asked = random.sample(others, min(_ASKED_FOR_LINE, len(others)))
        return any(await asyncio.gather(*map(self.answers, asked))) or await self.any_bootstrap_answers()
