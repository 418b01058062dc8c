"""A hostile libp2p node against two real peers: they go on committing, say who it was, and do not grow."""

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

from p2ptrain.config.load import load_run, run_id
from p2ptrain.events import CatchUpFailed, Refused
from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version
from p2ptrain.swarm.answers import HEADS, STATUS
from p2ptrain.swarm.calls import DELEGATE, ENTRUST, ROUND
from p2ptrain.swarm.certificates import sign_vote
from p2ptrain.swarm.head import Head
from p2ptrain.wire.blobs import STREAM
from p2ptrain.wire.messages import Ballot, BlobRef, Certificate, Committed, RoundMessage
from p2ptrain.wire.v1 import peer_pb2 as pb
from tests.support.hostile_messages import Hostile
from tests.support.live_swarm import PATIENCE_S, LivePeer, LiveSwarm
from tests.swarm.test_wire_over_libp2p import Party, parties, soon

pytestmark = pytest.mark.faults

ATTACK_S = 15.0
ENOUGH_CALLS = 500
"""However slow the machine is."""
GROWTH_MIB = 60
"""Allowed of a peer's resident memory; the attack carries several times as much to it."""


def resident_mib(peer: LivePeer) -> float:
    """Memory of a peer's own process."""
    return int(Path(f"/proc/{peer.child.pid}/statm").read_text().split()[1]) * 4096 / 2**20


async def attack(hostile: Party, victim: PeerId, run: str) -> int:
    """Everything at once for some seconds; how many calls were made."""
    client, to = hostile.node._p2p._client, PeerID.from_base58(victim)
    source = Hostile(1, hostile.identity, tuple(sorted([hostile.peer, victim])))
    chance = random.Random(2)
    made = 0

    async def call(name: str, data: bytes) -> None:
        nonlocal made
        made += 1
        try:
            async with asyncio.timeout(60.0):
                await client.call_unary_handler(to, name, data)
        except (P2PHandlerError, P2PDaemonError, TimeoutError):
            pass

    def message() -> bytes:
        request = pb.RoundMessage()
        try:
            request.ParseFromString(source.data())
            request.run = run
            return request.SerializeToString()
        except (DecodeError, UnicodeDecodeError):
            return chance.randbytes(100)

    def entrusted() -> bytes:
        parts = [pb.BlobRef(sha256=chance.randbytes(32), size_bytes=chance.randrange(2**40)) for _ in range(3)]
        contribution = pb.Contribution(peer=hostile.peer, tokens=chance.choice([0, 100, 2**63]), parts=parts)
        whole = pb.EntrustRequest(run=run, slice=COMMON, version=chance.randrange(10), cut_off=chance.random() < 0.5)
        whole.contribution.CopyFrom(contribution)
        return whole.SerializeToString()

    def news() -> bytes:
        within_s = chance.choice([0.0, 1e-9, 1e300, float("inf"), float("nan"), -1.0])
        tokens = chance.choice([0, 1, 2**64 - 1])
        version = chance.randrange(10)
        whole = pb.DelegateNews(run=run, slice=COMMON, version=version, cut_off_within_s=within_s, tokens=tokens)
        return whole.SerializeToString()

    streams = []
    for _ in range(80):
        _, reader, writer = await client.stream_open(to, (STREAM,))
        writer.write(chance.randbytes(chance.choice([1, 47, 48, 4800])))
        streams.append((reader, writer))
    await call(ROUND, b"\xff" * (5 * 1024 * 1024))
    until_s = time.monotonic() + ATTACK_S
    while time.monotonic() < until_s or made < ENOUGH_CALLS:
        names = [ROUND, HEADS, STATUS, ENTRUST, DELEGATE]
        garbage = [call(chance.choice(names), chance.randbytes(chance.randrange(500))) for _ in range(20)]
        untimely = [call(ROUND, message()) for _ in range(60)]
        untimely += [call(ENTRUST, entrusted()) for _ in range(10)]
        untimely += [call(DELEGATE, news()) for _ in range(10)]
        flood = [call(STATUS, pb.StatusRequest(run=run).SerializeToString()) for _ in range(60)]
        await asyncio.gather(*garbage, *untimely, *flood)
    for _, writer in streams:
        writer.close()
    return made


