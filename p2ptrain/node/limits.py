"""May this peer train now, and be on the network? Decided from the volunteer's wish and limits, and what was measured.

Three levels. TRAIN: all is allowed. REST: nothing is computed, the device's memory is given back, and the peer stays in
the swarm for a while: it votes, follows, and answers every cut-off with nothing, so nobody waits for it. SLEEP: the
claim is withdrawn and no byte is sent; what was committed is on disk.
"""

import calendar
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from p2ptrain.config.hours import Hours
from p2ptrain.config.schema import LimitsConfig


class Level(IntEnum):
    """How much is allowed."""

    SLEEP = 0
    REST = 1
    TRAIN = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What the volunteer last asked for by pause, finish or resume."""

    paused: bool = False
    until_s: float | None = None
    """Wall time; None: until resume."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What was measured; None is not measured, and then holds nothing back."""

    programs: frozenset[str] = frozenset()
    """Names of the programs that run."""
    gpu_users: frozenset[str] = frozenset()
    """Other programs that compute on our accelerator."""
    on_battery: bool | None = None
    temperature_c: float | None = None
    """Of the device that trains."""
    month_bytes: int = 0
    """Sent and received in this calendar month."""
    quota_turn: float = 0.0
    """Our place among the owners of our slice, 0 to 1: the part of a day by which our daily allowance comes later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is allowed, and the reason when that is not everything."""

    level: Level
    cause: str = ""
    """One word for programs: ``you``, ``hours``, ``program``, ...; empty at level TRAIN."""
    reason: str = ""
    until_s: float | None = None
    """Wall time at which this ends by itself; None where that is not known."""
    keeps_claim_until_s: float | None = None
    """At level REST: when it becomes SLEEP."""

    @property
    def allowed(self) -> bool:
        """Whether the peer may train."""
        return self.level is Level.TRAIN


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    cause: str
    reason: str
    until_s: float | None = None
    level: Level = Level.REST


_COOLER_BY_C = 5.0
"""Training goes on when it is this much cooler than the limit, so that it does not start and stop every second."""


def decide(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> Verdict:
    """What the peer may do now.

    Args:
        limits: the volunteer's standing limits.
        wish: pause, finish or resume.
        conditions: as measured last.
        now: local time, aware of its zone.
        before: the last verdict, for what depends on how long it has lasted.
    """
    blocks = [block for rule in _RULES if (block := rule(limits, wish, conditions, now, before))]
    if not blocks:
        return Verdict(level=Level.TRAIN)
    # The lowest level counts; of equals the one that ends last, so that "until" is true.
    worst = min(blocks, key=lambda block: (block.level, -_end(block)))
    if worst.level is Level.SLEEP:
        return Verdict(level=Level.SLEEP, cause=worst.cause, reason=worst.reason, until_s=worst.until_s)
    now_s = now.timestamp()
    kept_until_s = before.keeps_claim_until_s if before.level is Level.REST else None
    if before.level is Level.TRAIN or kept_until_s is None:
        kept_until_s = now_s + limits.pause_keeps_claim_s
    # A pause that will outlast the grace period gives its place up at once: the others can plan with that.
    outlasts = worst.until_s is not None and worst.until_s > kept_until_s
    if before.level is Level.SLEEP or outlasts or now_s >= kept_until_s:
        return Verdict(level=Level.SLEEP, cause=worst.cause, reason=worst.reason, until_s=worst.until_s)
    return Verdict(
        level=Level.REST,
        cause=worst.cause,
        reason=worst.reason,
        until_s=worst.until_s,
        keeps_claim_until_s=kept_until_s,
    )


AWAKE = Verdict(level=Level.TRAIN)


def _end(block: _Block) -> float:
    return math.inf if block.until_s is None else block.until_s


def _asked(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> _Block | None:
    if not wish.paused or (wish.until_s is not None and now.timestamp() >= wish.until_s):
        return None
    return _Block(cause="you", reason=wish.reason or "you paused it", until_s=wish.until_s)


def _hours(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> _Block | None:
    for texts, what, level in (
        (limits.network_hours, "on the network", Level.SLEEP),
        (limits.compute_hours, "computing", Level.REST),
    ):
        hours = Hours.parse(texts)
        if not hours.allow(now):
            change = hours.next_change(now)
            until_s = change.timestamp() if change else None
            return _Block(
                cause="hours", reason=f"outside its hours for {what} ({', '.join(texts)})", until_s=until_s, level=level
            )
    return None


def _games(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> _Block | None:
    wanted = {name.lower() for name in limits.pause_while_running}
    running = sorted(name for name in conditions.programs if name.lower() in wanted)
    return _Block(cause="program", reason=f"{', '.join(running)} is running") if running else None


def _gpu(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> _Block | None:
    if limits.pause_while_gpu_in_use and conditions.gpu_users:
        return _Block(cause="gpu", reason=f"others use the GPU: {', '.join(sorted(conditions.gpu_users))}")
    return None


def _battery(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> _Block | None:
    if limits.pause_on_battery and conditions.on_battery:
        return _Block(cause="battery", reason="on battery")
    return None


def _heat(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> _Block | None:
    if not limits.max_temperature_c or conditions.temperature_c is None:
        return None
    threshold_c = limits.max_temperature_c - (_COOLER_BY_C if before.cause == "temperature" else 0.0)
    if conditions.temperature_c <= threshold_c:
        return None
    reason = f"{conditions.temperature_c:.0f} °C, and the limit is {limits.max_temperature_c:.0f} °C"
    return _Block(cause="temperature", reason=reason)


def _quota(limits: LimitsConfig, wish: Wish, conditions: Conditions, now: datetime, before: Verdict) -> _Block | None:
    if not limits.month_gb:
        return None
    allowed = allowance(limits.month_gb * 1e9, now, conditions.quota_turn)
    if conditions.month_bytes < allowed.bytes:
        return None
    reason = (
        f"{conditions.month_bytes / 1e9:.1f} GB used of the {allowed.bytes / 1e9:.1f} GB that are due by now,"
        f" of {limits.month_gb:g} GB a month"
    )
    return _Block(cause="quota", reason=reason, until_s=allowed.next_s, level=Level.SLEEP)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of a month's quota may be used by now, and when that becomes more."""

    bytes: float
    next_s: float


def allowance(quota_bytes: float, now: datetime, turn: float) -> Allowance:
    """A month's quota is dealt out by the day, and unused days are saved up.

    Owners of one slice get their day's share at different hours (``turn``): if all of them slept when the same midnight
    comes, the slice would stand still.
    """
    days = calendar.monthrange(now.year, now.month)[1]
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    first = month + timedelta(days=turn)
    begun = max(0, math.floor((now - first) / timedelta(days=1)) + 1)
    share = min(1.0, (begun + 1) / days)  # one day's share is there from the start, whoever comes first
    following = first + timedelta(days=begun)
    end = (month + timedelta(days=days + 1)).replace(day=1)
    return Allowance(quota_bytes * share, min(following, end).timestamp())


_Rule = Callable[[LimitsConfig, Wish, Conditions, datetime, Verdict], _Block | None]
_RULES: tuple[_Rule, ...] = (_asked, _hours, _games, _gpu, _battery, _heat, _quota)
