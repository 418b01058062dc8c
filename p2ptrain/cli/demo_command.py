"""``p2ptrain demo``: a bootstrap node and four peers train a real model on this machine, and one of them is killed."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from p2ptrain.errors import P2PTrainError, UsageError

_PRESET = "tiny"
_SEED = 1
"""The same model and text for everybody who tries it, so that figures can be compared."""
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """A signal asked us to end; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def demo(
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of drawing a screen.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write what happened to this file, as JSON.")] = None,
    minutes: Annotated[float, typer.Option(help="Be done by then, with the run finished or not.")] = 5.0,
    out: Annotated[Path | None, typer.Option(help="New folder for all files  [default: demo/<time>]")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the screen to this file, as SVG.")] = None,
) -> None:
    """Watch a real swarm on this machine: four peers train a model, one is killed in mid-round and replaced.

    Ends with status 0 if the loss fell by a third, training went on after the kill, and all owners of each slice agree.

    Example: p2ptrain demo --plain --report demo.json
    """
    from p2ptrain.cli.demo_course import FINAL_STEPS_S

    if minutes * 60 < 2 * FINAL_STEPS_S:
        raise UsageError(f"--minutes {minutes:g} is too short for anything to happen; choose 1 or more")
    folder = _new_folder(out)
    try:
        with _signals_end_us():
            status = _run(folder, plain=plain, report_file=report, limit_s=minutes * 60, picture=picture)
    except _Ended as ended:
        typer.echo(f"interrupted; all processes have ended, their files are in {folder}", err=True)
        raise typer.Exit(128 + ended.number) from None
    raise typer.Exit(status)


def _run(folder: Path, *, plain: bool, report_file: Path | None, limit_s: float, picture: Path | None) -> int:
    # Imported here, so that `p2ptrain --help` need not wait for them.
    from rich.console import Console

    from p2ptrain.cli.demo_course import REPLACEMENT, VICTIM, DemoCourse
    from p2ptrain.cli.demo_screen import display
    from p2ptrain.cli.demo_summary import summary_lines
    from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
    from p2ptrain.ids import Version
    from p2ptrain.node.demo_results import failed_promises
    from p2ptrain.node.demo_strike import Strike
    from p2ptrain.node.demo_swarm import DemoSwarm

    manifest = folder / f"{_PRESET}.toml"
    config = write_manifest(_PRESET, manifest, ManifestChanges(seed=_SEED))
    swarm = DemoSwarm(folder=folder, manifest=manifest)
    strike = Strike(
        victim=VICTIM,
        replacement=REPLACEMENT,
        from_version=Version(config.rounds // 3),
    )
    course = DemoCourse(swarm=swarm, config=config, strike=strike, limit_s=limit_s, picture=picture)
    console = Console()
    failures = []
    try:
        with display(console, plain=plain) as screen:
            for step in (course.train, course.ask, course.stop, course.evaluate):
                step(screen)
    except P2PTrainError as error:
        failures.append(str(error))
    finally:
        for number in _ENDING_SIGNALS:
            # A second Ctrl-C must not leave processes behind; they are gone in a second anyway.
            signal.signal(number, signal.SIG_IGN)
        swarm.end()
    report = course.report()
    failures += failed_promises(report, course.strike, course.slices)
    if report_file is not None:
        report_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    for line in summary_lines(report, course.view, course.model, failures):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if failures else 0


def _new_folder(out: Path | None) -> Path:
    """An empty folder, absolute because other processes get it, too.

    Raises:
        UsageError: there is something already.
    """
    folder = (out or Path("demo") / datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; choose another --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _signals_end_us() -> Iterator[None]:
    """Turn signals that ask for an end into ``_Ended``, so that every ``finally`` on the way does its work."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise _Ended(number)

    # nohup ignores SIGHUP for us, and means it.
    wanted = [
        number for number in _ENDING_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, end) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
