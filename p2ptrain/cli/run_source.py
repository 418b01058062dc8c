"""Where a command gets the run's manifest from: a file, or an address at which somebody serves it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.config.load import read_manifest

_ADDRESS_BEGINNINGS = ("/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSource:
    """A manifest as it was found."""

    text: str
    name: str
    """The file or address, for messages."""
    folder: Path
    """What paths in the manifest are relative to."""
    bootstraps: tuple[str, ...]
    """The address that gave it, if one did: whoever knows the run is a way in."""


def read_run(run: str) -> RunSource:
    """The manifest that ``--run`` names.

    Raises:
        ConfigError: the file cannot be read.
        NetworkSetupError: the address is malformed, nobody answers there, or the node knows no run.
    """
    if not (run.startswith(_ADDRESS_BEGINNINGS) and "/p2p/" in run):
        path = Path(run)
        return RunSource(text=read_manifest(path), name=run, folder=path.absolute().parent, bootstraps=())

    from p2ptrain.node.manifest_exchange import fetch_manifest

    return RunSource(text=asyncio.run(fetch_manifest(run)), name=run, folder=Path.cwd(), bootstraps=(run,))
