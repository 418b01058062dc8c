"""``p2ptrain completion``: the script by which a shell completes commands and options; typer's, unchanged."""

import os
from typing import Annotated

import typer

from p2ptrain.errors import UsageError

_VARIABLE = "_P2PTRAIN_COMPLETE"
"""Set by the script when the shell wants to know how a line could go on."""
_SHELLS = ("bash", "zsh", "fish")


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Which shell the script is for.")],
) -> None:
    """Print the script that makes a shell complete p2ptrain's commands and options.

    Example: p2ptrain completion bash > ~/.local/share/bash-completion/completions/p2ptrain

    For zsh put it into a file _p2ptrain in a folder of $fpath, for fish into ~/.config/fish/completions/p2ptrain.fish.
    """
    from typer._completion_shared import get_completion_script

    if shell not in _SHELLS:
        raise UsageError(f"completion {shell}: choose from {', '.join(_SHELLS)}")
    typer.echo(get_completion_script(prog_name="p2ptrain", complete_var=_VARIABLE, shell=shell))


def prepare_to_complete() -> None:
    """Let typer answer if it is the shell who asks; costs nothing otherwise."""
    if _VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
