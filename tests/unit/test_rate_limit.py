"""Caps on bytes per second, in fake time."""

import random

import pytest

from p2ptrain.wire.rate_limit import RateLimit, UplinkMeter


def sent_under(limit: RateLimit, seconds: float, most: int, *, pause_s: float = 0.0) -> list[tuple[float, int]]:
    """When how many bytes left, by a sender that never has nothing to send, but may sleep between chunks."""
    now_s, sent = 100.0, []
    while now_s < 100.0 + seconds:
        size = limit.chunk_bytes(most)
        now_s += limit.reserve(size, now_s)
        sent.append((now_s, size))
        now_s += random.Random(len(sent)).random() * pause_s
    return sent


@pytest.mark.parametrize(("mbps", "pause_s"), [(0.1, 0.0), (0.1, 0.02), (1.0, 0.02), (20.0, 0.02), (800.0, 0.0)])
def test_a_cap_holds_within_five_percent_over_any_ten_seconds(mbps: float, pause_s: float) -> None:
    sent = sent_under(RateLimit(mbps), 40.0, 256 * 1024, pause_s=pause_s)
    for begin_s in [100.0 + tenth / 10 for tenth in range(5, 290)]:
        inside = sum(size for at_s, size in sent if begin_s <= at_s < begin_s + 10.0)
        assert inside == pytest.approx(mbps * 1_250_000, rel=0.05), begin_s


def test_several_transfers_share_one_cap() -> None:
    limit = RateLimit(8.0)
    waits = [limit.reserve(100_000, 5.0) for _ in range(3)]
    assert waits == pytest.approx([0.0, 0.0, 0.1])  # a tenth of a second may be caught up on


def test_an_idle_link_saves_up_a_tenth_of_a_second_and_no_more() -> None:
    limit = RateLimit(8.0)
    limit.reserve(100_000, 0.0)
    assert limit.reserve(100_000, 1000.0) == 0.0
    assert limit.reserve(100_000, 1000.0) == 0.0
    assert limit.reserve(1, 1000.0) == pytest.approx(0.1)


def test_without_a_cap_nothing_waits_and_a_cap_can_come_and_go() -> None:
    limit = RateLimit()
    assert limit.reserve(10**12, 1.0) == 0.0
    assert limit.chunk_bytes(1000) == 1000
    limit.mbps = 1.0
    assert limit.chunk_bytes(10**6) == 12_500
    limit.reserve(125_000, 1.0)
    assert limit.reserve(125_000, 1.0) == pytest.approx(0.9)
    limit.mbps = None
    assert limit.reserve(125_000, 1.0) == 0.0


def test_the_meter_shows_the_best_of_the_last_busy_seconds_and_ignores_idle_ones() -> None:
    meter = UplinkMeter()
    assert meter.mbps == 0
    for second in (10, 1000):
        meter.begins(second)
        for tenth in range(1, 11):
            meter.sent(250_000, second + tenth / 10)
        meter.ends(second + 1)
    assert meter.mbps == pytest.approx(20.0)
    meter.begins(5000.0)
    meter.begins(5000.0)  # two at once share the second
    meter.sent(1_000_000, 5000.5)
    meter.sent(2_000_000, 5001.1)
    assert meter.mbps == pytest.approx(24 / 1.1)
