"""What a peer says of itself: what it is doing, and why; to its own screen, and to whoever asks it."""

import math
from dataclasses import replace

from p2ptrain import clock
from p2ptrain.events import Evaluated, Event, EventBus, InnerStepDone, ReachChanged, Reconnected, StateChanged
from p2ptrain.node.home_keeper import HomeKeeper
from p2ptrain.node.orders import Orders
from p2ptrain.swarm.answers import Condition
from p2ptrain.swarm.directory import Capacity
from p2ptrain.swarm.isolation import Verdict
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.swarm.why import Since, Situation, explain
from p2ptrain.wire.reach import Way

ISOLATED = "ISOLATED"


class Standing:
    """The state of one peer, its reason, and what it measured of itself.

    Args:
        events: told of each change.
        orders: what the run's authority asks of this peer.
        keeper: of the peer's home; a disk that takes nothing is part of the reason.
    """

    def __init__(self, events: EventBus, orders: Orders, keeper: HomeKeeper) -> None:
        self._events = events
        self._orders = orders
        self._keeper = keeper
        self.state, self.reason = "", ""
        self.tokens = 0
        """Trained on since the start."""
        self.capacity = Capacity()
        self.swarm: Swarm | None = None
        """Its part in the swarm; None until it has joined."""
        self._validation_loss_nats = math.nan
        self._reach = ""
        self._isolation = Verdict(is_isolated=False)
        self._isolated_s = 0.0
        self._since = Since()

    def enter(self, state: str, reason: str) -> None:
        """The peer does something else from now on."""
        self.state, self.reason = state, reason
        if not self._isolation.is_isolated or state == "LEAVING":
            self._events.emit(StateChanged(state=state, reason=reason))

    def seen_or_not(self, verdict: Verdict) -> None:
        """Whether others see this peer has been judged again."""
        was_isolated, self._isolation = self._isolation.is_isolated, verdict
        if verdict.is_isolated == was_isolated:
            return
        if verdict.is_isolated:
            self._isolated_s = clock.monotonic_s()
            self._events.emit(StateChanged(state=ISOLATED, reason=verdict.reason))
        else:
            self._events.emit(Reconnected(seconds=clock.monotonic_s() - self._isolated_s))
            self._events.emit(StateChanged(state=self.state, reason=self.reason))

    def trained(self, event: Event) -> None:
        """Pass an event of the training thread on, and keep what it measured."""
        if isinstance(event, Evaluated):
            self._validation_loss_nats = event.loss_nats
        elif isinstance(event, InnerStepDone):
            self.capacity = self.capacity.with_step(event.tokens / event.seconds)
        self._events.emit(event)

    def reach_changed(self, event: ReachChanged, way: Way | None) -> None:
        """Others get at this peer in another way."""
        self._reach = event.reach
        self.capacity = replace(self.capacity, way=way)
        self._events.emit(event)

    def why(self) -> tuple[str, str]:
        """State and reason as they are now."""
        owners = self.swarm.owners.values() if self.swarm else ()
        situation = Situation(
            state=self.state,
            reason=self.reason,
            isolation=self._isolation.reason,
            disk_trouble=self._keeper.trouble,
            slices=[owner.situation for owner in owners],
            order=self._orders.text(),
            listing=self.swarm.roster.why_not_listed() if self.swarm else "",
        )
        return self._since.told(explain(situation), clock.wall_s())

    def condition(self) -> Condition:
        """The answer to another peer that asks how we are."""
        state, reason = self.why()
        return Condition(
            state=state,
            reason=reason,
            tokens=self.tokens,
            validation_loss_nats=self._validation_loss_nats,
            capacity=self.capacity,
            reach=ISOLATED.lower() if self._isolation.is_isolated else self._reach,
            ordered=self._orders.followed(),
            can_vote=not self._keeper.is_failing,
        )
