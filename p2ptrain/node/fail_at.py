"""A fault at a chosen moment of a peer's life, for tests: a real signal to the own process at a stage's boundary.

``P2PTRAIN_FAIL_AT=STAGE:N:FAULT`` fails at the N-th time that the stage begins. Faults: ``kill`` (SIGKILL) and
``stop=S`` (SIGSTOP, and SIGCONT after S seconds by another process). It is refused unless ``P2PTRAIN_TEST=1`` is set,
too, so that nobody carries it into a real run by accident. The hook is a sink of the event bus, which runs between the
event and whatever follows it; the code of a round knows nothing of it.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2ptrain.errors import UsageError
from p2ptrain.events import Event, Record, RoundCommitted, RoundStage, StateChanged, UpdateApplied

VARIABLE = "P2PTRAIN_FAIL_AT"
TEST_FLAG = "P2PTRAIN_TEST"
STAGES = ("training", "gathering", "reducing", "proposing", "voting", "committing", "receiving")
"""In the order of a round. Only a ballot's proposer enters proposing or voting; receiving is a non-owner's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailAt:
    """What is to go wrong, and when."""

    stage: str
    nth: int
    stopped_s: float | None
    """How long the process is stopped; None kills it."""

    @classmethod
    def parse(cls, text: str) -> "FailAt":
        """The fault that the variable's value means.

        Raises:
            UsageError: it means none.
        """
        stage, _, rest = text.partition(":")
        nth, _, fault = rest.partition(":")
        kind, _, seconds = fault.partition("=")
        is_fault = (kind == "kill" and not seconds) or (kind == "stop" and re.fullmatch(r"\d+(\.\d+)?", seconds))
        if stage not in STAGES or not re.fullmatch(r"[1-9]\d*", nth) or not is_fault:
            raise UsageError(
                f"{VARIABLE}={text} is no fault; write STAGE:N:kill or STAGE:N:stop=SECONDS, with a stage of"
                f" {', '.join(STAGES)}"
            )
        return cls(stage=stage, nth=int(nth), stopped_s=float(seconds) if kind == "stop" else None)


def fault_from_environment(environment: Mapping[str, str]) -> Callable[[Record], None] | None:
    """The sink that makes this process fail; None, as always outside tests, when no fault is asked for.

    Raises:
        UsageError: a fault is asked for that does not exist, or without the test flag.
    """
    text = environment.get(VARIABLE)
    if not text:
        return None
    fault = FailAt.parse(text)
    if environment.get(TEST_FLAG) != "1":
        raise UsageError(f"{VARIABLE} is set: this peer would break itself. Unset it, or set {TEST_FLAG}=1 for a test")
    sys.stderr.write(f"FAULT INJECTION IS ON: this process will fail on purpose, {VARIABLE}={text}\n")
    return _Countdown(fault, _strike)


class _Countdown:
    """Counts the stage's beginnings and strikes at the wanted one."""

    def __init__(self, fault: FailAt, strike: Callable[[FailAt], None]) -> None:
        self._fault = fault
        self._strike = strike
        self._left = fault.nth

    def __call__(self, record: Record) -> None:
        if stage_of(record.event) == self._fault.stage:
            self._left -= 1
            if self._left == 0:
                self._strike(self._fault)


def stage_of(event: Event) -> str | None:
    """The stage that begins with an event."""
    match event:
        case StateChanged(state="TRAINING"):
            return "training"
        case RoundStage(stage=stage):
            return stage
        case RoundCommitted():
            return "committing"
        case UpdateApplied():
            return "receiving"
        case _:
            return None


def _strike(fault: FailAt) -> None:
    if fault.stopped_s is None:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    # Nobody who is stopped can wake himself.
    waker = f"import os, time; time.sleep({fault.stopped_s}); os.kill({os.getpid()}, {int(signal.SIGCONT)})"
    subprocess.Popen([sys.executable, "-I", "-S", "-c", waker])  # noqa: S603 - the command is ours
    os.kill(os.getpid(), signal.SIGSTOP)
