"""One peer's part in the swarm: its claims, its slices, what others ask of it, and how news spreads.

News of a commit reaches the other peers twice: pushed from the slice's owners down a tree (swarm/spread.py), and pulled
by everybody from one random peer every few seconds, which covers whatever the push missed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from p2ptrain import clock
from p2ptrain.errors import BadMessage, BadRecord, BlobUnavailable, PeerUnreachable
from p2ptrain.events import (
    ChangeAbandoned,
    CoverageChanged,
    SliceGained,
    SliceGivenUp,
    SlicesClaimed,
)
from p2ptrain.ids import COMMON, GENESIS, Digest, PeerId, SliceId, Version, slice_of, slice_order
from p2ptrain.swarm.answers import HEADS, STATUS, Condition, Part, heads_reply, status_reply
from p2ptrain.swarm.assignment import Assignment
from p2ptrain.swarm.beside import begin_beside
from p2ptrain.swarm.calls import DELEGATE, ENTRUST, ROUND, Calls
from p2ptrain.swarm.catch_up import head_of
from p2ptrain.swarm.context import Context, Past, Replica
from p2ptrain.swarm.coverage import Change, Coverage, Pace, Target
from p2ptrain.swarm.directory import Claim, Directory
from p2ptrain.swarm.follower import SliceFollower
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.history import History, PastRound
from p2ptrain.swarm.joining import Joining
from p2ptrain.swarm.owner import SliceOwner
from p2ptrain.swarm.pacing import newcomers_need_s
from p2ptrain.swarm.roster import Roster, look_interval_s
from p2ptrain.swarm.spread import FAN_OUT, some, whom_to_tell
from p2ptrain.wire.codec import encoded_bytes
from p2ptrain.wire.messages import Certificate, Committed, Entrust, RoundMessage
from p2ptrain.wire.v1 import peer_pb2 as pb

_PULL_EVERY_S = 2.0
_BY_ORDER = "the run's authority asks this peer to"
_SETTLE_S = 1.0
"""Pause between announcing that we are undecided and choosing, so that peers that start together see each other."""


class Swarm:
    """This peer among the others; ``start``, ``join``, then ``run`` until cancelled, then ``leave``."""

    def __init__(
        self, context: Context, directory: Directory, condition: Callable[[], Condition], target: Target
    ) -> None:
        self.owners: dict[SliceId, SliceOwner] = {}
        self.followers: dict[SliceId, SliceFollower] = {}
        context.announce = self.announce
        self._context = context
        self._condition = condition
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[SliceId, asyncio.Task[None]] = {}
        """Per owned slice the task that drives its rounds."""
        lease_s = context.exchange.lease_s
        self._changed_s = float("-inf")
        """When we last began to change slices; monotonic."""
        self.assignment = Assignment(
            context.me,
            context.run,
            tuple(dict.fromkeys(slice_of(s) for s in context.numel if slice_of(s) != COMMON)),
            target=target,
            pace=Pace.of(lease_s=lease_s, look_s=look_interval_s(lease_s)),
            capacity=lambda: condition().capacity,
            ordered=lambda: condition().ordered,
        )
        self.roster = Roster(context, directory, self.assignment, self.owners, condition)
        self._calls = context.caller = Calls(context)
        self._joining = Joining(context, self._calls, self.roster)
        self._coverage_seen: dict[SliceId, Coverage] = {}
        self._coverage_said: dict[SliceId, tuple[bool, bool]] = {}
        """Per slice whether it was covered and thin when we last said so."""

    # Life.

    async def start(self) -> None:
        """Begin to answer other peers."""
        node = self._context.node
        await self._context.blobs.start()
        await node.serve(ROUND, pb.RoundMessage, self._on_round_message)
        await node.serve(ENTRUST, pb.EntrustRequest, self._on_entrust)
        await node.serve(DELEGATE, pb.DelegateNews, self._on_delegate_news)
        await node.serve(HEADS, pb.HeadsRequest, self._on_heads)
        await node.serve(STATUS, pb.StatusRequest, self._on_status)

    async def choose(self, wanted: Sequence[SliceId] | None, *, is_fixed: bool) -> frozenset[SliceId]:
        """The slices that this peer owns from now on, always with the common part; published as a claim.

        Args:
            wanted: numbered slices; None takes the one that needs an owner most.
            is_fixed: nobody but the volunteer changes them later.
        """
        mine = self.assignment
        mine.is_fixed = is_fixed
        if wanted is None:
            await self.roster.publish()
            with self.roster.published():
                await asyncio.sleep(_SETTLE_S)
                await self.roster.look_until_seen()
                if mine.ordered:
                    wanted, reason = _sorted(mine.ordered), _BY_ORDER
                else:
                    choice = mine.first_choice(await self.roster.answering(), clock.wall_s())
                    assert choice.gains is not None
                    wanted, reason = [choice.gains], choice.reason
        else:
            by_order = mine.ordered and mine.ordered == frozenset(wanted)
            reason = "as you asked" if is_fixed else _BY_ORDER if by_order else "its state is on our disk"
        mine.joining = frozenset([COMMON, *wanted])
        mine.changed_s = clock.wall_s()
        await self.roster.publish()
        self._context.events.emit(SlicesClaimed(slices=list(_sorted(mine.joining)), reason=reason))
        return mine.joining

    async def join(
        self,
        owned: frozenset[SliceId],
        replicas: Mapping[SliceId, Replica],
        pasts: Mapping[SliceId, Past],
        histories: Mapping[SliceId, Sequence[PastRound]],
        followed: Mapping[SliceId, Replica] = MappingProxyType({}),
    ) -> None:
        """Bring every slice to the newest version that the others have, and become their owner or follower.

        Args:
            owned: the slices that this peer owns, or where there are fragments all of theirs.
            replicas: what it holds of every slice: from disk, or version 0.
            pasts: what it said as an owner before it was stopped, from disk.
            histories: rounds that led to these replicas, from disk, to pass on.
            followed: what it has, from disk, of slices that it owns from now on: without the owners' state, which
                others are asked for first.
        """
        with self.roster.published():  # fetching takes longer than a claim lasts
            await self.roster.look_until_seen()
            current, chains = await self._joining.catch_up_with_all(owned, replicas, histories, followed)
            self._begin_parts(owned, current, pasts, chains)
            await self.roster.publish()
            # Peers that become ready together should find each other before one of them founds the group alone.
            await asyncio.sleep(_SETTLE_S)
            await self.roster.look_until_seen()

    def _begin_parts(
        self,
        owned: frozenset[SliceId],
        current: Mapping[SliceId, Replica],
        pasts: Mapping[SliceId, Past],
        chains: Mapping[SliceId, Sequence[PastRound]],
    ) -> None:
        """Be the owner or follower of every slice from here on."""
        for slice_id in _sorted(self._context.numel):
            if slice_id in owned:
                past = pasts.get(slice_id, Past())
                self.owners[slice_id] = SliceOwner(self._context, slice_id, current[slice_id], past)
            else:
                self.followers[slice_id] = SliceFollower(self._context, slice_id, current[slice_id])
        for slice_id, part in self._parts():
            chain = chains.get(slice_id, [])
            if chain and Head.of(chain[-1].certificate) == head_of(part.replica):
                part.history.restore(chain)
        self.assignment.ready, self.assignment.joining = frozenset(map(slice_of, owned)), frozenset()

    async def run(self) -> None:
        """Keep claims fresh, rounds going and news flowing until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for slice_id, owner in self.owners.items():
                self._running[slice_id] = self._group.create_task(owner.run())
            self._spawn(self.roster.keep_published())
            self._spawn(self._keep_directory())
            self._spawn(self._pull_news())

    async def leave(self) -> None:
        """Withdraw the claim, so that nobody waits for us."""
        await self.roster.leave()

    def replica(self, slice_id: SliceId) -> Replica:
        """What this peer holds of a slice."""
        return (self.owners.get(slice_id) or self.followers[slice_id]).replica

    def newcomers_need_s(self, fragments: Collection[SliceId]) -> tuple[int, float]:
        """How many wait for what only we own, and how long a round of these has to be so that they can follow."""
        context = self._context
        update_bytes = {one: encoded_bytes(context.exchange.codec, context.numel[one]) for one in fragments}
        uplink_mbps, most_s = context.node.uplink_mbps, context.exchange.reduce_timeout_s
        return newcomers_need_s(context.me, context.claims, update_bytes, uplink_mbps, most_s)

    def history(self, slice_id: SliceId) -> History:
        """The last rounds of a slice as this peer can pass them on."""
        return (self.owners.get(slice_id) or self.followers[slice_id]).history

    @property
    def claims(self) -> Mapping[PeerId, Claim]:
        """Live claims, ours included."""
        return self._context.claims

    @property
    def context(self) -> Context:
        """What the parts of the swarm share."""
        return self._context

    # What the parts ask of us.

    def announce(self, slice_id: SliceId) -> None:
        """Push the news of a commit to those whose turn it is to hear it from us."""
        replica = self.replica(slice_id)
        if replica.certificate is None or self._group is None:
            return
        value, ballot = replica.certificate.value, replica.certificate.ballot
        voters = [vote.peer for vote in replica.certificate.votes]
        message = RoundMessage(self._context.run, slice_id, value.version, ballot, Committed(replica.certificate))
        told = whom_to_tell(self._context.me, self._context.claims, voters, value.value_hash)
        if not self._context.is_listed:  # then we have no place in the listed peers' tree
            told = some(self._context.unlisted, FAN_OUT)
        for peer in told:
            self._spawn(self._tell(peer, message))

    # What other peers ask.

    async def _on_round_message(self, sender: PeerId, request: pb.RoundMessage) -> pb.Ack:
        if request.run != self._context.run:
            return pb.Ack(refusal=f"this peer trains run {self._context.run}, not {request.run[:64]}")
        try:
            message = RoundMessage.from_pb(request)
            if owner := self.owners.get(message.slice):
                owner.heard(sender, message)
            elif isinstance(message.body, Committed):
                certificate = self._context.checked(message.body.certificate, self._context.numel)
                follower = self.followers.get(message.slice)
                if follower and self._group:  # before run() we are joining, and ask for ourselves
                    self._spawn(self._follow(follower, certificate, sender))
            else:
                return pb.Ack(refusal=f"this peer does not own slice {message.slice[:64]}")
        except (BadMessage, BadRecord) as error:
            self._calls.refuse(sender, str(error))
            return pb.Ack(refusal=str(error))
        return pb.Ack()

    async def _on_entrust(self, sender: PeerId, request: pb.EntrustRequest) -> pb.EntrustReply:
        try:
            entrust = Entrust.from_pb(request)
            owner = self.owners.get(entrust.slice)
            if entrust.run != self._context.run or owner is None:
                return pb.EntrustReply(refusal=f"this peer does not own slice {request.slice[:64]} of such a run")
            return pb.EntrustReply(refusal=owner.entrusted(sender, entrust))
        except BadMessage as error:
            self._calls.refuse(sender, str(error))
            return pb.EntrustReply(refusal=str(error))

    async def _on_delegate_news(self, sender: PeerId, news: pb.DelegateNews) -> pb.Ack:
        owner = self.owners.get(SliceId(news.slice))
        if news.run != self._context.run or owner is None:
            return pb.Ack(refusal=f"this peer does not own slice {news.slice[:64]} of such a run")
        is_ours = owner.heard_from_delegate(
            sender, Version(news.version), cut_off_within_s=news.cut_off_within_s, tokens=news.tokens
        )
        return pb.Ack(refusal="" if is_ours else "you bring no work of this peer to that version")

    async def _on_heads(self, sender: PeerId, request: pb.HeadsRequest) -> pb.HeadsReply:
        if request.run != self._context.run:
            return pb.HeadsReply(refusal=f"this peer trains run {self._context.run}")
        return heads_reply(request, self._parts())

    async def _on_status(self, sender: PeerId, request: pb.StatusRequest) -> pb.StatusReply:
        if request.run != self._context.run:
            return pb.StatusReply(refusal=f"this peer trains run {self._context.run}")
        return self.status()

    def status(self) -> pb.StatusReply:
        """What this peer answers when it is asked for its status."""
        reply = status_reply(self._condition(), self._parts(), self._context.node.traffic)
        reply.peer, reply.unlisted = self._context.me, not self._context.is_listed
        return reply

    def _parts(self) -> list[tuple[SliceId, Part]]:
        return sorted([*self.owners.items(), *self.followers.items()], key=lambda item: slice_order(item[0]))

    # What runs beside the rounds.

    async def _keep_directory(self) -> None:
        while True:
            await asyncio.sleep(self.roster.look_s)
            await self.roster.list_or_withdraw()
            if not self.roster.is_look_due:
                continue
            await self.roster.look()
            self._report_coverage()
            await self._release_what_others_own()
            if change := self._due_change():
                self._changed_s = clock.monotonic_s()
                self.assignment.begin(change, clock.wall_s())
                self._spawn(self._carry_out(change))

    def _due_change(self) -> Change | None:
        if not self._context.is_listed:
            return None  # the others cannot see what we take, and would take it, too
        return self.assignment.due(self._context.claims, monotonic_s=clock.monotonic_s(), wall_s=clock.wall_s())

    async def _pull_news(self) -> None:
        while True:
            await asyncio.sleep(_PULL_EVERY_S)
            listed = [peer for peer in self._context.claims if peer != self._context.me]
            others = listed if self._context.may_ask_listed() else self._context.unlisted
            if not others:
                continue
            await self._pull_news_from(*some(others, 1))

    async def _pull_news_from(self, peer: PeerId) -> None:
        have = {slice_id: part.replica.published.version for slice_id, part in self._parts()}
        news = await self._calls.ask_for_news(peer, have)
        if news is None:
            return
        for slice_id, certificates in _by_slice(news.certificates).items():
            if follower := self.followers.get(slice_id):
                await follower.learn(certificates, peer)
            elif owner := self.owners.get(slice_id):
                owner.learn(certificates[-1], peer)
        await self._meet_rivals(peer, news.behind)

    async def _meet_rivals(self, peer: PeerId, behind: Mapping[SliceId, tuple[Version, Digest]]) -> None:
        """Compare branches with a peer that has nothing newer, but that may stand on another one.

        What is not remembered may be another: whoever has fetched a state whole does not know what led to it.
        """
        maybe_rivals = [s for s, part in self._parts() if s in behind and not part.history.knows(*behind[s])]
        for slice_id in maybe_rivals:
            if owner := self.owners.get(slice_id):
                owner.meet_rival(peer)
        # Followers have no owners' state to offer, and go over or stay.
        if followed := {s: GENESIS for s in maybe_rivals if s in self.followers}:
            for slice_id, certificates in _by_slice(await self._calls.newer_certificates(peer, followed)).items():
                if follower := self.followers.get(slice_id):
                    await follower.learn(certificates[-1:], peer)

    async def _follow(self, follower: SliceFollower, certificate: Certificate, sender: PeerId) -> None:
        missed = certificate.value.version - follower.replica.published.version
        certificates = [certificate]
        if missed > 1:
            have = {follower.slice: follower.replica.published.version}
            certificates = await self._calls.newer_certificates(sender, have)
        await follower.learn(certificates, sender)

    async def _tell(self, peer: PeerId, message: RoundMessage) -> None:
        with contextlib.suppress(PeerUnreachable):
            await self._calls.deliver(peer, message)

    # Changing slices while running.

    async def _carry_out(self, change: Change) -> None:
        """One line of the plan that names us; ``assignment`` has begun it."""
        mine = self.assignment
        await self.roster.publish()
        held = (mine.ready | mine.joining) - mine.leaving
        self._context.events.emit(SlicesClaimed(slices=list(_sorted(held)), reason=change.reason))
        if change.gains:
            fragments = _sorted(self._context.fragments([change.gains]))
            try:
                replicas = {
                    fragment: await self._joining.owners_replica(fragment, self.followers[fragment].replica)
                    for fragment in fragments
                }
            except (BlobUnavailable, BadMessage) as error:
                mine.abandon(change)
                self._context.events.emit(ChangeAbandoned(slice=change.gains, reason=str(error)))
                await self.roster.publish()
                return
            for fragment, replica in replicas.items():  # the first ones have moved on while the others were fetched
                self._start_owning(fragment, await self._joining.newest(fragment, replica))
            mine.has_joined(change.gains)
            version = min(self.owners[fragment].replica.published.version for fragment in fragments)
            self._context.events.emit(SliceGained(slice=change.gains, version=version, reason=change.reason))
            await self.roster.publish()
        self._context.listener.slices_changed(self._context.fragments(mine.trained))

    def _start_owning(self, slice_id: SliceId, replica: Replica) -> None:
        follower = self.followers.pop(slice_id)
        follower.stop_serving()
        owner = SliceOwner(self._context, slice_id, replica, self._context.listener.past_of(slice_id))
        owner.history, owner.loss_nats = follower.history, follower.loss_nats
        self.owners[slice_id] = owner
        assert self._group is not None
        self._running[slice_id] = self._group.create_task(owner.run())

    def _stop_owning(self, slice_id: SliceId, owner: SliceOwner) -> None:
        self._running.pop(slice_id).cancel()
        del self.owners[slice_id]
        owner.stop_serving()
        follower = SliceFollower(self._context, slice_id, replace(owner.replica, owned=None))
        follower.history, follower.loss_nats = owner.history, owner.loss_nats
        self.followers[slice_id] = follower

    async def _release_what_others_own(self) -> None:
        """End our part in slices that we leave, once others are owners by certificate and nothing of ours is open."""
        mine = self.assignment
        if clock.monotonic_s() - self._changed_s < self._context.exchange.lease_s:
            return  # two owners that leave together must have seen each other's claims say so: one of them stays
        for slice_id in _sorted(mine.leaving):
            owners = {f: self.owners[f] for f in _sorted(self._context.fragments([slice_id]))}
            certified = set[PeerId].intersection(*(set(owner.owners) for owner in owners.values()))
            others = certified & self._context.holders(slice_id) - {self._context.me}
            if not others or not mine.may_release(slice_id, self._context.claims):
                if not mine.joining and mine.stays_after_all(slice_id):
                    mine.stay(slice_id)
                    self._context.listener.slices_changed(self._context.fragments(mine.trained))
                    await self.roster.publish()
                continue
            if not all(owner.can_stop and not self._context.listener.is_training(f) for f, owner in owners.items()):
                continue
            for fragment, owner in owners.items():
                self._stop_owning(fragment, owner)
            mine.has_released(slice_id)
            reason = f"{len(others)} others own it"
            version = min(owner.replica.published.version for owner in owners.values())
            self._context.events.emit(SliceGivenUp(slice=slice_id, version=version, reason=reason))
            await self.roster.publish()

    def _report_coverage(self) -> None:
        """Say it once when a slice comes to lack owners or has enough again, by two looks that agree."""
        before, self._coverage_seen = self._coverage_seen, self.assignment.coverage(self._context.claims)
        for slice_id, now in self._coverage_seen.items():
            state = (now.is_covered, now.is_thin)
            then = before.get(slice_id)
            if then is None or (then.is_covered, then.is_thin) != state:
                continue
            if self._coverage_said.get(slice_id, (True, False)) != state:
                self._coverage_said[slice_id] = state
                self._context.events.emit(
                    CoverageChanged(
                        slice=slice_id,
                        owners=now.ready,
                        replicas=now.target.replicas,
                        is_covered=now.is_covered,
                        verdict=now.verdict,
                    )
                )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None, "nothing runs beside the rounds before run()"
        begin_beside(self._group, work)


def _by_slice(certificates: Sequence[Certificate]) -> dict[SliceId, list[Certificate]]:
    by_slice: dict[SliceId, list[Certificate]] = {}
    for certificate in certificates:
        by_slice.setdefault(certificate.value.slice, []).append(certificate)
    return by_slice


def _sorted(slices: "Mapping[SliceId, object] | frozenset[SliceId]") -> tuple[SliceId, ...]:
    return tuple(sorted(slices, key=slice_order))
