"""A view of the swarm as a screen of text, for terminals from 80x24 up.

Good and bad differ by sign and word first and by colour second, and the colours (cyan, yellow) are told apart by people
who see no red or green. Terminals without UTF-8 get ASCII, and ``NO_COLOR`` is obeyed by rich.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, OverflowMethod, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from p2ptrain.dashboard.projection import Note, PeerView, SliceView, SwarmView, chosen_notes
from p2ptrain.ids import COMMON, RunId, SliceId, counts_rounds, short, slice_of

_GOOD, _TROUBLE, _QUIET = "bold cyan", "bold yellow", "dim"
_NOTE_STYLES = {"plain": "", "routine": _QUIET, "good": _GOOD, "trouble": _TROUBLE}
_NARROW = 90
_SLICE_ROWS = 5
_CHART_FROM_HEIGHT = 30
"""Below that the loss is one line of bars; above, every third line goes to the chart and the others to the log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScreenFacts:
    """What the screen shows and no journal knows."""

    title: str
    run: RunId | None
    rounds: int
    """Length of the run."""
    slices: Sequence[SliceId]
    """All of the run, the common part too, so that one without owners is seen."""
    started_s: float
    """Wall time, as ``now_s``."""
    now_s: float
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Glyphs:
    bars: str
    full: str
    empty: str
    yes: str
    no: str
    arrow: str
    dot: str
    none: str
    overflow: OverflowMethod


_UNICODE = _Glyphs("▁▂▃▄▅▆▇█", "━", "─", "✓", "✗", "→", "·", "–", "ellipsis")
_ASCII = _Glyphs("_.-=+*%#", "#", "-", "ok", "!!", "->", "|", "-", "crop")


