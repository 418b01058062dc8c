"""Who takes part: our own claim, kept fresh in the directory, and what we know of the others'.

Where not all can be listed (swarm/listing.py) a peer publishes its claim while it is drawn or others need it. While
it is not listed it looks seldom: everybody looking at the usual pace would be too much for those who keep the records.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from p2ptrain import clock
from p2ptrain.errors import PeerUnreachable
from p2ptrain.events import ListingChanged
from p2ptrain.ids import PeerId, SliceId, Version
from p2ptrain.swarm.answers import CALL_TIMEOUT_S, STATUS, Condition
from p2ptrain.swarm.assignment import Assignment
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.directory import Claim, Directory
from p2ptrain.swarm.leases import Leases
from p2ptrain.swarm.listing import DRAW_LEASES, draw_of, is_drawn, next_halvings
from p2ptrain.swarm.liveness import Liveness
from p2ptrain.swarm.owner import SliceOwner
from p2ptrain.swarm.spread import some
from p2ptrain.wire.v1 import peer_pb2 as pb

_NEW_FOR_LEASES = 2
"""How long whoever starts or has changed slices stays listed, so that others count on it and may name it an owner."""
_MOST_ASKED = 64
"""Peers of whom a newcomer finds out whether they live; enough to see which slices lack owners."""
_READ_AT_ONCE = 64
"""Claims, some 300 bytes each, that are read at the usual pace; where there are more, less often."""
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
        """Pause between two looks, at least."""
        self._lease_s = lease_s
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
        self._settled_s: float | None = None
        """Since when we have been ready for all that we own; None: not yet."""
        self._settled_at: dict[SliceId, Version] = {}
        """The version of each of our slices then."""
        self._gone_until_s = 0.0
        """How long we tell the others that we are listed no more."""
        self._looked_s = float("-inf")
        self._follows_until_s = float("-inf")
        """Listed again, we decide nothing until another node has shown us our claim, or until then."""

    # Our claim.

    async def publish(self) -> None:
        """Tell everybody what we own, as the assignment has it now, if we are listed."""
        wall_s = clock.wall_s()
        claim = replace(
            self._assignment.claim(wall_s + self._lease_s),
            is_away=self._is_away,
            halvings=self._context.halvings,
            draw=draw_of(self._context.me, wall_s, self._lease_s),
        )
        if not self._condition().can_vote:  # then we leave slices to their other owners, who need a majority
            kept = [s for s in claim.ready if not self._context.holders(s) - {self._context.me}]
            claim = replace(claim, ready=tuple(kept))
        self._context.claims = {**self._context.claims, claim.peer: claim}
        if self._context.is_listed:
            self._shown_until_s = claim.expires_s
            await self.directory.publish(claim)
        elif clock.monotonic_s() < self._gone_until_s:
            await self._withdraw(claim)

    async def leave(self) -> None:
        """Withdraw our claim, so that nobody waits for us; nothing is published after that."""
        if self._context.is_listed or clock.monotonic_s() < self._gone_until_s:
            self._context.is_listed = False
            await self._withdraw(self._assignment.claim(clock.wall_s() + self._lease_s))

    async def _withdraw(self, claim: Claim) -> None:
        await self.directory.publish(replace(claim, ready=(), joining=(), leaving=(), is_withdrawn=True))

    async def list_or_withdraw(self) -> None:
        """Have ourselves listed, or no longer, where the lot or our slices say so."""
        context, is_listed = self._context, self._belongs_on_the_list()
        if is_listed != context.is_listed:
            if is_listed:
                await self.look()  # what we saw last may be minutes old
                self._follows_until_s = clock.monotonic_s() + _SEEN_WITHIN_S
            else:
                self._gone_until_s = clock.monotonic_s() + self._lease_s
            context.is_listed = is_listed
            await self.publish()
            peers, listed = self._context.num_peers(), self._num_listed()
            context.events.emit(ListingChanged(is_listed=is_listed, peers=peers, listed=listed))
        self._tell_owners()

    def _belongs_on_the_list(self) -> bool:
        context, mine = self._context, self._assignment
        is_new = self._is_new()  # always asked: it keeps the time
        return (
            is_new
            or is_drawn(context.me, draw_of(context.me, clock.wall_s(), self._lease_s), context.halvings)
            or any(owner.has_a_say for owner in self._owners.values())
            or any(len(context.holders(s) - {context.me}) < context.quorum for s in mine.ready)
            or mine.has_open_order
        )

    def _is_new(self) -> bool:
        """Whether we have not been ready for long enough to be named an owner where there is a place."""
        mine, owners, now_s = self._assignment, self._owners, clock.monotonic_s()
        has_all = owners and all(owner.replica.certificate for owner in owners.values())
        if mine.joining or mine.leaving or not has_all:
            return True
        if self._settled_s is None or self._settled_at.keys() != owners.keys():
            self._settled_s = now_s
            self._settled_at = {s: owner.replica.published.version for s, owner in owners.items()}
        stalls = any(owner.replica.published.version <= self._settled_at[s] for s, owner in owners.items())
        return stalls or now_s - self._settled_s < _NEW_FOR_LEASES * self._lease_s

    async def keep_published(self) -> None:
        """Never returns. Renews our claim, however long a look at the others' takes."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / 3):
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
        context, me = self._context, self._context.me
        self._looked_s = clock.monotonic_s()
        found = dict(await self.directory.claims(elsewhere=elsewhere or not self._decides))
        ours = found.pop(me, None)  # we know better what it says
        newer = self._leases.renewed(found, monotonic_s=clock.monotonic_s(), wall_s=clock.wall_s())
        withdrawn = {peer for peer, claim in newer.items() if claim.is_withdrawn}
        known = {peer: claim for peer, claim in {**context.claims, **newer}.items() if peer not in withdrawn}
        if context.is_listed:
            # A claim holds until it expires even if one look misses it: the DHT answers with what some nodes have.
            living = await self._liveness.living(known, now_s=clock.monotonic_s())
        else:  # we decide nothing: who has vanished since our last look need not be asked whether it lives
            living = {peer: known[peer] for peer in found if peer in known} or known
        context.claims = living | {me: context.claims[me]}
        context.halvings = next_halvings(context.halvings, self._context.num_peers(), context.exchange.max_listed)
        is_seen = ours is not None and ours.expires_s >= self._shown_until_s
        if is_seen and context.is_listed:
            self._follows_until_s = float("-inf")
        self._tell_owners()
        return is_seen

    @property
    def _decides(self) -> bool:
        """Whether we may take others for gone: not if we are not listed, or hardly are and may see a part only."""
        return self._context.is_listed and clock.monotonic_s() >= self._follows_until_s

    @property
    def is_look_due(self) -> bool:
        """Whether it is time for the next look: later where there is more to read or where we only follow."""
        crowd = max(1.0, len(self._context.claims) / _READ_AT_ONCE)
        pause_s = min(self.look_s * crowd, self._lease_s / 4)
        if not self._context.is_listed:
            pause_s = min(pause_s * 2**self._context.halvings, DRAW_LEASES * self._lease_s)
        return clock.monotonic_s() >= self._looked_s + pause_s - self.look_s / 2  # whoever asks comes every look_s

    def why_not_listed(self) -> str:
        """For people; empty while we are."""
        context = self._context
        if context.is_listed:
            return ""
        peers, listed = self._context.num_peers(), self._num_listed()
        return f"some {peers} peers take part and {listed} of them are listed now, by lot, without this one"

    def _num_listed(self) -> int:
        return len(self._context.claims) - (not self._context.is_listed)

    def _tell_owners(self) -> None:
        me = frozenset([self._context.me])
        for slice_id, owner in self._owners.items():
            holders = self._context.holders(slice_id)
            # Who decides nothing founds no group (round_state.membership), and takes the owners named last for alive.
            owner.claims_changed(holders | me if self._decides else (holders | {*owner.owners}) - me)

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
        others = some([peer for peer in claims if peer != self._context.me], _MOST_ASKED)
        # Patiently: a wrong choice costs a move later, and only what is frozen is waited for.
        answers = await asyncio.gather(*(self._is_alive(peer, CALL_TIMEOUT_S) for peer in others))
        dead = {peer for peer, alive in zip(others, answers, strict=True) if not alive}
        return {peer: claim for peer, claim in claims.items() if peer not in dead}

    async def _is_alive(self, peer: PeerId, timeout_s: float | None = None) -> bool:
        """Whether a peer whose claim expired still answers; then its record is late, and it keeps its place.

        Unless it is not listed any more, and we have missed that it said so.
        """
        call, request = self._context.node.call, pb.StatusRequest(run=self._context.run)
        try:
            reply = await call(peer, STATUS, request, pb.StatusReply, timeout_s=timeout_s or self._answer_s)
        except PeerUnreachable:
            return False
        return not reply.unlisted

    async def _any_bootstrap_answers(self) -> bool:
        node = self._context.node
        return any(await asyncio.gather(*(node.is_there(address, self._answer_s) for address in node.bootstraps)))
