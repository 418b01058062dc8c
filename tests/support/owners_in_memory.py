"""Owners of one slice in one event loop, without sockets: messages and blobs go from hand to hand.

The round machine alone, under any order of messages, is in simulated_group.py; here its edge (swarm/owner.py) is real,
with arrays, blobs and signatures.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from p2ptrain import clock
from p2ptrain.config.schema import ExchangeConfig
from p2ptrain.errors import BlobUnavailable, PeerUnreachable
from p2ptrain.events import Event, EventBus
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import PeerId, RunId, SliceId, Version
from p2ptrain.swarm.address_book import AddressBook
from p2ptrain.swarm.context import Context, Past, Replica
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.owner import SliceOwner
from p2ptrain.swarm.state import genesis
from p2ptrain.wire.blob_store import BlobStore
from p2ptrain.wire.codec import Float32
from p2ptrain.wire.doorkeeper import Doorkeeper
from p2ptrain.wire.messages import BlobRef, Certificate, Entrust, RoundMessage

RUN = RunId("ab" * 32)
SLICE = SliceId("0")
NUMEL = 1000
EXCHANGE = ExchangeConfig(
    part_elements=400, gather_timeout_s=60.0, reduce_timeout_s=60.0, vote_timeout_s=60.0, lease_s=600.0
)


class Hand:
    """One owner, and what it hears."""

    def __init__(self, group: "OwnersInMemory", identity: Identity, exchange: ExchangeConfig) -> None:
        self.peer = identity.peer_id
        self.store = BlobStore()
        self.events: list[Event] = []
        self.can_fetch: Callable[[str], bool] = lambda what: True
        """By what a blob is, in words."""
        self._group = group
        self._settled: asyncio.Queue[None] = asyncio.Queue()
        anything: Any = self  # stands for the node, the blobs, the listener and the caller
        self.context = Context(
            run=RUN,
            identity=identity,
            exchange=exchange,
            numel={SLICE: NUMEL},
            outer=lambda _: lambda version, anchor, momentum, gradient: (anchor - gradient, momentum),
            node=SimpleNamespace(door=Doorkeeper(), uplink_mbps=0.0, downlink_mbps=0.0),  # type: ignore[arg-type]
            blobs=anything,
            events=EventBus(sinks=[lambda record: self.events.append(record.event)]),
            listener=anything,
            book=AddressBook(identity.peer_id),
        )
        self.context.caller = anything
        self.context.announce = self.announce

    def begin(self, claims: Mapping[PeerId, Claim]) -> None:
        """Take over version 0."""
        self.context.claims = claims
        owned, published = genesis(np.linspace(-1, 1, NUMEL, dtype=np.float32))
        self.owner = SliceOwner(self.context, SLICE, Replica(None, published, owned), Past())

    @property
    def version(self) -> int:
        """Of the slice."""
        return self.owner.replica.published.version

    @property
    def digest(self) -> str:
        """Of what it holds as an owner."""
        assert self.owner.replica.owned is not None
        return self.owner.replica.owned.digest

    async def round_settled_here(self) -> None:
        """Wait until a round that we contributed to is over."""
        await self._settled.get()

    # As blobs.

    async def fetch(
        self, ref: BlobRef, holders: Sequence[PeerId], *, silence_timeout_s: float, what: str
    ) -> tuple[memoryview, PeerId]:
        for peer in (self.peer, *(holders if self.can_fetch(what) else ())):
            data = self._group.hands[peer].store.get(ref.sha256)
            if data is not None:
                return data, peer
        raise BlobUnavailable(f"nobody has {what}")

    # As the caller.

    async def deliver(self, peer: PeerId, message: RoundMessage) -> bool:
        if self._group.passes(self.peer, peer, message):
            self._group.hands[peer].owner.heard(self.peer, RoundMessage.from_pb(message.to_pb()))
        return True  # what is lost on the way is not noticed

    async def newer_certificates(self, peer: PeerId, have: Mapping[SliceId, int]) -> list[Certificate]:
        return self._group.hands[peer].owner.history.since(Version(have[SLICE]))

    async def decided_otherwise(self, peer: PeerId, slice_id: SliceId, head: Head) -> bool:
        return False

    def announce(self, slice_id: SliceId) -> None:
        pass

    async def entrust(self, owner: PeerId, request: Entrust) -> bool:
        if not self._group.is_reachable(self.peer, owner):
            raise PeerUnreachable(owner)
        return not self._group.hands[owner].owner.entrusted(self.peer, Entrust.from_pb(request.to_pb()))

    async def tell_constituent(
        self, peer: PeerId, slice_id: SliceId, version: Version, *, cut_off_within_s: float = 0.0, tokens: int = 0
    ) -> bool:
        if not self._group.is_reachable(self.peer, peer):
            raise PeerUnreachable(peer)
        owner = self._group.hands[peer].owner
        return owner.heard_from_delegate(self.peer, version, cut_off_within_s=cut_off_within_s, tokens=tokens)

    # As the listener.

    def round_settled(self, slice_id: SliceId, beside: Version) -> None:
        self._settled.put_nowait(None)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name in ("cut_off_wanted", "slice_moved", "save_promise", "save_accepted"):
            return lambda *arguments: None
        raise AttributeError(name)


class OwnersInMemory:
    """A group; ``passes`` decides which messages arrive, and may raise what a broken link raises."""

    hand_type: type[Hand] = Hand

    def __init__(self, size: int, exchange: ExchangeConfig = EXCHANGE) -> None:
        identities = [Identity.from_seed(number.to_bytes(32)) for number in range(size)]
        identities.sort(key=lambda one: one.peer_id)
        self.hands = {one.peer_id: self.hand_type(self, one, exchange) for one in identities}
        self.passes: Callable[[PeerId, PeerId, RoundMessage], bool] = lambda sender, to, message: True
        self.is_reachable: Callable[[PeerId, PeerId], bool] = lambda sender, to: True
        """For calls between a delegate and its constituents."""
        expires_s = clock.monotonic_s() + EXCHANGE.lease_s
        claims = {peer: Claim(run=RUN, peer=peer, ready=(SLICE,), expires_s=expires_s) for peer in self.hands}
        for hand in self.hands.values():
            hand.begin(claims)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[list[Hand]]:
        """The owners, in the order of their ids, while their rounds are driven."""
        hands = list(self.hands.values())
        tasks = [asyncio.ensure_future(hand.owner.run()) for hand in hands]
        try:
            yield hands
        finally:
            for task in tasks:
                task.cancel()
            done, _ = await asyncio.wait(tasks)
            for task in done:
                if not task.cancelled():
                    task.result()


def gradient(number: int) -> Float32:
    """A pseudo-gradient of which encoding rounds something away."""
    return np.random.default_rng(number).standard_normal(NUMEL).astype(np.float32)
