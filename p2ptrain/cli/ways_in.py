"""By whom a command joins a run: whom the command line names, else whom the manifest lists, itself or in DNS."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from p2ptrain.errors import NetworkSetupError, UsageError
from p2ptrain.ids import PeerId

if TYPE_CHECKING:
    from p2ptrain.cli.run_source import RunSource

_MOST_KNOWN = 4
"""Peers of the address book that stand in for bootstrap nodes."""


def ways_in(source: "RunSource", named: list[str] | None, home: Path | None = None) -> tuple[str, ...]:
    """Addresses of bootstrap nodes, the best first.

    Args:
        source: the run, with the nodes that it came from or that its manifest lists. A list in DNS that cannot be had
            is told on stderr and passed over while there is somebody else to join by.
        named: by ``--bootstrap``; they come instead of the manifest's, because who names a node wants that one.
        home: of a peer, which may have met others: called if only DNS names nodes, and it cannot be had. (If nobody
            answers, whom the home knows is tried in any case.)

    Raises:
        UsageError: nobody is named at all.
        NetworkSetupError: nobody is named but by DNS, and DNS does not answer or lies.
    """
    if named:
        return tuple(dict.fromkeys([*source.bootstraps, *named]))
    if not source.bootstraps and not source.listed:
        raise UsageError(
            f"--run {source.name} is a file and says nobody to join; add --bootstrap ADDRESS of any node of the run"
        )
    found, failures = [*source.bootstraps], []
    for address in source.listed:
        try:
            found += _nodes_at(address, source)
        except NetworkSetupError as error:
            failures.append(error)
    if failures and not found:
        found += _once_known(home) if home else []
        if not found:
            raise failures[0]
    for failure in failures:
        typer.echo(f"p2ptrain: {failure}", err=True)
    return tuple(dict.fromkeys(found))


def _once_known(home: Path) -> list[str]:
    from p2ptrain.swarm.address_book import AddressBook

    with contextlib.suppress(OSError):
        book = AddressBook.from_json(PeerId(""), (home / "known_peers.json").read_text(encoding="utf-8"))
        return [address for contact in book.newest(_MOST_KNOWN) for address in contact.addresses]
    return []


def _nodes_at(address: str, source: "RunSource") -> tuple[str, ...]:
    from p2ptrain.config.bootstraps import dns_list

    name = dns_list(address)
    if name is None:
        return (address,)
    from p2ptrain.wire.dns_list import look_up_list

    return look_up_list(name, source.id, PeerId(source.config.door.authority))
