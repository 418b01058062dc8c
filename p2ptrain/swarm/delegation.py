"""How the work of holders that were not drawn reaches the group: an owner brings it along with its own.

A group has a bounded size, and of many holders the lot leaves most out (swarm/electorate.py). Each of these is the
*constituent* of one owner, its *delegate*, if it finds one with a place left: at its cut-off it hands its contribution
to the delegate, which averages it with its own and contributes the mean, with the tokens of all. To the group that is
one owner that has trained on more, so agreement, messages and bytes of a round are as they were
(docs/decisions/0023-a-tree-of-two-levels.md).

Nothing about this is agreed on, and nothing depends on it. Where a constituent cannot tell that a commit contains its
work, the work stays in its weights and is contributed later (training/footing.py); that of a holder whom nobody had a
place for is dropped.
"""

import asyncio
import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2ptrain import clock
from p2ptrain.errors import BadMessage, BlobUnavailable, PeerUnreachable
from p2ptrain.events import PeerLost, Refused, WorkBrought, WorkEntrusted
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.listing import share_of
from p2ptrain.swarm.robust import MAX_LONGER, add_work
from p2ptrain.wire.codec import Float32, decode, encoded_bytes
from p2ptrain.wire.messages import MAX_TOKENS, Certificate, Contribution, Entrust

_MOST_ASKED = 4
"""Owners that a holder asks for a place; with places for half of all holders, 15 of 16 find one."""
_MOST_SEEKERS = 2
"""Holders for each place that ask at all: more would only make owners answer more calls."""
_CUT_OFF_SHARE = 0.5
"""Of the delegate's patience, how much is left to constituents for their inner steps; the rest is for the transfer."""
_FORGIVEN_AFTER = 8
"""Versions for which a constituent that did not come in time is not waited for."""
_FETCHED_AT_ONCE = 2
"""Parts of one constituent: the streams of a node are shared with the rounds of all its slices."""
_MOST_OWN = 2
"""Contributions of ours that a commit may contain: the last one, and one before it whose round was void here."""
_MOST_SUMS = 8
"""Contributions of one version that may contain our work: a delegate makes a new one in each attempt."""

_Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None] | None"]


@dataclass(slots=True)
class _Constituent:
    """Who has a place with us, and what it has handed over."""

    is_awaited: bool
    """False: it let us wait in vain before, and is taken along only if it comes in time."""
    contribution: Contribution | None = None
    parts: list[memoryview] | None = None
    """Encoded, once all are here."""
    is_done: bool = False
    """Nothing more will come of it for this version, as far as we know."""
    is_asked: bool = False
    fetching: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class Brought:
    """What an owner contributes: its own work and that of its constituents."""

    pseudo_gradient: Float32
    """[numel]"""
    tokens: int
    loss_nats: float
    constituents: tuple[PeerId, ...]
    own_tokens: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class Contained:
    """What of our work a committed version contains."""

    tokens: int | None
    """Of the contribution that it was, ours alone; None: it contains nothing of ours."""
    parts: tuple[int, ...] = ()
    had_place: bool = True
    """Whether it could have contained something: we were in its group, or somebody in it was our delegate."""


