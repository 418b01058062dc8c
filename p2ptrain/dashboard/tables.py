"""The dashboard's long lists: peers, events, and pages of text that are read instead of the overview."""

from collections.abc import Mapping, Sequence

from p2ptrain.dashboard.canvas import Glyphs, Line, clean, crop, width_of
from p2ptrain.dashboard.cards import time_in_states
from p2ptrain.dashboard.charts import gauge
from p2ptrain.dashboard.figures import age, clock, duration, short_count, size
from p2ptrain.dashboard.projection import Note, chosen_notes
from p2ptrain.dashboard.scene import PeerRow, Scene, SortKey, chosen_events, peer_rows
from p2ptrain.ids import COMMON, SliceId

_NOTE_STYLES: Mapping[str, str] = {"plain": "", "routine": "quiet", "good": "good", "trouble": "trouble"}
_TROUBLE_SHOWN = 8


def peers(
    scene: Scene, width: int, height: int, glyphs: Glyphs, *, sort: SortKey, is_reversed: bool, scroll: int
) -> list[Line]:
    """A heading and a line for each peer, as wide as there is room."""
    rows = peer_rows(scene, sort, is_reversed=is_reversed)
    if not rows:
        return [[("no peer is known yet", "quiet")]]
    columns = _columns(width, max(4, *(width_of(row.name) for row in rows)))
    lines = [_heading(columns, sort, is_reversed, glyphs)]
    room = height - 1
    start = max(0, min(scroll, len(rows) - room))
    lines += [_peer_line(row, columns, glyphs) for row in rows[start : start + room]]
    return lines


_Column = tuple[str, int, bool]
"""Name, width, whether figures stand at the right."""


def _columns(width: int, longest_name: int) -> list[_Column]:
    fixed: list[_Column] = [("peer", min(longest_name, 18) + 3, False), ("slices", 10, False)]
    numbers: list[_Column] = [
        ("tokens", 8, True),
        ("speed", 9, True),
        ("sent", 9, True),
        ("loss", 8, True),
        ("seen", 6, True),
    ]
    doing_least = 20
    while numbers and sum(one[1] for one in (*fixed, *numbers)) + doing_least > width:
        # The first to go is what matters least on a small screen.
        for name in ("seen", "speed", "loss", "sent", "tokens"):
            found = next((one for one in numbers if one[0] == name), None)
            if found is not None:
                numbers.remove(found)
                break
    doing = max(0, width - sum(one[1] for one in (*fixed, *numbers)))
    return [*fixed, ("doing", doing, False), *numbers]


def _heading(columns: Sequence[_Column], sort: SortKey, is_reversed: bool, glyphs: Glyphs) -> Line:
    line: Line = []
    for name, width, is_right in columns:
        mark = (glyphs.up if is_reversed else glyphs.down) if name == sort else ""
        text = crop(f"{name}{mark}", width)
        padding = " " * (width - width_of(text))
        line.append((padding + text if is_right else text + padding, "strong" if name == sort else "quiet"))
    return line


def _peer_line(row: PeerRow, columns: Sequence[_Column], glyphs: Glyphs) -> Line:
    mark = glyphs.mine if row.is_mine else glyphs.offline if row.is_silent else glyphs.online
    style = "mine" if row.is_mine else "trouble" if row.is_silent else "accent"
    none = glyphs.none
    cells = {
        "slices": slice_names(row.slices) or none,
        "doing": f"{row.state}: {row.reason}" if row.state and row.reason else row.state or row.reason or none,
        "tokens": none if row.tokens is None else short_count(row.tokens),
        "speed": none if row.tokens_per_s is None else f"{short_count(row.tokens_per_s)}/s",
        "sent": none if row.sent_bytes is None else size(row.sent_bytes),
        "loss": none if row.loss_nats is None else f"{row.loss_nats:.3f}",
        "seen": none if row.seen_s is None else age(row.seen_s),
    }
    line: Line = []
    for name, width, is_right in columns:
        if name == "peer":
            text = crop(row.name, width - 3, glyphs.more)
            line += [(f"{mark} ", style), (text + " " * (width - 2 - width_of(text)), "strong")]
            continue
        text = crop(cells[name], width - 1, glyphs.more)
        padding = " " * (width - width_of(text))
        line.append((padding + text if is_right else text + padding, "quiet" if text == none or row.is_silent else ""))
    return line


def slice_names(slices: Sequence[SliceId]) -> str:
    """Slices for a narrow column: ``C 0 3``."""
    return " ".join("C" if slice_id == COMMON else slice_id for slice_id in slices)


