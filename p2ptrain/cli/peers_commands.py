"""``p2ptrain peers``: whom this volunteer does not work with."""

import time
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.errors import ConfigError, UsageError
from p2ptrain.ids import PeerId

peers_app = typer.Typer(no_args_is_help=True, help="Ban peers for yourself, and share the list.")

_Home = Annotated[Path, typer.Option(envvar="P2PTRAIN_HOME", help="The peer's folder.")]
_Peers = Annotated[list[str], typer.Argument(metavar="PEER_ID...", help="12D3KooW...")]
_DAY_S = 86400


@peers_app.command()
def ban(
    home: _Home,
    peers: Annotated[list[str] | None, typer.Argument(metavar="PEER_ID...", help="12D3KooW...")] = None,
    days: Annotated[float, typer.Option(min=0, help="For how long; 0 is for ever.")] = 0,
    reason: Annotated[str, typer.Option(help="Why, for yourself and whoever gets the list.")] = "",
    file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Add all that are on somebody else's list.")
    ] = None,
) -> None:
    """Work with these peers no more; a running peer obeys within seconds. Nobody else is bound by it.

    Example: p2ptrain peers ban --home my-peer 12D3Koo... --days 7 --reason "sends nonsense"
    """
    from p2ptrain.node.ban_list import FILE, Ban, load_bans, read_bans, write_bans

    if not peers and file is None:
        raise UsageError("peers ban: name a PEER_ID, or a list with --from FILE")
    known = load_bans(home / FILE)
    if file is not None:
        try:
            known |= read_bans(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--from {file} cannot be read: {error}") from error
    until_s = time.time() + days * _DAY_S if days else float("inf")
    for peer in map(_peer, peers or []):
        known[peer] = Ban(peer=peer, until_s=until_s, reason=" ".join(reason.split()))
    write_bans(_existing(home) / FILE, known)
    typer.echo(f"{len(known)} on the list {home / FILE}")


@peers_app.command()
def unban(home: _Home, peers: _Peers) -> None:
    """Work with these peers again.

    Example: p2ptrain peers unban --home my-peer 12D3Koo...
    """
    from p2ptrain.node.ban_list import FILE, load_bans, write_bans

    known = load_bans(home / FILE)
    for peer in map(_peer, peers):
        if known.pop(peer, None) is None:
            raise UsageError(f"{peer} is not on the list {home / FILE}")
    write_bans(_existing(home) / FILE, known)
    typer.echo(f"{len(known)} on the list {home / FILE}")


@peers_app.command("list")
def list_bans(home: _Home) -> None:
    """Print the list, in the form that `--from` takes.

    Example: p2ptrain peers list --home my-peer > banned.txt
    """
    from p2ptrain.node.ban_list import FILE, load_bans, said_time

    now_s = time.time()
    for ban in load_bans(home / FILE).values():
        is_over = "" if ban.until_s > now_s else "  # over"
        typer.echo(f"{ban.peer} {said_time(ban.until_s)} {ban.reason}".rstrip() + is_over)


def _existing(home: Path) -> Path:
    if not home.is_dir():
        raise UsageError(f"--home {home} does not exist; it is the folder that `p2ptrain peer --home` named")
    return home


def _peer(text: str) -> PeerId:
    from p2ptrain.identity.keys import public_key

    if public_key(PeerId(text)) is None:
        raise UsageError(f"{text} is not a peer id; `p2ptrain swarm --json` shows those of a run, 12D3KooW...")
    return PeerId(text)
