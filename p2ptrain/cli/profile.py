"""A peer's settings from four places: flags, P2PTRAIN_* variables, a profile, defaults; the first that says it counts.

A profile is a TOML file. Its keys are the options of ``p2ptrain peer`` with ``_`` for ``-``, and its ``[limits]`` those
of ``LimitsConfig``. ``peers/`` has some to start from.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2ptrain.errors import ConfigError

if TYPE_CHECKING:
    from typer._click import Context  # typer's own copy of click; older ones take click's

    from p2ptrain.node.followed_limits import FollowedLimits

ENVIRONMENT = "P2PTRAIN"
"""Every option has a variable: ``--max-slices`` of ``p2ptrain peer`` is P2PTRAIN_PEER_MAX_SLICES."""
_ORIGINS = {"COMMANDLINE": "flag", "ENVIRONMENT": "variable", "DEFAULT_MAP": "profile", "DEFAULT": "default"}
_SECRET = {"invite"}
_LIMIT_FLAGS = ("threads", "upload_mbps", "download_mbps")
"""Limits that are so common that they have flags of their own."""


def _use_profile(context: typer.Context, profile: Path | None) -> Path | None:
    """Called before the other options are looked at: the profile's values stand where defaults stood."""
    if profile is None:
        return None
    table = _read(profile)
    options = {param.name for param in context.command.params if param.name} - {"profile", "help"}
    problems = [_unknown(profile, key, options) for key in table if key not in {*options, "limits"}]
    if problems:
        raise ConfigError("\n".join(problems))
    context.default_map = {**(context.default_map or {}), **{k: v for k, v in table.items() if k != "limits"}}
    return profile


Profile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        envvar="P2PTRAIN_PROFILE",
        is_eager=True,
        callback=_use_profile,
        help="TOML file with options and [limits]; flags and P2PTRAIN_* variables come first.",
    ),
]


def followed_limits(context: "Context") -> "FollowedLimits":
    """The limits that flags, variables and the profile name; of the last, as it is changed.

    Raises:
        ConfigError: every wrong key and value of the profile, one a line.
    """
    from p2ptrain.config.limits_text import ChosenLimits, limit_entries, with_values
    from p2ptrain.config.schema import LimitsConfig
    from p2ptrain.node.followed_limits import FollowedLimits

    profile: Path | None = context.params.get("profile")
    origins = {name: _origin(context, name) for name in _LIMIT_FLAGS}
    origins = {name: origin for name, origin in origins.items() if origin in ("flag", "variable")}

    def read() -> ChosenLimits:
        named = _limits_in(profile, _read(profile)) if profile is not None else {}
        flags = {name: context.params[name] for name in origins}
        limits = with_values(LimitsConfig(), {**named, **flags}, str(profile or ""))
        kept = {entry.key: "profile" if entry.key in named else "default" for entry in limit_entries(limits)}
        return ChosenLimits(limits, kept | origins)

    return FollowedLimits(read, profile)


def _limits_in(profile: Path, table: dict[str, Any]) -> dict[str, Any]:
    """What a profile says about limits: in ``[limits]``, or, for those that have flags, beside the other options."""
    limits = table.get("limits", {})
    if not isinstance(limits, dict):
        raise ConfigError(f"{profile}: limits is not a table; write a [limits] section")
    return {name: table[name] for name in _LIMIT_FLAGS if name in table} | limits


def explained(context: "Context") -> Iterator[tuple[str, str, str]]:
    """Every setting of ``p2ptrain peer``: name, value, and where the value comes from."""
    from p2ptrain.config.limits_text import limit_entries

    for param in context.command.params:
        if param.name and param.name != "help" and param.name not in _LIMIT_FLAGS:
            value = context.params.get(param.name)
            shown = "(hidden)" if value and param.name in _SECRET else "" if value in (None, [], ()) else str(value)
            yield param.name, shown, _origin(context, param.name)
    chosen = followed_limits(context).chosen
    for entry in limit_entries(chosen.limits):
        yield f"limits.{entry.key}", entry.value, chosen.origins[entry.key]


def _origin(context: "Context", name: str) -> str:
    source = context.get_parameter_source(name)
    return _ORIGINS.get(source.name, "default") if source else "default"


def _read(profile: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(profile.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"profile {profile} cannot be read: {error.strerror}; peers/ has some to copy") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{profile}: not valid TOML: {error}") from error


def _unknown(profile: Path, key: str, options: set[str]) -> str:
    nearest = get_close_matches(key, options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(sorted(options))}"
    return f"{profile}: {key} is not an option of p2ptrain peer; {hint}"
