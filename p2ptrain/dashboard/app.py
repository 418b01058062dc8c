"""The running dashboard: sources in, keys in, pictures out. All that decides is in ``ui``, ``seat`` and ``screen``."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from p2ptrain import clock
from p2ptrain.control.doctor_process import Findings
from p2ptrain.dashboard.canvas import Glyphs, Line, to_ansi
from p2ptrain.dashboard.device import DeviceProbe, DeviceSample
from p2ptrain.dashboard.doctor import Doctor
from p2ptrain.dashboard.recording import Recording
from p2ptrain.dashboard.scene import Link, ReplayPlace, RunFacts, Scene, Seen
from p2ptrain.dashboard.screen import draw
from p2ptrain.dashboard.seat import Seat, observe_report
from p2ptrain.dashboard.sources import Inbox, Source
from p2ptrain.dashboard.terminal import Terminal
from p2ptrain.dashboard.ui import Command, Ui, press
from p2ptrain.errors import P2PTrainError
from p2ptrain.events import Record
from p2ptrain.report import SwarmReport

_DRAW_EVERY_S = 0.25
_SAMPLE_EVERY_S = 1.0
_ONCE_WITHIN_S = 120.0
"""For what a still picture waits: an observer needs 3 to 6 s to start and ask, and over 20 s on a busy machine."""
_KEPT_RECORDS = 20_000
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Actor = Callable[[Command], Awaitable[str]]
"""Does what a key asks of the peer, and says in a sentence how it went."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How pictures are drawn on this terminal."""

    glyphs: Glyphs
    has_colour: bool


