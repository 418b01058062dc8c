"""``p2ptrain identity``: who a peer or bootstrap node is, and how to keep that."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.errors import HomeError, IdentityError, UsageError
from p2ptrain.ids import short

PASSPHRASE = "P2PTRAIN_PASSPHRASE"  # noqa: S105 - where the passphrase is looked for
_KEY = "identity.key"

identity_app = typer.Typer(
    invoke_without_command=True,
    help="Print the id of a peer or bootstrap node, or back its key up. Example: p2ptrain identity --home my-peer",
)
_Home = Annotated[
    Path | None,
    typer.Option(envvar="P2PTRAIN_HOME", help="The folder of the peer or bootstrap node; made with a key if new."),
]


@identity_app.callback()
def identity(context: typer.Context, home: _Home = None) -> None:
    """Print a peer's id, for example to ask the run's authority for an invitation; or back its key up.

    Example: p2ptrain identity --home my-peer
    """
    if context.invoked_subcommand is None:
        from p2ptrain.identity.keys import load_or_create

        home = _given(home)
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--home {home} cannot be used: {error.strerror}; choose another folder") from error
        typer.echo(load_or_create(home / _KEY).peer_id)
    else:
        context.obj = home


@identity_app.command("backup")
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to make; only its owner can read it.")],
    home: _Home = None,
) -> None:
    """Write the key to a file under a passphrase, which is asked for, or taken from $P2PTRAIN_PASSPHRASE.

    Example: p2ptrain identity backup boot.backup --home boot
    """
    from p2ptrain.identity.backup import write_backup
    from p2ptrain.identity.keys import load

    home = _given(home or context.obj)
    try:
        found = load(home / _KEY)
    except FileNotFoundError as error:
        raise UsageError(f"{home} has no {_KEY}; check --home") from error
    text = write_backup(found, _passphrase(is_new=True))
    _write_private(file, text)
    typer.echo(f"{file} has the identity {found.peer_id}; keep it, and its passphrase, apart from this machine")


@identity_app.command("restore")
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What `p2ptrain identity backup` made.")],
    home: _Home = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Another identity is in --home: throw it away for this one.")
    ] = False,
) -> None:
    """Put a key from a backup into a folder. Make sure that nobody runs with it elsewhere any more.

    Example: p2ptrain identity restore boot.backup --home boot
    """
    from p2ptrain.identity.backup import read_backup
    from p2ptrain.identity.keys import load, store
    from p2ptrain.node.home import FolderLock

    home = _given(home or context.obj)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"{file} cannot be read: {reason}; name the file that `p2ptrain identity backup` made"
        ) from error
    restored = read_backup(text, _passphrase(is_new=False))
    with FolderLock.acquire(home):
        try:
            present = load(home / _KEY).peer_id
        except FileNotFoundError:
            present = None
        except IdentityError:  # damaged: what a backup is for
            present = None
        if present == restored.peer_id:
            typer.echo(f"{home} has the identity {restored.peer_id} already")
            return
        if present and not replace:
            raise HomeError(
                f"{home} has another identity, {present}, which would be lost; choose another --home, or back it up and"
                " add --replace"
            )
        store(home / _KEY, restored)
    typer.echo(f"{home} has the identity {restored.peer_id}" + (f" in place of {short(present)}" if present else ""))


def _given(home: Path | None) -> Path:
    if home is None:
        raise UsageError("whose identity? Add --home DIR, the folder of a peer or bootstrap node")
    return home


def _passphrase(*, is_new: bool) -> str:
    """Never an option of its own: other users see the command lines of all processes."""
    if given := os.environ.get(PASSPHRASE):
        return given
    if not sys.stdin.isatty():
        raise UsageError(f"a passphrase is needed and nobody is there to ask; set ${PASSPHRASE}")
    said: str = typer.prompt("passphrase", hide_input=True, confirmation_prompt=is_new)
    return said


def _write_private(file: Path, text: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(descriptor)
    except FileExistsError as error:
        raise UsageError(f"{file} exists and is not overwritten; choose another name") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}; choose another place") from error
