"""``p2ptrain generate`` and ``p2ptrain export``: using what a peer has learned, without the swarm."""

import codecs
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli.new_file import or_elsewhere
from p2ptrain.cli.progress import working

_HOME_HELP = "A peer's home folder; the peer may be running."


def generate(
    home: Annotated[Path, typer.Option(help=_HOME_HELP)],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    tokens: Annotated[
        int, typer.Option(min=1, help="How many to add; a token is a byte if the run has no tokenizer.")
    ] = 400,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 is the likeliest text, 1 what the model believes.")
    ] = 0.8,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text; drawn when not given.")] = None,
) -> None:
    """Print text as the model of a peer's home continues it.

    Example: p2ptrain generate --home peer-home --prompt "def "
    """
    import secrets

    from p2ptrain.node.home import Home

    trained_in = Home.inspect(home)  # before torch is imported, which takes seconds
    with working("reading the model"):
        from p2ptrain.model import generation
        from p2ptrain.node.trained_model import load_own_tokenizer, load_trained

        tokenizer = load_own_tokenizer(trained_in)
        model = load_trained(trained_in)

    chosen_seed = secrets.randbits(32) if seed is None else seed
    start = tokenizer.encode_prompt(prompt.encode(errors="surrogateescape"))
    added = generation.generate(
        model,
        start,
        num_tokens=tokens,
        temperature=temperature,
        seed=chosen_seed,
        vocabulary=tokenizer.vocabulary,
    )
    if not sys.stdout.isatty():  # on a terminal the text itself shows how far it is
        added = counted(added, tokens)
    # In one piece with the prompt: what a token reads as may depend on the one before.
    for text in readable(tokenizer.decode(itertools.chain(start if prompt else [], added))):
        typer.echo(text, nl=False)
    typer.echo()


def export(
    home: Annotated[Path, typer.Option(help=_HOME_HELP)],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
) -> None:
    """Write the model of a peer's home in the form that Hugging Face transformers loads.

    Example: p2ptrain export --home peer-home --out model
    """
    from p2ptrain.node.home import Home

    trained_in = Home.inspect(home)
    with working("reading the model"):
        from p2ptrain.data.tokenizer import FileTokenizer
        from p2ptrain.model.export import ExportedTokenizer, export_model
        from p2ptrain.node.trained_model import load_own_tokenizer, load_trained

        tokenizer = load_own_tokenizer(trained_in)
        model = load_trained(trained_in)
    with working("writing"):
        beside = None
        if isinstance(tokenizer, FileTokenizer):
            beside = ExportedTokenizer(trained_in.tokenizer_file(), trained_in.run.data.end_token, tokenizer.end_id)
        with or_elsewhere(out):
            written = export_model(model.config, model.tensors(), out, beside)
    num_parameters = sum(tensor.numel() for tensor in model.tensors().values())
    tokens = f"with its tokenizer of {tokenizer.vocabulary:,} tokens" if beside else "one token per byte"
    typer.echo(f"wrote {written}: a LlamaForCausalLM of {num_parameters:,} parameters, {tokens}")


def counted(tokens: Iterator[int], total: int) -> Iterator[int]:
    """The same tokens, with a bar of how many have come of ``total``."""
    with working("generating") as report:
        for number, token in enumerate(tokens, start=1):
            report(number, total)
            yield token


def readable(chunks: Iterable[bytes]) -> Iterator[str]:
    """Bytes of a model as text that cannot disturb a terminal: half-learned models make invalid and control bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for chunk in chunks:
        yield _without_controls(decoder.decode(chunk))
    yield _without_controls(decoder.decode(b"", final=True))


def _without_controls(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
