"""How many of other people's records a node keeps."""

from p2ptrain.wire import record_room
from p2ptrain.wire.record_room import RECORD_OVERHEAD_BYTES, RecordRoom

KEY, OTHER = b"k" * 20, b"o" * 20


def test_a_flood_is_refused_and_who_is_known_stays_known() -> None:
    room = RecordRoom(max_bytes=10 * (RECORD_OVERHEAD_BYTES + 100))
    assert room.take(KEY, "old friend", 100, 60.0, 0.0)
    taken = sum(room.take(OTHER, f"stranger {i}", 100, 600.0, 1.0) for i in range(10_000))
    assert (taken, len(room), room.refused) == (9, 10, 9991)
    assert room.take(KEY, "old friend", 100, 70.0, 2.0), "a renewal needs no room"
    assert not room.take(KEY, "newcomer", 100, 70.0, 2.0)
    assert room.take(KEY, "newcomer", 100, 700.0, 601.0), "when the flood has expired"
    assert len(room) == 1
    assert room.used_bytes == RECORD_OVERHEAD_BYTES + 100


def test_a_record_that_is_repeated_does_not_replace_a_newer_one_and_costs_nothing() -> None:
    room = RecordRoom()
    assert room.take(KEY, "peer", 100, 60.0, 0.0)
    assert room.take(KEY, "peer", 100, 90.0, 1.0)
    used = room.used_bytes
    for _ in range(1000):
        assert not room.take(KEY, "peer", 100, 60.0, 2.0), "an old claim, replayed"
        assert not room.take(KEY, "peer", 100, 90.0, 2.0)
    assert room.used_bytes == used
    assert len(room._expiries) == 2
    assert not room.take(KEY, "other", 100, 1.0, 2.0), "expired"


def test_one_name_cannot_take_the_room_of_all_others(monkeypatch) -> None:
    monkeypatch.setattr(record_room, "MAX_RECORDS_OF_KEY", 5)
    room = RecordRoom()
    assert [room.take(KEY, str(i), 10, 60.0, 0.0) for i in range(7)] == [True] * 5 + [False] * 2
    assert room.take(OTHER, "0", 10, 60.0, 0.0)
    assert room.take(KEY, "0", 10, 61.0, 0.0)


def test_a_record_that_grows_needs_room_for_what_it_grows_by() -> None:
    room = RecordRoom(max_bytes=2 * RECORD_OVERHEAD_BYTES)
    assert room.take(KEY, "peer", 100, 60.0, 0.0)
    assert not room.take(KEY, "peer", 2000, 70.0, 0.0)
    assert room.take(KEY, "peer", 900, 70.0, 0.0)
    assert room.used_bytes == RECORD_OVERHEAD_BYTES + 900


def test_after_any_number_of_records_nothing_is_left_when_all_have_expired() -> None:
    room = RecordRoom()
    for i in range(3000):
        room.take(bytes([i % 7] * 20), str(i % 211), i % 900, 10.0 + i / 10, i / 10)
    assert not room.take(KEY, "peer", 1, 5.0, 10_000.0)
    assert (len(room), room.used_bytes, room._of_key, room._expiries) == (0, 0, {}, [])
