"""``p2ptrain config``: what ``p2ptrain peer`` would take each setting from."""

from typing import Annotated

import typer
from typer.main import get_command_from_info

from p2ptrain.cli.profile import ENVIRONMENT, explained


def config(
    context: typer.Context,
    explain: Annotated[bool, typer.Option("--explain", help="Say where each value comes from.")] = False,
) -> None:
    """Show the settings that `p2ptrain peer` would have with the same options, variables and profile.

    Example: p2ptrain config --explain --profile peers/home-gpu/peer.toml
    """
    from p2ptrain.cli.peer_commands import peer

    app = typer.Typer(add_completion=False)
    app.command()(peer)
    command = get_command_from_info(app.registered_commands[0], pretty_exceptions_short=False, rich_markup_mode=None)
    for parameter in command.params:
        parameter.required = False  # what is missing is shown as empty
    asked = command.make_context("p2ptrain config", list(context.args), auto_envvar_prefix=f"{ENVIRONMENT}_PEER")
    rows = list(explained(asked))
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        source = f"{origin:<9} " if explain else ""
        typer.echo(f"{name:<{width}}  {source}{value}".rstrip())
