"""Looking at a swarm without being part of it: who is there, and what each of them says it holds."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Sequence

from p2ptrain.config.schema import NetworkConfig
from p2ptrain.errors import PeerUnreachable
from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version, slice_of, slice_order
from p2ptrain.node.passing_node import passing_node
from p2ptrain.report import PeerReport, SliceReport, SwarmReport
from p2ptrain.swarm.answers import CALL_TIMEOUT_S, STATUS
from p2ptrain.swarm.coverage import Target, coverage
from p2ptrain.swarm.directory import DhtDirectory, Directory
from p2ptrain.swarm.listing import num_peers
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.v1 import peer_pb2 as pb

_MAX_WORDS = 200
"""Characters of what a peer says about itself; a stranger could say megabytes."""


async def observe(
    run: RunId, slices: Sequence[SliceId], network: NetworkConfig, target: Target | None = None
) -> SwarmReport:
    """Ask every peer of the run once.

    Args:
        run: the run.
        slices: all that is agreed on, see ``every_fragment``.
        network: which bootstraps to ask.
        target: owners that the run wants of every slice, to judge them by.

    Raises:
        NetworkSetupError: no bootstrap answers.
    """
    async with passing_node(network, "observer") as (node, identity):
        directory = DhtDirectory(node, identity, run)
        return await look(node, directory, run, slices, target)


async def observe_often(
    run: RunId,
    slices: Sequence[SliceId],
    network: NetworkConfig,
    target: Target | None = None,
    *,
    every_s: float,
    stop: asyncio.Event,
    tell: Callable[[SwarmReport], None],
) -> None:
    """Ask every peer of the run, again and again, until ``stop`` is set; what else, as for ``observe``."""
    async with passing_node(network, "observer") as (node, identity):
        directory = DhtDirectory(node, identity, run)
        while not stop.is_set():
            report = await look(node, directory, run, slices, target)
            tell(report)
            await node.keep_acquaintance(report.peers)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await stop.wait()


async def look(
    node: Libp2pNode,
    directory: Directory,
    run: RunId,
    slices: Sequence[SliceId],
    target: Target | None = None,
    own: pb.StatusReply | None = None,
) -> SwarmReport:
    """Ask every peer of the run once, by a node that runs already; arguments as for ``observe``.

    ``own`` is the answer of the peer whose node this is, which cannot call itself.
    """
    claims = {peer: claim for peer, claim in (await directory.claims()).items() if not claim.is_withdrawn}
    peers = sorted(claims)

    async def reply_of(peer: PeerId) -> pb.StatusReply | None:
        if own and peer == own.peer:
            return own
        reply = await _ask(node, peer, run)
        return reply and _of_run(reply, slices)

    replies = await asyncio.gather(*map(reply_of, peers))
    answered = {peer: reply for peer, reply in zip(peers, replies, strict=True) if reply is not None}
    living = [claims[peer].member() for peer in answered]
    numbered = {slice_of(s) for s in slices} - {COMMON}
    verdicts = {s: c.verdict for s, c in coverage(numbered, living, target).items()} if target else {}
    return SwarmReport.of(
        run,
        [_slice_report(s, answered, verdicts.get(slice_of(s), "")) for s in sorted(slices, key=slice_order)],
        [_peer_report(peer, reply) for peer, reply in answered.items()],
        [peer for peer in peers if peer not in answered],
        num_peers(claims.values()),
    )


async def _ask(node: Libp2pNode, peer: PeerId, run: RunId) -> pb.StatusReply | None:
    try:
        reply = await node.call(peer, STATUS, pb.StatusRequest(run=run), pb.StatusReply, timeout_s=CALL_TIMEOUT_S)
    except PeerUnreachable:
        return None
    return None if reply.refusal else reply


def _of_run(reply: pb.StatusReply, slices: Collection[SliceId]) -> pb.StatusReply:
    """The answer without slices that the run does not have: it is a stranger's, and what we show has an order."""
    known = [status for status in reply.slices if status.slice in slices]
    if len(known) < len(reply.slices):
        del reply.slices[:]
        reply.slices.extend(known)
    return reply


def _slice_report(slice_id: SliceId, replies: dict[PeerId, pb.StatusReply], verdict: str) -> SliceReport:
    reports = {peer: status for peer, reply in replies.items() for status in reply.slices if status.slice == slice_id}
    newest = max(reports.values(), key=lambda s: (s.tokens, s.version), default=pb.SliceStatus())
    owned = {peer: status for peer, status in reports.items() if status.owned}
    # Owners commit moments apart: compare them at the newest version that each of them has reached.
    reached = min((status.version for status in owned.values()), default=0)
    return SliceReport(
        slice=slice_id,
        version=Version(newest.version),
        epoch=newest.epoch,
        owners=tuple(map(PeerId, newest.owners)),
        digests={peer: Digest(s.digests[reached]) for peer, s in owned.items() if reached in s.digests},
        digests_version=Version(reached),
        tokens=newest.tokens,
        loss_nats=_measured(newest.loss_nats) if newest.version else None,
        verdict=verdict,
    )


def _peer_report(peer: PeerId, reply: pb.StatusReply) -> PeerReport:
    return PeerReport(
        peer=peer,
        slices=tuple(dict.fromkeys(slice_of(SliceId(status.slice)) for status in reply.slices if status.owned)),
        state=reply.state[:_MAX_WORDS],
        reason=reply.reason[:_MAX_WORDS],
        sent_bytes=reply.sent_bytes,
        received_bytes=reply.received_bytes,
        tokens=reply.tokens,
        validation_loss_nats=_measured(reply.validation_loss_nats),
        software=reply.software[:_MAX_WORDS],
        reach=reply.reach[:_MAX_WORDS],
    )


def _measured(loss_nats: float) -> float | None:
    """A loss that a peer says; NaN is how it says that it has none, and what is infinite is no loss either."""
    return loss_nats if math.isfinite(loss_nats) else None
