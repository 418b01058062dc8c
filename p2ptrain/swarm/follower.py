"""The edge of one slice that this peer does not own: its published weights move forward by certified updates."""

import asyncio
from collections.abc import Sequence

from p2ptrain import clock
from p2ptrain.ids import PeerId, SliceId
from p2ptrain.swarm.catch_up import catch_up
from p2ptrain.swarm.context import Context, Replica
from p2ptrain.swarm.history import History
from p2ptrain.swarm.served_state import ServedState
from p2ptrain.wire.messages import Certificate


class SliceFollower:
    """One slice that others own; what it receives it also serves on."""

    def __init__(self, context: Context, slice_id: SliceId, replica: Replica) -> None:
        self.slice = slice_id
        self.replica = replica
        self.history = History(slice_id, context.blobs.store, context.exchange.history)
        self.loss_nats = float("nan")
        """Of the last committed round."""
        self._context = context
        self._one_at_a_time = asyncio.Lock()
        self._served = ServedState(context.blobs.store, slice_id)
        self._serve_published()

    async def learn(self, certificates: Sequence[Certificate], donor: PeerId) -> None:
        """Move to what these checked certificates, oldest first, prove; ``donor`` told us."""
        async with self._one_at_a_time:
            steps = await catch_up(self._context, self.slice, self.replica, certificates, donor)
            for step in steps:
                self.replica = step.replica
                self.loss_nats = step.certificate.value.loss_nats
                self.history.add(step.certificate, step.blobs)
                self._serve_published()
                self._context.listener.slice_moved(self.slice)
            if steps:
                self._context.announce(self.slice)

    def _serve_published(self) -> None:
        published = self.replica.published
        self._served.serve(published.version, [published], clock.monotonic_s())

    def stop_serving(self) -> None:
        """Others ask this peer's owner side from now on."""
        self._served.stop()
