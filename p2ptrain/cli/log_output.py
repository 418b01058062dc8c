"""What a peer prints: a sentence an event for people, or a JSON object a line for whatever collects logs."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from p2ptrain.cli.progress import Report, working
from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.events import Record

LogOption = Annotated[
    str,
    typer.Option(
        metavar="human|json|auto",
        help="What is printed: sentences, or a JSON object a line; auto is sentences on a terminal, JSON elsewhere.",
    ),
]
_FORMS = ("human", "json", "auto")


def log_form(wish: str, *, is_terminal: bool) -> Literal["human", "json"]:
    """How to print.

    Args:
        wish: what ``--log`` says.
        is_terminal: whether standard output is one: then somebody reads along, else a program collects it.

    Raises:
        UsageError: no such form.
    """
    if wish not in _FORMS:
        raise UsageError(f"--log {wish}: choose from {', '.join(_FORMS)}")
    if wish == "auto":
        return "human" if is_terminal else "json"
    return "human" if wish == "human" else "json"


class JoiningBar:
    """A sink for ``EventBus`` that shows on a terminal, while a peer joins, what it has of what it is missing."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._report: Report = lambda done, of: None
        self._received_bytes = 0
        self._before_bytes: int | None = None
        """Received when it became known what is missing; None until then."""
        self._missing_bytes = 0

    def __call__(self, record: "Record") -> None:
        """Take note of ``record``."""
        from p2ptrain.events import StateChanged, StateMissing, Traffic

        match record.event:
            case StateChanged(state=state):
                self._open.close()
                if state == "JOINING":
                    self._before_bytes, self._missing_bytes = None, 0
                    self._report = self._open.enter_context(working("joining", in_bytes=True))
            case StateMissing(size_bytes=size_bytes):
                if self._before_bytes is None:
                    self._before_bytes = self._received_bytes
                self._missing_bytes += size_bytes
                self._show()
            case Traffic(received_bytes=received_bytes):
                self._received_bytes = received_bytes
                self._show()
            case _:
                pass

    def _show(self) -> None:
        if self._before_bytes is not None:
            self._report(min(self._received_bytes - self._before_bytes, self._missing_bytes), self._missing_bytes)


def printer(form: Literal["human", "json"]) -> "Callable[[Record], None]":
    """A sink for ``EventBus`` that prints all events but those that come every second.

    With ``json`` what libraries and our own modules log is printed in the same way, so that every line is an object.
    """
    from p2ptrain.events import InnerStepDone, Traffic

    if form == "json":
        logging.basicConfig(handlers=[_JsonHandler()], level=logging.WARNING, force=True)
    write = _print_json if form == "json" else _print_sentence

    def show(record: "Record") -> None:
        if not isinstance(record.event, InnerStepDone | Traffic):
            write(record)

    return show


def _print_sentence(record: "Record") -> None:
    local = datetime.fromtimestamp(record.time_s, tz=UTC).astimezone()
    print_or_lose(f"{local:%H:%M:%S} {record.event.line()}")


def _print_json(record: "Record") -> None:
    _print_object(record.time_s, {"line": record.event.line(), **json.loads(record.to_json())})


def _print_object(time_s: float, body: dict[str, Any]) -> None:
    time = datetime.fromtimestamp(time_s, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print_or_lose(json.dumps({"time": time, **body}, separators=(",", ":")))


def print_or_lose(line: str, *, is_problem: bool = False) -> None:
    """Print what somebody who is there may read, or lose it: a ``tee`` that has ended must not end a running node.

    Args:
        line: what to print; for peers, the journal has all of it.
        is_problem: print it where errors go.
    """
    try:
        typer.echo(line, err=is_problem)
    except BrokenPipeError:
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - for good, and for what is still buffered
        setattr(sys, "stderr" if is_problem else "stdout", nowhere)
    except OSError:  # a full disk
        pass


class _JsonHandler(logging.Handler):
    """What Python's ``logging`` says, as an object without a ``kind``."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = "error" if record.levelno >= logging.ERROR else "warning"  # hivemind renames Python's levels
            body = {"line": record.getMessage(), "level": level, "logger": record.name}
            _print_object(record.created, body)
        except (ValueError, TypeError):  # of what somebody else logs
            self.handleError(record)


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()
