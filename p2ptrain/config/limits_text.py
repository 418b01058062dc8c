"""Limits as people write and read them: key, value as TOML, and what it is for."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import tomlkit

from p2ptrain.config.attribute_docs import attribute_docs
from p2ptrain.config.load import read_table
from p2ptrain.config.schema import LimitsConfig


@dataclass(frozen=True, slots=True)
class LimitEntry:
    """One limit."""

    key: str
    value: str
    """As TOML writes it."""
    help: str


@dataclass(frozen=True, slots=True)
class ChosenLimits:
    """What the volunteer chose when the peer was started."""

    limits: LimitsConfig
    origins: Mapping[str, str]
    """By key, where its value came from: flag, variable, profile or default."""


def limit_entries(limits: LimitsConfig) -> list[LimitEntry]:
    """All limits in the order of the schema."""
    return [LimitEntry(f.name, _as_toml(getattr(limits, f.name)), _helps()[f.name]) for f in fields(limits)]


def changed_limits(base: LimitsConfig, changes: Mapping[str, str]) -> tuple[LimitsConfig, dict[str, Any]]:
    """``base`` with changes.

    Args:
        base: the profile's limits.
        changes: key to value as TOML writes it; text without quotes is taken as text, "" keeps the base's value.

    Returns:
        The limits, and the values that were given, for keeping.

    Raises:
        ConfigError: every wrong key and value, one a line.
    """
    given = {key: _value(key, text) for key, text in changes.items() if text.strip()}
    unknown = {key: "" for key in changes if key not in _helps()}  # reported, even if only to be restored
    return with_values(base, unknown | given), given


def with_values(base: LimitsConfig, values: Mapping[str, Any], source: str = "") -> LimitsConfig:
    """``base`` with some values replaced, as TOML gives them.

    Args:
        base: what is not replaced.
        values: by key.
        source: the file that they are from, for messages; empty for none.

    Raises:
        ConfigError: every wrong key and value, one a line.
    """
    kept = {key: _plain(value) for key, value in asdict(base).items()}
    return read_table(LimitsConfig, {**kept, **values}, prefix="limits.", source=source)


def _value(key: str, text: str) -> Any:
    kinds = {f.name: f.type for f in fields(LimitsConfig)}
    is_list = "tuple" in str(kinds.get(key, ""))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return [value] if is_list and not isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_toml(value: Any) -> str:
    return str(tomlkit.item(_plain(value)).as_string())


@cache
def _helps() -> dict[str, str]:
    return attribute_docs(LimitsConfig)