def events(
    scene: Scene, width: int, height: int, glyphs: Glyphs, *, words: str, scroll: int, with_routine: bool
) -> list[Line]:
    """The newest events that have all ``words``, the latest at the bottom; ``scroll`` lines back."""
    notes = scene.seat.swarm.notes
    found = chosen_events(notes, words)
    if not with_routine and not words and len(found) > height:
        found = chosen_notes(found, height)
    if not found:
        return [[(f"no event has the words {words!r}" if words else "nothing has happened yet", "quiet")]]
    end = max(min(height, len(found)), len(found) - scroll)
    several = len(scene.seat.swarm.peers) > 1
    return [note_line(note, scene, several, glyphs) for note in found[max(0, end - height) : end]]


def note_line(note: Note, scene: Scene, with_name: bool, glyphs: Glyphs) -> Line:
    """How long ago, who, what; trouble has a mark, too."""
    ago = age(scene.now_s - note.time_s)
    mark = f"{glyphs.no} " if note.kind == "trouble" else ""
    name = f"{note.name} " if with_name and note.name else ""
    return [
        (f"{ago:>4} ", "quiet"),
        (mark, "trouble"),
        (name, "strong"),
        (clean(note.text), _NOTE_STYLES[note.kind]),
    ]


def why(scene: Scene, width: int, glyphs: Glyphs) -> list[Line]:
    """What the peer is doing and why, how it spent its time, and what went wrong lately."""
    seat, peer = scene.seat, scene.seat.peer
    if peer is None:
        return [[("nobody to ask: this screen watches a swarm and is no peer", "quiet")]]
    since = f" for {duration(scene.now_s - seat.state_since_s)}" if seat.state_since_s is not None else ""
    lines: list[Line] = [[(f"{peer.state}", "good"), (since, "quiet")]]
    lines += [[(text, "")] for text in wrapped(scene.seen.why or peer.reason, width)]
    spent = time_in_states(scene)
    total = sum(spent.values())
    if total > 0:
        lines += [[], [("how the time was spent", "strong")]]
        for state, seconds in sorted(spent.items(), key=lambda item: -item[1]):
            share = seconds / total
            bar = gauge(share, 24, glyphs)
            lines.append(
                [(f"{state.lower():<12}", ""), *bar, (f" {100 * share:3.0f} %  ", ""), (duration(seconds), "quiet")]
            )
    trouble = [note for note in seat.swarm.notes if note.kind == "trouble"][-_TROUBLE_SHOWN:]
    lines += [[], [("what went wrong lately", "strong")]]
    lines += [note_line(note, scene, False, glyphs) for note in trouble] or [[("nothing", "quiet")]]
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells, broken between words."""
    lines, line = [], ""
    for word in text.split():
        word = crop(word, width)
        if line and width_of(line) + 1 + width_of(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line] if line else lines


def findings(report: Sequence[Mapping[str, object]], width: int, glyphs: Glyphs) -> list[Line]:
    """What the doctor found: verdict, evidence, remedy; what is to be repaired first."""
    marks = {
        "ok": (glyphs.yes, "good"),
        "warn": ("!", "trouble"),
        "fail": (glyphs.no, "trouble"),
        "not measured": (glyphs.none, "quiet"),
    }
    lines: list[Line] = []
    order = ("fail", "warn")
    for finding in sorted(report, key=lambda one: (*order, one["verdict"]).index(one["verdict"])):
        mark, style = marks.get(str(finding.get("verdict")), ("?", ""))
        name = f"{finding.get('check', '')}"
        first, *rest = wrapped(str(finding.get("evidence", "")), width - 20) or [""]
        lines.append([(f"{mark:<2} ", style), (f"{name:<16} ", "strong"), (first, "")])
        lines += [[(" " * 20 + more, "")] for more in rest]
        remedy = str(finding.get("remedy") or "")
        lines += [[(" " * 20 + text, "accent")] for text in wrapped(remedy, width - 20)]
    return lines


def replay_bar(scene: Scene, width: int, glyphs: Glyphs) -> Line:
    """Where the shown moment is between the first and the last record."""
    place = scene.place
    assert place is not None
    left, right = clock(place.now_s - place.begin_s), clock(place.end_s - place.begin_s)
    share = (place.now_s - place.begin_s) / max(1e-9, place.end_s - place.begin_s)
    room = max(4, width - width_of(left) - width_of(right) - 2)
    return [(f"{left} ", "strong"), *gauge(share, room, glyphs, "mine"), (f" {right}", "quiet")]
