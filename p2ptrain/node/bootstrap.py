"""A bootstrap node: a stable address by which peers find each other. It trains nothing and is trusted with nothing.

It stores directory records for others, after the same check that every peer applies: a record that is not signed by the
peer it is about is not stored. A node that is given a run's manifest hands it to newcomers, looks at the run every few
seconds, and can show what it sees on a status page.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from p2ptrain import clock
from p2ptrain.config.schema import NetworkConfig, RelayLimits
from p2ptrain.events import twin_sentence
from p2ptrain.identity.keys import load_or_create
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.node.crowd_watch import watch_crowd
from p2ptrain.node.draining import DRAIN
from p2ptrain.node.link_probe import serve_download, serve_upload
from p2ptrain.node.listening import listen_host
from p2ptrain.node.manifest_exchange import serve_manifest, serve_tokenizer
from p2ptrain.node.presence import keep_presence
from p2ptrain.node.run_watch import NodeStatus, WatchedRun, watch_run
from p2ptrain.node.status_server import start_status_server
from p2ptrain.swarm.directory import DhtDirectory, is_valid_record
from p2ptrain.wire.crowd import PER_ADDRESS, Crowd
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import NodeOptions

_DRAIN_S = 60.0
"""Peers ask for their place every 5 s, and use another relay when they are refused; this is ample."""


_OTHERS_EVERY_S = 10.0
"""Peers that joined by one of two nodes are found by those of the other within so long after both are up."""
_OTHER_ANSWERS_S = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapOptions:
    """What an operator chooses."""

    folder: Path
    """Its identity, which makes the address stable, and what it remembers of its run."""
    network: NetworkConfig
    """Where to listen, and other bootstraps to join."""
    run: WatchedRun | None = None
    """The run to hand out and watch."""
    others: tuple[str, ...] = ()
    """Nodes that the run's manifest lists, this one perhaps among them: joined whenever they are there."""
    also_listen: tuple[str, ...] = ()
    """Multiaddresses beside the TCP port."""
    relay: RelayLimits | None = field(default_factory=RelayLimits)
    """What it carries for peers that nobody can dial; None: nothing."""
    connections_per_address: int = PER_ADDRESS
    """Peers that may be connected at once from one address."""
    status: tuple[str, int] | None = None
    """Host and port of the status page."""


async def run_bootstrap(
    options: BootstrapOptions,
    stop: asyncio.Event,
    on_listening: Callable[[list[str], str | None], None],
    on_problem: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Serve until ``stop`` is set.

    Args:
        options: what to serve and where.
        stop: ends the node.
        on_listening: told the addresses to hand out and the status page's URL, if there is one.
        on_problem: told what the operator must do something about, in a sentence, when it begins.

    Raises:
        NetworkSetupError: a port is taken, or other bootstraps were named and none answers.
    """
    drain = asyncio.Event()
    # Before anything else: until somebody waits for it, the signal would end the process.
    asyncio.get_running_loop().add_signal_handler(DRAIN, drain.set)
    key = options.folder / "identity.key"
    identity = load_or_create(key)
    others = [address for address in options.others if not address.endswith(f"/p2p/{identity.peer_id}")]
    async with contextlib.AsyncExitStack() as undo:
        node = await Libp2pNode.start(
            NodeOptions(
                identity=key,
                peer=identity.peer_id,
                host=listen_host(options.network),
                port=options.network.port,
                bootstraps=options.network.bootstraps,
                known_addresses=others,
                check_record=is_valid_record,
                launcher=die_with_parent_prefix(),
                sockets=options.folder / "sockets",
                announce=options.network.announce,
                also_listen=options.also_listen,
                calls_back=True,
                relay=options.relay,
            )
        )
        undo.push_async_callback(node.stop)
        await serve_manifest(node, options.run.manifest if options.run else None)
        await serve_tokenizer(node, options.run.tokenizer_file if options.run else b"")
        await serve_upload(node)
        await serve_download(node)

        crowd = Crowd(per_address=options.connections_per_address)
        status = NodeStatus(identity.peer_id, node.addresses, options.run, node.relay, load=lambda: _load(node, crowd))

        def problem(kind: str, sentence: str) -> None:
            if status.problems.report(kind, sentence, clock.monotonic_s()):
                on_problem(sentence)

        def twin_seen() -> None:
            problem("twin", twin_sentence(identity.peer_id))

        url = None
        if options.status:
            runner, url = await start_status_server(*options.status, status.snapshot)
            undo.push_async_callback(runner.cleanup)
        on_listening(node.addresses, url)
        async with asyncio.TaskGroup() as group:
            node.bootstraps = list(dict.fromkeys([*node.bootstraps, *others]))
            tasks = [
                group.create_task(node.watch()),
                group.create_task(_keep_in_touch(node)),
                group.create_task(keep_presence(node, identity, twin_seen)),
                group.create_task(watch_crowd(node, crowd, functools.partial(problem, "crowd"))),
            ]
            if options.run:
                directory = DhtDirectory(node, identity, options.run.id)
                saved = options.folder / "status.json"
                tasks.append(group.create_task(watch_run(node, directory, options.run, status, saved)))
            tasks.append(group.create_task(_drain_when_asked(node, drain, stop)))
            await stop.wait()
            for task in tasks:
                task.cancel()


def _load(node: Libp2pNode, crowd: Crowd) -> dict[str, int]:
    return {
        "connected_peers": crowd.present,
        "cut_peers": crowd.cut,
        "records": len(node.room),
        "record_bytes": node.room.used_bytes,
        "refused_records": node.room.refused,
        "refused_calls": node.door.refused,
    }


async def _keep_in_touch(node: Libp2pNode) -> None:
    """With the other bootstrap nodes, of which some may start after us, or again."""
    while True:
        await asyncio.gather(*(node.is_there(address, _OTHER_ANSWERS_S) for address in node.bootstraps))
        await asyncio.sleep(_OTHERS_EVERY_S)


async def _drain_when_asked(node: Libp2pNode, asked: asyncio.Event, stop: asyncio.Event) -> None:
    await asked.wait()
    if node.relay:
        node.relay.places.is_open = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await node.relay.is_idle.wait()
    stop.set()
