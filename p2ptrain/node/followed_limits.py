"""The limits that a peer was started with, which follow its profile: read again whenever that file changes."""

from collections.abc import Callable
from pathlib import Path

from p2ptrain.config.limits_text import ChosenLimits


class FollowedLimits:
    """Limits, and where each comes from, as flags and the profile have them now.

    Args:
        read: the profile's limits, with those that flags name in their place; raises ConfigError.
        profile: the file; None when the peer was started without one.

    Raises:
        ConfigError: what the profile says cannot be meant.
    """

    def __init__(self, read: Callable[[], ChosenLimits], profile: Path | None = None) -> None:
        self._read = read
        self._profile = profile.absolute() if profile else None
        self._seen = self._signature()
        self.chosen = read()

    def has_changed(self) -> bool:
        """Whether the profile was changed since the last call, and ``chosen`` with it.

        Raises:
            ConfigError: what was written cannot be meant; told once for each change, and ``chosen`` is as it was.
        """
        now = self._signature()
        if now is None or now == self._seen:  # missing: an editor is about to put the new one in its place
            return False
        self._seen = now
        self.chosen = self._read()
        return True

    def _signature(self) -> tuple[int, int, int] | None:
        if self._profile is None:
            return None
        try:
            found = self._profile.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
