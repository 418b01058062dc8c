"""What the run's authority asks this peer to own, and whether the peer follows; said once, whenever it changes."""

from collections.abc import Collection

from p2ptrain import clock
from p2ptrain.config.schema import PeerConfig
from p2ptrain.events import EventBus, OrderHeard
from p2ptrain.identity.authority import Door, Order
from p2ptrain.ids import PeerId, SliceId, slice_order


class Orders:
    """The authority's order for one peer, as its guest list and the volunteer's choice have it now.

    Args:
        door: the run's door, which learns of newer guest lists.
        me: this peer.
        config: what the volunteer chose; who names slices is asked in vain.
        slices: numbered slices of the run.
        events: told when an order comes, changes or ends.
    """

    def __init__(
        self, door: Door, me: PeerId, config: PeerConfig, slices: Collection[SliceId], events: EventBus
    ) -> None:
        self._door = door
        self._me = me
        self._config = config
        self._slices = frozenset(slices)
        self._events = events
        self._said: Order | None = None

    def followed(self) -> frozenset[SliceId]:
        """The slices to own by order now; empty without one, or where the volunteer has chosen."""
        order = self._door.order_for(self._me, clock.wall_s())
        if order is None or self._config.slices is not None:
            return frozenset()
        return frozenset(self._possible(order))

    def say(self) -> None:
        """Tell what is new since the last call."""
        order = self._door.order_for(self._me, clock.wall_s())
        if order == self._said:
            return
        self._said = order
        self._events.emit(_heard(order, self._refusal(order)) if order else OrderHeard())

    def text(self) -> str:
        """The order that stands, for ``p2ptrain why``; empty without one."""
        order = self._door.order_for(self._me, clock.wall_s())
        return _heard(order, self._refusal(order)).line() if order else ""

    def _possible(self, order: Order) -> list[SliceId]:
        known = sorted(self._slices & frozenset(order.slices), key=slice_order)
        return known[: max(1, self._config.max_slices)]

    def _refusal(self, order: Order) -> str:
        if self._config.slices is not None:
            return "you chose this peer's slices with --slices"
        left_out = sorted(set(order.slices) - set(self._possible(order)), key=slice_order)
        if not left_out:
            return ""
        limit = f"--max-slices is {self._config.max_slices}"
        return f"slices {', '.join(left_out)} are left out: {limit}, and the run has {len(self._slices)}"


def _heard(order: Order, refusal: str) -> OrderHeard:
    return OrderHeard(slices=list(order.slices), until_s=order.until_s, refusal=refusal)
