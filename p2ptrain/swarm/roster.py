"""Who takes part: our own claim, kept fresh in the directory, and what we know of the others'."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from p2ptrain import clock
from p2ptrain.errors import PeerUnreachable
from p2ptrain.ids import PeerId, SliceId
from p2ptrain.swarm.answers import CALL_TIMEOUT_S, STATUS, Condition
from p2ptrain.swarm.assignment import Assignment
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.directory import Claim, Directory
from p2ptrain.swarm.leases import Leases
from p2ptrain.swarm.liveness import Liveness
from p2ptrain.swarm.owner import SliceOwner
from p2ptrain.wire.v1 import peer_pb2 as pb

_MAX_LOOK_INTERVAL_S = 2.0
"""Longest pause between looks at the directory; a look costs a few milliseconds."""
_SEEN_WITHIN_S = 30.0
"""How long a peer that starts insists on being seen: ten times as long as hivemind waits for one answer."""
_ASK_AGAIN_S = 0.5


def look_interval_s(lease_s: float) -> float:
    """Pause between two looks at the directory, by the run's lease."""
    return min(_MAX_LOOK_INTERVAL_S, lease_s / 4)


class Roster:
    """Publishes and looks; what it sees is ``Context.claims``.

    Args:
        context: this peer; its ``claims`` are kept up to date.
        directory: where claims are.
        assignment: what our claim says.
        owners: our part in every owned slice, told when the holders of its slice change.
        condition: how this peer is.
    """

    def __init__(
        self,
        context: Context,
        directory: Directory,
        assignment: Assignment,
        owners: Mapping[SliceId, SliceOwner],
        condition: Callable[[], Condition],
    ) -> None:
        self.directory = directory
        lease_s = context.exchange.lease_s
        self.look_s = look_interval_s(lease_s)
        """Pause between two looks."""
        self._context = context
        self._assignment = assignment
        self._owners = owners
        self._condition = condition
        self._is_away = False
        self._hurry = asyncio.Event()
        self._shown_until_s = 0.0
        """When the claim that we published last expires; wall time."""
        self._answer_s = min(CALL_TIMEOUT_S, lease_s / 2)
        """How long a living peer may take to answer."""
        self._leases = Leases(lease_s)
        self._liveness = Liveness(
            me=context.me, lease_s=lease_s, answers=self._is_alive, any_bootstrap_answers=self._any_bootstrap_answers
        )
        self._holders_told: dict[SliceId, frozenset[PeerId]] = {}
        """Per owned slice what its machine was last told."""

    # Our claim.

    async def publish(self) -> None:
        """Tell everybody what we own, as the assignment has it now."""
        claim = self._assignment.claim(clock.wall_s() + self._context.exchange.lease_s)
        claim = replace(claim, is_away=self._is_away)
        if not self._condition().can_vote:  # then we leave slices to their other owners, who need a majority
            kept = [s for s in claim.ready if not self._context.holders(s) - {self._context.me}]
            claim = replace(claim, ready=tuple(kept))
        self._context.claims = {**self._context.claims, claim.peer: claim}
        self._shown_until_s = claim.expires_s
        await self.directory.publish(claim)

    async def keep_published(self) -> None:
        """Never returns. Renews our claim, however long a look at the others' takes."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._context.exchange.lease_s / 3):
                    await self._hurry.wait()
            self._hurry.clear()
            await self.publish()

    @contextlib.contextmanager
    def published(self) -> Iterator[None]:
        """Our claim is renewed meanwhile."""
        showing = asyncio.create_task(self.keep_published())
        try:
            yield
        finally:
            showing.cancel()

    def publish_soon(self) -> None:
        """Publish our claim now: what the others know of us may be stale."""
        self._hurry.set()

    async def be_away(self, is_away: bool) -> None:
        """Tell the others that this peer keeps its place but computes nothing, or that it is back."""
        self._is_away = is_away
        await self.publish()

    # The others'.

    async def look(self, *, elsewhere: bool = False) -> bool:
        """Bring our view of the claims up to date, and tell the owners what changed; whether ours was among them."""
        me = self._context.me
        found = dict(await self.directory.claims(elsewhere=elsewhere))
        ours = found.pop(me, None)  # we know better what it says
        newer = self._leases.renewed(found, monotonic_s=clock.monotonic_s(), wall_s=clock.wall_s())
        # A claim holds until it expires even if one look misses it: the DHT answers with what some of its nodes have.
        living = await self._liveness.living({**self._context.claims, **newer}, now_s=clock.monotonic_s())
        self._context.claims = living | {me: self._context.claims[me]}
        for slice_id, owner in self._owners.items():
            holders = self._context.holders(slice_id)
            if holders != self._holders_told.get(slice_id):
                self._holders_told[slice_id] = holders
                owner.claims_changed()
        return ours is not None and ours.expires_s >= self._shown_until_s

    async def look_until_seen(self) -> None:
        """Look until another node shows us our own claim, so that it would show us those of the others, too.

        A directory that does not answer looks like one in which there is nobody, and who is alone founds slices anew.
        """
        deadline_s = clock.monotonic_s() + _SEEN_WITHIN_S
        while not await self.look(elsewhere=True):
            if not self._context.node.bootstraps or clock.monotonic_s() > deadline_s:
                return  # we are the first, or nobody sees us, which the watchdog of isolation will say
            await asyncio.sleep(_ASK_AGAIN_S)
            await self.publish()

    async def answering(self) -> dict[PeerId, Claim]:
        """The claims of peers that answer: one that died a moment ago leaves a gap that its claim still hides."""
        claims = self._context.claims
        others = [peer for peer in claims if peer != self._context.me]
        # Patiently: a wrong choice costs a move later, and only what is frozen is waited for.
        answers = await asyncio.gather(*(self._is_alive(peer, CALL_TIMEOUT_S) for peer in others))
        dead = {peer for peer, alive in zip(others, answers, strict=True) if not alive}
        return {peer: claim for peer, claim in claims.items() if peer not in dead}

    async def _is_alive(self, peer: PeerId, timeout_s: float | None = None) -> bool:
        """Whether a peer whose claim expired still answers; then its record is late, and it keeps its place."""
        request = pb.StatusRequest(run=self._context.run)
        try:
            await self._context.node.call(peer, STATUS, request, pb.StatusReply, timeout_s=timeout_s or self._answer_s)
        except PeerUnreachable:
            return False
        return True

    async def _any_bootstrap_answers(self) -> bool:
        node = self._context.node
        return any(await asyncio.gather(*(node.is_there(address, self._answer_s) for address in node.bootstraps)))
