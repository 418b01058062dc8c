"""The pages of ``docs`` that are made from the code: all events, all metrics. ``make docs`` writes them.

A test compares them with the code, so that neither can be changed alone.
"""

import builtins
import inspect
import textwrap
import types
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from p2ptrain.config.attribute_docs import attribute_docs
from p2ptrain.events import KINDS, STATES, Event

_WIDTH = 108
_COMMON = {
    "slice": "Which slice.",
    "slices": "Which slices.",
    "version": "Of the slice.",
    "versions": "By slice.",
    "round": "Rounds whose inner steps are done here; the one under way is the next.",
    "attempt": "How many times this version was tried before.",
    "epoch": "Of the slice's certificates: how often its owners went on without a majority.",
    "digest": "Of the slice's anchor and outer state.",
    "reason": "In words.",
    "tokens": "Trained on.",
    "loss_nats": "Mean, a token.",
    "size_bytes": "Fetched.",
    "seconds": "That it took.",
    "inner_step": "Within the round, from 0.",
    "addresses": "Where.",
    "engine": "In words.",
    "peer": "About whom this is.",
    "run": "The run's id.",
    "donor": "Who gave it.",
    "holder": "Who gave it.",
    "contributors": "Whose work is in the average.",
    "part": "Index of the part within the slice.",
    "verdict": "In words.",
    "detail": "In words.",
    "check": "Which finding of `p2ptrain doctor`.",
    "evidence": "What was measured.",
    "remedy": "What to do.",
    "url": "Where.",
    "owners": "How many.",
    "sent_bytes": "Since the peer's node started.",
    "received_bytes": "Since the peer's node started.",
    "has_moments": "Whether AdamW's moments were there, too.",
    "followed_tokens": "In theirs since version 0.",
}
"""What a field means that has no docstring of its own: the same in every event."""


def events_page() -> str:
    """``docs/events.md``."""
    parts = [
        "# Events",
        _wrapped(
            "Made by `make docs` from `p2ptrain/events.py`. What happens at a peer is said once, as one of these; the"
            " log, the journal, the dashboard, `Watch` of the [control interface](control.md), tests and"
            " [metrics](metrics.md) are fed by them."
        ),
        _wrapped(
            "In the journal (`events.jsonl` in the peer's home) an event is one line of JSON: `sequence` (rises by one"
            " from record to record, over restarts), `time_s` (Unix time), `kind` (the event's name) and its fields."
            " The file is renamed at 32 MiB, and eight older ones are kept. Lines are written whole, in one call: a"
            " kill loses nothing, a power cut perhaps the last seconds, and half a line left by it is cut off at the"
            " next start."
        ),
        _wrapped(
            "The log is what the peer prints: sentences, or with `--log json` the same objects, with `time` (ISO 8601)"
            " and `line` (the sentence) in front. `--log auto` is sentences on a terminal and JSON elsewhere, so in a"
            " container. `InnerStepDone` and `Traffic` are left out, they come every second. Objects without `kind` are"
            " warnings of libraries."
        ),
        _wrapped(f"States of a peer (`StateChanged`): {', '.join(STATES)}."),
    ]
    parts += [_event(kind) for kind in KINDS.values()]
    return "\n\n".join(parts) + "\n"


def _event(kind: type[Event]) -> str:
    docs = attribute_docs(kind)
    hints = get_type_hints(kind)
    lines = [f"## {kind.__name__}", "", _wrapped(_doc(kind))]
    rows = []
    for one in fields(kind):
        meaning = docs.get(one.name) or _COMMON.get(one.name, UNEXPLAINED)
        rows.append(_wrapped(f"- `{one.name}` ({_type(hints[one.name])}): {_marked(meaning)}", "  "))
    return "\n".join([*lines, *([""] if rows else []), *rows])


def metrics_page() -> str:
    """``docs/metrics.md``."""
    from p2ptrain.node.metrics import METRICS

    parts = [
        "# Metrics of a peer",
        _wrapped(
            "Made by `make docs` from `p2ptrain/node/metrics.py`. A peer serves them to Prometheus when it is told"
            " where: `--metrics 127.0.0.1:9464`, or `metrics` in its profile, or P2PTRAIN_PEER_METRICS. They are folded"
            " from its [events](events.md), count from the start of its process, and are there while it sleeps, too. A"
            " metric that has labels is absent until something happened. Nobody is asked for a password, so listen on"
            " loopback, or where only Prometheus comes."
        ),
        _wrapped(
            "A bootstrap node has others, at `/metrics` of its status page: [bootstrap](bootstrap.md). Those of the"
            " process (`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`,"
            " `process_start_time_seconds`, ...) are prometheus-client's."
        ),
        "In `docker/prometheus.yml` is a configuration that reads both.",
    ]
    for metric in METRICS:
        labels = f", labels {', '.join(metric.labels)}" if metric.labels else ""
        buckets = f" Buckets up to {', '.join(f'{end:g}' for end in metric.buckets)}." if metric.buckets else ""
        parts.append(f"## {metric.full_name}\n\n{_wrapped(f'{metric.kind}{labels}. {metric.help}{buckets}')}")
    return "\n\n".join(parts) + "\n"


_JSON_TYPES: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "boolean", type(None): "null"}
UNEXPLAINED = "(needs a docstring)"

PAGES = {"events.md": events_page, "metrics.md": metrics_page}


def _doc(kind: type[Any]) -> str:
    return _marked(" ".join((inspect.getdoc(kind) or "").split()))


def _marked(text: str) -> str:
    """A docstring's double backticks as Markdown's single ones."""
    return text.replace("``", "`")


def _type(kind: Any) -> str:
    """A field's type, as JSON has it."""
    inner = [_type(one) for one in get_args(kind)]
    match get_origin(kind):
        case builtins.list:
            return f"list of {inner[0]}"
        case builtins.dict:
            return f"{inner[1]} by {inner[0]}"
        case types.UnionType:
            return " or ".join(inner)
        case _:
            plain: Any = getattr(kind, "__supertype__", kind)  # our ids are texts and integers to JSON
            return _JSON_TYPES[plain]


def _wrapped(text: str, indent: str = "") -> str:
    return "\n".join(
        textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    )


def main() -> None:
    """Write the pages into ``docs`` below the current folder."""
    for name, page in PAGES.items():
        (Path("docs") / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
