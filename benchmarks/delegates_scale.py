"""Whose work is in a version and what delegates cost, by the size of the swarm: real owners in fake time.

    python benchmarks/delegates_scale.py --peers 64,200,320,500,1000 [--max-owners 64] [--max-constituents 4]

All peers hold one slice, as they all hold the common part; the directory lists ``--max-listed`` of them by lot, and the
owners. Nothing fails, and everybody hears of a commit within two seconds. Counted over ``--rounds`` versions, after as
many: what share of all tokens trained is in versions, whose work was brought, calls for places and work that one owner
answered for a version (the most, and the mean), and what an owner fetched for a version, in contributions. Needs the
repository's root on PYTHONPATH.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from p2ptrain.config.schema import ExchangeConfig
from p2ptrain.events import WorkBrought
from p2ptrain.ids import PeerId, SliceId
from p2ptrain.swarm.listing import next_halvings
from p2ptrain.wire.messages import BlobRef, Certificate, Entrust
from tests.support.fake_time_loop import run_in_fake_time
from tests.support.stormy_owners import STORMY, StormyHand, StormyOwners

_NEWS_S = 2.0


class CountingHand(StormyHand):
    """A peer whose calls are counted."""

    swarm: "CountingSwarm"

    async def entrust(self, owner: PeerId, request: Entrust) -> bool:
        """Counted for who is asked."""
        self.swarm.asked[owner] += 1
        return await super().entrust(owner, request)

    async def fetch(
        self, ref: BlobRef, holders: Sequence[PeerId], *, silence_timeout_s: float, what: str
    ) -> tuple[memoryview, PeerId]:
        """Counted where it is others' work."""
        data, donor = await super().fetch(ref, holders, silence_timeout_s=silence_timeout_s, what=what)
        if donor != self.peer and "entrusted" in what:
            self.swarm.fetched_bytes[self.peer] += len(data)
        return data, donor

    def announce(self, slice_id: SliceId) -> None:
        """The first one tells all, each after a while, instead of a tree."""
        certificate = self.owner.replica.certificate
        assert certificate
        if certificate.value.version > self.swarm.announced:
            self.swarm.announced = certificate.value.version
            for peer in self.swarm.hands:
                self.swarm.spawn(self._tell_later(certificate, peer))

    async def _tell_later(self, certificate: Certificate, peer: PeerId) -> None:
        await asyncio.sleep(random.uniform(0.1, _NEWS_S))  # noqa: S311 - no secret
        await self._tell_of(certificate, peer)


class CountingSwarm(StormyOwners):
    """A swarm in which nothing fails."""

    train_s = 15.0, 30.0
    hand_type = CountingHand
    announced = 0

    def __init__(self, size: int, exchange: ExchangeConfig) -> None:
        super().__init__(1, size, exchange, next_halvings(0, size, exchange.max_listed))
        self.asked: Counter[PeerId] = Counter()
        self.fetched_bytes: Counter[PeerId] = Counter()

    async def versions(self, count: int) -> None:
        """Wait for so many more."""
        goal = self.newest_version + count
        while self.newest_version < goal:  # noqa: ASYNC110 - in fake time it costs nothing
            await asyncio.sleep(0.5)

    @property
    def brought(self) -> list[WorkBrought]:
        """All that delegates have said so far."""
        return [event for hand in self.hands.values() for event in hand.events if isinstance(event, WorkBrought)]


async def _measure(size: int, exchange: ExchangeConfig, rounds: int) -> str:
    swarm, loop = CountingSwarm(size, exchange), asyncio.get_running_loop()
    contribution_bytes = sum(
        stop - start for hand in list(swarm.hands.values())[:1] for start, stop in hand.context.bounds(SliceId("0"))
    )
    async with swarm.running():
        await swarm.versions(rounds)
        began_s, first = loop.time(), swarm.newest_version
        trained, counted, brought = swarm.trained, swarm.tokens_in_versions, len(swarm.brought)
        swarm.asked.clear()
        swarm.fetched_bytes.clear()
        await swarm.versions(rounds)
        done = swarm.newest_version - first
        tokens = swarm.tokens_in_versions - counted
        constituents = sum(len(event.constituents) for event in swarm.brought[brought:])
        share = tokens / (swarm.trained - trained)
        fetched = max(swarm.fetched_bytes.values(), default=0) / done / contribution_bytes
        owners = len(next(iter(swarm.living)).owner.owners)
        return (
            f"| {size:,} | {owners} | {constituents / done:.0f} | {100 * share:.0f} % "
            f"| {max(swarm.asked.values(), default=0) / done:.1f} | {swarm.asked.total() / done / owners:.1f} "
            f"| {fetched:.1f} | {(loop.time() - began_s) / done:.1f} |"
        )


def main() -> None:
    """Print a row for every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="64,200,320,500,1000")
    parser.add_argument("--max-owners", type=int, default=64)
    parser.add_argument("--max-constituents", type=int, default=4)
    parser.add_argument("--max-listed", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    exchange = replace(
        STORMY,
        max_owners=options.max_owners,
        max_constituents=options.max_constituents,
        max_listed=options.max_listed,
        gather_timeout_s=60.0,
    )
    print("| peers | owners | brought | of all tokens | calls, most | mean | fetched | s a round |")
    print("|---|---|---|---|---|---|---|---|")
    for size in map(int, options.peers.split(",")):
        began_s = time.perf_counter()
        row = run_in_fake_time(_measure(size, exchange, options.rounds))
        print(row, f"<!-- {time.perf_counter() - began_s:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
