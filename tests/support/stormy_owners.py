"""Owners of one slice in one event loop and in fake time, with more holders than places, and links that break.

As in owners_in_memory.py the edge of the rounds is real. Here peers also train, hear of commits by announcement, see
each other in a directory whose claims expire, and keep account of their work as the trainer does.
"""

import asyncio
import contextlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from p2ptrain import clock
from p2ptrain.config.schema import ExchangeConfig, OverlapConfig
from p2ptrain.errors import BadMessage, BadRecord, BlobUnavailable, PeerUnreachable
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.swarm.answers import heads_reply
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.listing import draw_of, is_drawn
from p2ptrain.training.footing import Footing, Move, move
from p2ptrain.wire.messages import BlobRef, Certificate, Entrust, RoundMessage
from p2ptrain.wire.v1 import peer_pb2 as pb
from tests.support.owners_in_memory import EXCHANGE, RUN, SLICE, Hand, OwnersInMemory, gradient

CALL_TIMEOUT_S = 5.0
LEASE_S = 10.0
LOOK_S = 1.0
"""How often a peer looks at the directory."""
PULL_EVERY_S = 2.0
TOKENS_PER_S = 100
STORMY = replace(
    EXCHANGE,
    max_owners=3,
    max_constituents=2,
    gather_timeout_s=6.0,
    reduce_timeout_s=5.0,
    vote_timeout_s=5.0,
    lease_s=LEASE_S,
)


