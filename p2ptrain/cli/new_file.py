"""A file that a command makes, and never in place of another."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from p2ptrain.errors import UsageError


def check_is_free(out: Path) -> None:
    """Raise UsageError unless a file can be made at ``out``."""
    if out.exists():
        raise UsageError(f"{out} exists and is not overwritten; choose another --out, or remove it first")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} is not a folder; make it first, or choose another --out")


def write_new(out: Path, text: str) -> None:
    """Make the file ``out``; UsageError if it cannot be written."""
    with or_elsewhere(out), out.open("x", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def or_elsewhere(out: Path, option: str = "--out") -> Iterator[None]:
    """Write ``out`` or what is in it; UsageError, with the option that names it, if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}; choose another {option}") from error
