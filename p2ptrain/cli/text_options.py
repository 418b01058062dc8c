"""Which text a run learns from, as commands are told it, and what a person should know of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.config.schema import DataConfig

USUAL_PATTERN = "**/*.txt"
"""Of a folder of text."""
_SAMPLE_FILES = 20
_SAMPLE_BYTES = 10_000
"""Of each, to see whether a tokenizer gives them back."""

Text = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Text to learn from, in place of Python's own source.")
]
Pattern = Annotated[str | None, typer.Option(help=f"Which files of --text  [default: {USUAL_PATTERN}]")]


def check_pattern(text: Path | None, pattern: str | None) -> None:
    """Raise UsageError if a pattern says nothing, or cannot be one."""
    from p2ptrain.config.ranges import RULES

    if pattern is None:
        return
    if text is None:
        raise UsageError(f"--pattern {pattern} chooses among files of a folder; add --text FOLDER")
    if not (rule := RULES["data.pattern"]).holds(pattern):
        raise UsageError(f"--pattern {pattern!r} is out of range; choose {rule.choose}")


def print_notes(data: "DataConfig", folder: Path, tokenizer_file: bytes) -> None:
    """What a person would want to know of a text and a tokenizer that do not go together well."""
    from p2ptrain.data.corpus import text_files
    from p2ptrain.data.tokenizer import FileTokenizer

    files, _ = text_files(data, folder)
    if wrong := [file.name for file in files if not _is_utf8(file.read())]:
        typer.echo(
            f"note: {len(wrong)} of {len(files)} files are not UTF-8, {wrong[0]!a} for one; what cannot be read in them"
            " becomes U+FFFD, so convert them first"
        )
    made = FileTokenizer(tokenizer_file, "")
    sample = b"".join(file.read()[:_SAMPLE_BYTES] for file in files[:_SAMPLE_FILES]).decode(errors="replace")
    back = b"".join(made.decode(made.encode_prompt(sample.encode()))).decode()
    if back.split() != sample.split():
        typer.echo(
            "note: with this tokenizer the text does not come back as it was (characters that it does not know, or"
            " changes as it likes); the model will never see what is lost"
        )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
