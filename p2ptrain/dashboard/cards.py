"""The dashboard's panels: each a pure function from a scene to lines for a given size."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

from p2ptrain.dashboard.canvas import Glyphs, Line, crop, fit, line_width, spread, width_of
from p2ptrain.dashboard.charts import bars, curve, gauge, spans_line
from p2ptrain.dashboard.figures import NOT_MEASURED, age, clock, duration, memory, nats, short_count, size
from p2ptrain.dashboard.scene import Scene, SliceRow, display_name, slice_rows, whole_slice_rows
from p2ptrain.dashboard.seat import StageSpan, TrafficSample
from p2ptrain.ids import COMMON, SliceId, counts_rounds, short, slice_of, slice_order

_STAGE_STYLES = {"train": "accent", "gather": "quiet", "send": "other", "agree": "good", "fetch": "mine"}
STAGES = tuple(_STAGE_STYLES)
_GOOD_STATES = frozenset({"TRAINING", "AVERAGING", "COMPLETE"})
_TROUBLE_STATES = frozenset({"WAITING", "ISOLATED", "FAILED", "died", "killed", "silent"})
_CELL_WIDTH = 16
_NUMBERS_WIDTH = 21
_AXIS_FROM_WIDTH = 24


def header(scene: Scene, width: int, glyphs: Glyphs) -> list[Line]:
    """Two lines: which run and peer and how we are connected; what the peer does, and when the next commit comes."""
    facts, seat = scene.facts, scene.seat
    # What the peer said at its start comes before its manifest, which another version may hash otherwise.
    run = seat.swarm.run or facts.run or (seat.report.run if seat.report is not None else None)
    first: Line = [(" p2ptrain ", "title"), (facts.name or "", "good"), (" ", "")]
    if run is not None:
        first.append((f"{short(run)} ", "quiet"))
    if seat.mine:
        first += [(f" {glyphs.mine} ", "mine"), (display_name(scene), "strong")]
    return [spread(first, _link(scene, glyphs), width, glyphs.more), _doing_now(scene, width, glyphs)]


def _link(scene: Scene, glyphs: Glyphs) -> Line:
    link, place = scene.link, scene.place
    if place is not None:
        speed = "stands still" if place.speed == 0 else f"{place.speed:g}x"
        where = f"{clock(place.now_s - place.begin_s)} of {clock(place.end_s - place.begin_s)}"
        word = "replay" if link.word == "replay" else "back"
        return [(f" {glyphs.replay} ", "mine"), (f"{word} ", "strong"), (f"{where}, {speed} ", "quiet")]
    if link.word == "live":
        running = f"{clock(scene.seat.running_s(scene.now_s))} " if scene.seat.mine else ""
        return [(f" {glyphs.live} live ", "good"), (running, "quiet")]
    if link.word in ("still", "replay"):
        return [(f" {link.detail} ", "quiet")]
    style = "quiet" if link.word == "opening" else "trouble"
    word = {"opening": link.detail or "connecting", "lost": "not connected", "ended": "not running"}[link.word]
    return [(f" {glyphs.lost} {word} ", style)]


def _doing_now(scene: Scene, width: int, glyphs: Glyphs) -> Line:
    peer = scene.seat.peer
    if scene.link.word in ("lost", "ended") and scene.place is None:
        return fit([(f" {glyphs.no} {scene.link.detail}", "trouble")], width, glyphs.more)
    if peer is None:
        return _watching(scene, width, glyphs)
    seen = scene.seen
    if seen.is_paused and scene.place is None:
        return fit([(f" {glyphs.paused} {seen.state} ", "strong"), (seen.reason, "")], width, glyphs.more)
    if peer.fate == "asleep":
        return fit([(f" {glyphs.paused} {peer.state} ", "strong"), (peer.reason, "")], width, glyphs.more)
    if peer.fate != "alive":
        return fit([(f" {glyphs.lost} {peer.fate.upper()} ", "trouble"), (peer.reason, "")], width, glyphs.more)
    trouble = peer.state in _TROUBLE_STATES
    mark = glyphs.paused if peer.state == "PAUSED" else glyphs.no if trouble else glyphs.live
    style = "good" if peer.state in _GOOD_STATES else "trouble" if trouble else "strong"
    left: Line = [(f" {mark} {peer.state} ", style), (peer.reason, "")]
    right = _next_commit(scene)
    steps = scene.facts.inner_steps
    if peer.state == "TRAINING" and steps and peer.inner_step is not None and peer.inner_step < steps:
        done = peer.inner_step + 1
        left.append((f"  step {done} of {steps} ", "quiet"))
        room = width - line_width(left) - line_width(right) - 2
        if room >= 6:
            left += gauge(done / steps, min(room, 30), glyphs)
    return spread(left, right, width, glyphs.more)


def _next_commit(scene: Scene) -> Line:
    peer = scene.seat.peer
    if peer is not None and peer.state not in ("TRAINING", "AVERAGING", "WAITING"):
        return []
    left_s = scene.seat.next_commit_in_s(scene.now_s)
    if left_s is None:
        return []
    if left_s < -1:
        return [(" commit ", "quiet"), (f"{duration(-left_s)} later than usual ", "strong")]
    return [(" next commit in ", "quiet"), (f"~{duration(max(0.0, left_s))} ", "strong")]


def _watching(scene: Scene, width: int, glyphs: Glyphs) -> Line:
    report = scene.seat.report
    if report is None:
        what = scene.link.detail or "nothing is known yet"
        return fit([(f" {glyphs.dot} {what}", "quiet")], width, glyphs.more)
    silent = f", {len(report.silent)} silent" if report.silent else ""
    common = report.rounds
    rounds = f" of {scene.facts.rounds}" if scene.facts.rounds else ""
    left: Line = [(f" {glyphs.live} watching ", "good"), (f"{len(report.peers)} peers{silent}", "")]
    if common is not None:
        left.append((f", round {common.version}{rounds}", ""))
        if scene.facts.rounds:
            left.append(("  ", ""))
            left += gauge(common.version / scene.facts.rounds, 20, glyphs)
    return spread(left, _next_commit(scene), width, glyphs.more)


# Slices.


def slice_map(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A line per slice or fragment, or a cell per slice when there are more of them than lines."""
    rows = slice_rows(scene)
    if not rows:
        return [[("no slice is known yet", "quiet")]]
    if len(rows) <= height:
        names = max(len("common"), *(len(row.slice) for row in rows))
        return [_slice_line(row, width, names, glyphs) for row in rows]
    rows = whole_slice_rows(rows)
    columns = max(1, width // _CELL_WIDTH)
    cells = [fit(_slice_cell(row, glyphs), _CELL_WIDTH) for row in rows]
    lines = [
        [span for cell in cells[start : start + columns] for span in cell] for start in range(0, len(cells), columns)
    ]
    if len(lines) > height:
        hidden = len(rows) - (height - 1) * columns
        lines = [*lines[: height - 1], [(f"and {hidden} more: press s", "quiet")]]
    return lines


def _slice_line(row: SliceRow, width: int, name_width: int, glyphs: Glyphs) -> Line:
    line: Line = [
        (f"{glyphs.mine} " if row.is_mine else "  ", "mine"),
        (f"{row.slice:<{name_width}} ", "strong" if row.is_mine else ""),
        (f"v{row.version:<5}", ""),
        *_owner_marks(row, glyphs, 8),
    ]
    line = [*fit(line, name_width + 2 + 7 + 10), *_slice_age(row, 6)]
    if row.differs:
        return [*line, (f" {glyphs.no} owners differ", "trouble")]
    if not row.owners:
        return [*line, (" owners not known", "quiet")] if not row.is_known else line
    if row.is_below_quorum:
        return [*line, (f" ! {row.num_online} of {len(row.owners)} online", "trouble")]
    if row.stage:
        line.append((f" {row.stage} v{row.version + 1}", "accent"))
    elif row.version == 0:
        line.append((" no round yet", "quiet"))
    elif row.digest is not None:
        line += [(f" {glyphs.yes}", "good"), (f" {short(row.digest)}", "quiet")]
    if row.loss_nats is not None and width - line_width(line) > 14:
        line = spread(line, [(f"loss {row.loss_nats:.3f}", "quiet")], width)
    return line


def _owner_marks(row: SliceRow, glyphs: Glyphs, most: int) -> Line:
    if not row.owners:
        return [("! no owner", "trouble")] if row.is_known else [("?", "quiet")]
    ordered = sorted(row.owners, key=lambda owner: (not owner.is_mine, not owner.is_online))
    if len(ordered) > most:
        return [(f"{row.num_online}", "accent"), (f" of {len(ordered)}", "quiet")]
    marks: Line = []
    for owner in ordered:
        if owner.is_mine:
            marks.append((glyphs.mine, "mine"))
        else:
            marks.append((glyphs.online, "accent") if owner.is_online else (glyphs.offline, "trouble"))
    return marks


def _slice_age(row: SliceRow, width: int) -> Line:
    if row.age_s is None:
        return [(" " * width, "")]
    text = ("" if row.is_age_exact else ">") + age(row.age_s)
    return [(f"{text:>{width - 1}} ", "quiet" if row.age_s < 120 else "strong")]


def _slice_cell(row: SliceRow, glyphs: Glyphs) -> Line:
    name = "C" if row.slice == COMMON else row.slice
    alarm = row.differs or row.is_below_quorum
    return [
        (glyphs.mine if row.is_mine else " ", "mine"),
        (f"{name:<3}", "strong" if row.is_mine else ""),
        *_owner_marks(row, glyphs, 4),
        (" ", ""),
        *([(age(row.age_s), "quiet")] if row.age_s is not None else []),
        ("!" if alarm else "", "trouble"),
    ]


# Loss.


def loss(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Curves at the left, numbers at the right; one line of bars when that is all there is room for."""
    numbers = _loss_numbers(scene, glyphs)
    room = width - _NUMBERS_WIDTH - 1
    if room < 12 or height < 2:
        return numbers[:height]
    chart = _loss_chart(scene, room, height, glyphs)
    lines = []
    for row in range(height):
        left = fit(chart[row], room) if row < len(chart) else [(" " * room, "")]
        lines.append([*left, (" ", ""), *(numbers[row] if row < len(numbers) else [])])
    return lines


def _loss_numbers(scene: Scene, glyphs: Glyphs) -> list[Line]:
    seat, peer = scene.seat, scene.seat.peer
    mine = seat.train_curve[-1][1] if seat.train_curve else peer.train_loss_nats if peer is not None else None
    validation = seat.swarm.validation_curve()
    ours = validation[-1][1] if validation else None
    swarm = seat.report.mean_validation_loss_nats if seat.report is not None else None
    speed = peer.tokens_per_s if peer is not None else None
    total = max((row.tokens or 0 for row in slice_rows(scene) if counts_rounds(row.slice)), default=0)

    def number(label: str, value: float | None, style: str) -> Line:
        text = nats(value, glyphs.none)
        return [(f"{label:<11}", "quiet"), (f"{text:>7}", style if value is not None else "quiet")]

    lines = [number("validation", ours if ours is not None else swarm, "good")]
    if seat.mine:
        lines.append(number("my training", mine, ""))
    if ours is not None and swarm is not None:
        lines.append([*number("swarm", swarm, ""), *_compared(ours, swarm, glyphs)])
    if speed is not None:
        lines.append([("tokens/s   ", "quiet"), (f"{short_count(speed):>7}", "")])
    lines.append([("tokens, all", "quiet"), (f"{short_count(total):>7}", "")])
    return lines


def _compared(ours: float, swarm: float, glyphs: Glyphs) -> Line:
    difference = ours - swarm
    if abs(difference) < 0.0005:
        return [(" same", "quiet")]
    sign = glyphs.up if difference > 0 else glyphs.down
    return [(f" {sign}{abs(difference):.3f}", "quiet")]


def _loss_chart(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    seat = scene.seat
    validation = [loss for _, loss in seat.swarm.validation_curve() or seat.swarm_curve]
    training = [loss for _, loss in seat.train_curve]
    everything = [*validation, *training]
    if len(everything) < 2:
        return [[("the curve begins with the second round", "quiet")]]
    low, high = min(everything), max(everything)
    if low > 0:
        # Losses fall by half in the first rounds and by a hundredth in the last ones: a logarithm shows both.
        validation, training = [log(one) for one in validation], [log(one) for one in training]
    bottom, top = (log(low), log(high)) if low > 0 else (low, high)
    axis = 5 if width >= _AXIS_FROM_WIDTH else 0
    room = width - (axis + 1 if axis else 0)
    if not glyphs.braille or height < 2:
        line = bars(validation or training, width=room, low=bottom, high=top, glyphs=glyphs)
        return [[*_scale(high, axis)], [*_scale(low, axis), (line, "accent")]][-height:]
    above = curve(validation, width=room, rows=height, low=bottom, high=top) if len(validation) > 1 else [""] * height
    below = curve(training, width=room, rows=height, low=bottom, high=top) if len(training) > 1 else [""] * height
    lines = []
    for row, (front, back) in enumerate(zip(above, below, strict=True)):
        scale = high if row == 0 else low if row == height - 1 else None
        lines.append([*_scale(scale, axis), *_overlaid(front, back, room)])
    return lines


def _scale(value: float | None, axis: int) -> Line:
    if not axis:
        return []
    return [(" " * (axis + 1) if value is None else f"{value:{axis}.2f} ", "quiet")]


def _overlaid(front: str, back: str, width: int) -> Line:
    """Two rows of braille in one: where both have dots, the cell has all of them in the front's colour."""
    line: Line = []
    for one, other in zip(front.ljust(width), back.ljust(width), strict=True):
        if one == " ":
            mark, style = other, "quiet" if other != " " else ""
        else:
            mark, style = (one if other == " " else chr(ord(one) | ord(other))), "accent"
        if line and line[-1][1] == style:
            line[-1] = (line[-1][0] + mark, style)
        else:
            line.append((mark, style))
    return line


# Network.


def network(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Traffic now and in all, and where the last round's time went."""
    lines = _traffic(scene, width, glyphs, is_tall=height >= 5)
    timeline = _timeline(scene, width, height - len(lines), glyphs)
    return [*lines, *timeline][:height]


def reach(scene: Scene) -> Line:
    """Whether others can call this peer."""
    said = scene.seen.reach
    if said is None:
        return [("reach ", "quiet"), (NOT_MEASURED, "quiet")]
    return [("reach ", "quiet"), (said, "good" if said == "direct" else "strong")]


def _traffic(scene: Scene, width: int, glyphs: Glyphs, *, is_tall: bool) -> list[Line]:
    seat, seen = scene.seat, scene.seen
    rates, peer = seat.rates(), seat.peer
    if peer is None and seat.report is not None:
        of_all = sum(one.sent_bytes for one in seat.report.peers.values())
        return [[(f"{glyphs.up} ", "accent"), (size(of_all), "strong"), (" sent by all that answer", "quiet")]]
    up = rates.sent_bytes_per_s if rates is not None else None
    down = rates.received_bytes_per_s if rates is not None else None
    sent, received = (peer.sent_bytes, peer.received_bytes) if peer is not None else (None, None)
    if not is_tall:
        totals = f"   {size(sent or 0)} sent, {size(received or 0)} received" if sent is not None else ""
        return [[*_rate(glyphs.up, up), ("  ", ""), *_rate(glyphs.down, down), (totals, "quiet")]]
    series = [_per_second(seat.traffic, of) for of in ("sent", "received")]
    return [
        _rate_line(mark, rate, total, cap, values, width, glyphs)
        for mark, rate, total, cap, values in (
            (glyphs.up, up, sent, seen.upload_mbps, series[0]),
            (glyphs.down, down, received, seen.download_mbps, series[1]),
        )
    ]


def _rate(mark: str, rate: float | None) -> Line:
    text = NOT_MEASURED if rate is None else f"{size(rate)}/s"
    return [(f"{mark} ", "accent"), (f"{text:>9}", "strong" if rate else "quiet")]


def _rate_line(
    mark: str,
    rate: float | None,
    total: int | None,
    cap: float | None,
    values: Sequence[float],
    width: int,
    glyphs: Glyphs,
) -> Line:
    left = _rate(mark, rate)
    limit = "cap not known" if cap is None else "no cap" if cap == 0 else f"cap {cap:g} Mbit/s"
    right: Line = [(f" {limit}", "quiet" if not cap else "strong")]
    if total is not None:
        right = [(f" {size(total):>7}", ""), *right]
    room = width - line_width(left) - line_width(right) - 2
    spark = bars(values[-room:], width=room, low=0.0, high=max(values), glyphs=glyphs) if values and room >= 8 else ""
    return [*left, (" ", ""), *fit([(spark, "accent")], max(0, room + 1)), *right]


def _per_second(samples: Sequence[TrafficSample], what: str) -> list[float]:
    values = [one.sent_bytes if what == "sent" else one.received_bytes for one in samples]
    return [float(max(0, after - before)) for before, after in pairwise(values)]


def _timeline(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The last whole round: one bar, or a bar for each lane when there are lines for it; then what the marks mean."""
    window = scene.seat.last_round()
    if window is None or height < 1:
        return [[("no whole round yet", "quiet")]] if height > 0 and scene.seat.mine else []
    spans = scene.seat.spans_between(*window)
    if not spans:
        return []
    begin_s, end_s = window
    lanes = sorted({span.lane for span in spans}, key=_lane_order)
    legend = _legend(spans, window, width, glyphs)
    title: Line = [("last round ", "quiet"), (duration(end_s - begin_s), "strong")]
    if height >= len(lanes) + 2:
        label = max(width_of(lane) for lane in lanes) + 1
        drawn = [
            [
                (f"{lane:<{label}}", "quiet"),
                *spans_line(
                    _drawable([span for span in spans if span.lane == lane], glyphs),
                    start=begin_s,
                    end=end_s,
                    width=width - label,
                ),
            ]
            for lane in lanes
        ]
        return [title, *drawn, legend]
    bar = spans_line(_drawable(spans, glyphs), start=begin_s, end=end_s, width=width - line_width(title) - 1)
    return [[*title, (" ", ""), *bar], legend][:height]


def _lane_order(lane: str) -> tuple[int, int, int]:
    if lane == "train":
        return (-1, 0, 0)
    return slice_order(SliceId(lane)) if slice_of(SliceId(lane)) == COMMON or lane[:1].isdigit() else (2, 0, 0)


def _drawable(spans: Sequence[StageSpan], glyphs: Glyphs) -> list[tuple[float, float, str, str]]:
    order = {stage: i for i, stage in enumerate(STAGES)}
    ordered = sorted(spans, key=lambda span: order.get(span.stage, 0))
    return [
        (span.begin_s, span.end_s, glyphs.stages.get(span.stage, "?"), _STAGE_STYLES.get(span.stage, ""))
        for span in ordered
    ]


def stage_seconds(spans: Sequence[StageSpan], window: tuple[float, float]) -> dict[str, float]:
    """How long each stage lasted within a window, in the slice where it lasted longest."""
    by_lane: dict[tuple[str, str], float] = {}
    for span in spans:
        inside = min(span.end_s, window[1]) - max(span.begin_s, window[0])
        by_lane[span.stage, span.lane] = by_lane.get((span.stage, span.lane), 0.0) + max(0.0, inside)
    return {
        stage: max(seconds for (of, _), seconds in by_lane.items() if of == stage)
        for stage in STAGES
        if any(of == stage for of, _ in by_lane)
    }


def _legend(spans: Sequence[StageSpan], window: tuple[float, float], width: int, glyphs: Glyphs) -> Line:
    """Mark, name and seconds of each stage; the shortest stages give way where there is no room."""
    seconds = stage_seconds(spans, window)
    gap = 2 if width >= 56 else 1
    while True:
        line: Line = []
        for stage, lasted in seconds.items():
            line += [
                (" " * gap if line else "", ""),
                (glyphs.stages[stage], _STAGE_STYLES[stage]),
                (f"{' ' * (gap - 1)}{stage} ", "quiet"),
                (f"{lasted:.1f}", ""),
            ]
        if line_width(line) <= width or len(seconds) <= 1:
            return line
        del seconds[min(seconds, key=lambda stage: seconds[stage])]


# Device.


def device(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Processor, memory and GPUs of this machine."""
    sample = scene.device
    if sample is None:
        why = "the journal has no figures of it" if scene.place is not None else "no figures yet, or from elsewhere"
        return [[(NOT_MEASURED, "quiet")], [(why, "quiet")]]
    lines = []
    if sample.cpu_percent is not None:
        peer = "" if sample.peer_cpu_percent is None else f"  peer {sample.peer_cpu_percent / 100:.1f} cores"
        heat = "" if sample.temperature_c is None else f"  {sample.temperature_c:.0f} °C"
        text = f"{sample.cpu_percent:.0f} %{heat}{peer}"
        lines.append(_gauge_line("cpu", sample.cpu_percent / 100, text, width, glyphs))
    if sample.memory_bytes is not None and sample.memory_total_bytes:
        peer = "" if sample.peer_memory_bytes is None else f"  peer {memory(sample.peer_memory_bytes)}"
        share = sample.memory_bytes / sample.memory_total_bytes
        text = f"{memory(sample.memory_bytes)} of {memory(sample.memory_total_bytes)}{peer}"
        lines.append(_gauge_line("ram", share, text, width, glyphs))
    for gpu in sample.gpus:
        busy = NOT_MEASURED if gpu.busy_percent is None else f"{gpu.busy_percent:.0f} %"
        heat = "" if gpu.temperature_c is None else f"  {gpu.temperature_c:.0f} °C"
        power = "" if gpu.power_w is None else f"  {gpu.power_w:.0f} W"
        if gpu.power_w is not None and gpu.power_limit_w is not None:
            power += f" of {gpu.power_limit_w:.0f}"
        lines.append(_gauge_line("gpu", (gpu.busy_percent or 0) / 100, f"{busy}{heat}{power}", width, glyphs))
        if gpu.memory_bytes is not None and gpu.memory_total_bytes:
            text = f"{memory(gpu.memory_bytes)} of {memory(gpu.memory_total_bytes)}"
            lines.append(_gauge_line("mem", gpu.memory_bytes / gpu.memory_total_bytes, text, width, glyphs))
        if height > len(lines) + 1:
            lines.append([("    ", ""), (crop(gpu.name, width - 4, glyphs.more), "quiet")])
    if not sample.gpus:
        lines.append([("gpu ", "quiet"), (sample.no_gpu_reason or NOT_MEASURED, "quiet")])
    return lines


def _gauge_line(label: str, share: float, text: str, width: int, glyphs: Glyphs) -> Line:
    gauge_width = max(6, min(24, width - 4 - width_of(text) - 1))
    style = "trouble" if share > 0.95 else "accent"
    return [(f"{label} ", "quiet"), *gauge(share, gauge_width, glyphs, style), (f" {text}", "")]


# My contribution.


def contribution(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """What this peer has given: tokens, rounds, share and hours, and how it spent its time."""
    seat, peer = scene.seat, scene.seat.peer
    if peer is None:
        return [[("this screen takes no part in the run", "quiet")]]
    share = seat.share()
    rounds = seat.rounds_contributed + seat.rounds_missed
    lines: list[Line] = [
        [("tokens  ", "quiet"), (f"{short_count(peer.tokens):>7}", "good"), ("  trained here", "quiet")],
        [
            ("rounds  ", "quiet"),
            (f"{seat.rounds_contributed:>7}", "good" if seat.rounds_contributed else ""),
            (f"  of {rounds} that we saw" if rounds else "  none committed yet", "quiet"),
        ],
    ]
    if share is None:
        lines.append([("share   ", "quiet"), (NOT_MEASURED, "quiet")])
    else:
        room = max(6, min(20, width - 24))
        lines.append([("share   ", "quiet"), (f"{100 * share:>5.1f} %  ", "good"), *gauge(share, room, glyphs)])
    lines.append([("time    ", "quiet"), (f"{duration(seat.running_s(scene.now_s)):>7}", "")])
    if height > len(lines):
        lines += _time_spent(scene, width, height - len(lines), glyphs)
    return lines


def _time_spent(scene: Scene, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    spent = time_in_states(scene)
    total = sum(spent.values())
    if total <= 0:
        return []
    first = max(spent, key=lambda state: spent[state])
    parts = [f"{state.lower()} {100 * seconds / total:.0f} %" for state, seconds in sorted(spent.items(), key=_largest)]
    style = "good" if first in _GOOD_STATES else "strong"
    return [[("spent   ", "quiet"), (parts[0], style), (", " + ", ".join(parts[1:]) if parts[1:] else "", "quiet")]][
        :height
    ]


def time_in_states(scene: Scene) -> dict[str, float]:
    """Seconds in each state, the present one included."""
    seat = scene.seat
    spent = dict(seat.seconds_in)
    if seat.present_state and seat.state_since_s is not None:
        spent[seat.present_state] = spent.get(seat.present_state, 0.0) + max(0.0, scene.now_s - seat.state_since_s)
    return spent


def _largest(item: tuple[str, float]) -> float:
    return -item[1]
