"""What an operator must do something about now: begins when it is reported, ends when it has not been for a while."""

from dataclasses import dataclass, field

PROBLEMS = ("twin", "crowd")
"""Kinds, for metrics."""
_LASTS_S = 60.0
"""After the last report; whoever reports looks every few seconds."""


@dataclass(slots=True)
class Problems:
    """By kind, a sentence and when it was last true. Pure: times are monotonic seconds, given."""

    _reported: dict[str, tuple[str, float]] = field(default_factory=dict)

    def report(self, kind: str, sentence: str, now_s: float) -> bool:
        """It is so at this time; True if it was not until now."""
        is_new = kind not in self.current(now_s)
        self._reported[kind] = (sentence, now_s)
        return is_new

    def current(self, now_s: float) -> dict[str, str]:
        """What is wrong, by kind."""
        return {k: sentence for k, (sentence, last_s) in self._reported.items() if now_s - last_s < _LASTS_S}
