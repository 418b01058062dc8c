"""The journal survives crashes and full disks, and followers see whole records only."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2ptrain.dashboard.follow import JournalFollower, JournalTail
from p2ptrain.events import Evaluated, EventBus, Record, StateChanged
from p2ptrain.ids import Version
from p2ptrain.node.journal import Journal


def record(sequence: int, time_s: float = 1.0) -> Record:
    return Record(sequence=sequence, time_s=time_s, event=StateChanged(state="WAITING", reason="for a reason"))


def sequences(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_records_are_in_the_file_as_soon_as_they_are_emitted(path: Path) -> None:
    with Journal(path) as journal:
        bus = EventBus([journal])
        bus.emit(Evaluated(round=Version(3), loss_nats=2.5))
        seen = JournalTail(path).new_records()
    assert [one.event for one in seen] == [Evaluated(round=Version(3), loss_nats=2.5)]


def test_numbering_goes_on_after_a_restart(path: Path) -> None:
    for _ in range(3):
        with Journal(path) as journal:
            bus = EventBus([journal], journal.last_sequence)
            bus.emit(StateChanged(state="JOINING", reason="start"))
            bus.emit(StateChanged(state="LEAVING", reason="stop"))
    assert sequences(path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_last_line_cut_off_by_a_crash_is_removed(path: Path, cut: int) -> None:
    with Journal(path) as journal:
        for number in (1, 2, 3):
            journal(record(number))
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert journal.last_sequence == 2
        journal(record(3))
    assert sequences(path) == [1, 2, 3]


def test_journal_of_nothing_but_a_torn_line_starts_anew(path: Path) -> None:
    path.write_bytes(b'{"sequence":1,"ti')
    with Journal(path) as journal:
        assert journal.last_sequence == 0
    assert path.read_bytes() == b""


def test_last_sequence_is_found_in_a_long_journal_and_behind_unreadable_lines(path: Path) -> None:
    with Journal(path) as journal:
        for number in range(1, 2001):
            journal(record(number))
    assert path.stat().st_size > 1 << 16
    with path.open("ab") as file:
        file.write(b'not json\n{"kind":"OfALaterVersion"}\n')
    with Journal(path) as journal:
        assert journal.last_sequence == 2000


def test_last_sequence_is_found_in_a_line_longer_than_what_is_read_at_a_time(path: Path) -> None:
    with Journal(path) as journal:
        journal(record(1))
        journal(Record(sequence=2, time_s=1.0, event=StateChanged(state="WAITING", reason="x" * 200_000)))
    with Journal(path) as journal:
        assert journal.last_sequence == 2


def test_killed_writer_loses_no_record_but_the_one_it_was_writing(path: Path) -> None:
    code = """
import pathlib, sys
from p2ptrain.events import EventBus, StateChanged
from p2ptrain.node.journal import Journal
bus = EventBus([Journal(pathlib.Path(sys.argv[1]))])
while True:
    bus.emit(StateChanged(state="WAITING", reason="x" * 3000))
    if bus.last_sequence == 50:
        print("going", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    seen = [one.sequence for one in JournalTail(path).new_records()]
    assert len(seen) >= 50
    assert seen == list(range(1, len(seen) + 1))
    with Journal(path) as journal:
        assert journal.last_sequence == len(seen)
        journal(record(len(seen) + 1))
    assert sequences(path) == [*seen, len(seen) + 1]


def test_full_disk_costs_records_and_says_so_once_and_leaves_no_torn_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    really_write = os.write
    with Journal(path) as journal:
        journal(record(1))
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda fd, data: really_write(fd, data[:20]))
            journal(record(2))
        with Path("/dev/full").open("wb") as device, monkeypatch.context() as full:
            full.setattr(os, "write", lambda fd, data: really_write(device.fileno(), data))
            journal(record(3))
        assert journal.num_lost == 2
        journal(record(4))
    assert sequences(path) == [1, 4]
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "No space left on device; events are not recorded until that changes",
        "recording again; 2 events are missing",
    ]


def test_tail_waits_for_the_file_and_for_the_end_of_a_line(path: Path) -> None:
    tail = JournalTail(path)
    assert tail.new_records() == []
    line = record(1).to_json().encode() + b"\n"
    path.write_bytes(line[:30])
    assert tail.new_records() == []
    with path.open("ab") as file:
        file.write(line[30:] + line[:5])
    assert [one.sequence for one in tail.new_records()] == [1]
    assert tail.new_records() == []


def test_tail_goes_on_after_the_writer_removed_a_torn_line(path: Path) -> None:
    tail = JournalTail(path)
    with Journal(path) as journal:
        journal(record(1))
    with path.open("ab") as file:
        file.write(b'{"sequence":2,"time_s":1.0,"kind":"StateCh')
    assert [one.sequence for one in tail.new_records()] == [1]
    with Journal(path) as journal:
        journal(record(2))
    assert [one.sequence for one in tail.new_records()] == [2]


def test_tail_counts_unreadable_lines_and_passes_over_events_of_later_versions(path: Path) -> None:
    path.write_text(
        'nonsense\n[]\n{"kind":"StateChanged","sequence":1,"time_s":1.0}\n{"kind":"FromTheFuture","sequence":2}\n'
        + record(3).to_json()
        + "\n"
    )
    tail = JournalTail(path)
    assert [one.sequence for one in tail.new_records()] == [3]
    assert tail.num_unreadable == 3


def test_follower_merges_journals_by_time_and_keeps_the_order_of_each(tmp_path: Path) -> None:
    follower = JournalFollower()
    for name, times in {"a": [1.0, 5.0, 2.0], "b": [1.5, 3.0, 6.0]}.items():
        path = tmp_path / name
        follower.add(name, path)
        path.write_text("".join(record(i, time_s).to_json() + "\n" for i, time_s in enumerate(times, 1)))
    seen = [(name, one.sequence) for name, one in follower.new_records()]
    assert seen == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert follower.new_records() == []