class Delegation:
    """Who brings whose work to the next version of one slice.

    Args:
        context: of this peer.
        slice_id: the slice.
        spawn: begins work that goes on beside the rounds.
    """

    def __init__(self, context: Context, slice_id: SliceId, spawn: _Spawn) -> None:
        self._context = context
        self._slice = slice_id
        self._spawn = spawn
        self.next: tuple[Version, Digest | None] | None = None
        """The version that the round would commit, and the hash of the value that it follows; None before ``begin``."""
        self.has_place = True
        """Whether the group counts us in, or did at any time of this round."""
        self._constituents: dict[PeerId, _Constituent] = {}
        self._let_down_by: dict[PeerId, Version] = {}
        """Who had a place with us, was waited for in vain at that version, and has not come in time since."""
        self._gathers = False
        """The group is ready, or we are: places are for those who bring their work with them from now on."""
        self._is_over = False
        """We have contributed to this version: what comes now is too late."""
        self._changed = asyncio.Event()
        """A constituent's state has changed, or the version."""
        self._owners: tuple[PeerId, ...] = ()
        """Whom we ask to be our delegate, best first."""
        self._delegate: PeerId | None = None
        self._searching: asyncio.Event | None = None
        """Set when the search for a delegate is over; None: there was none."""
        self._handed: Contribution | None = None
        """What we have given to our delegate in this version."""
        self._entrusted: dict[tuple[Version, PeerId, int], int] = {}
        """Contributions that ours is part of, by version, delegate and all their tokens; with the tokens of ours."""
        self._own: deque[tuple[int, int]] = deque(maxlen=_MOST_OWN)
        """Tokens of our last contributions, in all and our own."""

    @property
    def _version(self) -> Version:
        assert self.next is not None
        return self.next[0]

    def begin(self, version: Version, previous: Digest | None, *, has_place: bool) -> None:
        """The next round is another one, and what was for an earlier one is forgotten.

        Args:
            version: that it would commit.
            previous: hash of the value that we hold.
            has_place: whether the group counts us in without a delegate.
        """
        self.next, self.has_place = (version, previous), has_place
        self._cancel_fetches()
        self._constituents, self._gathers, self._is_over = {}, False, False
        since = version - _FORGIVEN_AFTER
        self._let_down_by = {peer: last for peer, last in self._let_down_by.items() if last > since}
        self._owners, self._delegate, self._searching, self._handed = (), None, None, None
        self._entrusted = {key: tokens for key, tokens in self._entrusted.items() if key[0] >= version - 1}
        self._changed.set()

    # As a constituent.

    def look_for_delegate(self, owners: Collection[PeerId]) -> None:
        """As a holder without a place in the group: find an owner that has one for us."""
        self._choose_whom_to_ask(owners)
        self._searching = asyncio.Event()
        self._spawn(self._find(self._searching))

    @property
    def has_handed_over(self) -> bool:
        """Whether an owner has our work, or may have it: then we contribute it in no other way."""
        return self._handed is not None

    async def hand_over(self, contribution: Contribution | None) -> bool:
        """Our inner steps are done: whether an owner has our work now, or may have it; None has nothing to add."""
        searching = self._searching
        if searching is None or self._handed:
            return self._handed is not None
        await searching.wait()
        if self._searching is not searching:
            return False
        found, request = self._delegate, self._request(is_cut_off=True, contribution=contribution)
        # Who had no place before may take work that is done, and was perhaps not at our version yet.
        for owner in [found] if found else self._owners if contribution else ():
            self._delegate, self._handed = owner, contribution  # it may tell us of it before it answers
            try:
                is_taken = await self._context.caller.entrust(owner, request)
            except PeerUnreachable:
                is_taken = True  # perhaps
            if self._searching is not searching:
                return False
            if is_taken:
                return contribution is not None
            self._delegate, self._handed = found, None
        return False

    async def make_sure(self, owners: Collection[PeerId]) -> None:
        """Before we contribute to a version once more: if our delegate will not bring our work, it is ours again.

        The round came to nothing so far, and the delegate may be gone or out of the group. If all owners that are left
        trusted in such delegates, none would have anything to contribute, and the version would never be decided.

        Args:
            owners: of the group as it is now.
        """
        delegate, handed, began = self._delegate, self._handed, self.next
        if delegate is None or handed is None:
            return
        try:
            has_it = await self._context.caller.entrust(delegate, self._request(is_cut_off=True, contribution=handed))
        except PeerUnreachable:
            has_it = False
        if self.next == began and not has_it:
            self._delegate = self._handed = None
            self._choose_whom_to_ask(owners)

    def has_delegate(self, peer: PeerId, version: Version) -> bool:
        """Whether the peer may tell us what to do in the round of this version."""
        return self.next is not None and (peer, version) == (self._delegate, self._version)

    def note_brought(self, delegate: PeerId, tokens: int) -> None:
        """Our delegate has contributed our work with its own, so many tokens in all."""
        key = self._version, delegate, tokens
        sums = [one for one in self._entrusted if one[0] == self._version]
        if self._handed is None or key in sums or len(sums) >= _MOST_SUMS:
            return
        self._entrusted[key] = own = self._handed.tokens
        self._context.events.emit(
            WorkEntrusted(slice=self._slice, version=self._version, delegate=delegate, tokens=own)
        )

    def _choose_whom_to_ask(self, owners: Collection[PeerId]) -> None:
        assert self.next is not None
        me, lot = self._context.me, self.next[1] or ""
        places = self._context.exchange.max_constituents * len(owners)
        seekers = self._context.num_peers(self._slice) - len(owners)
        self._owners = tuple(whom_to_ask(me, owners, lot=lot) if asks(me, places, seekers, lot=lot) else ())

    async def _find(self, searching: asyncio.Event) -> None:
        try:
            for owner in self._owners:
                with contextlib.suppress(PeerUnreachable):
                    has_place = await self._context.caller.entrust(owner, self._request())
                    if self._searching is searching and has_place:
                        self._delegate = owner
                if self._searching is not searching or self._delegate:
                    return
        finally:
            searching.set()

    def _request(self, *, is_cut_off: bool = False, contribution: Contribution | None = None) -> Entrust:
        assert self.next is not None
        version, previous = self.next
        return Entrust(
            run=self._context.run,
            slice=self._slice,
            version=version,
            previous=previous,
            is_cut_off=is_cut_off,
            contribution=contribution,
            invite="" if self._context.is_listed else self._context.invite,
        )

    # As a delegate.

    def adds_nothing(self, sender: PeerId, request: Entrust) -> bool:
        """Whether a constituent withdraws, or asks whether we still have its work."""
        one = self._constituents.get(sender)
        return one is not None and request.contribution in (None, one.contribution)

    def entrusted(self, sender: PeerId, request: Entrust) -> str:
        """A holder asks for a place or hands its work over; why not, or nothing if it is welcome.

        Raises:
            BadMessage: what it hands over cannot be a contribution to this slice.
        """
        if (request.version, request.previous) != self.next:
            return f"slice {self._slice} is at another version here"
        exchange, one = self._context.exchange, self._constituents.get(sender)
        if one is None:
            if exchange.averaging != "mean":
                return "owners are averaged so that few liars move little, and many in one owner's place would"
            if self._gathers and not request.contribution:
                return "the group is gathering"
            if len(self._constituents) >= exchange.max_constituents:
                return "no place is left"
            one = self._constituents[sender] = _Constituent(is_awaited=sender not in self._let_down_by)
        if not request.is_cut_off:
            return ""
        if one.contribution:
            if one.is_done and one.parts is None:
                return "your work could not be had, or not be used"
            return "" if one.contribution == request.contribution else "your work is here already"
        if self._is_over:
            return "this owner has contributed already"
        if request.contribution is None or request.contribution.tokens == 0:
            one.is_done = True
        else:
            self._check(sender, request.contribution)
            one.contribution, one.is_done = request.contribution, False
            one.fetching = self._spawn(self._fetch(sender, one, request.contribution))
        self._changed.set()
        return ""

    def ask_for_work(self, patience_s: float) -> None:
        """The others are ready, or we are: whoever has a place with us is to hand over what it has."""
        self._gathers = True
        for peer, one in self._constituents.items():
            if not (one.is_asked or one.is_done or one.contribution):
                one.is_asked = True
                self._spawn(self._call_in(peer, one, _CUT_OFF_SHARE * patience_s))

    async def bring(self, pseudo_gradient: Float32, tokens: int, loss_nats: float, patience_s: float) -> Brought:
        """Our own work with that of our constituents, who are waited for.

        Args:
            pseudo_gradient: ours, [numel]; changed in place.
            tokens: of ours; with 0 the others' work could not be judged, and is not brought.
            loss_nats: of ours.
            patience_s: longest wait.
        """
        began, began_s = self.next, clock.monotonic_s()
        self.ask_for_work(patience_s)
        if tokens:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    while self.next == began and self._awaited():
                        self._changed.clear()
                        await self._changed.wait()
        alone = Brought(pseudo_gradient, tokens, loss_nats, (), tokens, clock.monotonic_s() - began_s)
        if self.next != began:
            return alone
        self._is_over = True
        if not tokens:
            self.bring_nobody()
            return alone
        for peer in self._awaited():
            self._constituents[peer].is_awaited = False
            self._let_down_by[peer] = self._version
        self._cancel_fetches()
        constituents = self._constituents
        works = {
            peer: (one.contribution, one.parts) for peer, one in constituents.items() if one.contribution and one.parts
        }
        self._let_down_by = {peer: last for peer, last in self._let_down_by.items() if peer not in works}
        if not works:
            return alone
        # What others say of their tokens is a claim, so that nobody weighs much more than we do.
        counts = {peer: min(contribution.tokens, MAX_LONGER * tokens) for peer, (contribution, _) in works.items()}
        parts = {peer: encoded for peer, (_, encoded) in works.items()}
        brought, left_out = await asyncio.to_thread(self._average, pseudo_gradient, tokens, counts, parts)
        for peer, reason in left_out.items():
            constituents[peer].parts = None
            self._context.events.emit(Refused(peer=peer, reason=f"its work is not brought along: {reason}"))
        losses = [(counts[peer], works[peer][0].loss_nats) for peer in brought]
        total, loss_nats = _mean_loss([(tokens, loss_nats), *losses])
        return Brought(pseudo_gradient, total, loss_nats, brought, tokens, alone.waited_s)

    def bring_nobody(self) -> None:
        """Forget our constituents: who has handed its work over hears so when it asks, and contributes it itself."""
        self._cancel_fetches()
        self._constituents = {}
        self._changed.set()

    def contributed(self, brought: Brought) -> None:
        """What ``bring`` gave is contributed to this version: tell those whose work it is."""
        if brought.tokens:
            self._own.append((brought.tokens, brought.own_tokens))
        if not brought.constituents:
            return
        self._context.events.emit(
            WorkBrought(
                slice=self._slice,
                version=self._version,
                constituents=list(brought.constituents),
                tokens=brought.tokens,
                waited_s=brought.waited_s,
            )
        )
        for peer in brought.constituents:
            self._spawn(self._tell(peer, self._version, brought.tokens))

    def contained(self, certificate: Certificate) -> Contained:
        """What of our work a certificate's version contains: contributed by ourselves, or by our delegate."""
        value = certificate.value
        for contribution in sorted(value.contributions, key=lambda one: one.peer != self._context.me):
            peer, total = contribution.peer, contribution.tokens
            if peer == self._context.me:
                tokens = next((own for in_all, own in reversed(self._own) if in_all == total), total)
            elif (value.version, peer, total) in self._entrusted:
                tokens = self._entrusted[value.version, peer, total]
            else:
                continue
            parts = tuple(r.part for r in value.results if peer in r.contributors)
            return Contained(tokens if parts else None, parts)
        has_delegate = self._delegate is not None and value.version == self._version
        return Contained(None, had_place=self.has_place or has_delegate)

    def _awaited(self) -> set[PeerId]:
        return {peer for peer, one in self._constituents.items() if one.is_awaited and not one.is_done}

    def _check(self, sender: PeerId, contribution: Contribution) -> None:
        bounds, codec = self._context.bounds(self._slice), self._context.exchange.codec
        if contribution.peer != sender:
            raise BadMessage("a contribution that another peer made")
        expected = [encoded_bytes(codec, stop - start) for start, stop in bounds]
        if [part.size_bytes for part in contribution.parts] != expected:
            raise BadMessage(f"a contribution of {len(contribution.parts)} parts, not those of slice {self._slice}")
        most = MAX_TOKENS // (self._context.exchange.max_constituents + 1)
        if contribution.tokens > most:
            raise BadMessage(f"a contribution of {contribution.tokens} tokens; an owner can bring {most} of each")

    def _cancel_fetches(self) -> None:
        for one in self._constituents.values():
            if one.fetching and one.parts is None:
                one.fetching.cancel()
                one.is_done = True

    async def _fetch(self, peer: PeerId, one: _Constituent, contribution: Contribution) -> None:
        silence_s, what = self._context.exchange.reduce_timeout_s, f"work entrusted for slice {self._slice}"
        places = asyncio.Semaphore(_FETCHED_AT_ONCE)
        found: dict[int, memoryview] = {}

        async def fetch(index: int) -> None:
            async with places:
                part = contribution.parts[index]
                found[index], _ = await self._context.blobs.fetch(part, [peer], silence_timeout_s=silence_s, what=what)

        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(contribution.parts)):
                    group.create_task(fetch(index))
        except* BlobUnavailable as errors:
            self._context.events.emit(PeerLost(peer=peer, slice=self._slice, reason=str(errors.exceptions[0])))
        else:
            one.parts = [data for _, data in sorted(found.items())]
        one.is_done = True
        self._changed.set()

    async def _call_in(self, peer: PeerId, one: _Constituent, within_s: float) -> None:
        tell = self._context.caller.tell_constituent
        try:
            is_heard = await tell(peer, self._slice, self._version, cut_off_within_s=within_s)
        except PeerUnreachable:
            is_heard = False
        if not is_heard and one.contribution is None:
            one.is_done = True
            self._changed.set()

    async def _tell(self, peer: PeerId, version: Version, tokens: int) -> None:
        with contextlib.suppress(PeerUnreachable):  # then it contributes the same once more
            await self._context.caller.tell_constituent(peer, self._slice, version, tokens=tokens)

    # In a thread.

    def _average(
        self,
        pseudo_gradient: Float32,
        tokens: int,
        counts: Mapping[PeerId, int],
        parts: Mapping[PeerId, Sequence[memoryview]],
    ) -> tuple[tuple[PeerId, ...], Mapping[PeerId, str]]:
        codec, bounds = self._context.exchange.codec, self._context.bounds(self._slice)

        def part(peer: PeerId, index: int) -> Float32:
            start, stop = bounds[index]
            return decode(codec, parts[peer][index], stop - start)

        return add_work(pseudo_gradient, tokens, counts, bounds, part)


def asks(me: PeerId, places: int, seekers: int, *, lot: str) -> bool:
    """Whether a holder asks for a place at all: where there are few for many that goes by lot.

    Args:
        me: the holder.
        places: with all owners of the version.
        seekers: holders that have no place in the group.
        lot: changes from version to version.
    """
    return share_of(f"{lot} {me} asks") * seekers < _MOST_SEEKERS * places


def whom_to_ask(me: PeerId, owners: Collection[PeerId], *, lot: str) -> list[PeerId]:
    """Owners whom a holder asks for a place, in that order: another one for everybody and in each version.

    Args:
        me: the holder.
        owners: of the version.
        lot: changes from version to version.
    """
    return sorted(owners, key=lambda owner: hashlib.sha256(f"{lot} {me} {owner}".encode()).digest())[:_MOST_ASKED]


def _mean_loss(parts: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """Tokens of all, and their mean loss; what is not finite says nothing."""
    total = sum(tokens for tokens, _ in parts)
    known = [(tokens, loss) for tokens, loss in parts if tokens and math.isfinite(loss)]
    weight = sum(tokens for tokens, _ in known)
    return total, sum(tokens * loss for tokens, loss in known) / weight if weight else math.nan
