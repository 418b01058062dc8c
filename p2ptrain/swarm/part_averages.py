"""The average of one part of a slice, as its reducer computes it and as its checker does once more."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p2ptrain.errors import BadMessage, BlobUnavailable
from p2ptrain.events import PartLeftOut, Refused
from p2ptrain.ids import PeerId, SliceId
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
    data: bytes
    """Encoded."""
    reducers: BlobRef | None = None
    """The reducer's average, where this one differs from it by rounding only, and so confirms it."""


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
        values = await asyncio.gather(*(self._contributed(part, c, within_s) for c in usable))
        fetched = {c.peer: (c.tokens, v) for c, v in zip(usable, values, strict=True) if v is not None}
        if not fetched:
            return None
        combined = await asyncio.to_thread(combine, self._rule, fetched)
        for peer, reason in combined.left_out.items():
            self._leave_out(peer, part, reason)
        if not combined.contributors:
            return None
        return PartAverage(part, combined.contributors, await asyncio.to_thread(encode, self._codec, combined.mean))

    async def check(
        self, result: PartResult, contributions: Sequence[Contribution], reducer: PeerId, within_s: float
    ) -> PartAverage | None:
        """The average of exactly what a reducer says that it averaged; None if that cannot be had."""
        inputs = await asyncio.gather(*(self._averaged(result.part, c, reducer, within_s) for c in contributions))
        fetched = {c.peer: (c.tokens, v) for c, v in zip(contributions, inputs, strict=True) if v is not None}
        if len(fetched) < len(contributions):
            return None
        mean = await asyncio.to_thread(average, self._rule, fetched)
        data = await asyncio.to_thread(encode, self._codec, mean)
        # Rules other than the mean are not exact to the last bit on every processor.
        may_differ = self._rule != "mean" and BlobRef.of(data) != result.average
        is_near = may_differ and await self._is_near(result, mean, reducer)
        return PartAverage(result.part, result.contributors, data, result.average if is_near else None)

    async def _contributed(self, part: int, contribution: Contribution, within_s: float) -> Float32 | None:
        """One owner's part of the pseudo-gradient, decoded; None when it is left out, which is reported."""
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
            if contribution.peer != context.me and context.exchange.check_averages:
                context.blobs.store.hold(self._label, data)  # who checks may not get it there any more
            return decode(self._codec, data, stop - start)
        except BadMessage as error:
            context.events.emit(Refused(peer=contribution.peer, reason=str(error)))
            context.node.door.accuse(contribution.peer, str(error))
        except BlobUnavailable as error:
            self._leave_out(contribution.peer, part, str(error))
        except TimeoutError:
            self._leave_out(contribution.peer, part, f"not complete after {within_s:.1f} s")
        return None

    async def _averaged(
        self, part: int, contribution: Contribution, reducer: PeerId, within_s: float
    ) -> Float32 | None:
        """A part of a contribution, from whoever made it, or from the reducer; None if neither delivers it."""
        start, stop = self._context.bounds(self._slice)[part]
        what = f"part {part} of slice {self._slice}, to check its average"
        if part >= len(contribution.parts) or not self._has_size(contribution.parts[part], stop - start):
            return None  # a blob of any announced size would be made room for
        try:
            async with asyncio.timeout(within_s):
                holders = [peer for peer in (contribution.peer, reducer) if peer != self._context.me]
                ref = contribution.parts[part]
                data, _ = await self._context.blobs.fetch(ref, holders, silence_timeout_s=within_s / 2, what=what)
            return decode(self._codec, data, stop - start)
        except (BadMessage, BlobUnavailable, TimeoutError):
            return None

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
