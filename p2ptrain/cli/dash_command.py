"""``p2ptrain dash``: a volunteer's screen, on a running peer, a swarm from outside, or the past."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from p2ptrain.cli.new_file import or_elsewhere
from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.control.address import Target
    from p2ptrain.dashboard.app import Dashboard, Look
    from p2ptrain.dashboard.attach import ControlLink
    from p2ptrain.dashboard.canvas import Line
    from p2ptrain.dashboard.sources import Source
    from p2ptrain.dashboard.ui import Page

_OBSERVE_EVERY_S = 2
_PAGES = ("overview", "slices", "network", "events", "why", "help")


def dash(
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of a peer on this machine  [default: P2PTRAIN_HOME, where nothing else is named]"),
    ] = None,
    control: Annotated[
        str,
        typer.Option(metavar="SOCKET|FILE", help="A peer's control socket, or an enrolment file for one elsewhere."),
    ] = "",
    bootstrap: Annotated[
        list[str] | None,
        typer.Option("--bootstrap", help="Watch a swarm without taking part: address of a bootstrap node or any peer."),
    ] = None,
    run: Annotated[
        str, typer.Option(metavar="FILE|ADDRESS", help="With --bootstrap: the run  [default: the one that it knows]")
    ] = "",
    replay: Annotated[
        list[Path] | None,
        typer.Option(help="Look at the past: a peer's events.jsonl; repeat it for several peers of a run."),
    ] = None,
    at: Annotated[str, typer.Option(metavar="M:SS", help="With --replay: the moment to show  [default: the end]")] = "",
    readonly: Annotated[bool, typer.Option("--readonly", help="Look only: keys change nothing.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of filling the screen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON and end.")] = False,
    page: Annotated[str, typer.Option(help=f"Page to open: {', '.join(_PAGES)}.")] = "overview",
    picture: Annotated[Path | None, typer.Option(help="Write one picture to this file, as SVG, and end.")] = None,
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Size of --once and --picture  [default: the terminal's]")
    ] = "",
) -> None:
    """Watch a peer: what it does and why, its slices, loss, network, device and contribution. q ends; ? has the keys.

    Example: p2ptrain dash --home peer-a
    """
    from p2ptrain.cli.processes import run_loop
    from p2ptrain.control.doctor_process import doctor_command
    from p2ptrain.dashboard.app import Dashboard, Look, is_terminal, look_of
    from p2ptrain.dashboard.canvas import ASCII, UNICODE
    from p2ptrain.dashboard.doctor import doctor_of
    from p2ptrain.dashboard.terminal import Terminal
    from p2ptrain.dashboard.ui import Ui

    # In a container of a peer, whose folder the variable names, the command alone shows that peer.
    if not (home or control or bootstrap or replay) and (folder := os.environ.get("P2PTRAIN_HOME")):
        home = Path(folder)
    if page not in _PAGES:
        raise UsageError(f"--page {page}: choose from {', '.join(_PAGES)}")
    source, link = _source(home, control, bootstrap or [], run, replay or [])
    start_s = _moment(at) if at else None
    if start_s is not None and not replay:
        raise UsageError(f"--at {at} goes with --replay")
    width_height = _size(size) if size else None
    actor, doctor = None, None
    if link is not None:
        command = doctor_command(home) if home else []
        actor, doctor = link.act, doctor_of(link, command)
    ui = Ui(page=cast("Page", page), is_readonly=readonly)
    dashboard = Dashboard(source, actor, doctor, ui, start_s)
    has_colour, has_unicode = look_of(os.environ, sys.stdout.encoding)
    look = Look(glyphs=UNICODE if has_unicode else ASCII, has_colour=has_colour)
    still = as_json or once or picture is not None
    if not (still or plain) and not is_terminal():
        raise UsageError("the dashboard fills a terminal, and this is none; add --plain for lines, --once or --json")
    if still:
        run_loop(dashboard.settle(), uses_terminal=True)
        _show_still(dashboard, look, width_height, as_json=as_json, picture=picture, plain=plain)
    elif plain:
        run_loop(dashboard.run_plain(typer.echo), uses_terminal=True)
    else:
        run_loop(dashboard.run_live(Terminal(), look), uses_terminal=True)


def _show_still(
    dashboard: "Dashboard",
    look: "Look",
    size: tuple[int, int] | None,
    *,
    as_json: bool,
    picture: Path | None,
    plain: bool,
) -> None:
    import json

    from p2ptrain.dashboard.app import terminal_size
    from p2ptrain.dashboard.canvas import UNICODE, to_ansi, to_text
    from p2ptrain.dashboard.scene_json import scene_to_json

    if as_json:
        typer.echo(json.dumps(scene_to_json(dashboard.scene()), indent=2))
    if picture is not None:
        width, height = size or (120, 36)
        _save_picture(dashboard.lines(width, height, UNICODE), picture, width, height)
    elif not as_json:
        width, height = size or terminal_size()
        as_text = plain or not sys.stdout.isatty()
        for line in dashboard.lines(width, height, look.glyphs):
            typer.echo(to_text(line) if as_text else to_ansi(line, colour=look.has_colour))


def _save_picture(lines: "list[Line]", path: Path, width: int, height: int) -> None:
    from rich.text import Text

    from p2ptrain.dashboard.picture import RICH_STYLES, save_picture

    text = Text("\n", no_wrap=True).join(
        Text.assemble(*((content, RICH_STYLES[style]) for content, style in line)) for line in lines
    )
    with or_elsewhere(path, "--picture"):
        save_picture(text, path, "p2ptrain dash", width, height)


def _source(
    home: Path | None, control: str, bootstrap: list[str], run: str, replay: list[Path]
) -> "tuple[Source, ControlLink | None]":
    from p2ptrain.dashboard.attach import ControlLink
    from p2ptrain.dashboard.sources import ControlSource, HomeSource, ObserverSource, ReplaySource

    options = {"--home": home, "--control": control, "--bootstrap": bootstrap, "--replay": replay}
    given = [name for name, value in options.items() if value]
    if len(given) != 1:
        what = f"{' and '.join(given)} are two things to watch" if given else "nothing to watch"
        raise UsageError(
            f"{what}: give one of --home FOLDER (a peer here), --control FILE (one elsewhere), --bootstrap ADDRESS"
            " (a swarm), --replay FILE (the past)"
        )
    if home is not None:
        link = ControlLink(lambda: _target_of_home(home))
        return HomeSource(home, link), link
    if control:
        _target_of_address(control)
        link = ControlLink(lambda: _target_of_address(control))
        return ControlSource(link), link
    if replay:
        return ReplaySource(replay), None
    observer = [sys.executable, "-m", "p2ptrain", "swarm", "--json", "--every", str(_OBSERVE_EVERY_S)]
    observer += ["--run", run or bootstrap[0]]
    for address in bootstrap:
        observer += ["--bootstrap", address]
    return ObserverSource(observer), None


def _target_of_home(home: Path) -> "Target":
    from p2ptrain.control.address import target_of_home

    return target_of_home(home)


def _target_of_address(control: str) -> "Target":
    from p2ptrain.control.address import target_of_address

    return target_of_address(control)


def _moment(text: str) -> float:
    """Seconds in ``M:SS`` or ``S``; with a minus sign, before the end."""
    found = re.fullmatch(r"(-?)(?:(\d+):)?(\d+(?:\.\d+)?)", text)
    if found is None:
        raise UsageError(f"--at {text} is no moment; write minutes and seconds, like 2:30, or -0:10 before the end")
    seconds = int(found[2] or 0) * 60 + float(found[3])
    return -seconds if found[1] else seconds


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text)
    if found is None or int(found[1]) < 40 or int(found[2]) < 10:
        raise UsageError(f"--size {text} is no size; write columns and lines, like 120x36, from 40x10 up")
    return int(found[1]), int(found[2])
