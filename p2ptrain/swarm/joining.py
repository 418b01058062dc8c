"""The newest version of every slice that anybody has, before this peer takes part in it.

A peer gets there when it starts, and once more for each slice that it takes later.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from p2ptrain import clock
from p2ptrain.errors import BadMessage, BadRecord, BlobUnavailable
from p2ptrain.events import Refused, SliceTakenOver, StateMissing
from p2ptrain.ids import COMMON, PeerId, SliceId, slice_of, slice_order
from p2ptrain.swarm.calls import Calls
from p2ptrain.swarm.catch_up import catch_up, fetch_owned, head_of, missing_bytes
from p2ptrain.swarm.certificates import check_admitted
from p2ptrain.swarm.context import Context, Replica
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.history import PastRound
from p2ptrain.swarm.roster import Roster
from p2ptrain.swarm.spread import some
from p2ptrain.wire.messages import Certificate

_MOST_ASKED = 64
"""Peers that are asked for all that is newer; every one of them follows every slice."""
_STATE_ATTEMPTS = 10
"""Times that an owners' state is asked for, each time at the then newest version, before a change is abandoned."""
_ASK_AGAIN_S = 0.5
_LEASES_FOR_STATE = 3
"""So many leases long a peer that starts asks for what it knows to be newer; the claims of dead owners last for one."""


