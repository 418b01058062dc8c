"""What the volunteer asked of the running peer, on disk: a pause or changed limits outlive restarts."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from p2ptrain.node.atomic_file import replace_file
from p2ptrain.node.limits import Wish


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A limit set at run time."""

    value: Any
    """As TOML gives it."""
    until_s: float | None = None
    """Wall time; None: until changed again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """The content of ``seat.json``."""

    wish: Wish = field(default_factory=Wish)
    changes: Mapping[str, Change] = field(default_factory=dict)
    month: str = ""
    """``2026-11``."""
    month_bytes: int = 0
    """Sent and received in that month, with libp2p's overhead left out."""

    def in_force(self, now_s: float) -> "Wishes":
        """Without what has run out."""
        changes = {k: c for k, c in self.changes.items() if c.until_s is None or c.until_s > now_s}
        is_over = self.wish.until_s is not None and self.wish.until_s <= now_s
        return replace(self, changes=changes, wish=Wish() if is_over else self.wish)

    def next_end_s(self) -> float:
        """When the first of the changed limits runs out; infinity if none does."""
        return min((c.until_s for c in self.changes.values() if c.until_s is not None), default=math.inf)

    def used(self, num_bytes: int, now: datetime) -> "Wishes":
        """With more bytes on this month's account."""
        month = now.strftime("%Y-%m")
        before = self.month_bytes if month == self.month else 0
        return replace(self, month=month, month_bytes=before + num_bytes)


def load_wishes(path: Path) -> Wishes:
    """What ``save_wishes`` wrote; nothing when the file is missing, or damaged, which holds nobody back."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return Wishes(
            wish=Wish(**body["wish"]),
            changes={key: Change(**change) for key, change in body["changes"].items()},
            month=str(body["month"]),
            month_bytes=int(body["month_bytes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Wishes()


def save_wishes(path: Path, wishes: Wishes) -> None:
    """Replace the file.

    Raises:
        StorageError: the disk is full.
    """
    body = {
        "wish": {"paused": wishes.wish.paused, "until_s": wishes.wish.until_s, "reason": wishes.wish.reason},
        "changes": {key: {"value": c.value, "until_s": c.until_s} for key, c in wishes.changes.items()},
        "month": wishes.month,
        "month_bytes": wishes.month_bytes,
    }
    data = json.dumps(body, indent=1).encode() + b"\n"
    replace_file(path, [data], size_bytes=len(data))
