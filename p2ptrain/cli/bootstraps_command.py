"""``p2ptrain run bootstraps``: by which nodes the peers of a run join."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.cli.door_commands import load_authority
from p2ptrain.errors import ConfigError, UsageError
from p2ptrain.ids import RunId

if TYPE_CHECKING:
    from tomlkit.items import Array

    from p2ptrain.identity.keys import Identity


def bootstraps(
    manifest: Annotated[Path, typer.Argument(help="The run's manifest.")],
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(
            "--bootstrap",
            metavar="ADDRESS",
            help="List this node, and drop those that are not named here; or /dnsaddr/example.org for a list in DNS."
            " Repeat it for several.",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The authority's key file, if the run has one: it signs.")] = None,
    txt: Annotated[
        str, typer.Option(metavar="NAME", help="Leave the manifest alone: print the list for DNS, signed.")
    ] = "",
) -> None:
    """Change the nodes by which peers join, show them, or print them as records for DNS. The run's id stays.

    Example: p2ptrain run bootstraps tiny.toml --bootstrap ADDRESS --key authority.key
    """
    from p2ptrain.cli.run_source import read_run
    from p2ptrain.config.bootstraps import problems_of_list

    source = read_run(str(manifest))
    authority, named = source.config.door.authority, tuple(dict.fromkeys(bootstrap or ()))
    if not named and not txt:
        for address in source.listed:
            typer.echo(address)
        return
    if problems := problems_of_list(list(named)):
        raise ConfigError("\n".join(problems))
    signer = load_authority(key) if key else None
    if (signer.peer_id if signer else "") != authority:
        given = f"{key} is {signer.peer_id}" if signer else "no --key is given"
        raise UsageError(f"{given}, and the run's authority is {authority or 'nobody'}, who alone changes this list")
    if txt:
        _print_records(source.id, signer, txt, named or source.listed)
    else:
        _replace_list(manifest, source.text, signer, named)
        typer.echo(f"{manifest} names {len(named)} ways to join; run {source.config.name}, id {source.id} as before")


def as_lines(addresses: Sequence[str]) -> "Array":
    """A list for a manifest, one address a line."""
    import tomlkit

    array = tomlkit.array()
    array.extend(addresses)
    return array.multiline(True)


def _replace_list(manifest: Path, text: str, signer: "Identity | None", addresses: Sequence[str]) -> None:
    import tomlkit

    from p2ptrain.cli.run_source import checked_source
    from p2ptrain.config.bootstraps import BOOTSTRAPS
    from p2ptrain.config.load import SIGNATURE, parse_run, run_id
    from p2ptrain.identity.authority import sign_run
    from p2ptrain.node.atomic_file import replace_file

    document = tomlkit.parse(text)
    document[BOOTSTRAPS] = as_lines(addresses)
    if signer:
        document[SIGNATURE] = sign_run(signer, run_id(parse_run(text, source=str(manifest))), addresses)
    changed = tomlkit.dumps(document)
    checked_source(changed, name=str(manifest), folder=manifest.parent)
    data = changed.encode()
    replace_file(manifest, [data], len(data))


def _print_records(run: RunId, signer: "Identity | None", name: str, addresses: Sequence[str]) -> None:
    """As lines of a zone file."""
    from p2ptrain.config.bootstraps import dns_list, is_node
    from p2ptrain.identity.authority import write_dns_list

    if signer is None:
        raise UsageError("a list in DNS counts only with an authority's signature, and this run has no authority")
    nodes = [address for address in addresses if is_node(address)]
    if not nodes or dns_list(f"/dnsaddr/{name}") is None:
        raise UsageError(
            f"--txt {name}: name the nodes, each with --bootstrap ADDRESS, and a name like --txt example.org"
        )
    for text in write_dns_list(signer, run, nodes):
        typer.echo(f'_dnsaddr.{name}. 300 IN TXT "{text}"')
