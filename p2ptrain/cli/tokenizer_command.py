"""``p2ptrain run tokenizer``: making a tokenizer for a text."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli.new_file import check_is_free, write_new
from p2ptrain.cli.progress import working
from p2ptrain.cli.text_options import USUAL_PATTERN, Pattern, Text, check_pattern, print_notes
from p2ptrain.errors import UsageError


def tokenizer(
    out: Annotated[Path, typer.Option(help="The tokenizer.json to make.")],
    vocabulary: Annotated[int, typer.Option(min=257, help="Tokens at most; more make texts shorter, models larger.")],
    text: Text = None,
    pattern: Pattern = None,
) -> None:
    """Make a tokenizer for a run's text: byte-level BPE, in Hugging Face's form.

    Example: p2ptrain run tokenizer --text books --vocabulary 8192 --out tokenizer.json
    """
    from p2ptrain.config.schema import DataConfig

    check_is_free(out)
    check_pattern(text, pattern)
    data = DataConfig()
    if text is not None:
        data = DataConfig(source="folder", path=str(text), pattern=USUAL_PATTERN if pattern is None else pattern)

    with working("looking at the text"):
        from p2ptrain.data.corpus import split, text_files
        from p2ptrain.data.tokenizer import FileTokenizer, train_tokenizer

        files, origin = text_files(data, Path())
        if not any(file.size_bytes for file in files):
            raise UsageError(f"there is nothing to learn from in {origin}: its files are empty; put text into them")
        # What nobody trains on does not shape the tokens either.
        learned, held_out = split(files, data, origin)
    with working("making the tokenizer"):
        file = train_tokenizer((one.read() for one in learned), vocabulary)
        made = FileTokenizer(file, "")
        tokens = sum(map(len, made.encode(one.read() for one in held_out)))
    write_new(out, file.decode())
    # So a loss per token divided by this is one per byte.
    each = sum(one.size_bytes for one in held_out) / tokens
    typer.echo(f"wrote {out}: {made.vocabulary:,} tokens, {each:.2f} bytes each in what is held out of {origin}")
    print_notes(data, Path(), file)
    where = "" if text is None else f" --text {shlex.quote(str(text))}"
    which = "" if pattern is None else f" --pattern {shlex.quote(pattern)}"
    typer.echo(f"next: p2ptrain run new tiny --tokenizer {shlex.quote(str(out))}{where}{which} --out run.toml")
