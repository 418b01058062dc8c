"""A bootstrap node's sign of life in the directory, by which two that run with one identity notice each other.

Peers have their claims for that. A node claims nothing, so it publishes an empty claim of a run that nobody can train:
the hash of a sentence about itself.
"""

import asyncio
import hashlib
from collections.abc import Callable

from p2ptrain import clock
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import RunId
from p2ptrain.swarm.directory import Claim, DhtDirectory
from p2ptrain.wire.libp2p import Libp2pNode

_EVERY_S = 10.0
_LEASE_S = 60.0


async def keep_presence(node: Libp2pNode, identity: Identity, on_twin: Callable[[], None]) -> None:
    """Never returns. ``on_twin`` is told at each look that shows another process with this identity."""
    nowhere = RunId(hashlib.sha256(f"presence of {identity.peer_id}".encode()).hexdigest())
    directory = DhtDirectory(node, identity, nowhere, on_twin)
    while True:
        await directory.claims()  # before we publish: of two claims under one id, the directory keeps the newer one
        expires_s = clock.wall_s() + _LEASE_S
        await directory.publish(Claim(run=nowhere, peer=identity.peer_id, expires_s=expires_s))
        await asyncio.sleep(_EVERY_S)
