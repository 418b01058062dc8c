"""Bars for what takes long: seen on a terminal, nowhere else, and gone afterwards."""

import os
import pty
import subprocess
import sys

import pytest

from p2ptrain.cli.log_output import JoiningBar
from p2ptrain.cli.progress import working
from p2ptrain.events import Record, StateChanged, StateFetched
from p2ptrain.ids import PeerId, SliceId, Version

SLOW = """
import time
from p2ptrain.cli import progress
progress._SHOWN_AFTER_S = 0.05
with progress.working("counting sheep") as report:
    for i in range(8):
        report(i, 8)
        time.sleep(0.1)
print("counted")
"""


def test_a_bar_with_what_and_how_much_is_on_the_terminal_and_then_gone() -> None:
    controller, terminal = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    running = subprocess.Popen([sys.executable, "-c", SLOW], stdout=terminal, stderr=terminal, env=variables)
    os.close(terminal)
    seen = b""
    while b"counted" not in seen:
        seen += os.read(controller, 65536)
    os.close(controller)
    assert running.wait(timeout=30) == 0
    assert b"counting sheep" in seen
    assert b"/8" in seen
    assert seen.rstrip().endswith(b"\x1b[2Kcounted") or b"\x1b[2K" in seen.rpartition(b"counting sheep")[2]


def test_nothing_is_shown_where_no_terminal_is(capfd: pytest.CaptureFixture[str]) -> None:
    with working("counting") as report:
        report(1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_joining_peer_counts_the_slices_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    open_bars = []

    class Bar:
        def __init__(self, what: str) -> None:
            pass

        def __enter__(self):
            open_bars.append(self)
            return lambda done, of: told.append((done, of))

        def __exit__(self, *_: object) -> None:
            open_bars.remove(self)

    monkeypatch.setattr("p2ptrain.cli.log_output.working", Bar)
    bar = JoiningBar(3)

    def tell(event) -> None:
        bar(Record(sequence=1, time_s=0.0, event=event))

    def fetched(slice_id: str) -> StateFetched:
        return StateFetched(
            slice=SliceId(slice_id), version=Version(1), part="published", size_bytes=1, donor=PeerId("a"), seconds=1.0
        )

    tell(StateChanged(state="JOINING", reason="looking"))
    tell(StateChanged(state="JOINING", reason="fetching"))
    assert len(open_bars) == 1
    for slice_id in ("common", "0", "0"):
        tell(fetched(slice_id))
    assert told == [(1, 3), (2, 3), (2, 3)]
    tell(StateChanged(state="TRAINING", reason=""))
    assert open_bars == []
