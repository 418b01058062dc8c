"""How many of other people's records a node keeps: bounded, whoever sends how many. Pure: wall time is given.

A record is refused when there is no room, and never another one dropped for it: who is known stays known, since a
renewal replaces what it renews, and a flood of valid records by made-up peers keeps newcomers out of this node for as
long as they last at most. A record that is not newer than the one that we have is refused, too. hivemind's storage
would note its expiry as that of the newer one and drop that early (1.1.12, timed_storage.py, store), so that whoever
repeats a peer's old claim could make it vanish.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, field

RECORD_OVERHEAD_BYTES = 1000
"""What the key, its expiry and the bookkeeping take beside the value; measured as 0.9 kB."""
MAX_RECORDS_OF_KEY = 8192
"""Claims of one run; reading them is one message, which libp2p limits to 4 MiB, a few hundred bytes for each."""
MAX_BYTES = 48 * 1024**2
"""For all records: some 30,000 claims."""


@dataclass(slots=True)
class RecordRoom:
    """What a storage holds; ``take`` before each write."""

    max_bytes: int = MAX_BYTES
    refused: int = 0
    """Records for which there was no room."""
    used_bytes: int = 0
    _held: dict[tuple[bytes, str], tuple[float, int]] = field(default_factory=dict)
    """By key and subkey, expiry and bytes."""
    _of_key: Counter[bytes] = field(default_factory=Counter)
    _expiries: list[tuple[float, bytes, str]] = field(default_factory=list)
    """A heap; an entry whose record was renewed since is skipped."""

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: bytes, subkey: str, value_bytes: int, expires_s: float, now_s: float) -> bool:
        """Whether a record may be written; if so it counts until it expires."""
        self._drop_expired(now_s)
        size = value_bytes + RECORD_OVERHEAD_BYTES
        before = self._held.get((key, subkey))
        if expires_s <= now_s or (before is not None and before[0] >= expires_s):
            return False
        grows = size - (before[1] if before else 0)
        if self.used_bytes + grows > self.max_bytes or (before is None and self._of_key[key] >= MAX_RECORDS_OF_KEY):
            self.refused += 1
            return False
        self._of_key[key] += before is None
        self._held[key, subkey] = expires_s, size
        self.used_bytes += grows
        heapq.heappush(self._expiries, (expires_s, key, subkey))
        return True

    def _drop_expired(self, now_s: float) -> None:
        while self._expiries and self._expiries[0][0] <= now_s:
            expires_s, key, subkey = heapq.heappop(self._expiries)
            held = self._held.get((key, subkey))
            if held is None or held[0] != expires_s:
                continue
            del self._held[key, subkey]
            self.used_bytes -= held[1]
            self._of_key[key] -= 1
            if not self._of_key[key]:
                del self._of_key[key]
