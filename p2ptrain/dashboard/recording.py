"""Records in order, and the seat as it was at any of them: what makes scrubbing cheap."""

from collections.abc import Sequence

from p2ptrain.dashboard.seat import Seat, observe_record
from p2ptrain.events import Record

_KEYFRAME_EVERY = 256
"""Records between kept seats; folding so many takes 10 ms, and kept seats share most of what they hold."""


class Recording:
    """All records so far, with the seat after the last of them.

    Args:
        seat: before the first record.
        keep: most records that can be gone back; 0 keeps all. What is older stays in the seat.
    """

    def __init__(self, seat: Seat, keep: int = 0) -> None:
        self.latest = seat
        self._keep = keep
        self._records: list[tuple[str, Record]] = []
        self._keyframes: list[Seat] = [seat]
        """The seat before record 0, 256, 512, …"""
        self._shown = (0, seat)
        """The seat that was asked for last, and how many records it has: a replay mostly goes on from there."""

    def append(self, records: Sequence[tuple[str, Record]]) -> None:
        """More records, in order, each with the name of its journal."""
        for name, record in records:
            self.latest = observe_record(self.latest, name, record)
            self._records.append((name, record))
            if len(self._records) % _KEYFRAME_EVERY == 0:
                self._keyframes.append(self.latest)
        if self._keep and len(self._records) > 2 * self._keep:
            dropped = (len(self._records) - self._keep) // _KEYFRAME_EVERY
            del self._records[: dropped * _KEYFRAME_EVERY]
            del self._keyframes[:dropped]
            self._shown = (0, self._keyframes[0])

    def __len__(self) -> int:
        return len(self._records)

    def times(self) -> tuple[float, float] | None:
        """Wall time of the first and the last record that can be gone back to; None without any."""
        return (self._records[0][1].time_s, self._records[-1][1].time_s) if self._records else None

    def at(self, time_s: float) -> Seat:
        """The seat after all records until that moment."""
        low, high = 0, len(self._records)
        while low < high:
            middle = (low + high) // 2
            if self._records[middle][1].time_s <= time_s:
                low = middle + 1
            else:
                high = middle
        if low == len(self._records):
            return self.latest
        start, seat = low // _KEYFRAME_EVERY * _KEYFRAME_EVERY, self._keyframes[low // _KEYFRAME_EVERY]
        if start <= self._shown[0] <= low:
            start, seat = self._shown
        for name, record in self._records[start:low]:
            seat = observe_record(seat, name, record)
        self._shown = (low, seat)
        return seat
