"""``p2ptrain generate`` and ``p2ptrain export``: using what a peer has learned, without the swarm."""

import codecs
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.cli.progress import working

_HOME_HELP = "A peer's home folder; the peer may be running."


def generate(
    home: Annotated[Path, typer.Option(help=_HOME_HELP)],
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    num_bytes: Annotated[int, typer.Option("--bytes", min=1, help="How many bytes to add.")] = 400,
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
        from p2ptrain.node.trained_model import load_trained

        model = load_trained(trained_in)

    chosen_seed = secrets.randbits(32) if seed is None else seed
    start = prompt.encode(errors="surrogateescape")
    produced = generation.generate(model, start, num_bytes=num_bytes, temperature=temperature, seed=chosen_seed)
    if not sys.stdout.isatty():  # on a terminal the text itself shows how far it is
        produced = counted(produced, "generating", num_bytes)
    for text in readable(itertools.chain([start], produced)):
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
        from p2ptrain.model.export import export_model
        from p2ptrain.node.trained_model import load_trained

        model = load_trained(trained_in)
    with working("writing"):
        written = export_model(model.config, model.tensors(), out)
    num_parameters = sum(tensor.numel() for tensor in model.tensors().values())
    typer.echo(f"wrote {written}: a LlamaForCausalLM of {num_parameters:,} parameters, one token per byte")


def counted(chunks: Iterator[bytes], what: str, total: int) -> Iterator[bytes]:
    """The same chunks, with a bar of how many have come of ``total``."""
    with working(what) as report:
        for number, chunk in enumerate(chunks, start=1):
            report(number, total)
            yield chunk


def readable(chunks: Iterable[bytes]) -> Iterator[str]:
    """Bytes of a model as text that cannot disturb a terminal: half-learned models make invalid and control bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for chunk in chunks:
        yield _without_controls(decoder.decode(chunk))
    yield _without_controls(decoder.decode(b"", final=True))


def _without_controls(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
