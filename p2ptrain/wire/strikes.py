"""Who has broken the protocol how often of late, and is not listened to for a while. Pure: time is given.

A single bad message may be a bug or another version; several in a minute are worth a pause. The book forgets, so that
nobody is banned for ever, and has a fixed size, so that nobody can make it grow.
"""

from dataclasses import dataclass, field

from p2ptrain.ids import PeerId

STRIKES = 8
"""Within ``WINDOW_S``, and the peer is cut off."""
WINDOW_S = 60.0
PENALTY_S = 60.0
"""The first time; doubled each time after, while the book remembers the peer."""
_MAX_PENALTY_S = 3600.0
_REMEMBERED_S = 3600.0
_MAX_PEERS = 4096
"""A newcomer pushes out whoever was quiet for longest; keys are free, so more memory would not help."""


@dataclass(slots=True)
class _Entry:
    times_s: list[float] = field(default_factory=list)
    """Of the strikes in the window."""
    out_until_s: float = 0.0
    penalties: int = 0
    last_s: float = 0.0


class StrikeBook:
    """Strikes of the peers that we have heard from."""

    def __init__(self) -> None:
        self._entries: dict[PeerId, _Entry] = {}

    def strike(self, peer: PeerId, now_s: float, *, weight: int = 1) -> float | None:
        """Count against a peer; the seconds for which it is cut off from now on, if this was one too many."""
        entry = self._entries.pop(peer, None)
        if entry is None or now_s > max(entry.last_s, entry.out_until_s) + _REMEMBERED_S:
            entry = _Entry()
        if len(self._entries) >= _MAX_PEERS:
            del self._entries[next(iter(self._entries))]
        self._entries[peer] = entry
        entry.last_s = now_s
        entry.times_s = [t for t in entry.times_s if t > now_s - WINDOW_S][-STRIKES:] + [now_s] * weight
        if len(entry.times_s) < STRIKES or now_s < entry.out_until_s:
            return None
        penalty_s = min(PENALTY_S * 2.0**entry.penalties, _MAX_PENALTY_S)
        entry.out_until_s = now_s + penalty_s
        entry.penalties += 1
        entry.times_s = []
        return penalty_s

    def is_out(self, peer: PeerId, now_s: float) -> bool:
        """Whether a peer is cut off at the moment."""
        entry = self._entries.get(peer)
        return entry is not None and now_s < entry.out_until_s

    def __len__(self) -> int:
        return len(self._entries)
