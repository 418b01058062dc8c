"""A bootstrap node: a stable address by which peers find each other. It trains nothing and is trusted with nothing.

It stores directory records for others, after the same check that every peer applies: a record that is not signed by the
peer it is about is not stored.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from p2ptrain.config.schema import NetworkConfig
from p2ptrain.identity.keys import load_or_create
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.node.listening import listen_host
from p2ptrain.swarm.directory import is_valid_record
from p2ptrain.wire.libp2p import Libp2pNode, NodeOptions


async def run_bootstrap(
    key: Path, network: NetworkConfig, stop: asyncio.Event, on_listening: Callable[[list[str]], None]
) -> None:
    """Serve until ``stop`` is set.

    Args:
        key: file of the node's identity, made when missing; it makes the address stable.
        network: where to listen, and other bootstraps to join.
        stop: ends the node.
        on_listening: told the addresses to hand out.

    Raises:
        NetworkSetupError: the port is taken, or other bootstraps were named and none answers.
    """
    identity = load_or_create(key)
    node = await Libp2pNode.start(
        NodeOptions(
            identity=key,
            peer=identity.peer_id,
            host=listen_host(network),
            port=network.port,
            bootstraps=network.bootstraps,
            check_record=is_valid_record,
            launcher=die_with_parent_prefix(),
            sockets=key.parent / "sockets",
        )
    )
    try:
        on_listening(node.addresses)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(node.watch())
            await stop.wait()
            watching.cancel()
    finally:
        await node.stop()
