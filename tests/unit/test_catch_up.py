"""Which way a peer takes to a newer version."""

import asyncio

import numpy as np
import pytest

from p2ptrain.ids import Version
from p2ptrain.swarm.catch_up import catch_up
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.state import genesis
from p2ptrain.wire.messages import BlobRef
from tests.support.owners_in_memory import NUMEL, SLICE, OwnersInMemory, gradient


@pytest.mark.parametrize(
    ("unfinished", "expected"),
    [
        (None, ["published weights v4"]),
        (2, ["published weights v2", "update v3", "update v4"]),
        ("gone", ["published weights v3", "published weights v4"]),
    ],
)
async def test_a_fetch_of_a_state_that_failed_goes_on_although_rounds_went_on(
    unfinished: int | str | None, expected: list[str]
) -> None:
    async with OwnersInMemory(2).running() as (owner, newcomer):
        for number in range(4):
            await asyncio.gather(
                *(h.owner.contribute(gradient(2 * number + n), 100, 1.0) for n, h in enumerate((owner, newcomer)))
            )
            await asyncio.gather(owner.round_settled_here(), newcomer.round_settled_here())
            if owner.version == 2:
                owner.store.hold("being fetched", owner.owner.replica.published.blob)
        certificates = owner.owner.history.since(Version(0))
        if unfinished is not None:
            begun = certificates[1 if unfinished == 2 else 2].value
            newcomer.unfinished.add(BlobRef(begun.published_digest, 2 * NUMEL))
        fetched: list[str] = []

        def note(what: str) -> bool:
            fetched.append(what.replace(f" of slice {SLICE}", ""))
            return True

        newcomer.can_fetch = note
        newcomer.store = type(newcomer.store)()
        nothing = Replica(None, genesis(np.linspace(-1, 1, NUMEL, dtype=np.float32))[1], None)
        steps = await catch_up(newcomer.context, SLICE, nothing, certificates, owner.peer)
        assert fetched == expected
        assert steps[-1].replica.published.digest == owner.owner.replica.published.digest
