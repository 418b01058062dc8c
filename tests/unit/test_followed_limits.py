"""A profile's limits are followed when the file is changed, and flags stay above them."""

import os
from pathlib import Path

import pytest

from p2ptrain.config.limits_text import ChosenLimits, with_values
from p2ptrain.config.schema import LimitsConfig
from p2ptrain.errors import ConfigError
from p2ptrain.node.followed_limits import FollowedLimits


class Profile:
    """A file with one number, the niceness, in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = 0

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.writes += 1
        os.utime(self.path, ns=(self.writes, self.writes))  # two writes may come in one tick of the file system

    def read(self) -> ChosenLimits:
        return ChosenLimits(with_values(LimitsConfig(), {"niceness": int(self.path.read_text())}), {})


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    written = Profile(tmp_path / "peer.toml")
    written.write("3")
    return written


def test_a_change_is_told_once(profile: Profile) -> None:
    limits = FollowedLimits(profile.read, profile.path)
    assert limits.chosen.limits.niceness == 3
    assert not limits.has_changed()
    profile.write("7")
    assert limits.has_changed()
    assert limits.chosen.limits.niceness == 7
    assert not limits.has_changed()


def test_what_cannot_be_meant_is_told_once_and_changes_nothing(profile: Profile) -> None:
    limits = FollowedLimits(profile.read, profile.path)
    profile.write("33")
    with pytest.raises(ConfigError, match="choose 0 to 19"):
        limits.has_changed()
    assert not limits.has_changed()
    assert limits.chosen.limits.niceness == 3


def test_a_file_that_an_editor_replaces_is_followed_and_its_absence_means_nothing(profile: Profile) -> None:
    limits = FollowedLimits(profile.read, profile.path)
    profile.path.rename(profile.path.with_suffix(".old"))
    assert not limits.has_changed()
    profile.write("9")
    assert limits.has_changed()
    assert limits.chosen.limits.niceness == 9


def test_without_a_profile_nothing_changes() -> None:
    limits = FollowedLimits(lambda: ChosenLimits(LimitsConfig(), {}))
    assert not limits.has_changed()
