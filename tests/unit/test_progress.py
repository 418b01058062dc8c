"""Bars for what takes long: seen on a terminal, nowhere else, and gone afterwards."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from p2ptrain.cli.log_output import JoiningBar
from p2ptrain.cli.progress import working
from p2ptrain.events import Event, Record, StateChanged, StateMissing, Traffic
from p2ptrain.ids import SliceId, Version

SLOW = """
import sys
from p2ptrain.cli import progress
progress._SHOWN_AFTER_S = 0.05
with progress.working("counting sheep", in_bytes=sys.argv[1] == "bytes") as report:
    report(3_000_000, 8_000_000)
    sys.stdin.readline()
    print("line meanwhile")
print("counted")
"""


def shown_while_working(unit: str, until: bytes, *, stdout: Path | None = None) -> bytes:
    """What a terminal gets from ``SLOW``, which works until the terminal has shown ``until``."""
    controller, terminal = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    output = terminal if stdout is None else os.open(stdout, os.O_WRONLY | os.O_CREAT)
    running = subprocess.Popen(
        [sys.executable, "-c", SLOW, unit], stdin=subprocess.PIPE, stdout=output, stderr=terminal, env=variables
    )
    os.close(terminal)
    seen = b""
    while until not in seen:
        seen += os.read(controller, 65536)
    assert running.stdin is not None
    running.stdin.close()
    while chunk := _rest(controller):
        seen += chunk
    os.close(controller)
    assert running.wait(timeout=60) == 0
    return seen


def _rest(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # Linux, when the last who had the terminal open is gone
        return b""


def test_a_bar_with_what_and_how_much_is_on_the_terminal_and_then_gone() -> None:
    seen = shown_while_working("count", b"/8000000")
    assert b"counting sheep" in seen
    bar, _, after = seen.rpartition(b"counting sheep")
    assert b"\x1b[2K" in after, "the line is erased"
    assert after.rstrip().endswith(b"counted")
    assert b"line meanwhile" in bar, "and lines stay, above it"


def test_bytes_are_shown_in_a_unit_that_people_read() -> None:
    assert b"3.0/8.0 MB" in shown_while_working("bytes", b"3.0/8.0 MB")


def test_what_a_file_is_to_get_gets_there_while_a_bar_is_shown(tmp_path: Path) -> None:
    shown_while_working("count", b"counting sheep", stdout=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "line meanwhile\ncounted\n"


def test_nothing_is_shown_where_no_terminal_is(capfd: pytest.CaptureFixture[str]) -> None:
    with working("counting") as report:
        report(1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_joining_peer_shows_what_it_has_of_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    open_bars = []

    class Bar:
        def __init__(self, what: str, *, in_bytes: bool) -> None:
            assert in_bytes

        def __enter__(self):
            open_bars.append(self)
            return lambda done, of: told.append((done, of))

        def __exit__(self, *_: object) -> None:
            open_bars.remove(self)

    monkeypatch.setattr("p2ptrain.cli.log_output.working", Bar)
    bar = JoiningBar()

    def tell(*events: Event) -> None:
        for event in events:
            bar(Record(sequence=1, time_s=0.0, event=event))

    def received(count: int) -> Traffic:
        return Traffic(sent_bytes=0, received_bytes=count, sending="")

    def missing(count: int) -> StateMissing:
        return StateMissing(slices={SliceId("0"): Version(3)}, size_bytes=count)

    tell(
        StateChanged(state="JOINING", reason="looking"), received(50), StateChanged(state="JOINING", reason="fetching")
    )
    assert len(open_bars) == 1
    assert told == []
    tell(missing(1000), received(450), missing(200), received(2000))
    assert told == [(0, 1000), (400, 1000), (400, 1200), (1200, 1200)]
    tell(StateChanged(state="TRAINING", reason=""))
    assert open_bars == []
