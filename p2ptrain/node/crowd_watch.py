"""A bootstrap node's look at who is connected: hangs up on the newest where one address has too many connections.

p2pd can limit how many connections there are, and drops the idlest, but not from whom they come. What is cut here has
cost a handshake already; docs/bootstrap.md has rules for the firewall, where it costs nothing.
"""

import asyncio
from collections.abc import Callable

from p2ptrain.wire.crowd import Crowd
from p2ptrain.wire.libp2p import Libp2pNode

_LOOK_EVERY_S = 2.0


async def watch_crowd(node: Libp2pNode, crowd: Crowd, on_crowd: Callable[[str], None]) -> None:
    """Never returns. ``on_crowd`` is told what is wrong, at each look that finds too many."""
    while True:
        gone = crowd.too_many(await node.connections())
        if gone:
            on_crowd(
                f"more than {crowd.per_address} peers at once from {crowd.busiest}: the newest are cut off. If that is"
                " a flood, have the firewall refuse them (docs/bootstrap.md); if it is one place with many peers, raise"
                " --connections-per-address"
            )
            await node.hang_up(*gone)
        await asyncio.sleep(_LOOK_EVERY_S)
