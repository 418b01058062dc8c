"""The whole screen: which panels stand where at which size, and the lines that they make. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from p2ptrain.dashboard import cards, tables
from p2ptrain.dashboard.canvas import Glyphs, Line, beside, box, fit, line_width, spread
from p2ptrain.dashboard.figures import short_count
from p2ptrain.dashboard.scene import Scene, peer_rows, slice_rows
from p2ptrain.dashboard.ui import QUESTIONS, Ui

Name = Literal["slices", "loss", "network", "device", "mine", "peers", "events", "why", "doctor", "help"]
LEAST_WIDTH, LEAST_HEIGHT = 80, 24
_MEDIUM, _WIDE = 110, 170
_HEADER_ROWS, _FOOTER_ROWS = 2, 1

HELP = (
    ("p", "pause, or resume; asks for how long"),
    ("P", "complete the round, then pause: nothing is left half-done"),
    ("b", "limit upload and download"),
    ("g", "limit the GPU's memory and power"),
    ("s n e", "slices and peers, network, events over the whole screen; again or Esc: back"),
    ("w", "why the peer does what it does"),
    ("d", "doctor: what of this machine and network works"),
    ("/", "show only events with these words; Esc clears them"),
    ("a", "events: show routine ones, too"),
    (", .", "sort the peers by the next or previous column; r reverses"),
    ("arrows", "scroll, also with PgUp, PgDn, Home and End"),
    ("[ ]", "look back and forth in time; { } in larger steps; l: back to now"),
    ("space + -", "replay: stand still or go on, faster, slower"),
    ("q", "close this screen; the peer goes on"),
)
MARKS = (
    ("mine", "this peer, or a slice that it owns"),
    ("online", "an owner that is online"),
    ("offline", "an owner that is silent; no majority online is marked !"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that stand next to each other: each with its share of the width."""

    height: int
    panels: tuple[tuple[Name, int], ...]


