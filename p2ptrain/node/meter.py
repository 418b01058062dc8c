"""Where a thread's time goes: each moment belongs to training, to waiting or to the rest."""

from collections.abc import Callable
from typing import TypeVar

from p2ptrain import clock

_T = TypeVar("_T")


class Meter:
    """Seconds since the last ``lap``, told apart. For use by one thread."""

    def __init__(self) -> None:
        self._since_s = clock.monotonic_s()
        self._training_s = 0.0
        self._waiting_s = 0.0

    def training(self, work: Callable[[], _T]) -> _T:
        """Do ``work``, an inner step."""
        started_s = clock.monotonic_s()
        try:
            return work()
        finally:
            self._training_s += clock.monotonic_s() - started_s

    def waiting(self, work: Callable[[], _T]) -> _T:
        """Do ``work``, which waits for others."""
        started_s = clock.monotonic_s()
        try:
            return work()
        finally:
            self._waiting_s += clock.monotonic_s() - started_s

    def lap(self) -> tuple[float, float, float]:
        """Seconds in training, in waiting and in all else since the last lap; counts from 0 again."""
        now_s = clock.monotonic_s()
        training_s, waiting_s, whole_s = self._training_s, self._waiting_s, now_s - self._since_s
        self._since_s, self._training_s, self._waiting_s = now_s, 0.0, 0.0
        return training_s, waiting_s, max(0.0, whole_s - training_s - waiting_s)
