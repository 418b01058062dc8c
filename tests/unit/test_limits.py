"""What a volunteer's wish, limits and conditions allow, in fake time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from p2ptrain.config.hours import Hours
from p2ptrain.config.schema import LimitsConfig
from p2ptrain.node.limits import AWAKE, Conditions, Level, Verdict, Wish, allowance, decide

MONDAY = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOTHING = LimitsConfig()


def verdict(limits=NOTHING, wish=Wish(), conditions=Conditions(), now=MONDAY, before=AWAKE) -> Verdict:  # noqa: B008
    return decide(limits, wish, conditions, now, before)


def test_without_limits_all_is_allowed() -> None:
    assert verdict().level is Level.TRAIN
    assert verdict().allowed


def test_a_short_pause_keeps_the_place_and_a_pause_known_to_be_long_gives_it_up() -> None:
    in_s = MONDAY.timestamp()
    short = verdict(wish=Wish(paused=True, until_s=in_s + 60))
    long = verdict(wish=Wish(paused=True, until_s=in_s + 7200))
    unknown = verdict(wish=Wish(paused=True))
    assert (short.level, long.level, unknown.level) == (Level.REST, Level.SLEEP, Level.REST)
    assert unknown.keeps_claim_until_s == in_s + NOTHING.pause_keeps_claim_s


def test_after_the_grace_period_the_place_is_given_up_and_not_taken_back_while_the_pause_lasts() -> None:
    wish, now, last = Wish(paused=True), MONDAY, AWAKE
    levels = []
    for _ in range(40):
        last = verdict(wish=wish, now=now, before=last)
        levels.append(last.level)
        now += timedelta(minutes=1)
    assert levels == [Level.REST] * 30 + [Level.SLEEP] * 10
    assert verdict(now=now, before=last).level is Level.TRAIN


def test_a_pause_ends_by_itself() -> None:
    wish = Wish(paused=True, until_s=MONDAY.timestamp())
    assert verdict(wish=wish).allowed
    assert not verdict(wish=wish, now=MONDAY - timedelta(seconds=1)).allowed


@pytest.mark.parametrize(
    ("texts", "inside", "outside"),
    [
        (("Mon-Fri 22:00-07:00",), ["Mon 22:00", "Tue 06:59", "Sat 06:59"], ["Mon 21:59", "Tue 07:00", "Sat 22:00"]),
        (("Sat,Sun",), ["Sat 00:00", "Sun 23:59"], ["Mon 00:00", "Fri 23:59"]),
        (("09:00-17:00",), ["Wed 09:00", "Sun 16:59"], ["Wed 17:00", "Sun 08:59"]),
        (
            ("Fri-Mon 20:00-24:00", "Tue 01:00-02:00"),
            ["Fri 20:00", "Mon 23:59", "Tue 01:30"],
            ["Tue 20:00", "Tue 02:00"],
        ),
    ],
)
def test_hours_are_read_as_people_write_them(texts, inside, outside) -> None:
    hours = Hours.parse(texts)
    for moments, expected in ((inside, True), (outside, False)):
        for moment in moments:
            assert hours.allow(at(moment)) is expected, moment


def at(moment: str) -> datetime:
    day, clock = moment.split()
    offset = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index(day)
    hour, minute = clock.split(":")
    return MONDAY.replace(hour=int(hour), minute=int(minute)) + timedelta(days=offset)


@pytest.mark.parametrize("text", ["Mo 1-2", "Mon 25:00-26:00", "soon", "Mon 10:00", "Mon-Xyz 10:00-11:00", ""])
def test_hours_that_are_not_understood_are_refused(text) -> None:
    with pytest.raises(ValueError):
        Hours.parse([text])


def test_hours_say_when_they_end() -> None:
    limits = LimitsConfig(compute_hours=("Mon-Fri 22:00-07:00",))
    outside = verdict(limits)
    assert (outside.level, outside.cause) == (Level.SLEEP, "hours"), "ten hours are longer than the grace period"
    assert outside.until_s == at("Mon 22:00").timestamp()
    assert verdict(limits, now=at("Mon 21:45")).level is Level.REST
    assert verdict(limits, now=at("Mon 22:00")).allowed


def test_hours_for_the_network_put_to_sleep_at_once() -> None:
    limits = LimitsConfig(network_hours=("Mon 12:01-13:00",))
    assert verdict(limits).level is Level.SLEEP


@pytest.mark.parametrize(
    ("limits", "conditions", "cause"),
    [
        (LimitsConfig(pause_while_running=("Doom",)), Conditions(programs=frozenset({"doom", "bash"})), "program"),
        (LimitsConfig(pause_while_gpu_in_use=True), Conditions(gpu_users=frozenset({"blender"})), "gpu"),
        (LimitsConfig(pause_on_battery=True), Conditions(on_battery=True), "battery"),
        (LimitsConfig(max_temperature_c=80), Conditions(temperature_c=81), "temperature"),
    ],
)
def test_a_condition_holds_the_peer_back_only_if_the_volunteer_said_so(limits, conditions, cause) -> None:
    assert verdict(limits, conditions=conditions).cause == cause
    assert verdict(limits).allowed
    assert verdict(conditions=conditions).allowed


def test_a_hot_device_has_to_cool_down_by_five_degrees() -> None:
    limits = LimitsConfig(max_temperature_c=80)
    hot = verdict(limits, conditions=Conditions(temperature_c=81))
    assert not verdict(limits, conditions=Conditions(temperature_c=78), before=hot).allowed
    assert verdict(limits, conditions=Conditions(temperature_c=75), before=hot).allowed
    assert verdict(limits, conditions=Conditions(temperature_c=78)).allowed


def test_a_quota_is_dealt_out_by_the_day_and_what_is_saved_may_be_used_later() -> None:
    start = datetime(2026, 11, 1, 0, 0, tzinfo=UTC)
    assert allowance(30e9, start, 0.0).bytes == pytest.approx(2e9)
    assert allowance(30e9, start, 0.5).bytes == pytest.approx(1e9), "the others' day begins later"
    assert allowance(30e9, start, 0.5).next_s == (start + timedelta(hours=12)).timestamp()
    assert allowance(30e9, start + timedelta(days=29), 0.0).bytes == 30e9
    limits, used = LimitsConfig(month_gb=30), Conditions(month_bytes=int(2e9))
    asleep = verdict(limits, conditions=used, now=start)
    assert (asleep.level, asleep.cause) == (Level.SLEEP, "quota")
    assert asleep.until_s == (start + timedelta(days=1)).timestamp()
    assert verdict(limits, conditions=used, now=start + timedelta(days=1)).allowed


def test_owners_of_one_slice_who_used_their_day_up_wake_at_different_hours() -> None:
    noon = datetime(2026, 11, 10, 12, 0, tzinfo=UTC)
    wake = {turn: allowance(30e9, noon, turn).next_s for turn in (0.0, 1 / 3, 2 / 3)}
    hours = sorted(datetime.fromtimestamp(s, UTC).hour for s in wake.values())
    assert hours == [0, 8, 16]


def test_the_strictest_reason_is_told() -> None:
    limits = LimitsConfig(pause_on_battery=True, network_hours=("Tue",))
    found = verdict(limits, wish=Wish(paused=True), conditions=Conditions(on_battery=True))
    assert (found.level, found.cause) == (Level.SLEEP, "hours")
    assert verdict(replace(limits, network_hours=()), Wish(paused=True), Conditions(on_battery=True)).cause == "you"
