"""Whether another process runs under our own id: pure, from the claims that are found under it.

A key that was copied to two machines makes two nodes that the others take for one. Their calls reach the one or the
other by chance, and two owners that vote under one id can break what votes promise. Each process draws a number and
signs it into its claims, so that whoever sees a claim of its own id with another number knows that it is not alone.

A claim of another number may also be our own past: of the process that ran here until a moment ago. That one is dead
and renews nothing. So only a claim that expires later than our first one did counts, and only once it has been renewed.
"""

from dataclasses import dataclass, field

_MOST = 8
"""Numbers that are remembered; a node has one twin, rarely two."""


@dataclass(slots=True)
class Twins:
    """What was seen of other processes under our id."""

    instance: int
    """Of this process."""
    _ours_s: float | None = None
    """Wall time at which our first claim expires."""
    _seen_s: dict[int, float] = field(default_factory=dict)
    """By number, the earliest expiry of a claim that our past cannot have made."""

    def published(self, expires_s: float) -> None:
        """We published a claim that expires then (wall time)."""
        if self._ours_s is None:
            self._ours_s = expires_s

    def is_alive(self, instance: int, expires_s: float) -> bool:
        """Whether a claim that was found under our id shows that another process is running.

        Args:
            instance: the number in it; 0 is an older version's, which says nothing.
            expires_s: wall time.
        """
        if instance in (0, self.instance) or self._ours_s is None or expires_s <= self._ours_s:
            return False
        if instance not in self._seen_s and len(self._seen_s) >= _MOST:
            return False
        first_s = self._seen_s.setdefault(instance, expires_s)
        self._seen_s[instance] = min(first_s, expires_s)
        return expires_s > first_s