class SwarmScreen:
    """One picture of the swarm, made to fit the console that prints it."""

    def __init__(self, view: SwarmView, facts: ScreenFacts) -> None:
        self.view = view
        self.facts = facts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = _ASCII if options.ascii_only else _UNICODE
        width, height = options.max_width, options.height or console.height
        slices = [self.view.slices.get(slice_id, SliceView(slice=slice_id)) for slice_id in self.facts.slices]
        chart_rows = max(1, min(6, (height - _CHART_FROM_HEIGHT) // 3 + 1))
        above = Group(
            _header(self.view, self.facts, width, glyphs),
            _slice_map(self.view, slices, width, glyphs),
            _peers_table(self.view, width, glyphs),
            _loss(self.view, self.facts, width, chart_rows, glyphs),
            _network(self.view, glyphs),
        )
        lines = console.render_lines(above, options.update(height=None), pad=False)
        yield above
        # Live draws whole lines and one more would scroll the screen.
        yield _log(self.view.notes, self.facts.started_s, max(0, height - len(lines) - 1), glyphs)


def _header(view: SwarmView, facts: ScreenFacts, width: int, glyphs: _Glyphs) -> RenderableType:
    top = Table.grid(expand=True)
    top.add_column(no_wrap=True, overflow=glyphs.overflow)
    top.add_column(justify="right", no_wrap=True)
    limit = "" if facts.limit_s is None else f" / {_minutes(facts.limit_s)}"
    run = f"  run {short(facts.run)}" if facts.run is not None else ""
    top.add_row(
        Text.assemble(("p2ptrain ", "bold"), (facts.title, "bold cyan"), (run, _QUIET)),
        Text(f"{_minutes(facts.now_s - facts.started_s)}{limit}", style="bold"),
    )
    done = next((one.version for one in view.slices.values() if counts_rounds(one.slice)), 0)
    bar_width = max(10, width // 4)
    filled = min(bar_width, round(bar_width * done / facts.rounds))
    progress = Text.assemble(
        ("round ", _QUIET),
        (f"{done}", "bold"),
        (f" of {facts.rounds} ", _QUIET),
        (glyphs.full * filled, "cyan"),
        (glyphs.empty * (bar_width - filled), _QUIET),
    )
    top.add_row(progress, _loss_summary(view, glyphs))
    return top


def _loss_summary(view: SwarmView, glyphs: _Glyphs) -> Text:
    curve = view.validation_curve()
    if not curve:
        return Text("validation loss not measured yet", style=_QUIET)
    first, last = curve[0][1], curve[-1][1]
    return Text.assemble(
        ("validation loss ", _QUIET), f"{first:.3f} {glyphs.arrow} ", (f"{last:.3f}", "bold"), (" nats/byte", _QUIET)
    )


def _slice_map(view: SwarmView, slices: Sequence[SliceView], width: int, glyphs: _Glyphs) -> RenderableType:
    per_row = max(1, min(len(slices), width // 24))
    cell_width = width // per_row
    cells = [_slice_cell(view, one, cell_width, glyphs) for one in slices]
    return Columns(cells, padding=(0, 0), width=cell_width)


def _slice_cell(view: SwarmView, one: SliceView, width: int, glyphs: _Glyphs) -> Panel:
    owners = sorted(view.name_of(peer) for peer in one.owners) or [
        peer.name for peer in view.peers.values() if peer.fate == "alive" and slice_of(one.slice) in peer.slices
    ]
    body = Text(no_wrap=True, overflow=glyphs.overflow)
    body.append(" ".join(_without_common_prefix(owners)) if owners else "no owner", "bold" if owners else _TROUBLE)
    body.append("\n")
    if one.conflicts:
        body.append(f"{glyphs.no} owners differ at v{one.conflicts[-1].version}", _TROUBLE)
    elif one.verdict:
        body.append(f"{glyphs.no} {one.verdict}", _TROUBLE)
    elif one.version == 0:
        body.append("no round committed yet", _QUIET)
    elif one.digest is None:
        body.append("went over to another branch", _QUIET)
    else:
        agree = f"{len(one.agreeing)} of {len(one.owners)}"
        same = len(one.agreeing) == len(one.owners)
        body.append(f"{glyphs.yes} " if same else f"{glyphs.dot} ", _GOOD if same else "")
        body.append(f"{short(one.digest)} on {agree}", "" if same else _QUIET)
    body.append("\n")
    stages = [
        stage
        for peer in view.peers.values()
        if (stage := peer.stages.get(one.slice)) is not None and stage.stage and stage.version > one.version
    ]
    if stages:
        latest = max(stages, key=lambda stage: stage.version)
        body.append(f"{latest.stage} v{latest.version}", "cyan")
    else:
        body.append(f"{len(one.committed)} committed, {len(one.void)} void", _QUIET)
    name = "common part" if one.slice == COMMON else f"slice {one.slice}"
    title = Text.assemble((name, "bold"), f" {glyphs.dot} v{one.version}")
    border = "yellow" if one.conflicts or not owners else "cyan"
    return Panel(body, title=title, title_align="left", border_style=border, width=width, height=_SLICE_ROWS)


def _peers_table(view: SwarmView, width: int, glyphs: _Glyphs) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), header_style=_QUIET, show_edge=False)
    table.add_column("peer", no_wrap=True)
    table.add_column("slices", no_wrap=True)
    table.add_column("doing", no_wrap=True, overflow=glyphs.overflow, ratio=1)
    for heading in ("step", "loss", "tok/s", "sent MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= _NARROW:
        table.add_column("got MB", justify="right", no_wrap=True)
    for peer in view.peers.values():
        row = [
            Text.assemble(
                (peer.name, "bold"), *([(f" {short(peer.peer)}", _QUIET)] if peer.peer and width >= _NARROW else [])
            ),
            Text(_slice_names(peer.slices) or glyphs.none),
            _doing(peer, width, glyphs),
            Text(_round(peer, glyphs)),
            Text(glyphs.none if peer.train_loss_nats is None else f"{peer.train_loss_nats:.3f}"),
            Text(glyphs.none if peer.tokens_per_s is None else f"{peer.tokens_per_s:,.0f}"),
            Text(_megabytes(peer.sent_bytes, glyphs)),
        ]
        if width >= _NARROW:
            row.append(Text(_megabytes(peer.received_bytes, glyphs)))
        table.add_row(*row, style="" if peer.fate == "alive" else _QUIET)
    return table


def _doing(peer: PeerView, width: int, glyphs: _Glyphs) -> Text:
    if peer.fate in ("killed", "died"):
        return Text(f"{glyphs.no} {peer.fate}", style=_TROUBLE)
    if peer.fate == "asleep":
        return Text(f"paused: {peer.reason}", style=_QUIET)
    if peer.fate == "stopped":
        return Text(f"stopped: {peer.reason}", style=_QUIET)
    if peer.state in ("TRAINING", "AVERAGING"):
        by_stage: dict[str, list[SliceId]] = {}
        for slice_id, stage in peer.stages.items():
            if stage.stage:
                by_stage.setdefault(stage.stage, []).append(slice_id)
        text = ", ".join([peer.state.lower(), *(f"{stage} {_slice_names(them)}" for stage, them in by_stage.items())])
    else:
        text = f"{peer.state.lower()}: {peer.reason}" if peer.reason else peer.state.lower()
    if peer.missing_records:
        text += f" ({peer.missing_records} events missing)"
    return Text(text, style="cyan" if peer.state == "COMPLETE" else "")


def _round(peer: PeerView, glyphs: _Glyphs) -> str:
    return glyphs.none if peer.round is None else f"{peer.round}.{peer.inner_step:02d}"


def _loss(view: SwarmView, facts: ScreenFacts, width: int, rows: int, glyphs: _Glyphs) -> RenderableType:
    curve = view.validation_curve()
    numbers = f"{curve[-1][1]:.3f} after round {curve[-1][0]}" if curve else "loss by round"
    room = width - 34
    per_round = max(1, min(4, room // (facts.rounds + 1)))
    shown = curve[-(room // per_round) :]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    lines = bars([loss for _, loss in shown], rows=rows, width_each=per_round, marks=glyphs.bars)
    for i, line in enumerate(lines):
        is_last = i == len(lines) - 1
        scale = f"{max(loss for _, loss in shown):.2f}" if i == 0 and rows > 1 and shown else ""
        grid.add_row(
            Text("loss" if is_last else scale, style=_QUIET), Text(line, style="cyan"), Text(numbers if is_last else "")
        )
    return grid


def bars(values: Sequence[float], *, rows: int, width_each: int, marks: str) -> list[str]:
    """A bar chart as lines of text, top line first.

    Args:
        values: heights; the largest fills all rows, zero is the bottom.
        rows: number of lines.
        width_each: columns of each bar.
        marks: characters from the lowest to the full one.

    Returns:
        ``rows`` strings of ``len(values) * width_each`` characters.
    """
    top = max(values, default=0.0)
    steps = [max(1, round(value / top * rows * len(marks))) if top > 0 else 1 for value in values]
    lines = []
    for row in reversed(range(rows)):
        filled = [min(len(marks), step - row * len(marks)) for step in steps]
        lines.append("".join((marks[fill - 1] if fill > 0 else " ") * width_each for fill in filled))
    return lines


def _network(view: SwarmView, glyphs: _Glyphs) -> RenderableType:
    sent = sum(peer.sent_bytes or 0 for peer in view.peers.values())
    sending = [f"{peer.name}: {peer.sending}" for peer in view.peers.values() if peer.sending]
    line = Text(no_wrap=True, overflow=glyphs.overflow)
    line.append("net  ", _QUIET)
    line.append(f"{sent / 1e6:.1f} MB sent, ")
    line.append("now " + ", ".join(sending) if sending else "nothing on the wire", "" if sending else _QUIET)
    return line


def _log(notes: Sequence[Note], started_s: float, rows: int, glyphs: _Glyphs) -> RenderableType:
    text = Text(no_wrap=True, overflow=glyphs.overflow)
    for i, note in enumerate(chosen_notes(notes, rows)):
        text.append("\n" if i else "")
        text.append(f"{_minutes(note.time_s - started_s)} ", _QUIET)
        text.append(f"{note.name} " if note.name else "", "bold")
        text.append(note.text, _NOTE_STYLES[note.kind])
    return text


def note_line(note: Note, started_s: float) -> str:
    """A note as a line of plain text: when, who, what."""
    return f"{_minutes(note.time_s - started_s)}  {f'{note.name}: ' if note.name else ''}{note.text}"


def _slice_names(slices: Sequence[SliceId]) -> str:
    return " ".join("C" if slice_id == COMMON else slice_id for slice_id in slices)


def _without_common_prefix(names: Sequence[str]) -> list[str]:
    """``peer-a peer-b`` as ``a b`` where a cell is too small for more."""
    return [name.removeprefix("peer-") for name in names]


def _megabytes(number_bytes: int | None, glyphs: _Glyphs) -> str:
    return glyphs.none if number_bytes is None else f"{number_bytes / 1e6:.1f}"


def _minutes(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
