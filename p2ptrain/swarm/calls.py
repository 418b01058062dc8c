"""What this peer asks of others, and tells them, one call at a time."""

from collections.abc import Mapping
from typing import NamedTuple

from p2ptrain.errors import PeerUnreachable, WireError
from p2ptrain.events import Refused
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.swarm.answers import CALL_TIMEOUT_S, HEADS
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.head import Head
from p2ptrain.wire.messages import Certificate, Entrust, RoundMessage
from p2ptrain.wire.v1 import peer_pb2 as pb

ROUND = "p2ptrain/1/round"
ENTRUST = "p2ptrain/1/entrust"
DELEGATE = "p2ptrain/1/delegate"
_MAX_PAGES = 64


class News(NamedTuple):
    """What a peer answers when it is asked for news."""

    certificates: list[Certificate]
    """Checked, per slice in order of version."""
    behind: dict[SliceId, tuple[Version, Digest]]
    """Where it stands with slices of which it has nothing newer: version, and hash of its value."""


class Calls:
    """The wire under one peer's part in the swarm."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def deliver(self, peer: PeerId, message: RoundMessage) -> bool:
        """Whether the peer took the round message.

        Raises:
            PeerUnreachable: it may never have heard of it.
        """
        ack = await self._context.node.call(peer, ROUND, message.to_pb(), pb.Ack, timeout_s=CALL_TIMEOUT_S)
        if ack.refusal:
            self._context.events.emit(Refused(peer=peer, reason=f"it refused our message: {ack.refusal[:200]!a}"))
        return not ack.refusal

    async def newer_certificates(self, peer: PeerId, have: Mapping[SliceId, int]) -> list[Certificate]:
        """The peer's certificates after those versions, checked; empty when it has none or cannot be reached."""
        return await self.ask_for_newer(peer, have) or []

    async def ask_for_newer(self, peer: PeerId, have: Mapping[SliceId, int]) -> list[Certificate] | None:
        """The same; None when it cannot be reached, or what it says breaks the protocol."""
        news = await self.ask_for_news(peer, have)
        return None if news is None else news.certificates

    async def ask_for_news(self, peer: PeerId, have: Mapping[SliceId, int]) -> News | None:
        """What the peer knows beside those versions; None as above."""
        versions = {str(s): int(v) for s, v in have.items()}
        certificates: list[Certificate] = []
        behind: dict[SliceId, tuple[Version, Digest]] = {}
        try:
            for _ in range(_MAX_PAGES):
                request = pb.HeadsRequest(run=self._context.run, have=versions)
                reply = await self._context.node.call(peer, HEADS, request, pb.HeadsReply, timeout_s=CALL_TIMEOUT_S)
                page = [Certificate.decode(c.SerializeToString()) for c in reply.certificates]
                certificates += [self._context.checked(certificate, have) for certificate in page]
                for one in reply.behind:
                    if (slice_id := SliceId(one.slice)) in have:
                        behind[slice_id] = Version(one.version), Digest(one.value_sha256.hex())
                versions |= {c.value.slice: c.value.version for c in page}
                if not reply.more or not page:
                    break
        except PeerUnreachable:
            return None
        except WireError as error:
            self.refuse(peer, str(error))
            return None
        return News(certificates, behind)

    async def decided_otherwise(self, peer: PeerId, slice_id: SliceId, head: Head) -> bool:
        """Whether the peer knows that another value was decided for this version on the branch that it follows."""
        held = {str(slice_id): bytes.fromhex(head.value_hash or "")}
        request = pb.HeadsRequest(run=self._context.run, have={str(slice_id): head.version}, held=held)
        try:
            reply = await self._context.node.call(peer, HEADS, request, pb.HeadsReply, timeout_s=CALL_TIMEOUT_S)
        except WireError:  # then nobody can tell
            return False
        return slice_id in reply.rivals

    async def entrust(self, owner: PeerId, request: Entrust) -> bool:
        """Whether the owner has a place for us, or takes what we hand over.

        Raises:
            PeerUnreachable: it may never have heard of it.
        """
        call, reply_type = self._context.node.call, pb.EntrustReply
        reply = await call(owner, ENTRUST, request.to_pb(), reply_type, timeout_s=CALL_TIMEOUT_S)
        return not reply.refusal

    async def tell_constituent(
        self, peer: PeerId, slice_id: SliceId, version: Version, *, cut_off_within_s: float = 0.0, tokens: int = 0
    ) -> bool:
        """Ask a holder that has a place with us for its work, or tell it what has become of it; see ``Caller``."""
        news = pb.DelegateNews(
            run=self._context.run, slice=slice_id, version=version, cut_off_within_s=cut_off_within_s, tokens=tokens
        )
        ack = await self._context.node.call(peer, DELEGATE, news, pb.Ack, timeout_s=CALL_TIMEOUT_S)
        return not ack.refusal

    def refuse(self, peer: PeerId, reason: str) -> None:
        """What a peer sent breaks the protocol: say so, and stop listening to it when that goes on."""
        self._context.events.emit(Refused(peer=peer, reason=reason))
        self._context.node.door.accuse(peer, reason)
