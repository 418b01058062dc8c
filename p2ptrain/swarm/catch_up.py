"""Moving a slice to a newer certified version that others committed: by replaying what was missed, or whole.

Replaying gives an owner's state by outer steps with the certified averages, and published weights by adding the
certified updates. Whether replayed or fetched whole, the bytes must have the certificate's digests before they are
used.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p2ptrain import clock
from p2ptrain.errors import AveragesUnavailable, BadMessage, BadRecord, BlobUnavailable
from p2ptrain.events import BranchLost, CatchUpFailed, Refused, StateFetched, UpdateApplied
from p2ptrain.ids import PeerId, SliceId, Version
from p2ptrain.swarm.certificates import check_admitted
from p2ptrain.swarm.context import Context, Replica
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.replay import follower_step, owner_step
from p2ptrain.swarm.route import route
from p2ptrain.swarm.state import OwnedState, PublishedState, owned_blob_bytes
from p2ptrain.wire.codec import encoded_bytes
from p2ptrain.wire.messages import BlobRef, Certificate, PartResult, Value


@dataclass(frozen=True, slots=True)
class Advance:
    """A slice moved forward: the certificate, what the peer holds now, and the bytes that led there to pass on."""

    certificate: Certificate
    replica: Replica
    blobs: list[bytes | memoryview]


def head_of(replica: Replica) -> Head:
    """The head that a replica stands at."""
    return Head.of(replica.certificate) if replica.certificate else Head()


def missing_bytes(replica: Replica, certificates: Sequence[Certificate], numel: int) -> int:
    """What ``catch_up`` would fetch, if the donors still have what leads to the newest certificate.

    Args:
        replica: what the peer holds.
        certificates: of this slice, in order of version.
        numel: parameters of the slice.
    """
    head = head_of(replica)
    chain = [c for c in certificates if c.value.version > head.version]
    if not chain:
        return 0
    way = route(chain, numel, is_owner=replica.owned is not None)
    is_unbroken = chain[0].value.previous == head.value_hash
    return way.replay_bytes if is_unbroken and way.is_replay else way.whole_bytes


async def catch_up(
    context: Context, slice_id: SliceId, replica: Replica, certificates: Sequence[Certificate], donor: PeerId
) -> list[Advance]:
    """Apply the certificates, oldest first, as far as their bytes can be had.

    Args:
        context: this peer.
        slice_id: the slice.
        replica: what the peer holds; ``owned`` decides whether the owners' state is moved too.
        certificates: of this slice, checked, in order of version.
        donor: who told us, asked first.

    Returns:
        The steps that succeeded, oldest first; empty when nothing newer could be had.
    """
    head, is_rival = head_of(replica), False
    chain = [c for c in certificates if c.value.version > head.version]
    if not chain or chain[0].value.previous != head.value_hash:
        # What lies between is gone, or they are on another branch: the newest can only be fetched whole.
        chain = [c for c in certificates[-1:] if Head.of(c).outranks(head)]
        is_rival = bool(chain) and (_is_rival(head, certificates) or await _parted(context, head, chain[-1], donor))
    elif len(chain) > 1 and not route(chain, context.numel[slice_id], is_owner=replica.owned is not None).is_replay:
        # Only owners at this very version have its state; if they have gone on, the missed rounds are still there.
        steps = await _advance(context, slice_id, replica, chain[-1:], donor)
        if steps:
            return steps
    return await _advance(context, slice_id, replica, chain, donor, is_rival=is_rival)


async def _advance(
    context: Context,
    slice_id: SliceId,
    replica: Replica,
    chain: Sequence[Certificate],
    donor: PeerId,
    *,
    is_rival: bool = False,
) -> list[Advance]:
    """One certificate after the other, until one cannot be reached."""
    steps: list[Advance] = []
    for certificate in chain:
        task = _Task(context, replica, certificate, context.donors([donor, *certificate.value.owners], slice_id))
        try:
            advance = await task.perform(is_rival=is_rival)
        except (BlobUnavailable, BadMessage) as error:
            version = certificate.value.version
            context.events.emit(CatchUpFailed(slice=slice_id, version=version, reason=str(error)))
            break
        except BadRecord as error:
            context.events.emit(Refused(peer=donor, reason=str(error)))
            if certificate is chain[-1]:
                break
            # Who signed the newest may be known to have been let in.
            return [*steps, *await _advance(context, slice_id, replica, chain[-1:], donor)]
        steps.append(advance)
        replica = advance.replica
    return steps


def _is_rival(head: Head, certificates: Sequence[Certificate]) -> bool:
    """Whether certificates, in order of version, are certain to be of another branch than ``head``.

    If they begin more than one version after ours, what lies between is gone: then only the donor can tell.
    """
    newest, following = certificates[-1], [c.value for c in certificates if c.value.version == head.version + 1]
    return (
        newest.value.version <= head.version
        or newest.ballot.epoch < head.epoch  # along one branch it never goes down
        or any(value.previous != head.value_hash for value in following)
    )


async def _parted(context: Context, head: Head, newest: Certificate, donor: PeerId) -> bool:
    """Whether the donor, or anybody who voted for the newest, knows that our version was decided otherwise.

    One of them may not know what was before: who has fetched the state whole has no rounds that led to it.
    """
    voters = [vote.peer for vote in newest.votes if vote.peer in context.claims and vote.peer != context.me]
    asked = dict.fromkeys([donor, *voters])
    ask = context.caller.decided_otherwise
    return any(await asyncio.gather(*(ask(peer, newest.value.slice, head) for peer in asked)))


async def fetch_owned(context: Context, replica: Replica) -> OwnedState:
    """The owners' state of a slice that this peer has followed so far, at the version where it stands.

    Raises:
        BlobUnavailable: no owner has that version's state any more; follow on, and ask again.
        BadMessage: the bytes are of another version than certified.
    """
    certificate = replica.certificate
    assert certificate is not None, "version 0 is everybody's own to make"
    donors = context.donors(certificate.value.owners, certificate.value.slice)
    return await _Task(context, replica, certificate, donors).fetch_owned()


class _Task:
    """One certificate to reach from one replica."""

    def __init__(self, context: Context, replica: Replica, certificate: Certificate, donors: Sequence[PeerId]) -> None:
        self._context = context
        self._replica = replica
        self._certificate = certificate
        self._value = certificate.value
        self._donors = donors
        self._codec = context.exchange.codec
        self._numel = context.numel[certificate.value.slice]

    async def perform(self, *, is_rival: bool = False) -> Advance:
        """The replica at the certificate's version.

        Args:
            is_rival: what leads to the certificate does not go through our version.

        Raises:
            BadRecord: the certificate follows ours but was signed by others than the owners that ours names, or it
                does not and too few of its voters were ever let into the run.
            BadMessage: the bytes do not give the certified digests.
            BlobUnavailable: nobody delivered them.
        """
        head, ballot = head_of(self._replica), self._certificate.ballot
        is_next = self._value.previous == head.value_hash and self._value.version == head.version + 1
        if not (is_next and head.owners and ballot.epoch == head.epoch):
            check_admitted(self._certificate, self._context.was_admitted, self._context.quorum)
        elif set(ballot.members) != set(head.owners):
            raise BadRecord(
                f"certificate of slice {self._value.slice} v{self._value.version} is not by the owners before it"
            )
        if is_next:
            try:
                return await self.replay()
            except BadMessage:
                if self._replica.owned is None:
                    raise
                return await self.fetch_whole()  # the others took the slice over, and we have the state from before
        if is_rival:
            self._context.events.emit(
                BranchLost(
                    slice=self._value.slice,
                    version=head.version,
                    followed=self._value.version,
                    tokens=head.tokens,
                    followed_tokens=self._value.tokens,
                )
            )
        return await self.fetch_whole()

    async def replay(self) -> Advance:
        """From the version before, by the round's averages (owners) or its update (everybody else)."""
        if self._replica.owned is None:
            return await self._replay_published()
        averages = await fetch_averages(self._context, self._value, self._donors)
        started_s = clock.monotonic_s()
        staged = await asyncio.to_thread(
            owner_step,
            self._replica,
            self._value,
            averages,
            self._context.bounds(self._value.slice),
            self._codec,
            self._context.outer(self._value.slice),
        )
        self._report("replay", sum(map(len, averages)), self._donors[0], started_s)
        return Advance(
            self._certificate,
            Replica(self._certificate, staged.published, staged.owned),
            [*averages, staged.update],
        )

    async def _replay_published(self) -> Advance:
        update_ref = self._value.update
        if update_ref.size_bytes != encoded_bytes(self._codec, self._numel):
            raise BadMessage(f"update of {update_ref.size_bytes} bytes for {self._numel} parameters")
        update, holder = await self._fetch(update_ref, "update")
        published = await asyncio.to_thread(follower_step, self._replica, self._value, update, self._codec)
        self._context.events.emit(
            UpdateApplied(
                slice=self._value.slice, version=self._value.version, holder=holder, size_bytes=update_ref.size_bytes
            )
        )
        return Advance(self._certificate, Replica(self._certificate, published, None), [update])

    async def fetch_whole(self) -> Advance:
        """The state itself: for newcomers, and for whoever missed more than the history keeps."""
        started_s = clock.monotonic_s()
        blob, donor = await self._fetch(BlobRef(self._value.published_digest, 2 * self._numel), "published weights")
        bits = np.frombuffer(blob, "<u2").astype(np.uint16)
        published = await asyncio.to_thread(PublishedState.of, self._value.version, bits)
        self._report("published", len(blob), donor, started_s)
        owned = await self.fetch_owned() if self._replica.owned is not None else None
        return Advance(self._certificate, Replica(self._certificate, published, owned), [])

    async def fetch_owned(self) -> OwnedState:
        """The owners' state alone."""
        started_s = clock.monotonic_s()
        blob, donor = await self._fetch(BlobRef(self._value.digest, owned_blob_bytes(self._numel)), "anchor")
        owned = await asyncio.to_thread(OwnedState.from_blob, blob)
        if owned.version != self._value.version:
            raise BadMessage(f"the state blob says version {owned.version}")
        self._report("anchor", len(blob), donor, started_s)
        return owned

    async def _fetch(self, ref: BlobRef, what: str) -> tuple[memoryview, PeerId]:
        name = f"{what} of slice {self._value.slice} v{self._value.version}"
        timeout_s = self._context.exchange.reduce_timeout_s
        return await self._context.blobs.fetch(ref, self._donors, silence_timeout_s=timeout_s, what=name)

    def _report(self, part: str, size_bytes: int, donor: PeerId, started_s: float) -> None:
        self._context.events.emit(
            StateFetched(
                slice=self._value.slice,
                version=self._value.version,
                part=part,
                size_bytes=size_bytes,
                donor=donor,
                seconds=clock.monotonic_s() - started_s,
            )
        )


