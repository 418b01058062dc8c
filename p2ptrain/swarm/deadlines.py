"""How long an owner waits in each stage of a round: by what it has measured in earlier ones, never above the manifest.

A deadline is median + k·MAD of the stage's durations in the rounds that committed, plus room for what has not been
seen yet. So a member that freezes costs the others about as long as a round of theirs usually takes. The members need
not agree on deadlines; each has its own. If one was too short, rounds fail, and each failure doubles the next ones up
to the manifest's: whatever made rounds slower, the deadlines follow. What a member says of its line is planned with
before anything was measured: all stages wait for it, since it trains, reduces and votes as late as its bytes come.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NUM_REMEMBERED = 32
"""Rounds whose durations count: enough for a stable MAD, few enough to follow a change within minutes."""
MIN_MEASURED = 5
"""Fewer rounds say too little, and the manifest's value holds."""
NUM_MADS = 8.0
"""Of a normal distribution, 8 MAD are 5.4 standard deviations: one false alarm in millions of rounds."""
PLANNED_ROOM = 2.0
"""Over what a round's transfers take by plan: for latency, and for averages that wait for parts."""
MIN_ROOM_S = 1.0
"""For what no calm round shows: a lost packet's retransmission, a pause of the process, a busy machine."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long a stage may take, in seconds, and why."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class StageDurations:
    """Seconds that each stage took in the last committed rounds, oldest first."""

    gather: tuple[float, ...] = ()
    reduce: tuple[float, ...] = ()
    vote: tuple[float, ...] = ()

    def after_round(self, *, gather_s: float, reduce_s: float, vote_s: float) -> "StageDurations":
        """With one more round; the oldest beyond ``NUM_REMEMBERED`` is forgotten."""
        return StageDurations(
            (*self.gather, gather_s)[-NUM_REMEMBERED:],
            (*self.reduce, reduce_s)[-NUM_REMEMBERED:],
            (*self.vote, vote_s)[-NUM_REMEMBERED:],
        )


def adaptive_deadline(
    measured_s: Sequence[float], ceiling_s: float, num_failures: int, planned_s: float = 0.0
) -> Deadline:
    """How long to wait in a stage.

    Args:
        measured_s: durations of this stage in committed rounds.
        ceiling_s: the manifest's value, which holds at first; only ``planned_s`` exceeds it.
        num_failures: attempts that came to nothing since the last commit; each doubles the wait.
        planned_s: what the transfers of a plan take, over the lines that its members announce.
    """
    usual = _by_what_was_measured(measured_s, ceiling_s, num_failures)
    if usual.seconds >= PLANNED_ROOM * planned_s:
        return usual
    return Deadline(PLANNED_ROOM * planned_s, f"{planned_s:.1f} s of transfers over the announced lines")


def _by_what_was_measured(measured_s: Sequence[float], ceiling_s: float, num_failures: int) -> Deadline:
    if len(measured_s) < MIN_MEASURED:
        return Deadline(ceiling_s, f"as in the manifest: {len(measured_s)} of {MIN_MEASURED} rounds measured")
    median_s = statistics.median(measured_s)
    mad_s = statistics.median(abs(seconds - median_s) for seconds in measured_s)
    seconds = median_s + NUM_MADS * mad_s + max(MIN_ROOM_S, 0.5 * median_s)
    reason = f"median {median_s:.2f} s, MAD {mad_s:.2f} s of {len(measured_s)} rounds"
    if num_failures:
        seconds *= 2.0 ** min(num_failures, 30)
        reason += f", doubled for each of {num_failures} failures"
    if seconds >= ceiling_s:
        return Deadline(ceiling_s, f"as in the manifest: {reason} would be longer")
    return Deadline(seconds, reason)
