"""What a peer prints, for people and for programs."""

import json
import logging
from collections.abc import Iterator

import pytest

from p2ptrain.cli.log_output import log_form, printer
from p2ptrain.errors import UsageError
from p2ptrain.events import Event, PeerStopped, Record, Traffic

TRAFFIC = Traffic(sent_bytes=1, received_bytes=2, sending="")
STOPPED = PeerStopped(reason="asked to")


@pytest.fixture(autouse=True)
def _untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(event: Event) -> Record:
    return Record(sequence=9, time_s=1_800_000_000.25, event=event)


def test_auto_is_for_people_on_a_terminal_and_for_programs_elsewhere() -> None:
    assert log_form("auto", is_terminal=True) == "human"
    assert log_form("auto", is_terminal=False) == "json"
    assert log_form("human", is_terminal=False) == "human"
    assert log_form("json", is_terminal=True) == "json"


def test_another_form_is_refused() -> None:
    with pytest.raises(UsageError, match="--log yaml: choose from human, json, auto"):
        log_form("yaml", is_terminal=True)


def test_people_get_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    show = printer("human")
    show(record(TRAFFIC))
    show(record(STOPPED))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(" stopped: asked to")


def test_programs_get_one_object_a_line_warnings_of_libraries_included(capsys: pytest.CaptureFixture[str]) -> None:
    show = printer("json")
    show(record(TRAFFIC))
    show(record(STOPPED))
    logging.getLogger("lib").warning("bad %s", "day")
    event, warning = map(json.loads, capsys.readouterr().out.splitlines())
    assert event == {
        "time": "2027-01-15T08:00:00.250Z",
        "line": "stopped: asked to",
        "sequence": 9,
        "time_s": 1_800_000_000.25,
        "kind": "PeerStopped",
        "reason": "asked to",
    }
    assert warning["line"] == "bad day"
    assert warning["level"] == "warning"
    assert "kind" not in warning
