"""Bringing the authority's guest list to the directory, from a machine that takes no part in the run."""

import asyncio
from collections.abc import Sequence

from p2ptrain.config.schema import NetworkConfig
from p2ptrain.ids import PeerId, RunId
from p2ptrain.node.passing_node import passing_node
from p2ptrain.swarm.guests import DhtGuestRecords

_ATTEMPTS = 5
_PAUSE_S = 2.0


async def publish_guests(run: RunId, signer: PeerId, packed: bytes, bootstraps: Sequence[str]) -> bool:
    """Put a signed guest list into the directory; False when no node took it and gives it back.

    Raises:
        NetworkSetupError: no bootstrap answers.
    """
    network = NetworkConfig(bootstraps=tuple(bootstraps))
    async with passing_node(network, "authority") as (node, _):
        records = DhtGuestRecords(node)
        # What storing says is worth little (``Libp2pNode.store``); what can be read back somebody else keeps. While a
        # node that has just left is still asked, that can fail.
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            await records.publish(run, signer, packed)
            if packed in await records.find(run):
                return True
        return False
