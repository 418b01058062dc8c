"""Bringing the authority's guest list to the directory, from a machine that takes no part in the run."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from p2ptrain.config.schema import NetworkConfig
from p2ptrain.identity.keys import load_or_create
from p2ptrain.ids import PeerId, RunId
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.node.listening import listen_host
from p2ptrain.swarm.directory import is_valid_record
from p2ptrain.swarm.guests import DhtGuestRecords
from p2ptrain.wire.libp2p import Libp2pNode, NodeOptions


async def publish_guests(run: RunId, signer: PeerId, packed: bytes, bootstraps: Sequence[str]) -> bool:
    """Put a signed guest list into the directory; False when no node took it and gives it back.

    Raises:
        NetworkSetupError: no bootstrap answers.
    """
    network = NetworkConfig(bootstraps=tuple(bootstraps))
    with tempfile.TemporaryDirectory(prefix="p2ptrain-authority-") as folder:
        key = Path(folder) / "identity.key"
        node = await Libp2pNode.start(
            NodeOptions(
                identity=key,
                peer=load_or_create(key).peer_id,
                host=listen_host(network),
                port=0,
                bootstraps=network.bootstraps,
                check_record=is_valid_record,
                launcher=die_with_parent_prefix(),
                sockets=Path(folder) / "sockets",
                serves_dht=False,
            )
        )
        try:
            records = DhtGuestRecords(node)
            # Storing says True too easily; what can be read back somebody else keeps.
            return await records.publish(run, signer, packed) and packed in await records.find(run)
        finally:
            await node.stop()
