"""Manifests: from TOML to ``RunConfig``, with every problem reported at once, and from ``RunConfig`` to the run id."""

import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from p2ptrain.config.bootstraps import BOOTSTRAPS, problems_of_list
from p2ptrain.config.ranges import PEER_RULES, RULES, contradictions
from p2ptrain.config.schema import RunConfig
from p2ptrain.errors import ConfigError
from p2ptrain.ids import RunId

FORMAT = 1
"""The manifest form, and the protocol that it implies, which this version of p2ptrain speaks."""

SIGNATURE = "signature"
"""Like the list of bootstrap nodes not hashed into the run's id: it is made from that id."""

_LARGEST_MANIFEST_BYTES = 1 << 20
"""A manifest is a page of text; a model file given by mistake is not worth reading."""

_KINDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}

_RULES = {**RULES, **PEER_RULES}

_T = TypeVar("_T")


def load_run(path: Path) -> RunConfig:
    """The run that a manifest file describes.

    Raises:
        ConfigError: the file cannot be read, or is wrong; every problem is in the message, one a line.
    """
    return parse_run(read_manifest(path), source=str(path))


def read_manifest(path: Path) -> str:
    """A manifest file's text, for ``parse_run`` and for the copy in a peer's home.

    Raises:
        ConfigError: there is no such file, it is a directory, or it is not text.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a directory; name the manifest in it, a file like tiny.toml")
        with path.open("rb") as file:
            raw = file.read(_LARGEST_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; create it with: p2ptrain run new tiny --out {path}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if len(raw) > _LARGEST_MANIFEST_BYTES:
        raise ConfigError(f"{path} is larger than {_LARGEST_MANIFEST_BYTES} bytes and so no manifest; check the name")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text at byte {error.start}; a manifest is a TOML file") from error


def parse_run(text: str, source: str) -> RunConfig:
    """The run that a manifest's text describes.

    Args:
        text: TOML.
        source: the file's name or other origin, for messages.

    Raises:
        ConfigError: every problem of the text, one a line.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    # Asked first: a later format may have other keys, which must not be reported as misspelt.
    written_format = table.get("format", FORMAT)
    if type(written_format) is int and written_format != FORMAT:
        raise ConfigError(
            f"{source}: format = {written_format} is unknown to this p2ptrain, which knows format {FORMAT};"
            " choose the p2ptrain version that the run's owner names"
        )
    table.pop(SIGNATURE, None)  # about the run, not part of it; run_signature reads it
    reader = _Reader(problems_of_list(table.pop(BOOTSTRAPS, [])))
    run = reader.table(RunConfig, table, prefix="")
    problems = reader.problems
    if run is not None and not problems:
        problems = contradictions(run)
    if run is None or problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return run


def read_table(kind: type[_T], table: Mapping[str, Any], *, prefix: str, source: str) -> _T:
    """A section's values as the dataclass ``kind``.

    Args:
        kind: of the schema.
        table: TOML values.
        prefix: what stands before its keys in messages and in the table of ranges, like ``limits.``.
        source: the file's name or other origin, for messages; empty for none.

    Raises:
        ConfigError: every problem, one a line.
    """
    reader = _Reader()
    read = reader.table(kind, table, prefix=prefix)
    if read is None or reader.problems:
        raise ConfigError("\n".join(f"{source}: {problem}" if source else problem for problem in reader.problems))
    return read


def run_signature(text: str) -> str:
    """The signature of the run's authority that a manifest carries; empty when it has none.

    Args:
        text: TOML that ``parse_run`` has accepted.
    """
    signature = tomllib.loads(text).get(SIGNATURE, "")
    return signature if isinstance(signature, str) else ""


