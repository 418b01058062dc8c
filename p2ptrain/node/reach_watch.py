"""Keeps a peer reachable: measures how others can call it, changes that when it has changed, and says so.

Where a peer is reached by a relay only, holes are punched through both routers.
"""

import asyncio
from collections.abc import Callable, Mapping

from p2ptrain import clock
from p2ptrain.events import ReachChanged
from p2ptrain.ids import PeerId
from p2ptrain.swarm.directory import Claim
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.punch import Attempts
from p2ptrain.wire.reach import Way, described

_LOOK_EVERY_S = 5.0
_MEASURE_EVERY_S = 60.0
"""Routers are exchanged and addresses change once a day, if at all; a changed number of places measures at once."""
_AGAIN_AFTER_S = 3.0
"""A lost packet must not make p2pd start anew: two measurements in a row have to agree."""


class ReachWatch:
    """``run`` until cancelled.

    Args:
        node: of this peer.
        claims: of the others, as seen now.
        on_change: told of each change.
    """

    def __init__(
        self, node: Libp2pNode, claims: Callable[[], Mapping[PeerId, Claim]], on_change: Callable[[ReachChanged], None]
    ) -> None:
        self._node = node
        self._claims = claims
        self._on_change = on_change
        self._said: tuple[str, str] = ("", "")
        self._num_places = len(node.places)
        self._measured_s = clock.monotonic_s()
        self._attempts = Attempts(node.peer)

    async def run(self) -> None:
        """Watch for ever.

        Raises:
            NetworkSetupError: p2pd does not come back after a change.
        """
        while True:
            await self._say()
            await asyncio.sleep(_LOOK_EVERY_S)
            is_due = clock.monotonic_s() - self._measured_s > _MEASURE_EVERY_S
            if is_due or len(self._node.places) != self._num_places:
                await self._measure()

    async def _say(self) -> None:
        node = self._node
        claims = {peer: claim for peer, claim in self._claims().items() if peer != node.peer}
        others: dict[PeerId, Way | None] = {peer: claim.capacity.way for peer, claim in claims.items()}
        paths = await node.paths()
        if node.reach.seen:
            relayed = [peer for peer, way in others.items() if way == "relayed" and paths.get(peer)]
            if due := self._attempts.due(relayed, clock.monotonic_s()):
                await asyncio.gather(*map(node.punch, due))
                paths = await node.paths()
        reach, reason = described(node.reach, others, paths)
        node.is_relayed = reach == "relayed"
        if reach == self._said[0] and node.reach.nat == self._said[1]:
            return
        self._said = (reach, node.reach.nat)
        self._on_change(ReachChanged(reach=reach, nat=node.reach.nat, reason=reason))

    async def _measure(self) -> None:
        self._measured_s, self._num_places = clock.monotonic_s(), len(self._node.places)
        now = self._node.reach
        first = await self._node.look_at_reach()
        if first is None or (first.way, first.public) == (now.way, now.public):
            self._node.reach = first or now  # what the router does may be known better by now
            return
        await asyncio.sleep(_AGAIN_AFTER_S)
        second = await self._node.look_at_reach()
        if second is not None and (first.way, first.public) == (second.way, second.public):
            await self._node.change_reach(second)
            self._measured_s -= _MEASURE_EVERY_S  # what a router does is only seen from the port that we listen on
