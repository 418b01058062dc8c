"""The average of one part of a slice, as its reducer computes it and as its checker does once more.

What arrived is decoded, averaged and encoded in one visit to a thread, so that no message waits for it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p2ptrain.errors import BadMessage, BlobUnavailable
from p2ptrain.events import PartLeftOut, Refused
from p2ptrain.ids import Digest, PeerId, SliceId
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.robust import average, combine
from p2ptrain.wire.codec import Float32, decode, encode, encoded_bytes
from p2ptrain.wire.messages import BlobRef, Contribution, PartResult

_ROUNDING_SHARE = 0.02
"""Of the largest element: two steps of an 8-bit code, by which averages that are rounded elsewhere may differ."""


@dataclass(frozen=True, slots=True)
class PartAverage:
    """What came out."""

    part: int
    contributors: tuple[PeerId, ...]
    data: memoryview
    """Encoded."""
    sha256: Digest
    reducers: BlobRef | None = None
    """The reducer's average, where this one differs from it by rounding only, and so confirms it."""


_Arrived = Mapping[PeerId, tuple[int, memoryview]]
"""Per owner its tokens and its part, encoded."""


class PartAverages:
    """Computes averages of one slice's parts.

    Args:
        context: of this peer.
        slice_id: the slice.
        label: under which blobs of the present round are held.
    """

    def __init__(self, context: Context, slice_id: SliceId, label: str) -> None:
        self._context = context
        self._slice = slice_id
        self._label = label
        self._codec = context.exchange.codec
        self._rule = context.exchange.averaging

    async def reduce(self, part: int, contributions: Sequence[Contribution], within_s: float) -> PartAverage | None:
        """The average of what arrives in time and is sound, the rest is reported; None if nothing is left."""
        usable = [c for c in contributions if c.tokens > 0 and part < len(c.parts)]
        fetched = await asyncio.gather(*(self._contributed(part, c, within_s) for c in usable))
        arrived = {c.peer: (c.tokens, data) for c, data in zip(usable, fetched, strict=True) if data is not None}
        if not arrived:
            return None
        one, undecodable, left_out = await asyncio.to_thread(self._reduced, part, arrived)
        for peer, reason in undecodable.items():
            self._context.events.emit(Refused(peer=peer, reason=reason))
            self._context.node.door.accuse(peer, reason)
        for peer, reason in left_out.items():
            self._leave_out(peer, part, reason)
        return one

    async def fetch_inputs(
        self,
        part: int,
        contributions: Sequence[Contribution],
        reducer: PeerId,
        within_s: float,
        is_wanted: Callable[[], bool],
    ) -> None:
        """Have what ``check`` will take, while the reducer still averages; what does not come, ``check`` asks for."""

        async def fetch(contribution: Contribution) -> None:
            data = await self._averaged(part, contribution, reducer, within_s)
            if data is not None and contribution.peer != self._context.me and is_wanted():
                self._context.blobs.store.hold(self._label, data, sha256=contribution.parts[part].sha256)

        await asyncio.gather(*(fetch(contribution) for contribution in contributions if contribution.tokens > 0))

    async def fetch_average(self, result: PartResult, reducer: PeerId, is_wanted: Callable[[], bool]) -> None:
        """Have a reducer's average, while it is checked; if it does not come, staging asks others."""
        start, stop = self._context.bounds(self._slice)[result.part]
        if not self._has_size(result.average, stop - start):
            return
        what, timeout_s = f"average {result.part} of slice {self._slice}", self._context.exchange.reduce_timeout_s
        with contextlib.suppress(BlobUnavailable):
            data, _ = await self._context.blobs.fetch(result.average, [reducer], silence_timeout_s=timeout_s, what=what)
            if is_wanted():
                self._context.blobs.store.hold(self._label, data, sha256=result.average.sha256)

    async def check(
        self, result: PartResult, contributions: Sequence[Contribution], reducer: PeerId, within_s: float
    ) -> PartAverage | None:
        """The average of exactly what a reducer says that it averaged; None if that cannot be had."""
        inputs = await asyncio.gather(*(self._averaged(result.part, c, reducer, within_s) for c in contributions))
        arrived = {c.peer: (c.tokens, data) for c, data in zip(contributions, inputs, strict=True) if data is not None}
        if len(arrived) < len(contributions):
            return None
        try:
            mean, data, sha256 = await asyncio.to_thread(self._averaged_again, result.part, arrived)
        except BadMessage:
            return None
        # Rules other than the mean are not exact to the last bit on every processor.
        may_differ = self._rule != "mean" and sha256 != result.average.sha256
        is_near = may_differ and await self._is_near(result, mean, reducer)
        return PartAverage(result.part, result.contributors, data, sha256, result.average if is_near else None)

    # In a thread.

    def _reduced(
        self, part: int, arrived: _Arrived
    ) -> tuple[PartAverage | None, Mapping[PeerId, str], Mapping[PeerId, str]]:
        """The average of what is sound; whose part does not decode, and who else is left out, with reasons."""
        parts, undecodable = {}, {}
        for peer, (tokens, data) in arrived.items():
            try:
                parts[peer] = (tokens, self._decoded(part, data))
            except BadMessage as error:
                undecodable[peer] = str(error)
        combined = combine(self._rule, parts)
        if not combined.contributors:
            return None, undecodable, combined.left_out
        encoded = encode(self._codec, combined.mean)
        one = PartAverage(part, combined.contributors, encoded, BlobRef.of(encoded).sha256)
        return one, undecodable, combined.left_out

    def _averaged_again(self, part: int, arrived: _Arrived) -> tuple[Float32, memoryview, Digest]:
        """The average of all of it, also encoded, with its hash.

        Raises:
            BadMessage: a part does not decode.
        """
        mean = average(self._rule, {p: (tokens, self._decoded(part, data)) for p, (tokens, data) in arrived.items()})
        encoded = encode(self._codec, mean)
        return mean, encoded, BlobRef.of(encoded).sha256

    def _decoded(self, part: int, data: memoryview) -> Float32:
        start, stop = self._context.bounds(self._slice)[part]
        return decode(self._codec, data, stop - start)

    # In the event loop.

    async def _contributed(self, part: int, contribution: Contribution, within_s: float) -> memoryview | None:
        """One owner's part of the pseudo-gradient, encoded; None when it is left out, which is reported."""
        context = self._context
        start, stop = context.bounds(self._slice)[part]
        ref = contribution.parts[part]
        if not self._has_size(ref, stop - start):
            reason = f"its part {part} of slice {self._slice} has {ref.size_bytes} bytes"
            context.events.emit(Refused(peer=contribution.peer, reason=reason))
            return None
        try:
            async with asyncio.timeout(within_s):
                data, _ = await context.blobs.fetch(
                    ref, [contribution.peer], silence_timeout_s=within_s, what=f"part {part} of slice {self._slice}"
                )
        except BlobUnavailable as error:
            self._leave_out(contribution.peer, part, str(error))
            return None
        except TimeoutError:
            self._leave_out(contribution.peer, part, f"not complete after {within_s:.1f} s")
            return None
        if contribution.peer != context.me and context.exchange.check_averages:
            # Who checks may not get it there any more.
            context.blobs.store.hold(self._label, data, sha256=ref.sha256)
        return data

    async def _averaged(
        self, part: int, contribution: Contribution, reducer: PeerId, within_s: float
    ) -> memoryview | None:
        """A part of a contribution, encoded, from whoever made it, or from the reducer; None if neither delivers it."""
        start, stop = self._context.bounds(self._slice)[part]
        what = f"part {part} of slice {self._slice}, to check its average"
        if part >= len(contribution.parts) or not self._has_size(contribution.parts[part], stop - start):
            return None  # a blob of any announced size would be made room for
        try:
            async with asyncio.timeout(within_s):
                holders = [peer for peer in (contribution.peer, reducer) if peer != self._context.me]
                ref = contribution.parts[part]
                data, _ = await self._context.blobs.fetch(ref, holders, silence_timeout_s=within_s / 2, what=what)
        except (BlobUnavailable, TimeoutError):
            return None
        return data

    async def _is_near(self, result: PartResult, mean: Float32, reducer: PeerId) -> bool:
        """Whether a reducer's average is ours but for rounding."""
        timeout_s = self._context.exchange.reduce_timeout_s
        if not self._has_size(result.average, len(mean)):
            return False
        try:
            data, _ = await self._context.blobs.fetch(
                result.average, [reducer], silence_timeout_s=timeout_s, what=f"average {result.part}"
            )
            theirs = decode(self._codec, data, len(mean))
        except (BadMessage, BlobUnavailable):
            return False
        return bool(np.abs(theirs - mean).max() <= _ROUNDING_SHARE * np.abs(mean).max())

    def _has_size(self, ref: BlobRef, numel: int) -> bool:
        return ref.size_bytes == encoded_bytes(self._codec, numel)

    def _leave_out(self, peer: PeerId, part: int, reason: str) -> None:
        self._context.events.emit(PartLeftOut(peer=peer, slice=self._slice, part=part, reason=reason))
