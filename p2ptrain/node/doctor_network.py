"""What the doctor measures in the network: two nodes under passing identities ask the bootstraps and the peers.

They are nodes of their own, so that a running peer is seen as others see it, and a peer that is not running is not
announced.
"""

import asyncio
import contextlib
import hashlib
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from p2ptrain import clock
from p2ptrain.config.schema import NetworkConfig, RunConfig
from p2ptrain.errors import BlobUnavailable, NetworkSetupError, PeerUnreachable, WireError
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import PeerId, RunId
from p2ptrain.node.doctor import ClockOffset, DialledBootstrap, DirectoryFacts, LinkFacts, ReachFacts
from p2ptrain.node.doctor_probes import tcp_port
from p2ptrain.node.link_probe import measure_download, measure_upload
from p2ptrain.node.passing_node import passing_node
from p2ptrain.swarm.answers import HEADS, STATUS
from p2ptrain.swarm.directory import Claim, DhtDirectory
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.messages import BlobRef, Certificate
from p2ptrain.wire.v1 import peer_pb2 as pb

_DIAL_TIMEOUT_S = 5.0
_CALL_TIMEOUT_S = 5.0
_FOUND_WITHIN_S = 15.0
_RECORD_S = 60.0
"""Life of the record that is stored to be looked for; of a run that nobody has."""
_MOST_PEERS = 16
"""That are asked; a swarm of thousands need not answer all of them."""
_SILENCE_TIMEOUT_S = 10.0
_FEWEST_BYTES = 50_000
"""Smaller transfers measure the distance and not the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkFacts:
    """All that was measured."""

    names: Mapping[str, Sequence[str] | str]
    dialled: Sequence[DialledBootstrap]
    reach: ReachFacts | None = None
    directory: DirectoryFacts | None = None
    offsets: Sequence[ClockOffset] = ()
    versions: Mapping[PeerId, str] = field(default_factory=dict)
    """Software of the peers that answered."""
    link: LinkFacts = field(default_factory=lambda: LinkFacts(down_mbps=None))
    is_own_id_answering: bool | None = None
    """Whether somebody answers under the id that was asked about."""


async def examine_network(
    network: NetworkConfig,
    run: RunConfig | None,
    run_id: RunId | None,
    own: PeerId | None,
    *,
    is_running: bool,
    peers_port: int | None,
) -> NetworkFacts:
    """Measure, in some ten seconds.

    Args:
        network: which bootstraps to use.
        run: for what a swarm of it can tell; None asks no peer.
        run_id: of ``run``.
        own: the id of the home's peer, if it has one.
        is_running: whether that peer is running here.
        peers_port: TCP, at which it listens; None when it does not run.
    """
    names = await _resolved(network.bootstraps)
    dialled = await asyncio.gather(*(_dial(address) for address in network.bootstraps))
    facts = NetworkFacts(names=names, dialled=dialled)
    if not any(one.seconds is not None for one in dialled):
        return facts
    try:
        async with passing_node(network, "doctor") as (first, identity), passing_node(network, "doctor") as (second, _):
            facts = replace(facts, reach=await _ask_to_be_called(first, peers_port))
            facts = replace(facts, directory=await _store_and_find(first, identity, second))
            if run is not None and run_id is not None:
                facts = await _ask_swarm(facts, second, identity, run_id, own, is_running=is_running)
            facts = replace(facts, link=await _with_bootstraps(facts.link, second))
    except NetworkSetupError as error:
        broken = DirectoryFacts(is_stored=False, is_found=False, seconds=0.0, is_own_claim_seen=None, error=str(error))
        return replace(facts, directory=broken)
    return facts


async def _resolved(bootstraps: Sequence[str]) -> dict[str, Sequence[str] | str]:
    """Addresses of the host names in multiaddresses, or what the name server said."""
    found: dict[str, Sequence[str] | str] = {}
    for address in bootstraps:
        _, kind, host, *_ = [*address.split("/"), "", "", ""]
        if not kind.startswith("dns"):
            continue
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found[host] = sorted({str(answer[4][0]) for answer in answers})
        except (OSError, TimeoutError) as error:
            found[host] = getattr(error, "strerror", None) or "no answer in time"
    return found


async def _dial(address: str) -> DialledBootstrap:
    """A TCP connection to a multiaddress, closed at once."""
    parts = address.split("/")
    try:
        host, port = parts[2], int(parts[parts.index("tcp") + 1])
    except (IndexError, ValueError):
        return DialledBootstrap(address=address, seconds=None, error="not of the form /ip4/HOST/tcp/PORT/p2p/ID")
    started_s = clock.monotonic_s()
    try:
        async with asyncio.timeout(_DIAL_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or f"no answer in {_DIAL_TIMEOUT_S:.0f} s"
        return DialledBootstrap(address=f"{host}:{port}", seconds=None, error=reason)
    writer.close()
    return DialledBootstrap(address=f"{host}:{port}", seconds=clock.monotonic_s() - started_s)


async def _ask_to_be_called(node: Libp2pNode, peers_port: int | None) -> ReachFacts | None:
    port = peers_port or tcp_port(node.addresses)
    if port is None:
        return None
    return ReachFacts(port=port, is_peers=peers_port is not None, sightings=await node.seen_by_bootstraps(port))


async def _store_and_find(first: Libp2pNode, identity: Identity, second: Libp2pNode) -> DirectoryFacts:
    """Store under a run that nobody has, by one node; look for it by the other."""
    run = RunId(hashlib.sha256(secrets.token_bytes(32)).hexdigest())
    claim = Claim(run=run, peer=identity.peer_id, expires_s=clock.wall_s() + _RECORD_S)
    started_s = clock.monotonic_s()
    is_stored = await DhtDirectory(first, identity, run).publish(claim)
    is_found = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FOUND_WITHIN_S):
            while not is_found:
                is_found = identity.peer_id in await DhtDirectory(second, identity, run).claims()
    return DirectoryFacts(
        is_stored=is_stored or is_found,
        is_found=is_found,
        seconds=clock.monotonic_s() - started_s,
        is_own_claim_seen=None,
    )


async def _ask_swarm(
    facts: NetworkFacts, node: Libp2pNode, identity: Identity, run_id: RunId, own: PeerId | None, *, is_running: bool
) -> NetworkFacts:
    found = await DhtDirectory(node, identity, run_id).claims()
    claims = {peer: claim for peer, claim in found.items() if not claim.is_withdrawn}
    peers = sorted(claims, key=lambda peer: (peer != own, peer))[:_MOST_PEERS]
    answers = await asyncio.gather(*(_ask_status(node, peer, run_id) for peer in peers))
    answered = {peer: answer for peer, answer in zip(peers, answers, strict=True) if answer is not None}
    others = {peer: answer for peer, answer in answered.items() if peer != own}
    if is_running and facts.directory is not None:
        facts = replace(facts, directory=replace(facts.directory, is_own_claim_seen=is_seen(own, claims)))
    # A peer that is stopped has withdrawn its claim; one that is asked for all the same may run elsewhere.
    is_answering = own in answered if own is not None and not is_running else None
    return replace(
        facts,
        offsets=[offset for _, offset in others.values() if offset is not None],
        versions={peer: reply.software for peer, (reply, _) in others.items()},
        is_own_id_answering=is_answering,
        link=await _measure_link(node, list(others), run_id),
    )


def is_seen(own: PeerId | None, claims: Mapping[PeerId, Claim]) -> bool | None:
    """Whether the running peer's claim is among these; None where not all are listed, so that it need not be."""
    if own in claims:
        return True
    return None if any(claim.halvings for claim in claims.values()) else False


