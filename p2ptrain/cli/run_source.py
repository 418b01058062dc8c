"""Where a command gets the run's manifest from: a file, a node's address, or a status page's URL."""

import contextlib
import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from p2ptrain.cli.progress import working
from p2ptrain.errors import BadRecord, ConfigError, NetworkSetupError, UsageError
from p2ptrain.ids import PeerId, RunId, short

if TYPE_CHECKING:
    from p2ptrain.config.schema import RunConfig

_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/]+/.*/p2p/\w+")
_URL_TIMEOUT_S = 15.0
_MAX_STATUS_BYTES = 16 << 20
"""A status page lists at most some thousand peers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSource:
    """A manifest as it was found."""

    text: str
    name: str
    """The file, address or URL, for messages."""
    folder: Path
    """What paths in the manifest are relative to."""
    config: "RunConfig"
    id: RunId
    bootstraps: tuple[str, ...] = ()
    """Addresses that came with it: whoever knows the run is a way in."""
    listed: tuple[str, ...] = ()
    """Bootstrap nodes that the manifest itself names, signed if the run has an authority."""

    @property
    def is_fetched(self) -> bool:
        """Whether somebody else sent it, who shall not choose which files are read here."""
        return bool(self.bootstraps)


def read_run(run: str) -> RunSource:
    """The manifest that ``--run`` names, checked.

    Raises:
        ConfigError: the file cannot be read, says something wrong, or is not signed by the authority that it names.
        NetworkSetupError: nobody answers at the address or URL, or who does knows no run.
    """
    if run.startswith(("http://", "https://")):
        return _ask(run, addresses_of(_status(run), run))
    if _ADDRESS.fullmatch(run):
        return _ask(run, (run,))
    from p2ptrain.config.load import read_manifest

    path = Path(run)
    return checked_source(read_manifest(path), name=run, folder=path.absolute().parent)


def tokenizer_for(source: RunSource, bootstraps: Sequence[str], home: Path) -> bytes:
    """The run's ``tokenizer.json``, from the home, the manifest's folder or another node; b"" where it has none.

    Args:
        source: the run.
        bootstraps: addresses of nodes to ask.
        home: of the peer that wants it, which may have taken part before.

    Raises:
        DataError: the file beside the manifest is another one.
        NetworkSetupError: it is not here, and nobody has it.
    """
    from p2ptrain.data.tokenizer import hash_of, read_tokenizer_file
    from p2ptrain.node.home import TOKENIZER

    data = source.config.data
    if not data.tokenizer:
        return b""
    with contextlib.suppress(OSError):
        kept = (home / TOKENIZER).read_bytes()
        if hash_of(kept) == data.tokenizer_hash:
            return kept
    if not source.is_fetched and (source.folder / data.tokenizer).exists():
        return read_tokenizer_file(data, source.folder)
    import asyncio

    from p2ptrain.node.manifest_exchange import fetch_tokenizer

    with working("asking for the run's tokenizer"):
        return asyncio.run(fetch_tokenizer(data, bootstraps))


def with_text_in(source: RunSource, folder: Path | None) -> "RunConfig":
    """What to run, with its text where it is on this machine.

    Args:
        source: the run.
        folder: where its text is; None leaves that to the manifest.

    Raises:
        UsageError: somebody else's manifest would choose which folder is read, or the run reads none.
    """
    config = source.config
    if folder is None:
        if source.is_fetched and config.data.source == "folder":
            raise UsageError(
                f"the run of {source.name} learns from a text that you must have, too: say where it is with"
                f" --text FOLDER (its makers have it in {config.data.path!r}, files {config.data.pattern!r})"
            )
        return config
    if config.data.source != "folder":
        raise UsageError(f"--text {folder}: this run reads no folder, but {config.data.source}; leave the option out")
    return replace(config, data=replace(config.data, path=str(folder.absolute())))


def checked_source(text: str, *, name: str, folder: Path, bootstraps: tuple[str, ...] = ()) -> RunSource:
    """A manifest's text, checked; arguments as the fields of ``RunSource``, errors as ``read_run``."""
    from p2ptrain.config.bootstraps import dns_list, listed_bootstraps
    from p2ptrain.config.load import parse_run, run_id, run_signature
    from p2ptrain.identity.authority import check_run

    config = parse_run(text, source=name)
    run, listed = run_id(config), listed_bootstraps(text)
    if config.door.authority:
        try:
            check_run(run, PeerId(config.door.authority), run_signature(text), listed)
        except BadRecord as error:
            raise ConfigError(
                f"{name}: door.authority {short(config.door.authority)} did not sign this run; whoever changes a value"
                " makes another run, and the list of bootstraps is signed, too. Get the manifest from the run's"
                " authority, or set door.authority to a key of yours and sign it with: p2ptrain run sign"
            ) from error
    elif unsigned := [address for address in listed if dns_list(address)]:
        raise ConfigError(
            f"{name}: {unsigned[0]} is a list in DNS, which counts only with the signature of the run's authority, and"
            " this run has none; name the nodes themselves, or make the run with --authority KEY"
        )
    return RunSource(text=text, name=name, folder=folder, config=config, id=run, bootstraps=bootstraps, listed=listed)


def addresses_of(status: object, url: str) -> tuple[str, ...]:
    """The node's addresses by its status page, those under the page's own host name first.

    A node behind a forwarding router or in a container knows itself by addresses that others cannot dial; who has read
    its page can reach at least that host.

    Raises:
        NetworkSetupError: this is no status page.
    """
    import urllib.parse

    listed = status.get("addresses") if isinstance(status, dict) else None
    found = [a for a in listed if isinstance(a, str) and _ADDRESS.fullmatch(a)] if isinstance(listed, list) else []
    if not found:
        raise NetworkSetupError(f"{url} is no status page of a p2ptrain bootstrap node; ask for its address instead")
    host = urllib.parse.urlsplit(url).hostname or ""
    under_host = [f"/{_kind(host)}/{host}/{address.split('/', 3)[3]}" for address in found]
    return tuple(dict.fromkeys([*under_host, *found]))


def _kind(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"


def _status(url: str) -> object:
    import urllib.error
    import urllib.request

    page = url.partition("?")[0].rstrip("/") + "/status.json"
    try:
        with urllib.request.urlopen(page, timeout=_URL_TIMEOUT_S) as answer:  # noqa: S310 - http(s), checked by read_run
            return json.loads(answer.read(_MAX_STATUS_BYTES))
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NetworkSetupError(
            f"{page} gave no status: {reason}; check the URL, or ask for the node's address"
        ) from error


def _ask(name: str, addresses: tuple[str, ...]) -> RunSource:
    import asyncio

    from p2ptrain.node.manifest_exchange import fetch_manifest

    with working(f"asking {name} for the manifest"):
        text = asyncio.run(fetch_manifest(addresses))
    return checked_source(text, name=name, folder=Path.cwd(), bootstraps=addresses)
