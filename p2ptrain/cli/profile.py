"""A peer's settings from four places: flags, P2PTRAIN_* variables, a profile, defaults; the first that says it counts.

A profile is a TOML file. Its keys are the options of ``p2ptrain peer`` with ``_`` for ``-``, and its ``[limits]`` those
of ``LimitsConfig``. ``peers/`` has some to start from.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2ptrain.errors import ConfigError

if TYPE_CHECKING:
    from typer._click import Context  # typer's own copy of click; older ones take click's

    from p2ptrain.config.schema import LimitsConfig

ENVIRONMENT = "P2PTRAIN"
"""Every option has a variable: ``--max-slices`` of ``p2ptrain peer`` is P2PTRAIN_PEER_MAX_SLICES."""
_LIMITS = "p2ptrain.profile.limits"
_ORIGINS = {"COMMANDLINE": "flag", "ENVIRONMENT": "variable", "DEFAULT_MAP": "profile", "DEFAULT": "default"}
_SECRET = {"invite"}
_LIMIT_FLAGS = ("upload_mbps", "download_mbps")
"""Limits that are so common that they have flags of their own."""


def _use_profile(context: typer.Context, profile: Path | None) -> Path | None:
    """Called before the other options are looked at: the profile's values stand where defaults stood."""
    if profile is None:
        return None
    table = _read(profile)
    limits = table.pop("limits", {})
    options = {param.name for param in context.command.params if param.name} - {"profile", "help"}
    problems = [_unknown(profile, key, options) for key in table if key not in options]
    if not isinstance(limits, dict):
        problems.append(f"{profile}: limits is not a table; write a [limits] section")
    if problems:
        raise ConfigError("\n".join(problems))
    context.default_map = {**(context.default_map or {}), **table}
    context.meta[_LIMITS] = limits
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


def profile_limits(context: "Context", **flags: float) -> "LimitsConfig":
    """The profile's limits, with those that flags or variables name in their place.

    Raises:
        ConfigError: every wrong key and value of the profile, one a line.
    """
    from p2ptrain.config.limits_text import with_values
    from p2ptrain.config.schema import LimitsConfig

    given = {name: value for name, value in flags.items() if _origin(context, name) in ("flag", "variable")}
    return with_values(LimitsConfig(), {**context.meta.get(_LIMITS, {}), **given})


def explained(context: "Context") -> Iterator[tuple[str, str, str]]:
    """Every setting of ``p2ptrain peer``: name, value, and where the value comes from."""
    from p2ptrain.config.limits_text import limit_entries

    for param in context.command.params:
        if param.name and param.name != "help" and param.name not in _LIMIT_FLAGS:
            value = context.params.get(param.name)
            shown = "(hidden)" if value and param.name in _SECRET else "" if value in (None, [], ()) else str(value)
            yield param.name, shown, _origin(context, param.name)
    origins = limit_origins(context)
    for entry in limit_entries(profile_limits(context, **{name: context.params[name] for name in _LIMIT_FLAGS})):
        yield f"limits.{entry.key}", entry.value, origins[entry.key]


def limit_origins(context: "Context") -> dict[str, str]:
    """By key of the limits, where its value came from: flag, variable, profile or default."""
    from p2ptrain.config.limits_text import limit_entries
    from p2ptrain.config.schema import LimitsConfig

    named: Mapping[str, Any] = context.meta.get(_LIMITS, {})
    origins = {entry.key: "profile" if entry.key in named else "default" for entry in limit_entries(LimitsConfig())}
    given = {key: _origin(context, key) for key in _LIMIT_FLAGS}
    return origins | {key: origin for key, origin in given.items() if origin in ("flag", "variable")}


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
