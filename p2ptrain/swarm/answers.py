"""What a peer answers to whoever asks: the rounds that it knows and they do not, and how it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from p2ptrain import __version__, clock
from p2ptrain.ids import Digest, SliceId, Version
from p2ptrain.swarm.catch_up import head_of
from p2ptrain.swarm.directory import Capacity
from p2ptrain.swarm.follower import SliceFollower
from p2ptrain.swarm.owner import SliceOwner
from p2ptrain.wire.libp2p import Traffic
from p2ptrain.wire.v1 import peer_pb2 as pb

HEADS = "p2ptrain/1/heads"
STATUS = "p2ptrain/1/status"
CALL_TIMEOUT_S = 5.0
"""For one small message and its answer: a relayed path takes 70 ms, a busy peer a second."""

Part = SliceOwner | SliceFollower
"""A peer's part in one slice, or where there are fragments in one of them."""

_PAGE_BYTES = 2 * 1024 * 1024
"""Of certificates in one answer, but never less than one of them; a call carries 4 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What this peer is doing, for whoever asks."""

    state: str
    reason: str
    tokens: int
    validation_loss_nats: float
    """NaN: not measured."""
    capacity: Capacity
    """What it can give."""
    reach: str = ""
    """How it is connected with the others, in a word; empty: not measured."""
    ordered: frozenset[SliceId] = frozenset()
    """Slices that the run's authority asks this peer to own now."""
    can_vote: bool = True
    """False while the disk takes nothing: the others then go on without us, if there are any."""


def heads_reply(request: pb.HeadsRequest, parts: Sequence[tuple[SliceId, Part]]) -> pb.HeadsReply:
    """Certificates after the versions that the request names, at most a page of them; of ``held`` ones, the rivals.

    Of slices without such certificates it says where they stand here: that may be on another branch than the caller's,
    which only the one with more versions can see.
    """
    reply = pb.HeadsReply()
    for slice_id, part in parts:
        if slice_id not in request.have:
            continue
        have = Version(request.have[slice_id])
        if slice_id in request.held:
            if part.history.decided_otherwise(have, Digest(request.held[slice_id].hex())):
                reply.rivals.append(slice_id)
            continue
        newer = part.history.since(have)
        newest = part.replica.certificate
        if not newer and newest and newest.value.version > have:
            newer = [newest]
        if not newer and newest:
            value = newest.value
            behind = pb.Behind(slice=slice_id, version=value.version, value_sha256=bytes.fromhex(value.value_hash))
            reply.behind.append(behind)
        for certificate in newer:
            encoded = certificate.encode()
            if reply.certificates and reply.ByteSize() + len(encoded) > _PAGE_BYTES:
                reply.more = True
                return reply
            reply.certificates.append(pb.Certificate.FromString(encoded))
    return reply


def status_reply(condition: Condition, parts: Sequence[tuple[SliceId, Part]], traffic: Traffic) -> pb.StatusReply:
    """How this peer is, and where each slice stands with it; without its name."""
    reply = pb.StatusReply(
        state=condition.state,
        reason=condition.reason,
        sent_bytes=traffic.sent_bytes,
        received_bytes=traffic.received_bytes,
        tokens=condition.tokens,
        software=__version__,
        validation_loss_nats=condition.validation_loss_nats,
        time_s=clock.wall_s(),
        reach=condition.reach,
    )
    for slice_id, part in parts:
        head = head_of(part.replica)
        owned = part.replica.owned
        digests = {int(v): str(d) for v, d in part.history.recent_digests().items()} if owned else {}
        if owned:  # computed from the bytes that we hold, not copied from the certificate
            digests[owned.version] = owned.digest
        reply.slices.append(
            pb.SliceStatus(
                slice=slice_id,
                version=head.version,
                epoch=head.epoch,
                owners=head.owners,
                digests=digests,
                tokens=head.tokens,
                loss_nats=part.loss_nats,
                owned=owned is not None,
            )
        )
    return reply