class Joining:
    """Brings this peer's slices up to those of the others."""

    def __init__(self, context: Context, calls: Calls, roster: Roster) -> None:
        self._context = context
        self._calls = calls
        self._roster = roster

    async def catch_up_with_all(
        self,
        owned: frozenset[SliceId],
        replicas: Mapping[SliceId, Replica],
        histories: Mapping[SliceId, Sequence[PastRound]],
        followed: Mapping[SliceId, Replica],
    ) -> tuple[dict[SliceId, Replica], dict[SliceId, list[PastRound]]]:
        """Every slice as far as anybody can bring it, with the owners' state where we own it, and what led there.

        Arguments as of ``Swarm.join``.
        """
        current, orphans = dict(replicas), set[SliceId]()
        chains = {slice_id: list(rounds) for slice_id, rounds in histories.items()}
        insist_s = _LEASES_FOR_STATE * self._context.exchange.lease_s
        moved_s = clock.monotonic_s()
        while True:
            orphans |= {s for s in owned if not self._context.holders(s) - {self._context.me}}
            # Nobody can give us an orphan's state, so we follow its published weights, which every peer holds.
            current |= {s: _further(replace(current[s], owned=None), followed.get(s)) for s in orphans}
            moved = await self._one_pass(current, chains)
            if moved:
                current |= moved
                moved_s = clock.monotonic_s()
            elif moved is not None or clock.monotonic_s() - moved_s > insist_s:
                break
            else:
                await asyncio.sleep(_ASK_AGAIN_S)
                await self._roster.look()  # an owner that died a moment ago still has a claim
        for slice_id in owned - orphans:
            # Its holders do not answer, or have less than we had followed: what is on our disk must not be lost.
            further = _further(current[slice_id], followed.get(slice_id))
            if further is not current[slice_id]:
                current[slice_id] = further
                orphans.add(slice_id)
        for slice_id in orphans:
            # Our own state is as good as any if nobody went on after it.
            is_newest = head_of(current[slice_id]) == head_of(replicas[slice_id])
            mine = replicas[slice_id] if is_newest else await self._fetch_or_take_over(slice_id, current[slice_id])
            current[slice_id] = mine
        return current, chains

    async def owners_replica(self, slice_id: SliceId, current: Replica) -> Replica:
        """The owners' state of a slice that we have followed so far, at the newest version that we can find.

        Raises:
            BlobUnavailable: its owners are there but do not deliver.
            BadMessage: they deliver something else.
        """
        for attempt in range(_STATE_ATTEMPTS):
            current = await self.newest(slice_id, current)
            if not self._context.holders(slice_id) - {self._context.me}:
                return await self._take_over(slice_id, current)
            try:
                # Owners keep the state of their present version only: a fast slice has to be caught.
                if current.certificate is None:
                    owned = await asyncio.to_thread(self._context.listener.initial_state, slice_id)
                else:
                    owned = await fetch_owned(self._context, current)
            except BlobUnavailable:
                if attempt == _STATE_ATTEMPTS - 1:
                    raise
                continue
            return await self.newest(slice_id, replace(current, owned=owned))
        raise AssertionError("unreachable")

    async def newest(self, slice_id: SliceId, current: Replica) -> Replica:
        """A slice as far as anybody can bring it from here."""
        while moved := await self._one_pass({slice_id: current}):
            current = moved[slice_id]
        return current

    async def _fetch_or_take_over(self, slice_id: SliceId, found: Replica) -> Replica:
        if found.certificate and self._context.holders(slice_id) - {self._context.me}:  # one that came meanwhile
            with contextlib.suppress(BlobUnavailable, BadMessage):
                return replace(found, owned=await fetch_owned(self._context, found))
        return await self._take_over(slice_id, found)

    async def _take_over(self, slice_id: SliceId, found: Replica) -> Replica:
        """A slice without living owners, from its published weights: they are the anchor from now on."""
        if found.certificate is None:
            return replace(found, owned=await asyncio.to_thread(self._context.listener.initial_state, slice_id))
        self._context.events.emit(SliceTakenOver(slice=slice_id, version=found.published.version))
        return replace(found, owned=await asyncio.to_thread(found.published.taken_over))

    async def _one_pass(
        self, replicas: Mapping[SliceId, Replica], chains: dict[SliceId, list[PastRound]] | None = None
    ) -> dict[SliceId, Replica] | None:
        """One pass over all slices; empty when nobody knows anything newer. What it went through is added to chains.

        None says that there may be more to have: none of those who are ready answered, or what somebody told of could
        not be fetched, or not be believed.
        """
        claims = self._context.claims  # as they are now: a look replaces them while we ask
        others = self._whom_to_ask_for(replicas)
        have = {slice_id: replica.published.version for slice_id, replica in replicas.items()}
        answers = await asyncio.gather(*(self._calls.ask_for_newer(peer, have) for peer in others))
        told = {peer: answer for peer, answer in zip(others, answers, strict=True) if answer is not None}
        ready = {peer for peer in others if claims[peer].ready}
        if ready and ready.isdisjoint(told):
            return None
        furthest = {s: self._furthest(s, told, head_of(replica)) for s, replica in replicas.items()}
        best = {slice_id: way for slice_id, (way, _) in furthest.items() if way}
        is_all = not best and not any(is_doubted for _, is_doubted in furthest.values())
        if chains is not None:
            self._tell_missing(replicas, {slice_id: certificates for slice_id, (certificates, _) in best.items()})

        async def catch_up_one(slice_id: SliceId, replica: Replica) -> Replica | None:
            steps = await catch_up(self._context, slice_id, replica, *best[slice_id]) if slice_id in best else []
            if chains is not None:
                chains.setdefault(slice_id, []).extend(PastRound(step.certificate, step.blobs) for step in steps)
            return steps[-1].replica if steps else None

        # All at once: small slices do not wait for large ones, and the line is never idle between two of them.
        found = await asyncio.gather(*(catch_up_one(*item) for item in replicas.items()))
        moved = {slice_id: replica for slice_id, replica in zip(replicas, found, strict=True) if replica}
        return moved if moved or is_all else None

    def _whom_to_ask_for(self, slices: Iterable[SliceId]) -> list[PeerId]:
        """Everybody, and of very many some: first those that own such a slice, who certainly keep up with it."""
        claims, numbered = self._context.claims, {slice_of(s) for s in slices} - {COMMON}
        others = [peer for peer in claims if peer != self._context.me]
        first = some([peer for peer in others if numbered.intersection(claims[peer].ready)], _MOST_ASKED)
        return [*first, *some(sorted({*others} - {*first}), _MOST_ASKED - len(first))]

    def _furthest(
        self, slice_id: SliceId, told: Mapping[PeerId, Sequence[Certificate]], head: Head
    ) -> tuple[tuple[list[Certificate], PeerId] | None, bool]:
        """The certificates of a slice that lead to the highest head, and who told them; None if ours is as high.

        What leads there other than by way of our version is looked at first: a liar's head may be the highest of all.
        Whether there was such a one is the second thing that is told; perhaps our guest list is old.
        """
        best, is_doubted, ours = None, False, head.value_hash
        for peer, answer in told.items():
            certificates = [c for c in answer if c.value.slice == slice_id]
            if not certificates or not Head.of(certificates[-1]).outranks(head):
                continue
            if ours is None or certificates[0].value.previous != ours:
                try:
                    check_admitted(certificates[-1], self._context.was_admitted, self._context.quorum)
                except BadRecord as error:
                    self._context.events.emit(Refused(peer=peer, reason=str(error)))
                    is_doubted = True
                    continue
            best, head = (certificates, peer), Head.of(certificates[-1])
        return best, is_doubted

    def _tell_missing(
        self, replicas: Mapping[SliceId, Replica], newer: Mapping[SliceId, Sequence[Certificate]]
    ) -> None:
        numel = self._context.numel
        sizes = {s: missing_bytes(replicas[s], newer[s], numel[s]) for s in sorted(newer, key=slice_order)}
        ahead = {s: newer[s][-1].value.version for s, size in sizes.items() if size}
        if ahead:
            self._context.events.emit(StateMissing(slices=ahead, size_bytes=sum(sizes.values())))


def _further(replica: Replica, other: Replica | None) -> Replica:
    return other if other and head_of(other).outranks(head_of(replica)) else replica
