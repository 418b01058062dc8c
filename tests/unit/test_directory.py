"""Claims and guest lists: what every node takes, what a peer makes of it; the network is a dict."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from p2ptrain import clock
from p2ptrain.identity.authority import Door, GuestList, write_guests
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import PeerId, RunId, SliceId
from p2ptrain.swarm.directory import Claim, DhtDirectory, is_valid_record
from p2ptrain.swarm.guests import DhtGuestRecords, GuardedDirectory
from p2ptrain.wire.libp2p_start import DirectoryRecord, record_key

RUN, OTHER_RUN = RunId("ab" * 32), RunId("cd" * 32)
ME, OTHER, AUTHORITY = (Identity.from_seed(bytes([n]) * 32) for n in range(3))
LEASE_S = 30.0


@dataclass
class Network:
    """Stands for a node: keeps every record that every node would keep, the one that expires last."""

    now_s: float = 1000.0
    records: dict[str, dict[str, DirectoryRecord]] = field(default_factory=dict)
    stored: list[DirectoryRecord] = field(default_factory=list)

    async def store(self, name: str, *, subkey: str, value: bytes, expires_s: float) -> bool:
        record = DirectoryRecord(record_key(name), subkey, value, expires_s)
        known = self.records.setdefault(name, {})
        if not is_valid_record(record) or (subkey in known and known[subkey].expires_s >= expires_s):
            return False
        known[subkey] = record
        self.stored.append(record)
        return True

    async def find(self, name: str) -> dict[str, bytes]:
        return {subkey: r.value for subkey, r in self.records.get(name, {}).items() if r.expires_s > self.now_s}


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(clock, "wall_s", lambda: network.now_s)
    monkeypatch.setattr(clock, "monotonic_s", lambda: network.now_s)
    return network


def claim(network: Network, identity: Identity = ME, run: RunId = RUN, lease_s: float = LEASE_S) -> Claim:
    return Claim(run=run, peer=identity.peer_id, ready=(SliceId("0"),), expires_s=network.now_s + lease_s)


def directory(network: Network, identity: Identity = ME, on_twin: Callable[[], None] = lambda: None) -> DhtDirectory:
    return DhtDirectory(network, identity, RUN, on_twin)  # type: ignore[arg-type]


async def published(network: Network, identity: Identity = ME) -> DirectoryRecord:
    """A record as its peer puts it into the DHT."""
    assert await directory(network, identity).publish(claim(network, identity))
    return network.stored[-1]


# What every node takes.


async def test_a_claim_is_taken_as_its_peer_wrote_it_and_in_no_other_way(network: Network) -> None:
    record = await published(network)
    assert is_valid_record(record)
    forged = bytearray(record.value)
    forged[len(forged) // 2] ^= 1
    for wrong in (
        replace(record, subkey=OTHER.peer_id),
        replace(record, expires_s=record.expires_s + 1),
        replace(record, key=record_key("p2ptrain/1/another/claims")),
        replace(record, value=bytes(forged)),
        replace(record, value=b""),
        replace(record, value=record.value + bytes(8192)),
    ):
        assert not is_valid_record(wrong), wrong


async def test_a_claim_is_taken_for_ten_minutes_at_most(network: Network) -> None:
    assert await directory(network).publish(claim(network, lease_s=600.0))
    assert not await directory(network).publish(claim(network, lease_s=601.0))


async def test_a_guest_list_is_taken_from_its_signer_under_its_runs_key_alone(network: Network) -> None:
    records = DhtGuestRecords(network)  # type: ignore[arg-type]
    packed = write_guests(AUTHORITY, GuestList(run=RUN, serial=1))
    assert not await records.publish(RUN, ME.peer_id, packed)
    assert not await records.publish(OTHER_RUN, AUTHORITY.peer_id, packed)
    assert await records.publish(RUN, AUTHORITY.peer_id, packed)
    assert await records.find(RUN) == [packed]
    assert await records.find(OTHER_RUN) == []


# What a peer makes of it.


async def test_claims_count_until_they_expire(network: Network) -> None:
    await published(network, OTHER)
    assert set(await directory(network).claims()) == {OTHER.peer_id}
    network.now_s += LEASE_S
    assert await directory(network).claims() == {}


async def test_a_second_process_with_our_identity_is_noticed_when_it_renews_its_claim(network: Network) -> None:
    seen: list[float] = []
    ours, twins = directory(network, on_twin=lambda: seen.append(network.now_s)), directory(network)
    for look in range(3):
        for one in (ours, twins):
            network.now_s += 1
            assert await one.publish(claim(network))
            await ours.claims()
        assert bool(seen) == (look > 0), "once may be our own past"


async def test_our_own_claims_are_no_twins(network: Network) -> None:
    seen: list[float] = []
    before = await published(network)  # by the process that ran here until now
    ours = directory(network, on_twin=lambda: seen.append(network.now_s))
    for _ in range(3):
        network.now_s += 1
        assert await ours.publish(claim(network))
        await ours.claims()
    assert before.expires_s < network.stored[-1].expires_s
    assert seen == []


class Guarded:
    """A directory behind a run's door, and what it told."""

    def __init__(self, network: Network, authority: str = AUTHORITY.peer_id) -> None:
        self.refused: list[PeerId] = []
        self.news: list[bytes] = []
        self.door = Door(RUN, authority, "open")
        self.directory = GuardedDirectory(
            directory(network),
            DhtGuestRecords(network),  # type: ignore[arg-type]
            self.door,
            RUN,
            invite="invitation",
            on_refused=lambda peer, reason: self.refused.append(peer),
            on_news=self.news.append,
        )


