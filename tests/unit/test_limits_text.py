"""Limits as people write them."""

import pytest

from p2ptrain.config.limits_text import changed_limits, limit_entries
from p2ptrain.config.schema import LimitsConfig
from p2ptrain.errors import ConfigError


def test_limits_are_changed_as_toml_or_as_plain_text() -> None:
    base = LimitsConfig(upload_mbps=5.0, niceness=3)
    changes = {"compute_hours": "Mon-Fri 22:00-07:00", "pause_while_running": '["a", "b"]', "upload_mbps": ""}
    limits, given = changed_limits(base, changes)
    assert limits.compute_hours == ("Mon-Fri 22:00-07:00",)
    assert limits.pause_while_running == ("a", "b")
    assert (limits.upload_mbps, limits.niceness) == (5.0, 3)
    assert "upload_mbps" not in given


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nicenes": "3"}, "did you mean niceness?"),
        ({"nicenes": ""}, "did you mean niceness?"),
        ({"niceness": "40"}, "choose 0 to 19"),
        ({"pause_on_battery": "yes"}, "true or false"),
        ({"network_hours": "25:00-26:00"}, "hours like"),
    ],
)
def test_wrong_limits_are_refused_with_what_would_be_right(changes, told) -> None:
    with pytest.raises(ConfigError, match=told.replace("?", r"\?")):
        changed_limits(LimitsConfig(), changes)


def test_every_limit_has_a_sentence() -> None:
    assert all(entry.help.endswith(".") for entry in limit_entries(LimitsConfig()))