async def _ask_status(node: Libp2pNode, peer: PeerId, run: RunId) -> tuple[pb.StatusReply, ClockOffset | None] | None:
    sent_s, started_s = clock.wall_s(), clock.monotonic_s()
    try:
        reply = await node.call(peer, STATUS, pb.StatusRequest(run=run), pb.StatusReply, timeout_s=_CALL_TIMEOUT_S)
    except PeerUnreachable:
        return None
    if reply.refusal:
        return None
    half_s = (clock.monotonic_s() - started_s) / 2
    if not reply.time_s:
        return reply, None
    return reply, ClockOffset(peer=peer, ahead_s=reply.time_s - (sent_s + half_s), uncertainty_s=half_s)


async def _measure_link(node: Libp2pNode, peers: Sequence[PeerId], run: RunId) -> LinkFacts:
    """Fetch the newest updates of all slices from a peer that has them."""
    exchange = BlobExchange(node, lambda peer, reason: None)
    for peer in peers:
        try:
            refs = await _updates_at(node, peer, run)
        except (PeerUnreachable, WireError):
            continue
        size, started_s = 0, clock.monotonic_s()
        for ref in refs:
            with contextlib.suppress(BlobUnavailable):
                await exchange.fetch(ref, [peer], silence_timeout_s=_SILENCE_TIMEOUT_S, what="an update")
                size += ref.size_bytes
        seconds = clock.monotonic_s() - started_s
        if size >= _FEWEST_BYTES:
            return LinkFacts(down_mbps=size * 8e-6 / max(seconds, 1e-6), down_source=f"{size / 1e6:.1f} MB from a peer")
    return LinkFacts(down_mbps=None, reason="no peer had enough to transfer")


async def _with_bootstraps(link: LinkFacts, node: Libp2pNode) -> LinkFacts:
    """Bytes go to a bootstrap, and come from one if no peer had enough: no round waits for its line."""
    bootstraps = [PeerId(address.rpartition("/p2p/")[2]) for address in node.bootstraps]
    if (up := await measure_upload(node, bootstraps)) is not None:
        link = replace(link, up_mbps=up[0], up_source=f"{up[1] / 1e6:.1f} MB to a bootstrap")
    if link.down_mbps is None and (down := await measure_download(node, bootstraps)) is not None:
        link = replace(link, down_mbps=down[0], down_source=f"{down[1] / 1e6:.1f} MB from a bootstrap")
    return link


async def _updates_at(node: Libp2pNode, peer: PeerId, run: RunId) -> list[BlobRef]:
    status = await node.call(peer, STATUS, pb.StatusRequest(run=run), pb.StatusReply, timeout_s=_CALL_TIMEOUT_S)
    have = {one.slice: max(0, one.version - 1) for one in status.slices}
    request = pb.HeadsRequest(run=run, have=have)
    reply = await node.call(peer, HEADS, request, pb.HeadsReply, timeout_s=_CALL_TIMEOUT_S)
    return [Certificate.decode(one.SerializeToString()).value.update for one in reply.certificates]
