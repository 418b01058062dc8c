"""Hours of the week in which something is allowed, as people write them: ``Mon-Fri 22:00-07:00``, ``Sat,Sun``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_FORM = re.compile(
    r"(?P<days>[A-Za-z]{3}(?:\s*[-,]\s*[A-Za-z]{3})*)(?:\s+(?P<start>\d{1,2}:\d\d)\s*-\s*(?P<stop>\d{1,2}:\d\d))?"
    r"|(?P<start2>\d{1,2}:\d\d)\s*-\s*(?P<stop2>\d{1,2}:\d\d)"
)
EXAMPLE = '"Mon-Fri 22:00-07:00", "Sat,Sun" or "09:00-17:00"'


@dataclass(frozen=True, slots=True)
class Hours:
    """A set of minutes of the week, local time; without any text, all of them."""

    minutes: frozenset[int]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Hours":
        """The union of what the texts say. A span that ends before it begins goes on into the next day.

        Raises:
            ValueError: a text is not understood; the message says which.
        """
        if not texts:
            return cls(frozenset(range(_WEEK_MINUTES)))
        return cls(frozenset(minute for text in texts for minute in _minutes(text)))

    def allow(self, now: datetime) -> bool:
        """Whether ``now``, local time, is within."""
        return _minute_of(now) in self.minutes

    def next_change(self, now: datetime) -> datetime | None:
        """When ``allow`` next becomes the other; None when it never does."""
        start, here = _minute_of(now), self.allow(now)
        for ahead in range(1, _WEEK_MINUTES + 1):
            if ((start + ahead) % _WEEK_MINUTES in self.minutes) != here:
                return now.replace(second=0, microsecond=0) + timedelta(minutes=ahead)
        return None


def _minute_of(now: datetime) -> int:
    return now.weekday() * _DAY_MINUTES + now.hour * 60 + now.minute


def _minutes(text: str) -> list[int]:
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not understood")
    days = _days(match["days"]) if match["days"] else list(range(7))
    start = _clock(match["start"] or match["start2"] or "00:00", text)
    stop = _clock(match["stop"] or match["stop2"] or "24:00", text)
    if stop <= start:
        stop += _DAY_MINUTES
    return [(day * _DAY_MINUTES + minute) % _WEEK_MINUTES for day in days for minute in range(start, stop)]


def _days(text: str) -> list[int]:
    days: list[int] = []
    for part in re.split(r"\s*,\s*", text):
        first, *last = (_day(name) for name in re.split(r"\s*-\s*", part))
        until = last[-1] if last else first
        days += [(first + i) % 7 for i in range((until - first) % 7 + 1)]
    return days


def _day(name: str) -> int:
    try:
        return DAYS.index(name.capitalize())
    except ValueError:
        raise ValueError(f"{name!r} is not a day; choose from {', '.join(DAYS)}") from None


def _clock(text: str, whole: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or hour * 60 + minute > _DAY_MINUTES:
        raise ValueError(f"{text} in {whole!r} is not a time of day")
    return hour * 60 + minute
