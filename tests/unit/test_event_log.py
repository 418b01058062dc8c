"""Watching events from any number on: nothing missed, whatever is in memory and however often files were rotated."""

import asyncio
import itertools

from p2ptrain.events import EventBus, StateChanged
from p2ptrain.node import event_log
from p2ptrain.node.event_log import EventLog, first_sequence, read_after
from p2ptrain.node.journal import Journal, journal_files


def bus_with_journal(tmp_path, rotate_bytes=2000):
    journal = Journal(tmp_path / "events.jsonl", rotate_bytes)
    log = EventLog(journal.path, journal.last_sequence)
    return EventBus(sinks=[journal, log], last_sequence=journal.last_sequence), journal, log


def happen(bus: EventBus, count: int) -> None:
    for _ in range(count):
        bus.emit(StateChanged(state="TRAINING", reason=f"round {bus.last_sequence + 1}"))


async def numbers(log: EventLog, after: int) -> list[int]:
    return [entry.sequence async for entry in log.follow(after, stop_at_present=True)]


async def test_a_watcher_that_comes_back_gets_all_that_it_missed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(event_log, "_IN_MEMORY", 10)
    bus, journal, log = bus_with_journal(tmp_path)
    with journal:
        happen(bus, 100)
        assert len(journal_files(journal.path)) > 2, "the journal was rotated"
        for after in (0, 1, 17, 50, 88, 89, 90, 99, 100):
            assert await numbers(log, after) == list(range(after + 1, 101)), after


async def test_what_happens_while_old_events_are_read_is_given_once_and_in_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(event_log, "_IN_MEMORY", 10)
    monkeypatch.setattr(event_log, "_BATCH", 7)
    bus, journal, log = bus_with_journal(tmp_path)
    with journal:
        happen(bus, 60)
        seen = []
        async for entry in log.follow(0):
            seen.append(entry.sequence)
            if entry.sequence % 5 == 0 and bus.last_sequence < 100:
                happen(bus, 3)
            if entry.sequence == bus.last_sequence and bus.last_sequence >= 90:
                log.close()
        assert seen == list(range(1, bus.last_sequence + 1))


async def test_a_waiting_watcher_is_woken_and_ends_when_the_peer_does(tmp_path) -> None:
    bus, journal, log = bus_with_journal(tmp_path)
    with journal:
        happen(bus, 3)
        seen: list[int] = []

        async def watch() -> None:
            seen.extend([entry.sequence async for entry in log.follow(3)])

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            await asyncio.sleep(0)
            happen(bus, 2)
            await asyncio.sleep(0)
            log.close()
    assert seen == [4, 5]


def test_a_restarted_peer_goes_on_counting_after_its_last_file_was_rotated(tmp_path) -> None:
    bus, journal, _ = bus_with_journal(tmp_path, rotate_bytes=1)
    with journal:
        happen(bus, 3)
    assert journal.path.read_bytes() == b""
    with Journal(journal.path) as again:
        assert again.last_sequence == 3


def test_only_the_newest_files_are_kept(tmp_path) -> None:
    bus, journal, _ = bus_with_journal(tmp_path, rotate_bytes=1)
    with journal:
        happen(bus, 20)
    assert len(journal_files(journal.path)) == 9
    assert first_sequence(journal.path) == 13
    assert [entry.sequence for entry in read_after(journal.path, 0, 3)] == [13, 14, 15]


def test_reading_late_in_a_large_journal_finds_the_place(tmp_path) -> None:
    bus, journal, _ = bus_with_journal(tmp_path, rotate_bytes=1 << 30)
    with journal:
        happen(bus, 5000)
    for after in itertools.chain(range(0, 5000, 701), (4998, 4999)):
        assert [entry.sequence for entry in read_after(journal.path, after, 2)] == [
            number for number in (after + 1, after + 2) if number <= 5000
        ]
    assert read_after(journal.path, 5000, 2) == []


def test_damaged_lines_and_kinds_of_later_versions_are_passed_on_or_over(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"sequence":1,"time_s":1.0,"kind":"FromTheFuture","x":1}\n'
        "garbage\n"
        '{"sequence":2,"time_s":1.0,"kind":"StateChanged","state":"A","reason":"b"}\n'
        '{"sequence":3,"time_s":1.0,"ki'
    )
    first, second = read_after(path, 0, 10)
    assert (first.kind, first.line) == ("FromTheFuture", "")
    assert second.line == "A: b"
