"""The command line: which commands exist, and how errors become one line and an exit status.

Commands import what they need when they run: torch and hivemind take seconds, and ``--help`` must not.
"""

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from p2ptrain.cli.bench_commands import bench_app
from p2ptrain.cli.bootstrap_command import bootstrap
from p2ptrain.cli.codec_commands import codec_quality, codec_speed
from p2ptrain.cli.completion_command import completion, prepare_to_complete
from p2ptrain.cli.config_command import config
from p2ptrain.cli.control_commands import control_app, finish, leave, limits, pause, resume, status, why
from p2ptrain.cli.dash_command import dash
from p2ptrain.cli.demo_command import demo
from p2ptrain.cli.doctor_command import doctor
from p2ptrain.cli.health_command import health
from p2ptrain.cli.identity_command import identity_app
from p2ptrain.cli.lab_commands import lab_app
from p2ptrain.cli.manifest_commands import run_app
from p2ptrain.cli.model_commands import export, generate
from p2ptrain.cli.peer_commands import peer, swarm
from p2ptrain.cli.peers_commands import peers_app
from p2ptrain.cli.processes import data_folder, open_standard_streams
from p2ptrain.cli.profile import ENVIRONMENT
from p2ptrain.cli.robust_command import robust
from p2ptrain.cli.soak_command import soak
from p2ptrain.cli.usage_problems import USAGE_ERROR, usage_problem
from p2ptrain.errors import P2PTrainError, UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(run_app, name="run")
app.add_typer(bench_app, name="bench")
app.add_typer(lab_app, name="lab")
bench_app.command("codec")(codec_speed)
lab_app.command("codec")(codec_quality)
lab_app.command()(robust)
lab_app.command("soak")(soak)
app.add_typer(control_app, name="control")
app.add_typer(peers_app, name="peers")
for command in (demo, bootstrap, peer, status, why, pause, resume, finish, leave, limits, health, dash, doctor, swarm):
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(config)
app.command()(completion)
app.add_typer(identity_app, name="identity")
app.command()(generate)
app.command()(export)


@dataclass
class Settings:
    """What the options before the command say."""

    debug: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what ``arguments`` say, by default the process's; returns the exit status.

    0: done. 1: something failed. 2: what was asked cannot work, and nothing was started or written. 130: Ctrl-C.
    """
    open_standard_streams()
    settings = Settings()
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we fork only to exec; it would write warnings about that
    prepare_to_complete()
    try:
        ended = app(
            args=arguments,
            prog_name="p2ptrain",
            obj=settings,
            auto_envvar_prefix=ENVIRONMENT,
            standalone_mode=False,
        )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:  # whatever a command raises ends here, and the person gets a sentence
        if settings.debug:
            raise
        return _tell(error, arguments)
    return ended if isinstance(ended, int) else 0


def _tell(error: Exception, arguments: Sequence[str]) -> int:
    """Say what went wrong; returns the exit status."""
    match error:
        case _ if type(error).__name__ == "NoArgsIsHelpError":
            return 2  # its help is printed
        case USAGE_ERROR():
            sys.stderr.write(f"p2ptrain: {usage_problem(error, arguments)}\n")
            return 2
        case typer.Abort():
            return 130
        case BrokenPipeError():  # whoever read what we print has gone
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what is still buffered goes there at exit
            return 1
        case P2PTrainError():
            sys.stderr.write(f"p2ptrain: {error}\n")
            return 2 if isinstance(error, UsageError) else 1
        case OSError(strerror=str(reason)) if error.filename:
            sys.stderr.write(f"p2ptrain: {os.fsdecode(error.filename)}: {reason}\n")
            return 1
        case OSError(errno=errno.ENOSPC):
            sys.stderr.write(
                "p2ptrain: no space is left on the disk, or where the output goes; make room, and try again\n"
            )
            return 1
        case _:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            sys.stderr.write(f"p2ptrain: something that should not happen: {said}; {_kept_details(error)}\n")
            return 1


_LARGEST_CRASH_BYTES = 1 << 18


def _kept_details(error: Exception) -> str:
    import traceback
    from datetime import datetime

    path = data_folder() / "crash.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One does not hide another, and they do not grow for ever.
        is_small = not path.exists() or path.stat().st_size < _LARGEST_CRASH_BYTES
        with path.open("a" if is_small else "w", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} p2ptrain {' '.join(sys.argv[1:2])}\n")
            file.writelines(traceback.format_exception(error))
    except OSError:
        return "p2ptrain --debug, before the command, shows where"
    return f"{path} has where, for a bug report"


_TOLD = ("torch", "hivemind", "grpcio", "protobuf")
"""Packages whose versions matter in a bug report."""


def _print_versions(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        python = ".".join(str(number) for number in sys.version_info[:3])
        others = ", ".join(f"{package} {metadata.version(package)}" for package in _TOLD)
        typer.echo(f"p2ptrain {metadata.version('p2ptrain')}, Python {python}, {others}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised, for a bug report.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_versions, is_eager=True, help="Print the versions in use and stop."),
    ] = False,
) -> None:
    """Train one language model together with strangers, each a slice of it.

    Example: p2ptrain demo
    """
    context.ensure_object(Settings).debug = debug