class Dashboard:
    """What is known, and what is asked; shown by ``run_live``, ``picture_once`` or ``run_plain``.

    Args:
        source: where news comes from.
        actor: carries out what keys ask of the peer; None: there is nobody to ask.
        doctor: examines the peer and its machine, for the doctor page; None: there is no peer to examine.
        ui: what to show first.
        start_s: of a replay, seconds after its first record to be shown first; before its last when negative.
    """

    def __init__(
        self, source: Source, actor: Actor | None, doctor: Doctor | None, ui: Ui, start_s: float | None = None
    ) -> None:
        self._source = source
        self._actor = actor
        self._ask_doctor_for = doctor
        self._start_s = start_s
        self.ui = replace(ui, is_replay=source.is_replay, speed=0.0 if source.is_replay else 1.0)
        self.recording = Recording(Seat(mine=source.mine), keep=0 if source.is_replay else _KEPT_RECORDS)
        self.link = Link()
        self._facts = RunFacts()
        self._seen = Seen()
        self._peer_pid: int | None = None
        self._device: DeviceSample | None = None
        self._doctor: Findings | str = "press d again to ask"
        self._back_to_s: float | None = None
        """Wall time of the past that is shown; None for the present."""
        self._moved_s = clock.monotonic_s()
        """When the replay last went on."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_ended = asyncio.Event()
        self.inbox = Inbox(
            records=self._take_records,
            report=self._take_report,
            link=self._take_link,
            facts=self._take_facts,
            seen=self._take_seen,
            peer_pid=self._take_pid,
        )

    # What sources bring.

    def _take_records(self, records: Sequence[tuple[str, Record]]) -> None:
        self.recording.append(records)

    def _take_report(self, report: SwarmReport) -> None:
        self.recording.latest = observe_report(self.recording.latest, report, clock.wall_s())

    def _take_link(self, link: Link) -> None:
        self.link = link

    def _take_facts(self, facts: RunFacts) -> None:
        self._facts = facts

    def _take_seen(self, seen: Seen) -> None:
        self._seen = seen

    def _take_pid(self, pid: int | None) -> None:
        self._peer_pid = pid

    # The picture.

    def scene(self) -> Scene:
        """What is to be shown now."""
        place = self._place()
        if place is None:
            latest = self.recording.latest
            peer = latest.peer
            is_over = self._source.mine and self.link.word in ("ended", "lost")
            now_s = latest.last_s if is_over and latest.last_s is not None else clock.wall_s()
            self.ui = replace(self.ui, is_paused=self._seen.is_paused or (peer is not None and peer.state == "PAUSED"))
            return Scene(
                now_s=now_s, seat=latest, facts=self._facts, link=self.link, seen=self._seen, device=self._device
            )
        seat = self.recording.at(place.now_s)
        return Scene(now_s=place.now_s, seat=seat, facts=self._facts, link=self.link, place=place)

    def _place(self) -> ReplayPlace | None:
        times = self.recording.times()
        if times is None or (self._back_to_s is None and not self.ui.is_replay):
            return None
        now_s = self._back_to_s if self._back_to_s is not None else self._first_moment(times)
        now_s = min(max(now_s, times[0]), times[1])
        return ReplayPlace(begin_s=times[0], end_s=times[1], now_s=now_s, speed=self.ui.speed)

    def _first_moment(self, times: tuple[float, float]) -> float:
        if self._start_s is None:
            return times[1]
        return times[0] + self._start_s if self._start_s >= 0 else times[1] + self._start_s

    def lines(self, width: int, height: int, glyphs: Glyphs) -> list[Line]:
        """The picture at that size."""
        return draw(self.scene(), self.ui, width, height, glyphs, self._doctor)

    # Ways to show it.

    async def run_live(self, terminal: Terminal, look: Look) -> None:
        """Fill the terminal until ``q``, a signal or the end of the terminal."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def keys_came() -> None:
            try:
                keys = terminal.read_keys()
            except EOFError:
                loop.remove_reader(0)
                self._has_ended.set()
                return
            self.press(keys)
            changed.set()

        def resized() -> None:
            terminal.forget()
            changed.set()

        def stopped_like_a_job() -> None:
            terminal.stop_like_a_job()
            changed.set()

        def paint() -> None:
            try:
                width, height = terminal.size()
                ansi = (to_ansi(line, colour=look.has_colour) for line in self.lines(width, height, look.glyphs))
                terminal.paint(list(ansi))
            except EOFError:  # its window was closed
                self._has_ended.set()

        with terminal:
            paint()
            loop.add_reader(0, keys_came)
            for number in _END_SIGNALS:
                loop.add_signal_handler(number, self._has_ended.set)
            loop.add_signal_handler(signal.SIGWINCH, resized)
            loop.add_signal_handler(signal.SIGTSTP, stopped_like_a_job)
            try:
                async with asyncio.TaskGroup() as group:
                    working = [group.create_task(self._source.run(self.inbox)), group.create_task(self._measure())]
                    while not self._has_ended.is_set():
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(_DRAW_EVERY_S):
                                await changed.wait()
                        changed.clear()
                        self._go_on()
                        paint()
                    for task in [*working, *self._tasks]:
                        task.cancel()
            finally:
                loop.remove_reader(0)
                for number in (*_END_SIGNALS, signal.SIGWINCH, signal.SIGTSTP):
                    loop.remove_signal_handler(number)

    async def settle(self) -> Scene:
        """The scene once everything that is there has been read; for pictures that do not move."""
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(self._source.run(self.inbox)), group.create_task(self._measure())]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ONCE_WITHIN_S):
                    await self.inbox.caught_up.wait()
            await asyncio.sleep(0)
            for task in working:
                task.cancel()
        return self.scene()

    async def run_plain(self, say: Callable[[str], None]) -> None:
        """Say each thing worth a line until cancelled, or until a replay is told."""
        told = 0
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._source.run(self.inbox))
            while True:
                view = self.recording.latest.swarm
                new = min(view.num_notes - told, len(view.notes))
                for note in view.notes[len(view.notes) - new :]:
                    say(plain_line(note.time_s, note.name if len(view.peers) > 1 else "", note.text))
                told = view.num_notes
                if reading.done():
                    return
                await asyncio.sleep(0 if not self.inbox.caught_up.is_set() else _DRAW_EVERY_S)

    # What happens meanwhile.

    def press(self, keys: Iterable[str]) -> None:
        """What a person types."""
        for key in keys:
            self.ui, command = press(self.ui, key)
            if command is not None:
                self._obey(command)

    def _obey(self, command: Command) -> None:
        match command.kind:
            case "quit":
                self._has_ended.set()
            case "scrub":
                self._scrub(command.amount)
            case "speed":
                place = self._place()
                if place is not None and command.amount:
                    self._back_to_s = place.begin_s if place.now_s >= place.end_s else place.now_s
                self._moved_s = clock.monotonic_s()
            case "present":
                self._back_to_s = None
            case "doctor":
                self._spawn(self._ask_doctor())
            case _:
                self._spawn(self._ask_peer(command))

    def _scrub(self, amount: float) -> None:
        times = self.recording.times()
        if times is None:
            return
        if self._back_to_s is None and not self.ui.is_replay:
            self.ui = replace(self.ui, speed=0.0)
        place = self._place()
        now_s = place.now_s if place is not None else times[1]
        self._back_to_s = min(max(now_s + amount * (times[1] - times[0]), times[0]), times[1])
        self._moved_s = clock.monotonic_s()

    def _go_on(self) -> None:
        """Move a replay by the time that has passed."""
        now_s = clock.monotonic_s()
        passed_s, self._moved_s = now_s - self._moved_s, now_s
        if self._back_to_s is not None and self.ui.speed:
            times = self.recording.times()
            self._back_to_s += passed_s * self.ui.speed
            if times is not None and self._back_to_s >= times[1]:
                self._back_to_s = times[1]
                self.ui = replace(self.ui, speed=0.0)

    async def _measure(self) -> None:
        """What the machine does, if the peer is on it."""
        if self._source.is_replay:
            return
        probe = await asyncio.to_thread(DeviceProbe)
        while True:
            self._device = await asyncio.to_thread(probe.sample, self._peer_pid)
            await asyncio.sleep(_SAMPLE_EVERY_S)

    async def _ask_peer(self, command: Command) -> None:
        if self._actor is None:
            if command.kind != "why":
                self.ui = replace(self.ui, notice="there is no way to tell this peer anything from here")
            return
        try:
            answer = await self._actor(command)
        except P2PTrainError as error:
            answer = str(error)
        if answer:
            self.ui = replace(self.ui, notice=answer)

    async def _ask_doctor(self) -> None:
        if self._ask_doctor_for is None:
            self._doctor = "the doctor examines a peer: open the dashboard with --home or --control"
            return
        self._doctor = "looking at this machine and the network; this takes some seconds"
        try:
            self._doctor = await self._ask_doctor_for()
        except P2PTrainError as error:
            self._doctor = str(error)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def plain_line(time_s: float, name: str, text: str) -> str:
    """A line for terminals that are not redrawn, and for files."""
    import time

    return f"{time.strftime('%H:%M:%S', time.localtime(time_s))} {f'{name} ' if name else ''}{text}"


def look_of(environment: Mapping[str, str], encoding: str | None) -> tuple[bool, bool]:
    """Whether a terminal shows colours and Unicode, by its environment and encoding."""
    has_colour = not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return has_colour, (encoding or "").lower().replace("-", "") in ("utf8", "utf8sig")


def terminal_size() -> tuple[int, int]:
    """Of the terminal that we print to, or 100x30."""
    import shutil

    size = shutil.get_terminal_size((100, 30))
    return size.columns, size.lines


def is_terminal() -> bool:
    """Whether both keys and pictures have a terminal."""
    return os.isatty(0) and os.isatty(1)
