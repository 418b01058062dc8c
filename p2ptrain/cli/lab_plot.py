"""Curves as an SVG picture, without a plotting library."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 250, 40, 50
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")

Curve = Sequence[tuple[float, float]]


def curves_svg(title: str, x_label: str, curves: Mapping[str, Sequence[Curve]]) -> str:
    """A picture of the curves, lower being better.

    Args:
        title: above the picture.
        x_label: below it.
        curves: per legend entry its curves, one a seed, of one colour; each has a point or more.
    """
    points = [point for group in curves.values() for curve in group for point in curve]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks, y_ticks = _ticks(0.0, max(xs)), _ticks(min(ys), max(ys))

    def place(x: float, y: float) -> str:
        right = _LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{right:.1f},{down:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 22, title),
        _text(_LEFT, _HEIGHT - 10, x_label),
    ]
    for tick in x_ticks:
        begin, end = place(tick, y_ticks[0]), place(tick, y_ticks[-1])
        lines += [_line(begin, end), _text(float(begin.split(",")[0]) - 8, _HEIGHT - _BOTTOM + 18, f"{tick:g}")]
    for tick in y_ticks:
        begin, end = place(x_ticks[0], tick), place(x_ticks[-1], tick)
        lines += [_line(begin, end), _text(8, float(begin.split(",")[1]) + 4, f"{tick:g}")]
    for index, (name, group) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        for curve in group:
            path = " ".join(place(x, y) for x, y in curve)
            lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        lines.append(_text(_WIDTH - _RIGHT + 15, _TOP + 16 * (index + 1), name, colour))
    return "\n".join([*lines, "</svg>\n"])


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose both."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * number, 10) for number in range(first, max(last, first + 1) + 1)]


def _text(x: float, y: float, text: str, colour: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(text)}</text>'


def _line(begin: str, end: str) -> str:
    return f'<polyline points="{begin} {end}" stroke="#ddd"/>'
