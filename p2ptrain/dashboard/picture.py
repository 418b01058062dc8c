"""The screen as an SVG file, for documents."""

import io
import re
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme

_THEME = TerminalTheme(
    (13, 17, 23),
    (214, 221, 228),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (226, 168, 43),
        (88, 166, 255),
        (188, 140, 255),
        (63, 188, 212),
        (177, 186, 196),
    ],
)
RICH_STYLES = {
    "": "",
    "strong": "bold",
    "quiet": "#8b949e",
    "accent": "cyan",
    "good": "bold cyan",
    "trouble": "bold yellow",
    "mine": "bold magenta",
    "other": "blue",
    "border": "#2f6f7e",
    "title": "bold",
    "key": "bold reverse",
    "chosen": "reverse",
}
"""``canvas.STYLES`` as rich calls them."""
_REMOTE_FONTS = re.compile(r"@font-face\s*\{.*?\}", re.DOTALL)


def save_picture(screen: RenderableType, path: Path, title: str, width: int = 100, height: int = 30) -> None:
    """Draw ``screen`` as in a terminal of that size and write it to ``path``; the same screen gives the same bytes.

    Raises:
        OSError: the file cannot be written.
    """
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True, no_color=False)
    console.print(screen)
    svg = console.export_svg(title=title, theme=_THEME)
    # A document must not load fonts from somewhere else when it is looked at; the reader's monospace font does.
    path.write_text(_REMOTE_FONTS.sub("", svg), encoding="utf-8")
