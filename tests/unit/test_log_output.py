"""What a peer prints, for people and for programs."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from subprocess import PIPE
from typing import Literal

import pytest

from p2ptrain.cli.log_output import log_form, print_or_lose, printer
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


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_reader_that_goes_away_does_not_end_the_peer(form: Literal["human", "json"]) -> None:
    """Ctrl-C ends the ``tee`` behind a peer at once, and the peer has its slices to leave."""
    code = f"""
import logging, sys
from p2ptrain.cli.log_output import printer
from p2ptrain.events import PeerStopped, Record
say = printer({form!r})
for number in range(3):
    say(Record(sequence=number, time_s=0.0, event=PeerStopped(reason="asked to")))
    logging.getLogger("hivemind").error("of a library")
    print(number, file=sys.stderr, flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline()
        process.stdout.close()
        _, errors = process.communicate("\n\n\n", timeout=50)
    assert process.returncode == 0
    assert [line for line in errors.splitlines() if "library" not in line] == ["0", "1", "2"]


def test_problems_are_printed_where_errors_go_and_lost_if_nobody_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_or_lose("bad", is_problem=True)
    assert capsys.readouterr() == ("", "bad\n")
    code = (
        "from p2ptrain.cli.log_output import print_or_lose as p; input(); p('bad', is_problem=True); p('good'); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, bufsize=1
    ) as process:
        assert process.stderr
        process.stderr.close()
        assert process.communicate("\n\n", timeout=50)[0] == "good\n"
    assert process.returncode == 0
