"""Who may call us at the moment: counts what others do wrong, and turns away whoever does too much of it.

Everything here is bounded, in number of peers and per peer, so that nobody can make it grow.
"""

from collections import Counter
from collections.abc import Callable

from p2ptrain import clock
from p2ptrain.ids import PeerId
from p2ptrain.wire.strikes import StrikeBook

CALLS_PER_S = 400
CALLS_BURST = 16384
"""A reducer of thousands of parts announces each to every owner at once, and is then quiet for a round."""
MAX_STREAMS_FROM_ONE = 64
"""Open at once; a peer that fetches opens 32."""
_MAX_PEERS = 4096


class Doorkeeper:
    """Admits other peers' calls and streams.

    Attributes:
        is_banned: whom the volunteer does not work with.
        on_cut_off: told of each peer that is not listened to from now on, with the reason.
        refused: calls and streams turned away since the start.
    """

    def __init__(self) -> None:
        self.on_cut_off: Callable[[PeerId, str], None] = lambda peer, reason: None
        self.is_banned: Callable[[PeerId], bool] = lambda peer: False
        self.refused = 0
        self._strikes = StrikeBook()
        self._calls_until_s: dict[PeerId, float] = {}
        """When each peer's calls so far would be over at the rate it may keep up."""
        self._streams: Counter[PeerId] = Counter()

    def accuse(self, peer: PeerId, reason: str, *, weight: int = 1) -> None:
        """A peer broke the protocol; too often within a minute, and it is cut off for a while."""
        penalty_s = self._strikes.strike(peer, clock.monotonic_s(), weight=weight)
        if penalty_s is not None:
            self.on_cut_off(peer, f"cut off for {penalty_s:.0f} s, last for this: {reason}")

    def is_out(self, peer: PeerId) -> bool:
        """Whether a peer is cut off at the moment."""
        return self._strikes.is_out(peer, clock.monotonic_s()) or self.is_banned(peer)

    def admits_call(self, peer: PeerId, *, cost: float = 1.0) -> bool:
        """Whether a call, or a request on a stream, is heard; each counts, as ``cost`` if it means more work."""
        now_s = clock.monotonic_s()
        if self._strikes.is_out(peer, now_s) or self.is_banned(peer):
            self.refused += 1
            return False
        until_s = max(self._calls_until_s.pop(peer, now_s), now_s) + cost / CALLS_PER_S
        if len(self._calls_until_s) >= _MAX_PEERS:
            self._calls_until_s = {p: t for p, t in self._calls_until_s.items() if t > now_s}
        self._calls_until_s[peer] = until_s
        if until_s - now_s <= CALLS_BURST / CALLS_PER_S:
            return True
        self.refused += 1
        self._calls_until_s[peer] = until_s - cost / CALLS_PER_S
        self.accuse(peer, f"more than {CALLS_PER_S} calls a second")
        return False

    def opens_stream(self, peer: PeerId) -> bool:
        """Whether a stream is served; if so, ``closes_stream`` follows."""
        if self.is_out(peer):
            self.refused += 1
            return False
        if self._streams[peer] >= MAX_STREAMS_FROM_ONE:
            self.refused += 1
            self.accuse(peer, f"more than {MAX_STREAMS_FROM_ONE} streams at once")
            return False
        self._streams[peer] += 1
        return True

    def closes_stream(self, peer: PeerId) -> None:
        """A served stream is over."""
        self._streams[peer] -= 1
        if not self._streams[peer]:
            del self._streams[peer]
