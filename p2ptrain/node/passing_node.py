"""A node for one errand: under an identity that nobody meets again, keeping no records for others."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from p2ptrain.config.schema import NetworkConfig
from p2ptrain.identity.keys import Identity, load_or_create
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.node.listening import listen_host
from p2ptrain.swarm.directory import is_valid_record
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import NodeOptions


@contextlib.asynccontextmanager
async def passing_node(
    network: NetworkConfig, errand: str, *, asks_reach: bool = False
) -> AsyncIterator[tuple[Libp2pNode, Identity]]:
    """The node and its identity; both are gone at the end of the block.

    Args:
        network: whom to call.
        errand: a word for the name of its temporary folder.
        asks_reach: find out whether others could call it, which takes seconds and most errands do not need.

    Raises:
        NetworkSetupError: an address is malformed, or no bootstrap answers.
    """
    with tempfile.TemporaryDirectory(prefix=f"p2ptrain-{errand}-") as folder:
        key = Path(folder) / "identity.key"
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
                sockets=Path(folder) / "sockets",
                reach=network.reach if network.reach != "auto" or asks_reach else "direct",
                map_port=network.map_port,
                serves_dht=False,
            )
        )
        try:
            yield node, identity
        finally:
            await node.stop()
