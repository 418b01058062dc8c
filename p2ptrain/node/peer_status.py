"""The control interface's Status and Swarm answers, put together from the peer's parts."""

import asyncio
import math
import os

import psutil

from p2ptrain import __version__, clock
from p2ptrain.config.schema import PeerConfig
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.errors import ControlError
from p2ptrain.ids import PeerId, SliceId, counts_rounds, slice_of, slice_order
from p2ptrain.node.conditions import Probe
from p2ptrain.node.home import Home
from p2ptrain.node.observer import look
from p2ptrain.node.peer import Peer
from p2ptrain.node.vitals import Vitals
from p2ptrain.swarm.swarm import Swarm


def peer_status(home: Home, config: PeerConfig, vitals: Vitals, peer: Peer | None, probe: Probe) -> pb.StatusReply:
    """What a peer is doing.

    Args:
        home: its folder.
        config: what the volunteer chose, with the limits in force.
        vitals: folded from its events.
        peer: the running session; None while it sleeps.
        probe: for the device.
    """
    now_s = clock.wall_s()
    reply = pb.StatusReply(
        run=home.run_id,
        run_name=home.run.name,
        software=__version__,
        started_s=vitals.started_s,
        time_s=now_s,
        process_id=os.getpid(),
        home=str(home.path.absolute()),
        state=vitals.state,
        reason=vitals.reason,
        state_since_s=vitals.state_since_s,
        rounds=home.run.rounds,
        inner_step=vitals.inner_step,
        inner_steps=home.run.inner.steps,
        tokens=vitals.tokens,
        tokens_per_s=vitals.token_rate.per_s(now_s),
        loss_nats=vitals.loss_nats,
        validation_loss_nats=vitals.validation_loss_nats,
        network=pb.Network(
            addresses=vitals.addresses,
            sent_bytes=vitals.sent_bytes,
            received_bytes=vitals.received_bytes,
            sent_bytes_per_s=vitals.sent_rate.per_s(now_s),
            received_bytes_per_s=vitals.received_rate.per_s(now_s),
            reach="isolated" if vitals.state == "ISOLATED" else vitals.reach,
        ),
        device=_device(config, probe),
    )
    if peer is not None:
        reply.peer = peer.id
        if (swarm := peer.swarm) is not None:
            _add_slices(reply, swarm, vitals, peer.id)
    return reply


def _add_slices(reply: pb.StatusReply, swarm: Swarm, vitals: Vitals, me: PeerId) -> None:
    claims, own = swarm.claims, swarm.status()
    reply.network.known_peers = len(set(claims) - {me})
    for part in sorted(own.slices, key=lambda one: slice_order(SliceId(one.slice))):
        slice_id = SliceId(part.slice)
        if counts_rounds(slice_id):
            reply.round = part.version
        claimed = {peer: claim for peer, claim in claims.items() if slice_of(slice_id) in claim.ready}
        reply.slices.append(
            pb.Slice(
                slice=slice_id,
                version=part.version,
                epoch=part.epoch,
                is_mine=part.owned,
                owners=part.owners,
                holders=sorted(claimed),
                away=sorted(peer for peer, claim in claimed.items() if claim.is_away),
                digest=part.digests.get(part.version, ""),
                loss_nats=None if math.isnan(part.loss_nats) or not part.version else part.loss_nats,
                tokens=part.tokens,
                moved_s=vitals.moved_s.get(slice_id),
                parameters=swarm.context.numel[slice_id],
            )
        )


def _device(config: PeerConfig, probe: Probe) -> pb.Device:
    process = psutil.Process()
    rss_bytes = process.memory_info().rss
    device = pb.Device(
        name=config.engine.device,
        threads=config.limits.threads,
        process_rss_bytes=rss_bytes,
        temperature_c=probe.temperature_c(),
    )
    if config.engine.device == "cpu":
        device.used_percent = psutil.cpu_percent() if psutil.cpu_count() else 0.0
        device.memory_used_bytes, device.memory_total_bytes = rss_bytes, psutil.virtual_memory().total
    else:
        for name, value in probe.gpu().items():
            setattr(device, name, int(value) if name.endswith("_bytes") else value)
    return device


async def swarm_reply(home: Home, swarm: Swarm, timeout_s: float) -> pb.SwarmReply:
    """All peers of the run, asked now.

    Raises:
        ControlError: they cannot be asked in time.
    """
    context = swarm.context
    try:
        async with asyncio.timeout(timeout_s):
            report = await look(
                context.node, swarm.roster.directory, home.run_id, list(context.numel), own=swarm.status()
            )
    except TimeoutError as error:
        raise ControlError(f"the peers did not all answer within {timeout_s:g} s; ask again with more time") from error
    reply = pb.SwarmReply(run=report.run, silent=report.silent)
    for s in report.slices.values():
        reply.slices.append(
            pb.SwarmSlice(
                slice=s.slice,
                version=s.version,
                epoch=s.epoch,
                owners=s.owners,
                digests={str(peer): str(digest) for peer, digest in s.digests.items()},
                digests_version=s.digests_version,
                tokens=s.tokens,
                loss_nats=s.loss_nats,
            )
        )
    for p in report.peers.values():
        reply.peers.append(
            pb.SwarmPeer(
                peer=p.peer,
                slices=p.slices,
                state=p.state,
                reason=p.reason,
                sent_bytes=p.sent_bytes,
                received_bytes=p.received_bytes,
                tokens=p.tokens,
                validation_loss_nats=p.validation_loss_nats,
                software=p.software,
                reach=p.reach,
            )
        )
    return reply
