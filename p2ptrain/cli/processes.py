"""Running what the commands start: open streams, quiet imports, an event loop that signals end, and one error."""

import contextlib
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from p2ptrain.errors import P2PTrainError

if TYPE_CHECKING:
    import asyncio

_Result = TypeVar("_Result")


def data_folder() -> Path:
    """Where p2ptrain keeps what belongs to no --home (XDG base directory specification)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "p2ptrain"


def open_standard_streams() -> None:
    """Open those of input, output and errors that are closed, as some launchers leave them.

    Otherwise the next file that is opened gets the number of one, and whatever is printed is written into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
            setattr(sys, name, os.fdopen(number, mode))


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Import torch and hivemind, and do little else, without their warnings and without looking for garbage.

    Volunteers can do nothing about what the two say of each other. Looking for garbage, again and again among what is
    just being defined, takes a fifth of the time, and later on 130 ms whenever Python looks at everything: so what was
    made inside is kept for good. Ctrl-C waits until all is imported: C++ code that it interrupts ends the process with
    a stack of its own.
    """
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "CRITICAL")
    with warnings.catch_warnings(action="ignore"), _interrupted_later():
        gc.disable()
        try:
            yield
        finally:
            gc.freeze()
            gc.enable()


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts: list[int] = []

    def note(number: int, frame: object) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:  # somebody insists
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt


def run_until_signal(work: "Callable[[asyncio.Event], Coroutine[Any, Any, None]]") -> None:
    """Run ``work``, which ends when the event is set: by SIGINT, SIGTERM or SIGHUP."""
    import asyncio

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    run_loop(run())


def run_loop(work: Coroutine[Any, Any, _Result], *, uses_terminal: bool = False) -> _Result:
    """Run ``work`` to its end; what a task group wraps is raised as the one error meant for people.

    Args:
        work: what to run.
        uses_terminal: it reads keys. uvloop makes what it reads non-blocking, for the shell too, to which the terminal
            returns; and screens have no need of its speed.
    """
    import asyncio

    factory = None
    if not uses_terminal:
        import uvloop

        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)
    except BaseExceptionGroup as group:
        # A task group wraps what went wrong; people want the one error that was raised on purpose, if there is one.
        known = _first(group, P2PTrainError)
        if known is None:
            raise
        raise known from group


def _first(group: BaseExceptionGroup[BaseException], kind: type[P2PTrainError]) -> P2PTrainError | None:
    matching = group.subgroup(kind)
    while isinstance(matching, BaseExceptionGroup):
        matching = matching.exceptions[0]  # type: ignore[assignment]  # a group's members may be groups
    return matching
