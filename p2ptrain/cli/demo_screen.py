"""Two ways to watch the demo: a live screen, or one line for each thing worth saying."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live

from p2ptrain import clock
from p2ptrain.dashboard.panels import ScreenFacts, SwarmScreen, note_line
from p2ptrain.dashboard.projection import SwarmView

_DRAWN_PER_S = 4


class Display(Protocol):
    """Where the demo is watched."""

    def show(self, view: SwarmView, facts: ScreenFacts, *, at_once: bool = False) -> None:
        """Bring what people see up to date; call as often as you like, and with ``at_once`` before something slow."""


class PlainDisplay:
    """Prints each note once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_printed = 0

    def show(self, view: SwarmView, facts: ScreenFacts, *, at_once: bool = False) -> None:
        """Print the notes that came since the last call."""
        new = min(view.num_notes - self._num_printed, len(view.notes))
        for note in view.notes[len(view.notes) - new :]:
            self._console.print(note_line(note, facts.started_s), markup=False, highlight=False, soft_wrap=True)
        self._num_printed = view.num_notes


class LiveDisplay:
    """Draws the whole screen, four times a second."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._next_s = 0.0

    def show(self, view: SwarmView, facts: ScreenFacts, *, at_once: bool = False) -> None:
        """Draw if it is time to."""
        now_s = clock.monotonic_s()
        if now_s >= self._next_s or at_once:
            self._live.update(SwarmScreen(view, facts), refresh=True)
            self._next_s = now_s + 1 / _DRAWN_PER_S


@contextmanager
def display(console: Console, *, plain: bool) -> Iterator[Display]:
    """A live screen if the console is a terminal that can show one and ``plain`` is not asked for; lines otherwise."""
    if plain or not console.is_terminal or console.is_dumb_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield LiveDisplay(live)