def arrange(width: int, height: int, ui: Ui, num_slices: int) -> list[list[Row]]:
    """Columns of rows that fill the space between header and footer exactly.

    Args:
        width: of the terminal.
        height: of the terminal.
        ui: which page is open.
        num_slices: more of them get more room.

    Returns:
        One column, or two on a wide terminal: the second is a third of the width.
    """
    body = height - _HEADER_ROWS - _FOOTER_ROWS
    match ui.page:
        case "slices":
            top = min(body - 5, max(4, num_slices + 2))
            return [[Row(top, (("slices", 1),)), Row(body - top, (("peers", 1),))]]
        case "network":
            top = min(body - 5, max(10, body // 2))
            return [[Row(top, (("network", 1),)), Row(body - top, (("device", 1), ("mine", 1)))]]
        case "events" | "why" | "doctor" | "help":
            return [[Row(body, ((ui.page, 1),))]]
    if width >= _WIDE and height >= 30:
        return _wide(body, num_slices)
    if width >= _MEDIUM and height >= 30:
        return _medium(body, num_slices)
    return _small(body, num_slices)


def _small(body: int, num_slices: int) -> list[list[Row]]:
    extra = body - 21
    first = 5 + max(0, min(extra // 3, max(3, num_slices - 3)))
    second = 5 + max(0, min(extra // 3, 3))
    rest = body - first - second
    people = max(5, rest // 2) if rest >= 10 else rest
    rows = [
        Row(first, (("slices", 1), ("loss", 1))),
        Row(second, (("network", 1), ("device", 1))),
        Row(people, (("peers", 1),)),
    ]
    return [[*rows, Row(rest - people, (("events", 1),))] if rest > people else rows]


def _medium(body: int, num_slices: int) -> list[list[Row]]:
    first = max(8, min(body // 3, num_slices + 2)) if num_slices > 6 else max(8, min(12, body // 4 + 1))
    second = 8
    rest = body - first - second
    people = min(max(6, rest // 2), 14)
    return [
        [
            Row(first, (("slices", 1), ("loss", 1))),
            Row(second, (("network", 2), ("device", 2), ("mine", 2))),
            Row(people, (("peers", 1),)),
            Row(rest - people, (("events", 1),)),
        ]
    ]


def _wide(body: int, num_slices: int) -> list[list[Row]]:
    first = max(9, min(body // 2, max(num_slices + 2, body // 3)))
    second = max(8, min(12, body // 5))
    return [
        [
            Row(first, (("slices", 1), ("loss", 1))),
            Row(second, (("network", 1), ("device", 1))),
            Row(body - first - second, (("peers", 1),)),
        ],
        [Row(9, (("mine", 1),)), Row(body - 9, (("events", 1),))],
    ]


def draw(
    scene: Scene,
    ui: Ui,
    width: int,
    height: int,
    glyphs: Glyphs,
    doctor: Sequence[Mapping[str, object]] | str = "",
) -> list[Line]:
    """The screen as exactly ``height`` lines of ``width`` cells; below 80x24 what fits of it.

    Args:
        scene: what is shown.
        ui: how.
        width: of the terminal.
        height: of the terminal.
        glyphs: characters to draw with.
        doctor: what the doctor found, or a sentence on what it is doing.
    """
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        notice = f"{width}x{height} is small; 80x24 shows all of it"
        whole = draw(scene, ui, max(width, LEAST_WIDTH), max(height, LEAST_HEIGHT), glyphs, doctor)
        return [fit(line, width) for line in whole[: max(0, height - 1)]] + [fit([(notice, "trouble")], width)][:height]
    columns = arrange(width, height, ui, len(scene.slice_ids()))
    widths = [width] if len(columns) == 1 else [width - width // 3, width // 3]
    blocks = []
    for rows, column_width in zip(columns, widths, strict=True):
        block: list[Line] = []
        for row in rows:
            block += _row(row, scene, ui, column_width, glyphs, doctor)
        blocks.append(block)
    head = cards.header(scene, width, glyphs)
    return [*(fit(line, width, glyphs.more) for line in head), *beside(*blocks), _footer(scene, ui, width, glyphs)]


def _row(
    row: Row, scene: Scene, ui: Ui, width: int, glyphs: Glyphs, doctor: Sequence[Mapping[str, object]] | str
) -> list[Line]:
    shares = sum(share for _, share in row.panels)
    blocks, left = [], width
    for i, (name, share) in enumerate(row.panels):
        own = left if i == len(row.panels) - 1 else width * share // shares
        left -= own
        blocks.append(_panel(name, scene, ui, own, row.height, glyphs, doctor))
    return beside(*blocks)


def _panel(
    name: Name,
    scene: Scene,
    ui: Ui,
    width: int,
    height: int,
    glyphs: Glyphs,
    doctor: Sequence[Mapping[str, object]] | str,
) -> list[Line]:
    inner, rows = width - 4, height - 2
    title: Line = [(name, "title")]
    corner: Line = []
    match name:
        case "slices":
            lines = cards.slice_map(scene, inner, rows, glyphs)
            corner = _slices_corner(scene)
        case "loss":
            lines = cards.loss(scene, inner, rows, glyphs)
            corner = [("nats/token", "quiet")]
        case "network":
            lines = cards.network(scene, inner, rows, glyphs)
            corner = cards.reach(scene)
        case "device":
            lines = cards.device(scene, inner, rows, glyphs)
        case "mine":
            title = [("my contribution", "title")]
            lines = cards.contribution(scene, inner, rows, glyphs)
        case "peers":
            lines = tables.peers(
                scene,
                inner,
                rows,
                glyphs,
                sort=ui.sort,
                is_reversed=ui.is_reversed,
                scroll=ui.scroll if ui.page == "slices" else 0,
            )
            corner = _peers_corner(scene, width)
        case "events":
            scroll = ui.scroll if ui.page in ("overview", "events") else 0
            with_routine = ui.with_routine or scroll > 0
            lines = tables.events(scene, inner, rows, glyphs, words=ui.words, scroll=scroll, with_routine=with_routine)
            corner = [(f"only: {ui.words}", "trouble")] if ui.words else []
        case "why":
            lines, corner = _scrolled(tables.why(scene, inner, glyphs), rows, ui.scroll)
        case "doctor":
            found = [[(doctor, "quiet")]] if isinstance(doctor, str) else tables.findings(doctor, inner, glyphs)
            lines, corner = _scrolled(found, rows, ui.scroll)
        case _:
            lines, corner = _scrolled(_help(glyphs), rows, ui.scroll)
    return box(title, lines, width, height, glyphs, corner=corner or None)


def _scrolled(lines: Sequence[Line], rows: int, scroll: int) -> tuple[list[Line], Line]:
    """The lines that fit, and a corner that says how many follow."""
    start = max(0, min(scroll, len(lines) - rows))
    below = len(lines) - start - rows
    corner: Line = [(f"{below} more: arrow down", "quiet")] if below > 0 else []
    return list(lines[start : start + rows]), corner


def _slices_corner(scene: Scene) -> Line:
    below = sum(bool(row.owners) and row.is_below_quorum for row in slice_rows(scene))
    if below:
        return [(f"! {below} below quorum", "trouble")]
    orphans = sum(row.is_known and not row.owners for row in slice_rows(scene))
    return [(f"! {orphans} without owner", "trouble")] if orphans else []


def _peers_corner(scene: Scene, width: int) -> Line:
    rows = peer_rows(scene)
    silent = sum(row.is_silent for row in rows)
    count = f"{len(rows) - silent} here" + (f", {silent} gone" if silent else "")
    share = scene.seat.share()
    if width >= _MEDIUM or share is None:
        return [(count, "quiet")]
    # Small screens have no panel for the contribution; its gist is here.
    peer = scene.seat.peer
    tokens = short_count(peer.tokens) if peer is not None else "0"
    return [(f"{count}; mine: {tokens} tokens, {100 * share:.0f} % of {scene.seat.rounds_contributed} rounds", "quiet")]


def _footer(scene: Scene, ui: Ui, width: int, glyphs: Glyphs) -> Line:
    if ui.prompt is not None:
        typed = [(f" {ui.prompt.text}", ""), (" ", "chosen")]
        question: Line = [(f" {QUESTIONS[ui.prompt.kind]}", "strong")]
        room = max(0, width - line_width(typed))  # what is typed is seen in any case
        return fit([*(question if line_width(question) <= room else fit(question, room, glyphs.more)), *typed], width)
    if ui.notice:
        return fit([(f" {ui.notice}", "strong")], width, glyphs.more)
    if scene.place is not None:
        keys = [("[ ]", "scrub"), ("space", "stop" if ui.speed else "go on"), ("+ -", "speed")]
        keys += [] if ui.is_replay else [("l", "now")]
        left = _keys([*keys, ("?", "help"), ("q", "quit")])
        return spread(left, [*tables.replay_bar(scene, max(10, width // 3), glyphs), (" ", "")], width)
    change = [("p", "resume" if ui.is_paused else "pause"), ("P", "finish"), ("b", "bandwidth"), ("g", "gpu")]
    change = [] if ui.is_readonly else change
    look = [("w", "why"), ("d", "doctor")]
    pages = [("s", "slices"), ("n", "network"), ("e", "events")]
    end = [("?", "help"), ("q", "quit")]
    variants = ([*change, *pages, *look, ("/", "filter"), *end], [*change, ("s n e", "pages"), *look, *end], end)
    return fit(next((line for line in map(_keys, variants) if line_width(line) <= width), []), width)


def _keys(keys: Sequence[tuple[str, str]]) -> Line:
    line: Line = []
    for key, what in keys:
        line += [(" ", ""), (key, "good"), (" ", ""), (what, "quiet")]
    return line


def _help(glyphs: Glyphs) -> list[Line]:
    lines: list[Line] = [[(f"{keys:>10}  ", "good"), (what, "")] for keys, what in HELP]
    marks = {"mine": glyphs.mine, "online": glyphs.online, "offline": glyphs.offline}
    lines.append([])
    for name, what in MARKS:
        style = {"mine": "mine", "online": "accent", "offline": "trouble"}[name]
        lines.append([(f"{marks[name]:>10}  ", style), (what, "")])
    return lines
