"""What keys do: the dashboard's own state, as a pure function of the state before and the key.

A key that concerns the peer becomes a ``Command``, which the application carries out; its outcome comes back as a
sentence at the bottom of the screen.
"""

from dataclasses import dataclass, replace
from typing import Literal

from p2ptrain.dashboard.scene import SORT_KEYS, SortKey

Page = Literal["overview", "slices", "network", "events", "why", "doctor", "help"]
PromptKind = Literal["filter", "pause", "finish", "bandwidth", "gpu"]
_PAGES: dict[str, Page] = {"s": "slices", "n": "network", "e": "events", "w": "why", "d": "doctor", "?": "help"}
SCRUB_STEP = 0.02
"""Part of the whole replay that one press of ``[`` or ``]`` moves; ``{`` and ``}`` move five times as far."""
SPEEDS = (0.0, 1.0, 4.0, 16.0, 64.0)
_LONGEST_ANSWER = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Something that the application has to do."""

    kind: Literal["quit", "pause", "resume", "finish", "bandwidth", "gpu", "doctor", "why", "scrub", "speed", "present"]
    text: str = ""
    """What was typed for it."""
    amount: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A question in the last line, and what has been typed so far."""

    kind: PromptKind
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ui:
    """What the person has chosen to see."""

    page: Page = "overview"
    prompt: Prompt | None = None
    words: str = ""
    """Events are shown that have all of these."""
    with_routine: bool = False
    sort: SortKey = "peer"
    is_reversed: bool = False
    scroll: int = 0
    speed: float = 1.0
    is_readonly: bool = False
    is_replay: bool = False
    is_paused: bool = False
    """The peer is, so that ``p`` resumes."""
    notice: str = ""
    """The last line, until the next key: an outcome or a refusal."""


QUESTIONS: dict[PromptKind, str] = {
    "filter": "show events with the words:",
    "pause": "pause for how long (2h, 30m; empty: until you resume)?",
    "finish": "complete the round, then pause for how long (empty: until you resume)?",
    "bandwidth": "limit in Mbit/s, upload then download (5 20; 0: none):",
    "gpu": "GPU limits, memory in GiB then power in W (6 150; 0: none):",
}


def press(ui: Ui, key: str) -> tuple[Ui, Command | None]:
    """The state after a key, and what is to be done.

    Args:
        ui: before.
        key: a character, or one of up, down, left, right, page-up, page-down, home, end, enter, escape, backspace, tab.
    """
    if ui.prompt is not None:
        return _typed(ui, ui.prompt, key)
    ui = replace(ui, notice="")
    if key in _PAGES:
        page = _PAGES[key]
        opened = replace(ui, page="overview" if ui.page == page else page, scroll=0)
        asks = opened.page in ("why", "doctor") and not ui.is_replay
        return opened, Command(kind="doctor" if page == "doctor" else "why") if asks else None
    match key:
        case "q":
            return ui, Command(kind="quit")
        case "escape":
            return replace(ui, page="overview", scroll=0, words="" if ui.page == "overview" else ui.words), None
        case "/":
            return replace(ui, prompt=Prompt(kind="filter", text=ui.words)), None
        case "a":
            return replace(ui, with_routine=not ui.with_routine), None
        case "," | ".":
            step = 1 if key == "." else -1
            return replace(ui, sort=SORT_KEYS[(SORT_KEYS.index(ui.sort) + step) % len(SORT_KEYS)], scroll=0), None
        case "r":
            return replace(ui, is_reversed=not ui.is_reversed, scroll=0), None
        case "up" | "down" | "page-up" | "page-down" | "home" | "end":
            return replace(ui, scroll=_scrolled(ui, key)), None
        case "[" | "]" | "{" | "}":
            amount = SCRUB_STEP * (5 if key in "{}" else 1) * (1 if key in "]}" else -1)
            return ui, Command(kind="scrub", amount=amount)
        case "l":
            return ui, Command(kind="present")
        case " " | "+" | "-":
            speed = _speed(ui.speed, key)
            return replace(ui, speed=speed), Command(kind="speed", amount=speed)
        case "p" | "P" | "b" | "g":
            return _about_the_peer(ui, key)
        case _:
            return ui, None


def _about_the_peer(ui: Ui, key: str) -> tuple[Ui, Command | None]:
    if ui.is_replay:
        return replace(ui, notice="this is the past: nothing in it can be changed"), None
    if ui.is_readonly:
        return replace(ui, notice="opened with --readonly: this screen looks and changes nothing"), None
    if key == "p" and ui.is_paused:
        return ui, Command(kind="resume")
    kinds: dict[str, PromptKind] = {"p": "pause", "P": "finish", "b": "bandwidth", "g": "gpu"}
    return replace(ui, prompt=Prompt(kind=kinds[key])), None


def _typed(ui: Ui, prompt: Prompt, key: str) -> tuple[Ui, Command | None]:
    match key:
        case "escape":
            return replace(ui, prompt=None), None
        case "enter":
            done = replace(ui, prompt=None)
            if prompt.kind == "filter":
                return replace(done, words=prompt.text, scroll=0), None
            return done, Command(kind=prompt.kind, text=prompt.text.strip())
        case "backspace":
            return replace(ui, prompt=replace(prompt, text=prompt.text[:-1])), None
        case _ if len(key) == 1 and key.isprintable() and len(prompt.text) < _LONGEST_ANSWER:
            return replace(ui, prompt=replace(prompt, text=prompt.text + key)), None
        case _:
            return ui, None


def _scrolled(ui: Ui, key: str) -> int:
    """Lines away from where the list rests: events at their newest, everything else at its top."""
    back = {"up": 1, "page-up": 10, "home": 10**6, "down": -1, "page-down": -10, "end": -(10**6)}[key]
    # Events are read from the end, the other lists from the start.
    change = back if ui.page in ("overview", "events") else -back
    return max(0, min(10**6, ui.scroll + change))


def _speed(speed: float, key: str) -> float:
    if key == " ":
        return 0.0 if speed else 1.0
    place = min(range(len(SPEEDS)), key=lambda i: abs(SPEEDS[i] - speed))
    return SPEEDS[max(0, min(len(SPEEDS) - 1, place + (1 if key == "+" else -1)))]
