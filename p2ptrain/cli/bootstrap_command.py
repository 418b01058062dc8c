"""``p2ptrain bootstrap``: the stable address by which peers find each other."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.cli.host_port import host_and_port
from p2ptrain.cli.log_output import print_or_lose
from p2ptrain.cli.network_options import Announce
from p2ptrain.cli.processes import data_folder, quiet_imports, run_until_signal
from p2ptrain.cli.run_source import read_run
from p2ptrain.config.schema import NetworkConfig, RelayLimits
from p2ptrain.errors import DataError
from p2ptrain.wire.crowd import PER_ADDRESS

if TYPE_CHECKING:
    from p2ptrain.cli.run_source import RunSource

_STABLE_PORT = 31337


def bootstrap(
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="P2PTRAIN_HOME", help="Folder of its identity  [default: ~/.local/share/p2ptrain/bootstrap]"
        ),
    ] = None,
    bootstrap: Annotated[
        list[str] | None, typer.Option("--bootstrap", help="Another bootstrap node to join; repeat it for several.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 serves other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes any free one.")] = _STABLE_PORT,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Listen there, too, like /ip4/0.0.0.0/udp/31337/quic-v1; repeatable."),
    ] = None,
    announce: Announce = None,
    relay: Annotated[
        bool, typer.Option("--relay/--no-relay", help="Carry connections for peers that nobody can dial.")
    ] = True,
    relay_mbps: Annotated[
        float, typer.Option(min=0, help="Megabits a second to carry at most, all connections together; 0 is no cap.")
    ] = 0.0,
    relay_places: Annotated[
        int, typer.Option(min=1, help="Peers that can be reached through the relay at once.")
    ] = RelayLimits().reservations,
    connections_per_address: Annotated[
        int,
        typer.Option(min=1, help="Peers connected at once from one IP address; the newest beyond are cut off."),
    ] = PER_ADDRESS,
    drain: Annotated[
        bool, typer.Option("--drain", help="Start nothing: have the node of --home end once it carries nothing.")
    ] = False,
    run: Annotated[
        Path | None, typer.Option(help="A run's manifest: handed to newcomers, and watched for the status page.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Show a status page there, like 127.0.0.1:8080.")
    ] = None,
) -> None:
    """Be the stable address by which peers find each other. It trains nothing and is trusted with nothing.

    Example: p2ptrain bootstrap --host 0.0.0.0 --run tiny.toml --status 127.0.0.1:8080
    """
    from p2ptrain.node.home import FolderLock

    if drain:
        from p2ptrain.node.draining import ask_to_drain

        pid = ask_to_drain(home or data_folder() / "bootstrap")
        typer.echo(f"process {pid} takes no new connections, and ends within a minute")
        return
    page = host_and_port("--status", status, example="127.0.0.1:8080") if status else None
    source = read_run(str(run)) if run else None
    with quiet_imports():
        from p2ptrain.config.bootstraps import is_node
        from p2ptrain.node.bootstrap import BootstrapOptions, run_bootstrap
        from p2ptrain.node.run_watch import WatchedRun
        from p2ptrain.wire.libp2p_start import check_addresses, check_announced
    check_addresses(bootstrap or [])
    check_announced([*(announce or ()), *(listen or ())])
    options = BootstrapOptions(
        others=tuple(filter(is_node, source.listed)) if source else (),
        folder=home or data_folder() / "bootstrap",
        network=NetworkConfig(bootstraps=tuple(bootstrap or ()), host=host, port=port, announce=tuple(announce or ())),
        also_listen=tuple(listen or ()),
        connections_per_address=connections_per_address,
        relay=RelayLimits(reservations=relay_places, total_mbps=relay_mbps) if relay else None,
        run=WatchedRun(
            id=source.id,
            config=source.config,
            manifest=source.text,
            tokenizer_file=_tokenizer_beside(source),
        )
        if source
        else None,
        status=page,
    )
    say = functools.partial(_print_addresses, options.run is not None)
    with FolderLock.acquire(options.folder):
        run_until_signal(lambda stop: run_bootstrap(options, stop, say, _print_problem))


def _tokenizer_beside(source: "RunSource") -> bytes:
    """The run's tokenizer, which newcomers would like to have from us; b"" if it is not here."""
    from p2ptrain.data.tokenizer import read_tokenizer_file

    try:
        return read_tokenizer_file(source.config.data, source.folder)
    except DataError as error:
        _print_problem(f"newcomers get no tokenizer from this node: {error}")
        return b""


def _print_problem(sentence: str) -> None:
    print_or_lose(f"PROBLEM: {sentence}", is_problem=True)


def _print_addresses(knows_run: bool, addresses: list[str], url: str | None) -> None:
    print_or_lose("bootstrap node listens on")
    for address in addresses:
        print_or_lose(f"  {address}")
    if url:
        print_or_lose(f"status page: {url}")
    run = addresses[0] if knows_run else f"FILE --bootstrap {addresses[0]}"
    print_or_lose(f"peers join with: p2ptrain peer --home DIR --run {run}")
