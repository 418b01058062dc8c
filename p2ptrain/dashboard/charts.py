"""Numbers as pictures of text: curves in braille, bars, spans of time on a common axis. Pure functions."""

from collections.abc import Sequence

from p2ptrain.dashboard.canvas import Glyphs, Line

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Braille's dots: by column, then row from the top (Unicode 2800 to 28FF)."""


def resample(values: Sequence[float], count: int) -> list[float]:
    """``count`` values that span all of ``values``: means of equal stretches, or points on the lines between them."""
    n = len(values)
    if n == 0 or count <= 0:
        return []
    if n < count:
        return [_between(values, i * (n - 1) / (count - 1)) for i in range(count)]
    stretches = [values[i * n // count : (i + 1) * n // count] for i in range(count)]
    return [sum(stretch) / len(stretch) for stretch in stretches]


def _between(values: Sequence[float], place: float) -> float:
    before = min(int(place), len(values) - 1)
    after = min(before + 1, len(values) - 1)
    return values[before] + (values[after] - values[before]) * (place - before)


def curve(values: Sequence[float], *, width: int, rows: int, low: float, high: float) -> list[str]:
    """A line through ``values`` in braille, two dots a cell across and four down.

    Args:
        values: heights from left to right, stretched over the whole width.
        width: cells.
        rows: lines.
        low: height of the bottom.
        high: height of the top; equal to ``low`` draws a level line.

    Returns:
        ``rows`` strings of ``width`` characters, top line first.
    """
    cells = [[0] * width for _ in range(rows)]
    top_dot = rows * 4 - 1
    scale = top_dot / (high - low) if high > low else 0.0
    before = None
    for x, value in enumerate(resample(values, width * 2)):
        dot = min(top_dot, max(0, round((value - low) * scale)))
        # Joined to the previous dot, so that a steep curve is not a row of points.
        lowest, highest = (dot, dot) if before is None else (min(dot, before), max(dot, before))
        for y in range(lowest, highest + 1):
            cells[rows - 1 - y // 4][x // 2] |= _DOTS[x % 2][3 - y % 4]
        before = dot
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells]


def bars(values: Sequence[float], *, width: int, low: float, high: float, glyphs: Glyphs) -> str:
    """One line of bars, the newest at the right; always at least the lowest mark."""
    marks = glyphs.bars
    span = high - low
    picked = resample(values, min(width, len(values)))
    return "".join(
        marks[min(len(marks) - 1, max(0, int((value - low) / span * len(marks))))] if span > 0 else marks[0]
        for value in picked
    )


def gauge(share: float, width: int, glyphs: Glyphs, style: str = "accent") -> Line:
    """A bar that is filled by ``share``, 0 to 1."""
    filled = min(1.0, max(0.0, share)) * width
    whole = int(filled)
    half = glyphs.half if filled - whole >= 0.5 and whole < width else ""
    return [(glyphs.full * whole + half, style), (glyphs.empty * (width - whole - len(half)), "quiet")]


def spans_line(spans: Sequence[tuple[float, float, str, str]], *, start: float, end: float, width: int) -> Line:
    """Stretches of time on an axis from ``start`` to ``end``.

    Args:
        spans: begin, end, mark and style of each; a later one is drawn over an earlier one, and each that has begun is
            seen, however short.
        start: time at the left end.
        end: time at the right end.
        width: cells.
    """
    cells = [(" ", "")] * width
    if end <= start or width <= 0:
        return [(" " * max(0, width), "")]
    scale = width / (end - start)
    for begin, stop, mark, style in spans:
        first = min(width - 1, max(0, int((begin - start) * scale)))
        last = min(width, max(first + 1, round((stop - start) * scale)))
        cells[first:last] = [(mark, style)] * (last - first)
    line: Line = []
    for mark, style in cells:
        if line and line[-1][1] == style:
            line[-1] = (line[-1][0] + mark, style)
        else:
            line.append((mark, style))
    return line
