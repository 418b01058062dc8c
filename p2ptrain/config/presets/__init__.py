"""Manifests to start from, with their reasons beside each line."""

from difflib import get_close_matches
from importlib import resources

from p2ptrain.errors import UsageError


def preset_names() -> list[str]:
    """The presets that exist, in alphabetical order."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".toml")
    )


def preset_text(name: str) -> str:
    """A preset's manifest, comments included.

    Raises:
        UsageError: no preset has this name.
    """
    names = preset_names()
    if name not in names:
        nearest = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}? Or " if nearest else ""
        raise UsageError(f'"{name}" is not a preset; {hint}choose from {", ".join(names)}')
    return resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
