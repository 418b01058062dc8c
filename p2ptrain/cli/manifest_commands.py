"""``p2ptrain run``: making a run's manifest, and looking at one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from p2ptrain.cli import door_commands, tokenizer_command
from p2ptrain.cli.bootstraps_command import as_lines, bootstraps
from p2ptrain.cli.new_file import check_is_free, write_new
from p2ptrain.cli.progress import working
from p2ptrain.cli.run_demands import line_demand, memory_demand
from p2ptrain.cli.text_options import USUAL_PATTERN, Pattern, Text, check_pattern, print_notes
from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.config.schema import Admission, RunConfig

run_app = typer.Typer(
    no_args_is_help=True, help="Make a run's manifest, or look at one. Example: p2ptrain run show tiny.toml"
)
run_app.command()(door_commands.sign)
run_app.command()(door_commands.invite)
run_app.command()(door_commands.guests)
run_app.command()(door_commands.assign)
run_app.command()(bootstraps)
run_app.command()(tokenizer_command.tokenizer)


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestChanges:
    """What a new run takes differently from its preset; None leaves the preset's value."""

    name: str | None = None
    seed: int | None = None
    """None draws one."""
    slices: int | None = None
    parts: tuple[str, ...] | None = None
    rounds: int | None = None
    authority: Path | None = None
    """Key file of the run's authority, made when missing; it signs the manifest."""
    admission: "Admission" = "open"
    inner_steps: int | None = None
    text: Path | None = None
    """Folder of the text to learn from."""
    pattern: str | None = None
    """Which files in it."""
    tokenizer: Path | None = None
    """A ``tokenizer.json``; the model gets as many tokens."""
    end_token: str | None = None
    """Put after every file; None is the tokenizer's own end of text."""
    bootstraps: tuple[str, ...] = ()
    """Addresses by which peers join; the authority's signature covers them."""


def write_manifest(preset: str, out: Path, changes: ManifestChanges) -> "RunConfig":
    """Make the manifest of a new run: the preset's text with its comments, the changes and the text's fingerprint.

    Args:
        preset: a preset's name.
        out: the file to make; nothing is written unless the whole manifest is sound.
        changes: what differs from the preset.

    Returns:
        What the new file says.

    Raises:
        UsageError: no such preset, values that cannot work, or ``out`` cannot be made.
        DataError: no text to learn from, or no tokenizer.
    """
    import secrets

    import tomlkit

    from p2ptrain.config.bootstraps import BOOTSTRAPS
    from p2ptrain.config.load import SIGNATURE, parse_run, run_id
    from p2ptrain.config.presets import preset_text
    from p2ptrain.identity.authority import sign_run
    from p2ptrain.identity.keys import Identity, load_or_create

    check_is_free(out)
    document = tomlkit.parse(preset_text(preset))
    document["seed"] = secrets.randbits(32) if changes.seed is None else changes.seed
    if changes.name is not None:
        document["name"] = changes.name
    if changes.rounds is not None:
        document["rounds"] = changes.rounds
    if changes.inner_steps is not None:
        document["inner"]["steps"] = changes.inner_steps
    if changes.slices is not None:
        document["slicing"]["slices"] = changes.slices
    if changes.parts is not None:
        document["slicing"]["parts"] = list(changes.parts)
    _set_text(document, changes, out.parent)
    if changes.bootstraps:
        document.add(BOOTSTRAPS, as_lines(changes.bootstraps))
    source = f"preset {preset} with your changes"
    run = parse_run(tomlkit.dumps(document), source)

    from p2ptrain.data.corpus import load_corpus
    from p2ptrain.data.sampler import require_window
    from p2ptrain.model.slicing import SlicePlan

    SlicePlan.of(run.model, run.slicing)
    corpus = load_corpus(run, base=out.parent)
    require_window(corpus.train, run.model.context, part="training")
    require_window(corpus.validation, run.model.context, part="validation")
    document["data"]["fingerprint"] = str(corpus.fingerprint)
    if changes.authority is not None:
        # Last, and only for a manifest that is sound: it makes the key file.
        door = tomlkit.table()
        door.add("authority", Identity.generate().peer_id)
        door.add("admission", changes.admission)
        document["door"] = door
        parse_run(tomlkit.dumps(document), source)
        authority = load_or_create(changes.authority)
        door["authority"] = authority.peer_id
        run = parse_run(tomlkit.dumps(document), source)
        document.add(SIGNATURE, sign_run(authority, run_id(run), changes.bootstraps))
    text = tomlkit.dumps(document)
    run = parse_run(text, source)
    write_new(out, text)
    return run


