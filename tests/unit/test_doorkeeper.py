"""Who is turned away, for how long, and that the book of it cannot be made to grow."""

import pytest

from p2ptrain import clock
from p2ptrain.ids import PeerId
from p2ptrain.wire.doorkeeper import CALLS_BURST, CALLS_PER_S, MAX_STREAMS_FROM_ONE, Doorkeeper
from p2ptrain.wire.strikes import _MAX_PEERS, PENALTY_S, STRIKES, WINDOW_S, StrikeBook

LIAR, HONEST = PeerId("liar"), PeerId("honest")


class FakeTime:
    """What ``clock.monotonic_s`` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 50.0
        monkeypatch.setattr(clock, "monotonic_s", lambda: self.now_s)


def test_many_strikes_in_a_minute_cut_a_peer_off_for_a_minute_and_it_comes_back() -> None:
    book = StrikeBook()
    for number in range(STRIKES - 1):
        assert book.strike(LIAR, float(number)) is None
    assert not book.is_out(LIAR, 8.0)
    assert book.strike(LIAR, 8.0) == PENALTY_S
    assert book.is_out(LIAR, 8.0 + PENALTY_S - 0.1)
    assert not book.is_out(LIAR, 8.0 + PENALTY_S)
    assert not book.is_out(HONEST, 8.0)


def test_strikes_far_apart_are_forgiven() -> None:
    book = StrikeBook()
    assert all(book.strike(LIAR, number * WINDOW_S / (STRIKES - 2)) is None for number in range(100))


def test_whoever_goes_on_is_cut_off_for_longer_and_longer() -> None:
    book = StrikeBook()
    now_s, penalties = 0.0, []
    for _ in range(4):
        penalty_s = book.strike(LIAR, now_s, weight=STRIKES)
        assert penalty_s is not None
        penalties.append(penalty_s)
        now_s += penalty_s
    assert penalties == [60.0, 120.0, 240.0, 480.0]
    assert book.strike(LIAR, now_s + 10_000, weight=STRIKES) == 60.0, "forgotten in the meantime"


def test_a_million_strangers_do_not_make_the_book_grow() -> None:
    book = StrikeBook()
    for number in range(20_000):
        book.strike(PeerId(str(number)), number / 1000)
    assert len(book) <= _MAX_PEERS


def test_calls_faster_than_allowed_are_refused_and_their_sender_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    time, door = FakeTime(monkeypatch), Doorkeeper()
    told: list[tuple[PeerId, str]] = []
    door.on_cut_off = lambda peer, reason: told.append((peer, reason))
    admitted = sum(door.admits_call(LIAR) for _ in range(CALLS_BURST + 100))
    assert admitted == CALLS_BURST
    assert door.refused == 100
    assert [peer for peer, _ in told] == [LIAR]
    assert "400 calls a second" in told[0][1]
    assert door.admits_call(HONEST)
    time.now_s += PENALTY_S + 1
    assert door.admits_call(LIAR)


def test_calls_at_the_allowed_rate_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    time, door = FakeTime(monkeypatch), Doorkeeper()
    for _ in range(50_000):
        time.now_s += 1 / CALLS_PER_S
        assert door.admits_call(HONEST)


def test_streams_at_once_are_limited_and_counted_down() -> None:
    door = Doorkeeper()
    assert all(door.opens_stream(LIAR) for _ in range(MAX_STREAMS_FROM_ONE))
    assert not door.opens_stream(LIAR)
    assert door.opens_stream(HONEST)
    door.closes_stream(LIAR)
    assert door.opens_stream(LIAR)


def test_a_strangers_calls_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    time, door = FakeTime(monkeypatch), Doorkeeper()
    for number in range(30_000):
        time.now_s += 0.01
        door.admits_call(PeerId(str(number)))
    assert len(door._calls_until_s) <= 4096