def ban(serial: int, *peers: PeerId, by: Identity = AUTHORITY) -> bytes:
    return write_guests(by, GuestList(run=RUN, serial=serial, banned=frozenset(peers)))


async def test_who_is_banned_is_not_shown_and_named_once(network: Network) -> None:
    guarded = Guarded(network)
    await published(network, OTHER)
    assert set(await guarded.directory.claims()) == {OTHER.peer_id}
    packed = ban(1, OTHER.peer_id)
    assert await DhtGuestRecords(network).publish(RUN, AUTHORITY.peer_id, packed)  # type: ignore[arg-type]
    network.now_s += 9
    assert set(await guarded.directory.claims()) == {OTHER.peer_id}, "the list is looked for every ten seconds"
    for _ in range(3):
        network.now_s += 2
        assert await guarded.directory.claims() == {}
    assert (guarded.refused, guarded.news) == ([OTHER.peer_id], [packed])


async def test_lists_of_others_than_the_authority_do_not_count(network: Network) -> None:
    guarded = Guarded(network)
    await published(network, OTHER)
    forged = ban(9, OTHER.peer_id, by=ME)
    assert await DhtGuestRecords(network).publish(RUN, ME.peer_id, forged)  # type: ignore[arg-type]
    assert set(await guarded.directory.claims()) == {OTHER.peer_id}
    assert (guarded.refused, guarded.news) == ([], [])


async def test_a_list_is_put_back_by_who_has_it_for_less_time_than_a_new_one_would_last(network: Network) -> None:
    guarded, records = Guarded(network), DhtGuestRecords(network)  # type: ignore[arg-type]
    assert await records.publish(RUN, AUTHORITY.peer_id, ban(1))
    lasts_s = network.stored[-1].expires_s - network.now_s
    await guarded.directory.claims()
    network.now_s += 700.0
    assert await records.find(RUN) == [], "it expired"
    await guarded.directory.claims()
    assert await records.find(RUN) == [ban(1)]
    assert network.stored[-1].expires_s - network.now_s < lasts_s


async def test_the_invitation_is_shown_in_the_claim(network: Network) -> None:
    assert await Guarded(network).directory.publish(claim(network))
    (found,) = (await directory(network).claims()).values()
    assert found.invite == "invitation"