def _set_text(document: Any, changes: ManifestChanges, folder: Path) -> None:  # tomlkit's documents have no types
    """Write into ``document``, a manifest in ``folder``, what the run learns from and in which tokens."""
    check_pattern(changes.text, changes.pattern)
    if changes.tokenizer is None and changes.end_token is not None:
        raise UsageError(f"--end-token {changes.end_token} is a token of a tokenizer; add --tokenizer FILE")
    data = document["data"]
    if changes.text is not None:
        data["source"] = "folder"
        data["path"] = Path(os.path.relpath(changes.text, folder)).as_posix()
        data["pattern"] = USUAL_PATTERN if changes.pattern is None else changes.pattern
    if changes.tokenizer is not None:
        from p2ptrain.data.tokenizer import FileTokenizer, end_token_of, hash_of, padded

        file = _content_of(changes.tokenizer)
        data["tokenizer"] = Path(os.path.relpath(changes.tokenizer, folder)).as_posix()
        data["tokenizer_hash"] = str(hash_of(file))
        data["end_token"] = end_token_of(file) if changes.end_token is None else changes.end_token
        document["model"]["vocabulary"] = padded(FileTokenizer(file, data["end_token"]).vocabulary)


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name a tokenizer.json") from error


@run_app.command("new")
def new(
    preset: Annotated[
        str, typer.Argument(help="What to start from: small, tiny (trains in minutes) or nano (for tests).")
    ],
    out: Annotated[Path, typer.Option(help="The manifest to make.")],
    name: Annotated[str | None, typer.Option(help="The run's name, for people.")] = None,
    seed: Annotated[int | None, typer.Option(help="Picks initial weights and batches; drawn when not given.")] = None,
    slices: Annotated[int | None, typer.Option(help="Into how many slices the model is cut.")] = None,
    parts: Annotated[str | None, typer.Option(help="What is cut: mlp, heads or mlp,heads.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Length of the run.")] = None,
    authority: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Key file of an authority that signs the run, invites and bans; made if new."),
    ] = None,
    admission: Annotated[str, typer.Option(help="Who may join: open, invite or allowlist.")] = "open",
    text: Text = None,
    pattern: Pattern = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A tokenizer.json, as published with most models; without, every byte is a token."
        ),
    ] = None,
    end_token: Annotated[
        str | None,
        typer.Option(help="The tokenizer's token to put after every file  [default: its end of text, if it has one]"),
    ] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(
            "--bootstrap",
            metavar="ADDRESS",
            help="A node by which peers join without being told, or /dnsaddr/example.org for a list in DNS; repeat it"
            " for several.",
        ),
    ] = None,
) -> None:
    """Make the manifest of a new run: a file with everything that its peers must share.

    Example: p2ptrain run new tiny --out tiny.toml --slices 2
    """
    from p2ptrain.config.load import parse_run, run_id
    from p2ptrain.config.presets import preset_text

    changes = ManifestChanges(
        name=name,
        seed=seed,
        slices=slices,
        parts=None if parts is None else tuple(part.strip() for part in parts.split(",")),
        rounds=rounds,
        authority=authority,
        admission=_admission(admission, authority),
        text=text,
        pattern=pattern,
        tokenizer=tokenizer,
        end_token=end_token,
        bootstraps=tuple(bootstrap or ()),
    )
    _check_dns_list(changes)
    run = write_manifest(preset, out, changes)
    typer.echo(f"wrote {out}: run {run.name}, id {run_id(run)}")
    if tokenizer is not None:
        print_notes(run.data, out.parent, _content_of(tokenizer))
    usual = parse_run(preset_text(preset), preset)
    if run.slicing.slices != usual.slicing.slices:
        outer = run.outer
        last = f" and outer.last_lr = {outer.last_lr}" if outer.last_lr else ""
        typer.echo(
            f"note: outer.lr = {outer.lr}{last} {'were' if last else 'was'} chosen for {usual.slicing.slices} slices,"
            f" and this run has {run.slicing.slices}; the comment above it in {out} says what to choose"
        )
    if changes.bootstraps:
        typer.echo(f"next: p2ptrain peer --run {out} --home peer-home")
        return
    typer.echo(
        f"next: p2ptrain bootstrap --run {out} --home bootstrap-home    (prints the ADDRESS at which peers meet)\n"
        f"then: p2ptrain peer --run {out} --bootstrap ADDRESS --home peer-home"
    )