def run_id(run: RunConfig) -> RunId:
    """The run's name that nobody can choose: SHA-256 of all its values.

    Hashed are the values as JSON with sorted keys, no spaces and floats by ``repr``, so comments, order and spelling of
    the manifest do not matter, and a default written out is the same run as a default left out. Adding a field to the
    schema therefore changes every run id and needs a new ``format``.
    """
    canonical = json.dumps(asdict(run), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return RunId(hashlib.sha256(canonical.encode()).hexdigest())


@dataclass(slots=True)
class _Reader:
    """Turns TOML values into the schema's types and collects what is wrong with them."""

    problems: list[str] = field(default_factory=list)

    def table(self, kind: type[_T], table: Mapping[str, Any], prefix: str) -> _T | None:
        """``table`` as the dataclass ``kind``; None when a value is missing or unusable, with the problem noted."""
        types = get_type_hints(kind)
        known = {f.name: f for f in fields(cast("Any", kind))}
        for key in table:
            if key not in known:
                self.problems.append(f"{prefix}{key} is not a known key; {_did_you_mean(key, list(known))}")
        values: dict[str, Any] = {}
        complete = True
        for name, spec in known.items():
            path = f"{prefix}{name}"
            if name not in table:
                if not _has_default(spec):
                    complete = False
                    self.problems.append(f"{path} is missing; {_how_to_add(types[name], path)}")
                continue
            value = self.value(types[name], table[name], path)
            if value is None:
                complete = False
            values[name] = value
        return kind(**values) if complete else None

    def value(self, kind: Any, value: Any, path: str) -> Any:
        """``value`` as the type ``kind``, within its range; None, with the problem noted, when it is not."""
        num_problems = len(self.problems)
        read = self._typed(kind, value, path)
        if len(self.problems) > num_problems:
            return None
        rule = _RULES.get(path)
        if rule is not None and not rule.holds(read):
            fault = "out of range" if isinstance(value, int | float) else "not usable"
            return self._wrong(path, value, fault, rule.choose)
        return read

    def _typed(self, kind: Any, value: Any, path: str) -> Any:
        if is_dataclass(kind):
            if not isinstance(value, dict):
                return self._wrong(path, value, "not a table", f"a [{path}] section")
            return self.table(cast("type[Any]", kind), value, prefix=f"{path}.")
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                return self._wrong(path, value, "not known", " or ".join(_shown(choice) for choice in get_args(kind)))
            return value
        if get_origin(kind) is tuple:
            (element, _) = get_args(kind)
            if not isinstance(value, list):
                return self._wrong(path, value, "not a list", f"for example [{_shown(value)}]")
            return tuple(self._typed(element, item, f"{path}[{i}]") for i, item in enumerate(value))
        return self._scalar(kind, value, path)

    def _scalar(self, kind: type[Any], value: Any, path: str) -> Any:
        # ``type`` and not ``isinstance``: in Python true is an int, but in a manifest it is a mistake.
        if kind is float and type(value) is int:
            value = _if_float(value)
        if type(value) is not kind:
            choose = _RULES[path].choose if path in _RULES else _KINDS[kind]
            return self._wrong(path, value, f"not {_KINDS[kind]}", choose)
        if kind is float and not math.isfinite(value):
            return self._wrong(path, value, "not finite", "a finite number")
        return value

    def _wrong(self, path: str, value: Any, fault: str, choose: str) -> None:
        self.problems.append(f"{path} = {_shown(value)} is {fault}; choose {choose}")


def _if_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _has_default(spec: "Field[Any]") -> bool:
    return spec.default is not MISSING or spec.default_factory is not MISSING


def _how_to_add(kind: Any, path: str) -> str:
    if is_dataclass(kind):
        needed = ", ".join(f.name for f in fields(kind) if not _has_default(f))
        return f"add a [{path}] section with {needed}"
    return f"add {path.rpartition('.')[2]} = ... with {_KINDS.get(kind, 'a value')}"


def _did_you_mean(key: str, known: list[str]) -> str:
    nearest = get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(known)}"


def _shown(value: Any) -> str:
    """The value as TOML writes it, cut when it is long."""
    spell: Callable[[Any], str] = json.dumps if isinstance(value, str | bool) else str
    text = spell(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