class StormyHand(Hand):
    """A peer that trains; calls take their time, and fail where a link is broken."""

    swarm: "StormyOwners"

    def __init__(self, group: OwnersInMemory, identity: Identity, exchange: ExchangeConfig) -> None:
        super().__init__(group, identity, exchange)
        self.context.quorum = 2  # whoever is cut off alone goes on with nobody

    def start(self, swarm: "StormyOwners") -> None:
        """Begin to train and to look at the directory."""
        self.swarm = swarm
        self._asked = asyncio.Event()
        self.footing = Footing.on(self._anchor, Version(0))
        self.local = self._anchor.copy()

    @property
    def _anchor(self) -> Any:
        assert self.owner.replica.owned is not None
        return self.owner.replica.owned.anchor

    async def train(self) -> None:
        """Inner steps, cut-off, and the wait for the round to be settled, until cancelled."""
        rng = random.Random(f"{self.swarm.seed} {self.peer}")
        for number in itertools.count():
            self._asked.clear()
            began_s = clock.monotonic_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(*self.swarm.train_s)):
                    await self._asked.wait()
            tokens = 1 + int(TOKENS_PER_S * (clock.monotonic_s() - began_s))
            self.footing = self.footing.trained(tokens)
            self.swarm.trained += tokens
            self.local = self.local - gradient(number % 10)
            self.footing = self.footing.cut_off(self.local)
            self._settled = asyncio.Queue()
            await self.owner.contribute(self.footing.anchor - self.local, self.footing.tokens, 1.0)
            await self._settled.get()

    async def look(self) -> None:
        """See the directory, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.context.is_listed = self.swarm.lists(self)
            self.context.claims = self.swarm.claims_seen_by(self.peer)
            holders = self.context.holders(SLICE)
            me = frozenset([self.peer])
            owners = frozenset(self.owner.owners)
            self.owner.claims_changed(holders | me if self.context.is_listed else (holders | owners) - me)

    async def pull_news(self) -> None:
        """Ask somebody who is listed now and then, as ``Swarm`` does, until cancelled."""
        while True:
            await asyncio.sleep(PULL_EVERY_S)
            others = sorted(self.context.claims.keys() - {self.peer})
            if not others or not await self.swarm.reaches(self.peer, peer := self.swarm.draw(others), CALL_TIMEOUT_S):
                continue
            reply = heads_reply(pb.HeadsRequest(have={SLICE: self.version}), [(SLICE, self._group.hands[peer].owner)])
            for certificate in reply.certificates[-1:]:
                self.owner.learn(Certificate.decode(certificate.SerializeToString()), peer)
            for one in reply.behind:
                if not self.owner.history.knows(Version(one.version), Digest(one.value_sha256.hex())):
                    self.owner.meet_rival(peer)

    # As blobs.

    async def fetch(
        self, ref: BlobRef, holders: Sequence[PeerId], *, silence_timeout_s: float, what: str
    ) -> tuple[memoryview, PeerId]:
        for peer in (self.peer, *holders):
            if peer == self.peer or await self.swarm.reaches(self.peer, peer, silence_timeout_s):
                data = self._group.hands[peer].store.get(ref.sha256)
                if data is not None:
                    return data, peer
        raise BlobUnavailable(f"nobody has {what}")

    # As the caller.

    async def deliver(self, peer: PeerId, message: RoundMessage) -> bool:
        await self._call(peer)
        with contextlib.suppress(BadRecord, BadMessage):
            self._group.hands[peer].owner.heard(self.peer, RoundMessage.from_pb(message.to_pb()))
        await self._call(peer)
        return True

    async def newer_certificates(self, peer: PeerId, have: Mapping[SliceId, int]) -> list[Certificate]:
        if not await self.swarm.reaches(self.peer, peer, CALL_TIMEOUT_S):
            return []
        return await super().newer_certificates(peer, have)

    def announce(self, slice_id: SliceId) -> None:
        certificate = self.owner.replica.certificate
        assert certificate
        for peer in self._group.hands:
            if peer != self.peer:
                self.swarm.spawn(self._tell_of(certificate, peer))

    async def _tell_of(self, certificate: Certificate, peer: PeerId) -> None:
        if await self.swarm.reaches(self.peer, peer, CALL_TIMEOUT_S):
            other = self._group.hands[peer]
            if certificate.value.version > other.version:
                other.owner.learn(certificate, self.peer)

    async def entrust(self, owner: PeerId, request: Entrust) -> bool:
        await self._call(owner)
        is_taken = await super().entrust(owner, request)
        await self._call(owner)
        return is_taken

    async def tell_constituent(
        self, peer: PeerId, slice_id: SliceId, version: Version, *, cut_off_within_s: float = 0.0, tokens: int = 0
    ) -> bool:
        await self._call(peer)
        is_heard = await super().tell_constituent(
            peer, slice_id, version, cut_off_within_s=cut_off_within_s, tokens=tokens
        )
        await self._call(peer)
        return is_heard

    async def _call(self, peer: PeerId) -> None:
        if not await self.swarm.reaches(self.peer, peer, CALL_TIMEOUT_S):
            raise PeerUnreachable(peer)

    # As the listener.

    def cut_off_wanted(self, slice_id: SliceId, within_s: float) -> None:
        """Others wait for our contribution."""
        self._asked.set()

    def slice_moved(self, slice_id: SliceId) -> None:
        """Local weights come onto the new anchor, as in the trainer."""
        certificate = self.owner.replica.certificate
        assert certificate
        self.swarm.decided[certificate.value.version].add(certificate.value.value_hash)
        contained = self.owner.contained(certificate)
        parts = self.context.bounds(SLICE)
        to = Move(
            anchor=self._anchor,
            version=certificate.value.version,
            tokens=contained.tokens,
            contained=[parts[part] for part in contained.parts],
            had_place=contained.had_place,
        )
        moved = move(self.footing, self.local, to, OverlapConfig())
        self.swarm.counted[self.peer] += contained.tokens or 0
        self.swarm.dropped[self.peer] += moved.dropped_tokens
        self.footing, self.local = moved.footing, moved.local


class StormyOwners(OwnersInMemory):
    """A swarm of one slice, and what happens to it, made up from a seed."""

    train_s = 1.0, 3.0
    """How long a peer trains in a round, at least and at most."""
    hand_type: type[Hand] = StormyHand
    hands: dict[PeerId, StormyHand]  # type: ignore[assignment]

    def __init__(self, seed: int, size: int, exchange: ExchangeConfig = STORMY, halvings: int = 1) -> None:
        super().__init__(size, exchange)
        self.seed = seed
        self._halvings = halvings
        self.trained = 0
        self.counted: Counter[PeerId] = Counter()
        """Tokens that peers know to be in versions."""
        self.dropped: Counter[PeerId] = Counter()
        self.decided: defaultdict[int, set[str]] = defaultdict(set)
        """Hashes of the values of each version."""
        self._rng = random.Random(seed)
        self._dead: set[PeerId] = set()
        self._cut: set[PeerId] = set()
        self._broken: set[frozenset[PeerId]] = set()
        self._last_seen_s: dict[PeerId, float] = {}
        self._tasks: dict[PeerId, list[asyncio.Task[None]]] = {}
        self._others: set[asyncio.Task[None]] = set()

    @property
    def living(self) -> list[StormyHand]:
        """All that were not killed."""
        return [hand for peer, hand in self.hands.items() if peer not in self._dead]

    @property
    def newest_version(self) -> int:
        """Of all that live."""
        return max(hand.version for hand in self.living)

    @property
    def owners(self) -> set[PeerId]:
        """Of the newest version."""
        return {*max(self.living, key=lambda hand: hand.version).owner.owners}

    @property
    def up_to_date_and_unseen(self) -> set[PeerId]:
        """Who has the newest version and is not in the directory."""
        return {
            hand.peer
            for hand in self.living
            if hand.version == self.newest_version and not hand.owner.has_a_say and hand.peer not in self._last_seen_s
        }

    @property
    def tokens_in_versions(self) -> int:
        """Of all versions up to the newest one."""
        newest = max(self.living, key=lambda hand: hand.version).owner.replica.certificate
        return newest.value.tokens if newest else 0

    @property
    def has_forked(self) -> bool:
        """Whether two groups that did not see each other decided on the same version; one of them gave way since."""
        return any(len(values) > 1 for values in self.decided.values())

    def draw(self, peers: Sequence[PeerId]) -> PeerId:
        """One of them."""
        return self._rng.choice(peers)

    def spawn(self, work: Any) -> None:
        """Begin something that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[list[Hand]]:
        loop = asyncio.get_running_loop()

        async def here(work: Any, *arguments: Any) -> Any:
            await asyncio.sleep(0.01)
            return work(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "monotonic_s", loop.time)
            patch.setattr(clock, "wall_s", lambda: self.seed * 1e6 + loop.time())
            patch.setattr(asyncio, "to_thread", here)
            for hand in self.hands.values():
                hand.start(self)
            self.spawn(self._directory())
            for peer, hand in self.hands.items():
                works = (hand.owner.run(), hand.train(), hand.look(), hand.pull_news())
                self._tasks[peer] = [asyncio.ensure_future(work) for work in works]
            try:
                yield list(self.hands.values())
            finally:
                tasks = [*itertools.chain(*self._tasks.values()), *self._others]
                failed = [task for task in tasks if task.done() and not task.cancelled() and task.exception()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for task in failed:
                    task.result()

    async def storms(self, for_s: float) -> None:
        """Break and mend, every few seconds, and mend everything but the dead at the end."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + for_s
        while loop.time() < until_s:
            await asyncio.sleep(self._rng.expovariate(1 / 5.0))
            living = sorted(hand.peer for hand in self.living)
            match self._rng.choice(("die", "cut", "strike", "back", "break", "mend")):
                case "die" if len(living) > 8 and self._rng.random() < 0.3:
                    self.kill(self._rng.choice(living))
                case "cut":
                    self._cut.add(self._rng.choice(living))
                case "strike":
                    self._cut |= self._most_owners()
                case "back" if self._cut:
                    self._cut.remove(self._rng.choice(sorted(self._cut)))
                case "break":
                    self._broken.add(frozenset(self._rng.sample(living, 2)))
                case "mend" if self._broken:
                    self._broken.remove(self._rng.choice(sorted(self._broken, key=sorted)))
        self._cut.clear()
        self._broken.clear()

    def cut(self, peers: Iterable[PeerId]) -> None:
        """Nothing reaches them or comes from them, not even from each other."""
        self._cut |= {*peers}

    def join_again(self) -> None:
        """Nobody is cut off any more."""
        self._cut.clear()

    async def calm(self, for_s: float) -> None:
        """Let them work in peace."""
        await asyncio.sleep(for_s)

    def kill_most_owners(self) -> None:
        """Of the newest version, with whatever work they were given."""
        for peer in self._most_owners() - self._dead:
            self.kill(peer)

    def _most_owners(self) -> set[PeerId]:
        owners = sorted(self.owners)
        return set(self._rng.sample(owners, len(owners) // 2 + 1))

    def kill(self, peer: PeerId) -> None:
        """As by SIGKILL."""
        self._dead.add(peer)
        for task in self._tasks[peer]:
            task.cancel()

    async def reaches(self, one: PeerId, other: PeerId, timeout_s: float) -> bool:
        """Whether a message gets there, after the time that it takes."""
        await asyncio.sleep(self._rng.uniform(0.005, 0.1))
        silent = self._dead | self._cut
        if one in silent or other in silent or frozenset([one, other]) in self._broken:
            await asyncio.sleep(timeout_s)
            return False
        return True

    def claims_seen_by(self, peer: PeerId) -> Mapping[PeerId, Claim]:
        """What a look at the directory shows; who is cut off sees what it saw last."""
        now_s = asyncio.get_running_loop().time()
        if peer in self._cut:
            return {p: c for p, c in self.hands[peer].context.claims.items() if c.expires_s > now_s}
        expires = {p: seen_s + LEASE_S for p, seen_s in self._last_seen_s.items()}
        return {
            p: Claim(run=RUN, peer=p, ready=(SLICE,), expires_s=at_s, halvings=self._halvings, draw=self._draw_of(p))
            for p, at_s in expires.items()
            if at_s > now_s
        }

    def lists(self, hand: StormyHand) -> bool:
        """Whether the directory is to show a peer: by lot, and if others count on it, as in ``Roster``."""
        is_needed = len(hand.context.holders(SLICE) - {hand.peer}) < hand.context.quorum
        return is_needed or hand.owner.has_a_say or is_drawn(hand.peer, self._draw_of(hand.peer), self._halvings)

    def _draw_of(self, peer: PeerId) -> int:
        return draw_of(peer, clock.wall_s(), LEASE_S)

    async def _directory(self) -> None:
        while True:
            for peer in self.hands.keys() - self._dead - self._cut:
                if self.lists(self.hands[peer]):
                    self._last_seen_s[peer] = asyncio.get_running_loop().time()
                else:
                    self._last_seen_s.pop(peer, None)
            await asyncio.sleep(LOOK_S)