async def fetch_averages(context: Context, value: Value, donors: Sequence[PeerId]) -> list[bytes | memoryview]:
    """The encoded averages of all parts that a value names, in order of parts.

    Raises:
        BadMessage: the results are not one a part, or a length is not that of the part.
        BlobUnavailable: no donor delivered one of them.
    """
    return await fetch_results(context, value.slice, value.version, value.results, [donors] * len(value.results))


async def fetch_results(
    context: Context,
    slice_id: SliceId,
    version: Version,
    results: Sequence[PartResult],
    donors: Sequence[Sequence[PeerId]],
) -> list[bytes | memoryview]:
    """The encoded averages of all parts, each from its own list of donors.

    Raises:
        AveragesUnavailable: nobody delivers some of them.
        BadMessage: the results do not fit the slice.
    """
    bounds = context.bounds(slice_id)
    if [r.part for r in results] != list(range(len(bounds))):
        raise BadMessage(f"{len(results)} results for the {len(bounds)} parts of slice {slice_id}")
    for result, (start, stop) in zip(results, bounds, strict=True):
        if result.average.size_bytes != encoded_bytes(context.exchange.codec, stop - start):
            raise BadMessage(f"average {result.part} of slice {slice_id} has {result.average.size_bytes} bytes")

    async def fetch(result: PartResult, holders: Sequence[PeerId]) -> memoryview:
        what = f"average {result.part} of slice {slice_id} v{version}"
        timeout_s = context.exchange.reduce_timeout_s
        data, _ = await context.blobs.fetch(result.average, holders, silence_timeout_s=timeout_s, what=what)
        return data

    fetches = (fetch(result, holders) for result, holders in zip(results, donors, strict=True))
    found = await asyncio.gather(*fetches, return_exceptions=True)
    failures = {part: error for part, error in enumerate(found) if isinstance(error, BlobUnavailable)}
    if failures:
        raise AveragesUnavailable(str(next(iter(failures.values()))), failures.keys())
    averages: list[bytes | memoryview] = []
    for average in found:
        if isinstance(average, BaseException):
            raise average
        averages.append(average)
    return averages