def test_peers_under_attack_go_on_and_cut_the_attacker_off(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, rounds=10_000) as swarm:
        peers = [swarm.start_peer("a", "0"), swarm.start_peer("b", "1")]
        for peer in peers:
            peer.wait_for_version(COMMON, 5)
        before = [resident_mib(peer) for peer in peers]
        victim = peers[0]
        versions = len(victim.committed(COMMON))
        run = run_id(load_run(swarm.manifest))

        async def hostile_node() -> tuple[PeerId, int]:
            async with parties(tmp_path / "hostile", 1, bootstraps=[swarm.address]) as (hostile,):
                await soon(lambda: hostile.node.ping(victim.id), "the victim is found")
                return hostile.peer, await attack(hostile, victim.id, run)

        (tmp_path / "hostile").mkdir()
        hostile, made = asyncio.run(hostile_node())
        assert made >= ENOUGH_CALLS
        for peer in peers:
            peer.wait_for_version(COMMON, versions + 5)
        swarm.assert_same_digests()
        refusals = [event for event in victim.events(Refused) if event.peer == hostile]
        assert any("cut off" in event.reason for event in refusals)
        assert len(refusals) < 100, "its journal must not grow with the attack"
        assert all(event.peer == hostile for peer in peers for event in peer.events(Refused))
        for peer, mib in zip(peers, before, strict=True):
            assert resident_mib(peer) < mib + GROWTH_MIB


async def takeover(hostile: Party, victim: PeerId, run: str, slice_id: SliceId) -> None:
    """Announce the next version of a slice as decided by us alone, with owners whose ids are none."""
    request = pb.HeadsRequest(run=run, have={str(slice_id): 0})
    reply = await hostile.node.call(victim, HEADS, request, pb.HeadsReply, timeout_s=60.0)
    found = [Certificate.decode(one.SerializeToString()) for one in reply.certificates]
    newest = max((c for c in found if c.value.slice == slice_id), key=lambda c: c.value.version)
    tokens, weight = Head.of(newest).sums_with(newest.value.contributions)
    value = replace(
        newest.value,
        tokens=tokens,
        weight=weight,
        version=Version(newest.value.version + 1),
        previous=newest.value.value_hash,
        update=BlobRef(Digest("5a" * 32), newest.value.update.size_bytes),
        owners=(PeerId("!!!"), PeerId("é")),
    )
    ballot = Ballot(newest.ballot.epoch + 1, 0, (hostile.peer,))
    certificate = Certificate(value, ballot, (sign_vote(hostile.identity, ballot, value),))
    message = RoundMessage(RunId(run), slice_id, value.version, ballot, Committed(certificate))
    ack = await hostile.node.call(victim, ROUND, message.to_pb(), pb.Ack, timeout_s=60.0)
    assert not ack.refusal, "or it was not tried"


def test_a_certificate_that_names_owners_who_cannot_exist_ends_nobody(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, rounds=10_000) as swarm:
        peers = [swarm.start_peer("a", "0"), swarm.start_peer("b", "1")]
        for peer in peers:
            peer.wait_for_version(COMMON, 5)
        run, victim = run_id(load_run(swarm.manifest)), peers[0]

        async def hostile_node() -> None:
            async with parties(tmp_path / "hostile", 1, bootstraps=[swarm.address]) as (hostile,):
                await soon(lambda: hostile.node.ping(victim.id), "the victim is found")
                until_s = time.monotonic() + PATIENCE_S
                while not victim.events(CatchUpFailed):  # what has been decided meanwhile is nothing that it would try
                    assert time.monotonic() < until_s, "the victim tries in vain"
                    for slice_id in (COMMON, SliceId("0"), SliceId("1")):  # owned by all, by it, and by the other
                        await takeover(hostile, victim.id, run, slice_id)

        (tmp_path / "hostile").mkdir()
        asyncio.run(hostile_node())
        versions = len(victim.committed(COMMON))
        for peer in peers:
            peer.wait_for_version(COMMON, versions + 5)
        swarm.assert_same_digests()
