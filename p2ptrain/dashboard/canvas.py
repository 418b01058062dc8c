"""Styled text in exact cells: what the full screen is made of.

A line is a list of spans, a span is text and the name of its style. Rich can do this, too, but lays everything out anew
for each picture; one that is drawn four times a second must take less than 12 ms (docs/results/dashboard.md).

Good and bad differ by sign and word first and by colour second; the colours (cyan, yellow) are told apart by people who
see no red or green.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

Span = tuple[str, str]
"""Text without control characters, and a key of ``STYLES``."""
Line = list[Span]

STYLES: Mapping[str, str] = {
    "": "",
    "strong": "1",
    "quiet": "2",
    "accent": "36",
    "good": "1;36",
    "trouble": "1;33",
    "mine": "1;35",
    "other": "34",
    "border": "2;36",
    "title": "1",
    "key": "1;7",
    "chosen": "7",
}
"""Names to SGR codes of the terminal's own sixteen colours, so that its theme is obeyed."""
_COLOURS = frozenset(str(code) for code in (*range(30, 38), *range(90, 98)))


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters that pictures are drawn with."""

    border: str
    """Top left, horizontal, top right, vertical, bottom left, bottom right."""
    bars: str
    """From the lowest to the full one."""
    full: str
    empty: str
    half: str
    yes: str
    no: str
    mine: str
    online: str
    offline: str
    arrow: str
    dot: str
    none: str
    more: str
    live: str
    paused: str
    replay: str
    lost: str
    up: str
    down: str
    stages: Mapping[str, str]
    """A mark for each stage of the round, different without colour."""
    braille: bool


UNICODE = Glyphs(
    border="╭─╮│╰╯",
    bars="▁▂▃▄▅▆▇█",
    full="━",
    empty="─",
    half="╸",
    yes="✓",
    no="✗",
    mine="◆",
    online="●",
    offline="○",
    arrow="→",
    dot="·",
    none="–",
    more="…",
    live="●",
    paused="‖",
    replay="▶",
    lost="○",
    up="↑",
    down="↓",
    stages={"train": "█", "gather": "░", "send": "▒", "agree": "▓", "fetch": "▪"},
    braille=True,
)
ASCII = Glyphs(
    border="+-+|++",
    bars="_.-=+*%#",
    full="=",
    empty="-",
    half="=",
    yes="ok",
    no="!!",
    mine="*",
    online="o",
    offline=".",
    arrow="->",
    dot="-",
    none="-",
    more="~",
    live="o",
    paused="||",
    replay=">",
    lost=".",
    up="^",
    down="v",
    stages={"train": "#", "gather": ".", "send": "=", "agree": "%", "fetch": ":"},
    braille=False,
)


def clean(text: str) -> str:
    """``text`` without control characters: others' words must not move our cursor."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else " " for mark in text)


def width_of(text: str) -> int:
    """Cells that ``text`` takes on a terminal."""
    return len(text) if text.isascii() else _wide(text)


@lru_cache(maxsize=4096)
def _wide(text: str) -> int:
    return sum(_cells(mark) for mark in text)


def _cells(mark: str) -> int:
    if unicodedata.combining(mark) or unicodedata.category(mark) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(mark) in "WF" else 1


def crop(text: str, width: int, more: str = "") -> str:
    """``text`` in at most ``width`` cells; ``more`` takes the last place of what is cut."""
    if width_of(text) <= width:
        return text
    room, kept = max(0, width - width_of(more)), []
    for mark in text:
        room -= _cells(mark)
        if room < 0:
            break
        kept.append(mark)
    return ("".join(kept) + more) if width >= width_of(more) else ""


def line_width(line: Iterable[Span]) -> int:
    """Cells of a line."""
    return sum(width_of(text) for text, _ in line)


def fit(line: Line, width: int, more: str = "") -> Line:
    """The line in exactly ``width`` cells: padded, or cropped with ``more`` as the last mark."""
    fitted: Line = []
    room = width
    for i, (text, style) in enumerate(line):
        cells = width_of(text)
        if cells > room or (cells == room and i + 1 < len(line) and any(rest for rest, _ in line[i + 1 :]) and more):
            cropped = crop(text if cells > room else text + " ", room, more)
            fitted.append((cropped, style))
            room -= width_of(cropped)
            break
        if text:
            fitted.append((text, style))
        room -= cells
    if room > 0:
        fitted.append((" " * room, ""))
    return fitted


def spread(left: Line, right: Line, width: int, more: str = "") -> Line:
    """``left`` and ``right`` at the two ends of a line; the left one gives way."""
    right_width = line_width(right)
    if right_width >= width:
        return fit(right, width, more)
    return [*fit(left, width - right_width, more), *right]


def box(
    title: Line,
    lines: Sequence[Line],
    width: int,
    height: int,
    glyphs: Glyphs,
    *,
    corner: Line | None = None,
    style: str = "border",
) -> list[Line]:
    """Lines in a frame of exactly that size.

    Args:
        title: stands in the upper edge.
        lines: what is inside; what does not fit is left out, below and to the right.
        width: cells, frame included.
        height: lines, frame included.
        glyphs: what the frame is drawn with.
        corner: stands at the right end of the upper edge when there is room.
        style: of the frame.
    """
    top_left, horizontal, top_right, vertical, bottom_left, bottom_right = tuple(glyphs.border)
    inside = max(0, width - 4)
    heading: Line = [(" ", ""), *title, (" ", "")] if title else []
    heading = fit(heading, min(line_width(heading), max(0, width - 4)), glyphs.more)
    ending: Line = [(" ", ""), *corner, (" ", "")] if corner else []
    if line_width(heading) + line_width(ending) > width - 5:
        ending = []
    rule = horizontal * max(0, width - 3 - line_width(heading) - line_width(ending) - (1 if ending else 0))
    tail = horizontal if ending else ""
    drawn: list[Line] = [[(top_left + horizontal, style), *heading, (rule, style), *ending, (tail + top_right, style)]]
    for row in range(height - 2):
        content = fit(lines[row], inside, glyphs.more) if row < len(lines) else [(" " * inside, "")]
        drawn.append([(vertical + " ", style), *content, (" " + vertical, style)])
    drawn.append([(bottom_left + horizontal * max(0, width - 2) + bottom_right, style)])
    return drawn[:height]


def beside(*blocks: Sequence[Line]) -> list[Line]:
    """Blocks of equal height, next to each other."""
    return [[span for line in lines for span in line] for lines in zip(*blocks, strict=True)]


def to_text(line: Line) -> str:
    """The line without styles or trailing blanks."""
    return "".join(text for text, _ in line).rstrip()


def to_ansi(line: Line, *, colour: bool) -> str:
    """The line with SGR codes; without ``colour`` only weight and inversion remain, as NO_COLOR asks for."""
    codes = _CODES[colour]
    parts = []
    for text, style in line:
        code = codes[style]
        parts.append(f"\x1b[{code}m{text}\x1b[0m" if code else text)
    return "".join(parts)


def _without_colour(code: str) -> str:
    return ";".join(part for part in code.split(";") if part not in _COLOURS)


_CODES = {True: STYLES, False: {name: _without_colour(code) for name, code in STYLES.items()}}