@run_app.command("show")
def show(
    manifest: Annotated[Path, typer.Argument(help="The manifest, for example tiny.toml.")],
    peers: Annotated[
        int, typer.Option(min=0, help="How many take part, for what a round sends; 0: as slicing.replicas asks for.")
    ] = 0,
) -> None:
    """Print a run's id, its length, how large its model and slices are, and what it asks of a peer.

    Example: p2ptrain run show tiny.toml
    """
    from p2ptrain.config.bootstraps import listed_bootstraps
    from p2ptrain.config.load import parse_run, read_manifest, run_id

    text = read_manifest(manifest)
    run = parse_run(text, source=str(manifest))

    from p2ptrain.model.slicing import SlicePlan

    plan = SlicePlan.of(run.model, run.slicing)
    sizes = {slice_id: plan.numel(slice_id) for slice_id in plan.slice_ids}
    sends = line_demand(run, plan, peers)
    windows = run.inner.steps * run.inner.batch
    typer.echo(f"run      {run.name}")
    typer.echo(f"id       {run_id(run)}")
    typer.echo(
        f"rounds   {run.rounds}, each {windows * run.model.context} tokens a peer in {run.inner.steps} inner steps"
    )
    typer.echo(f"model    {sum(sizes.values()):,} parameters: {run.model.layers} layers of width {run.model.width}")
    of_text = "Python's standard library" if run.data.source != "folder" else f"{run.data.path} ({run.data.pattern})"
    typer.echo(f"text     {of_text}, {run.data.validation_percent} % held out")
    typer.echo(f"tokens   {run.model.vocabulary:,}, by {run.data.tokenizer or 'bytes'}")
    fragments = f", {run.slicing.fragments} fragments each" if run.slicing.fragments > 1 else ""
    first, rising = run.slicing.amplification, run.slicing.last_amplification
    times = f"{first:g} to {rising:g}" if rising else f"{first:g}"
    amplified = f", moved {times} times as far as contributed" if (first, rising) != (1, 0) else ""
    typer.echo(f"slices   {run.slicing.slices}, cut from {' and '.join(run.slicing.parts)}{fragments}{amplified}")
    for slice_id, numel in sizes.items():
        typer.echo(f"         {slice_id:<8}{numel:>14,} parameters")
    typer.echo(f"sends    {sends}")
    with working("counting what a step keeps in memory"):
        memory = memory_demand(run)
    typer.echo(f"memory   {memory}")
    outer = run.outer
    last = f" to {outer.last_lr}" if outer.last_lr else ""
    last += f", falling over the last {100 * outer.cooldown:.0f} %" if outer.cooldown else ""
    last += f", {outer.common_lr_ratio:g} times that for the common part" if outer.common_lr_ratio != 1 else ""
    kind = "Nesterov" if outer.nesterov else "a heavy ball"
    typer.echo(f"outer    lr {outer.lr}{last}, momentum {outer.momentum}, {kind}")
    if not run.exchange.check_averages:
        typer.echo("averages believed as their owners announce them (exchange.check_averages = false)")
    for i, address in enumerate(listed_bootstraps(text)):
        typer.echo(f"{'' if i else 'join by':<9}{address}")


def _admission(text: str, authority: Path | None) -> "Admission":
    from p2ptrain.config.schema import Admission

    if text not in get_args(Admission):
        raise UsageError(f"--admission {text} is not known; choose from {', '.join(get_args(Admission))}")
    if text != "open" and authority is None:
        raise UsageError(f"--admission {text} needs somebody who admits; add --authority KEY, a file that will be made")
    return cast("Admission", text)


def _check_dns_list(changes: ManifestChanges) -> None:
    from p2ptrain.config.bootstraps import dns_list

    for address in changes.bootstraps if changes.authority is None else ():
        if dns_list(address):
            raise UsageError(f"{address} counts only with an authority's signature; add --authority KEY")
