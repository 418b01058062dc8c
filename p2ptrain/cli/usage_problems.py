"""What is wrong with a command line, in one sentence: with the nearest match, or the range that a value must be in."""

import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from typer._click import Command, Context  # typer's own copy of click; older ones take click's

USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # typer does not name it
_KINDS = {int: "a whole number", float: "a number"}


def usage_problem(error: Any, arguments: Sequence[str]) -> str:
    """A sentence for people.

    Args:
        error: a ``USAGE_ERROR``.
        arguments: the command line, for the value that was given.
    """
    context: Context | None = error.ctx
    path = context.command_path if context is not None else "p2ptrain"
    name = path.removeprefix("p2ptrain ")
    has = "there is" if name == path else f"{name} has"
    message = error.message.rstrip(".")
    match type(error).__name__:
        case "NoSuchOption":
            return f"{has} no option {error.option_name}; {_option_hint(error.option_name, context)}"
        case "BadOptionUsage" if "requires an argument" in message:
            return f"{error.option_name} needs a value after it"
        case "MissingParameter":
            return f"{name} needs {_name(error.param)}{_purpose(error.param)}; for an example: {path} --help"
        case "BadParameter" if error.param is not None and context is not None:
            return f"{name} {_bad_value(error, context, arguments)}"
    if message.startswith("No such command") and context is not None:
        wanted = message.split("'")[1]
        return f"{has} no command {wanted}; {_command_hint(wanted, context)}"
    if extra := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return f"{name} has no use for {extra[1]}; for an example: {path} --help"
    message = error.format_message().rstrip(".")
    return f"{name}: {message[:1].lower()}{message[1:]}; for an example: {path} --help"


def _option_hint(option: str, context: "Context | None") -> str:
    if context is None:
        return "see p2ptrain --help"
    root = context.find_root()
    if root is not context and option in _options(root):
        return f"it stands before the command: p2ptrain {option} {context.command_path.partition(' ')[2]} ..."
    nearest = get_close_matches(option, _options(context), n=1, cutoff=0.5)
    return f"did you mean {nearest[0]}?" if nearest else f"see {context.command_path} --help"


def _options(context: "Context") -> list[str]:
    return [one for param in context.command.params for one in (*param.opts, *param.secondary_opts)]


def _command_hint(wanted: str, context: "Context") -> str:
    here = {name: f"{context.command_path} {name}" for name in getattr(context.command, "commands", {})}
    everywhere = {path.split()[-1]: f"p2ptrain {path}" for path in _paths(context.find_root().command)} | here
    if nearest := get_close_matches(wanted, everywhere, n=1, cutoff=0.6):
        return f"did you mean {everywhere[nearest[0]]}?"
    return f"choose from {', '.join(sorted(here))}"


def _paths(command: "Command", before: str = "") -> Iterator[str]:
    for name, inner in getattr(command, "commands", {}).items():
        yield f"{before}{name}"
        yield from _paths(inner, f"{before}{name} ")


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name).upper()
    return str(param.opts[0])


def _purpose(param: Any) -> str:
    text = getattr(param, "help", None)
    first = re.split(r"[.;](?:\s|$)", text or "")[0]
    return f" ({first})" if first else ""


def _bad_value(error: Any, context: "Context", arguments: Sequence[str]) -> str:
    param = error.param
    value, origin = _given(param, context, arguments)
    described = f"{_name(param)} {value}".rstrip() + origin
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if kind not in _KINDS:
        message = error.message.rstrip(".")
        return f"{described}: {message[:1].lower()}{message[1:]}"
    low, high = getattr(param, "min", None), getattr(param, "max", None)
    choose = _range(low, high) or _KINDS[kind]
    try:
        kind(value)
    except ValueError:
        return f"{described} is not {_KINDS[kind]}; choose {choose}"
    return f"{described} is out of range; choose {choose}"


def _given(param: Any, context: "Context", arguments: Sequence[str]) -> tuple[str, str]:
    """The value as it was given, and where from, unless on the command line."""
    source = context.get_parameter_source(param.name)
    if source is not None and source.name == "DEFAULT_MAP":
        return str((context.default_map or {}).get(param.name, "")), " (in the profile)"
    if source is not None and source.name == "ENVIRONMENT":
        names = [param.envvar] if isinstance(param.envvar, str) else list(param.envvar or ())
        names.append(f"{context.auto_envvar_prefix}_{param.name.upper()}")
        name = next((name for name in names if name in os.environ), names[0])
        return os.environ.get(name, ""), f" (from {name})"
    for i, argument in enumerate(arguments):
        if argument in param.opts and i + 1 < len(arguments):
            return arguments[i + 1], ""
        if argument.partition("=")[0] in param.opts:
            return argument.partition("=")[2], ""
    return "", ""


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return f"at most {high:g}" if high is not None else ""
