"""Floods against real nodes: of records, of old records, of calls and of connections."""

import asyncio
from pathlib import Path

import pytest

from p2ptrain import clock
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import RunId
from p2ptrain.node.crowd_watch import watch_crowd
from p2ptrain.swarm.directory import Claim, DhtDirectory, _encode, _record_name
from p2ptrain.wire import doorkeeper, strikes
from p2ptrain.wire.crowd import Crowd
from p2ptrain.wire.record_room import RECORD_OVERHEAD_BYTES
from tests.support.bare_connection import BareConnection
from tests.support.live_swarm import PATIENCE_S
from tests.swarm.test_wire_over_libp2p import RUN, Party, parties, soon

pytestmark = pytest.mark.swarm


def claim_of(identity: Identity, lease_s: float, run: RunId = RUN) -> Claim:
    return Claim(run=run, peer=identity.peer_id, expires_s=clock.wall_s() + lease_s)


async def put(by: Party, identity: Identity, claim: Claim) -> bool:
    """Store anybody's signed claim, as any peer may."""
    value = _encode(identity, claim)
    return await by.node.store(_record_name(claim.run), subkey=claim.peer, value=value, expires_s=claim.expires_s)


async def test_a_flood_of_valid_records_is_refused_and_who_was_there_before_is_still_found(tmp_path: Path) -> None:
    async with parties(tmp_path, 3) as (node, flooder, reader):
        friend = Identity.generate()
        await soon(lambda: put(reader, friend, claim_of(friend, 300)), "a record is stored")
        for party in (node, flooder, reader):
            party.node.room.max_bytes = party.node.room.used_bytes + 20 * RECORD_OVERHEAD_BYTES
        for _ in range(60):
            stranger = Identity.generate()
            await put(flooder, stranger, claim_of(stranger, 500))
        assert node.node.room.refused > 20
        assert node.node.room.used_bytes <= node.node.room.max_bytes
        renewed: list[Claim] = []

        async def renew() -> bool:
            renewed.append(claim_of(friend, 400))
            return await put(reader, friend, renewed[-1])

        await soon(renew, "a renewal replaces what it renews")
        directory = DhtDirectory(reader.node, reader.identity, RUN)
        found = await soon(directory.claims, "the records are found")
        assert found[friend.peer_id].expires_s == renewed[-1].expires_s


async def test_an_old_claim_that_somebody_repeats_does_not_make_the_newer_one_vanish(tmp_path: Path) -> None:
    async with parties(tmp_path, 3) as (_, replayer, reader):
        peer = Identity.generate()
        for lease_s in (4, 20, 90):  # the first is too short where it takes longer to store the three
            old, new = claim_of(peer, lease_s), claim_of(peer, lease_s + 300)
            stored = [await put(reader, peer, old), await put(reader, peer, new)]
            await put(replayer, peer, old)
            if all(stored) and clock.wall_s() < old.expires_s:
                break
        assert all(stored)
        await asyncio.sleep(old.expires_s - clock.wall_s() + 0.5)  # nothing is to be seen before it expires
        stranger = Identity.generate()
        await put(reader, stranger, claim_of(stranger, 300))  # storages look for what has expired when they are used
        found = await soon(DhtDirectory(replayer.node, replayer.identity, RUN).claims, "the records are found")
        assert found[peer.peer_id].expires_s == new.expires_s


async def test_who_floods_the_directory_with_calls_is_not_heard_while_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parties(tmp_path, 3) as (node, flooder, reader):
        monkeypatch.setattr(strikes, "PENALTY_S", 3600.0)
        monkeypatch.setattr(doorkeeper, "CALLS_BURST", 100)
        monkeypatch.setattr(doorkeeper, "CALLS_PER_S", 0.01)  # or a slow machine's flood would be none
        assert await soon(lambda: flooder.node.ping(node.peer), "who calls now and then is heard")
        for _ in range(200):
            await flooder.node.ping(node.peer)
            if node.node.door.is_out(flooder.peer):
                break
        assert node.node.door.refused > 0
        assert node.node.door.is_out(flooder.peer)
        assert not await flooder.node.ping(node.peer)
        assert await soon(lambda: reader.node.ping(node.peer), "the others are heard")


async def test_the_newest_connections_from_one_address_are_hung_up_on(tmp_path: Path) -> None:
    async with parties(tmp_path, 1) as (party,):
        port = int(party.node.addresses[0].split("/")[4])
        told: list[str] = []
        crowd = Crowd(per_address=3)
        watching = asyncio.create_task(watch_crowd(party.node, crowd, told.append))
        try:
            first = [await BareConnection.open("127.0.0.1", port) for _ in range(3)]
            staying = [asyncio.create_task(connection.stay()) for connection in first]
            async with asyncio.timeout(PATIENCE_S):
                while crowd.present < 3:  # noqa: ASYNC110 - the watcher tells nobody that it has looked
                    await asyncio.sleep(0.05)
            late = [await BareConnection.open("127.0.0.1", port) for _ in range(4)]
            leaving = [asyncio.create_task(connection.stay()) for connection in late]
            done, pending = await asyncio.wait(leaving, timeout=PATIENCE_S)
            assert not pending
            assert all(isinstance(task.exception(), EOFError | ConnectionError) for task in done)
            assert not any(task.done() for task in staying), "who was here first stays"
            assert "from 127.0.0.1: the newest are cut off" in told[0]
            assert crowd.cut >= 4
        finally:
            for task in (watching, *staying):
                task.cancel()
            await asyncio.gather(watching, *staying, return_exceptions=True)
            for connection in (*first, *late):
                connection.close()
