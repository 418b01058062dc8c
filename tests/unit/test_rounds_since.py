"""A checkpoint now and then, and rounds in between: what a peer that was killed has when it starts again."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from p2ptrain import clock
from p2ptrain.config.load import parse_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import EngineConfig, LimitsConfig
from p2ptrain.errors import BadMessage, StorageError
from p2ptrain.events import CheckpointPostponed, CheckpointSaved, Event, EventBus, MomentsUnsaved
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import COMMON, Digest, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node import home_keeper, rounds_since
from p2ptrain.node.disk_budget import checkpoint_bytes, least_bytes
from p2ptrain.node.home import Home
from p2ptrain.node.home_keeper import HomeKeeper
from p2ptrain.node.rounds_on_disk import replay_rounds, round_files
from p2ptrain.node.rounds_since import RoundsSince, is_worth_it
from p2ptrain.node.saved_state import load_replicas, save_replicas
from p2ptrain.node.trained_model import load_trained
from p2ptrain.node.trainer_messages import Memory
from p2ptrain.swarm.certificates import sign_vote
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.history import History, PastRound
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.swarm.replay import follower_step, owner_step
from p2ptrain.swarm.state import genesis, outer_step
from p2ptrain.training.outer_step import outer_rule
from p2ptrain.wire.blob_store import BlobStore
from p2ptrain.wire.codec import encode
from p2ptrain.wire.messages import Ballot, BlobRef, Certificate, PartResult, Value

TEXT = preset_text("nano")
RUN = parse_run(TEXT, "nano")
PLAN = SlicePlan.of(RUN.model, RUN.slicing)
ME = Identity.generate()
A = ME.peer_id
ZERO, ONE = SliceId("0"), SliceId("1")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home", TEXT, run_id(RUN))


class Slice:
    """One slice as a peer has it: moves by real outer steps, and remembers the rounds."""

    def __init__(self, slice_id: SliceId, *, is_owned: bool) -> None:
        self.id, self.is_owned = slice_id, is_owned
        self.history = History(slice_id, BlobStore(), RUN.exchange.history)
        self._owned, published = genesis(initial_values(RUN, PLAN)[slice_id])
        self.replica = Replica(None, published, self._owned if is_owned else None)
        self._chance = np.random.default_rng(1)

    def move(self) -> None:
        """A round of random gradients."""
        exchange, before = RUN.exchange, self.replica
        bounds = part_bounds(self._owned.numel, exchange.part_elements)
        averages: list[bytes | memoryview] = [
            encode(exchange.codec, self._chance.standard_normal(stop - start, np.float32)) for start, stop in bounds
        ]
        rule = outer_rule(RUN.outer, RUN.rounds, self.id)
        staged = outer_step(self._owned, before.published, averages, bounds, exchange.codec, rule)
        version = Version(before.published.version + 1)
        value = Value(
            run=run_id(RUN),
            slice=self.id,
            version=version,
            previous=before.certificate.value.value_hash if before.certificate else None,
            digest=staged.owned.digest,
            published_digest=staged.published.digest,
            update=BlobRef.of(staged.update),
            results=tuple(PartResult(part, BlobRef.of(data), (A,)) for part, data in enumerate(averages)),
            contributions=(),
            owners=(A,),
            tokens=version,
            weight=version,
        )
        ballot = Ballot(1, 0, (A,))
        certificate = Certificate(value, ballot, (sign_vote(ME, ballot, value),))
        self._owned = staged.owned
        self.replica = Replica(certificate, staged.published, staged.owned if self.is_owned else None)
        self.history.add(certificate, [*averages, staged.update] if self.is_owned else [staged.update])

    def take_over(self) -> None:
        """Own it from now on, with the outer momentum lost."""
        self.is_owned = True
        self._owned = self.replica.published.taken_over()
        self.replica = Replica(self.replica.certificate, self.replica.published, self._owned)

    def jump(self) -> None:
        """Three versions on, fetched whole: no round leads there."""
        for _ in range(3):
            self.move()
        self.history.clear()


class Peer:
    """A keeper and the slices that it keeps; stands in for the swarm."""

    def __init__(
        self, home: Home, limits: LimitsConfig | None = None, checkpointed: Mapping[SliceId, Replica] | None = None
    ) -> None:
        self.slices = {s: Slice(s, is_owned=s != ONE) for s in PLAN.slice_ids}
        self.events: list[Event] = []
        bus = EventBus(sinks=[lambda record: self.events.append(record.event)])
        owned = frozenset({COMMON, ZERO})
        self.keeper = HomeKeeper(home, PLAN, EngineConfig(), limits or LimitsConfig(), owned, checkpointed or {}, bus)
        self.keeper.begin()

    @property
    def owners(self) -> dict[SliceId, Slice]:
        return {s: one for s, one in self.slices.items() if one.is_owned}

    def replica(self, slice_id: SliceId) -> Replica:
        return self.slices[slice_id].replica

    def history(self, slice_id: SliceId) -> History:
        return self.slices[slice_id].history

    async def round(self, *, is_last: bool = False) -> None:
        """All slices move, and are saved."""
        for one in self.slices.values():
            one.move()
        await self.save(is_last=is_last)

    async def save(self, *, is_last: bool = False) -> None:
        stand_in: Any = self
        await self.keeper.save(stand_in, is_last=is_last)

    def versions(self) -> dict[SliceId, Version]:
        return {s: one.replica.published.version for s, one in self.slices.items()}


def in_checkpoint(home: Home) -> dict[SliceId, Version]:
    return {s: one.published.version for s, one in load_replicas(home, refetch=False).items()}


def restarted(home: Home) -> dict[SliceId, Replica]:
    return replay_rounds(home, PLAN, load_replicas(home, refetch=False))


def assert_same(found: dict[SliceId, Replica], slices: dict[SliceId, Slice]) -> None:
    assert found.keys() == slices.keys()
    for slice_id, one in slices.items():
        assert found[slice_id].certificate == one.replica.certificate
        assert found[slice_id].published.digest == one.replica.published.digest
        owned, expected = found[slice_id].owned, one.replica.owned
        assert (owned.digest if owned else None) == (expected.digest if expected else None)


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets what checkpoints may write in a second; almost nothing at first."""

    def limit(bytes_per_s: float) -> None:
        monkeypatch.setattr(rounds_since, "_BYTES_PER_S", bytes_per_s)

    limit(1e-3)
    monkeypatch.setattr(rounds_since, "_ROOM", 1000)
    return limit


def test_a_large_checkpoint_is_written_as_often_as_the_disk_bears() -> None:
    assert is_worth_it(100.0, -float("inf"), 700_000_000)
    assert not is_worth_it(100.0, 0.0, 700_000_000)
    assert is_worth_it(701.0, 0.0, 700_000_000)
    assert is_worth_it(1.0, 0.0, 400_000)


@pytest.mark.usefixtures("rarely")
async def test_rounds_beyond_the_checkpoint_are_computed_again(home: Home) -> None:
    peer = Peer(home)
    await peer.round()
    first = in_checkpoint(home)
    for _ in range(2 * RUN.exchange.history):  # more than others are offered
        await peer.round()
    assert in_checkpoint(home) == first == dict.fromkeys(PLAN.slice_ids, 1)
    assert_same(restarted(home), peer.slices)
    saved = [event.versions for event in peer.events if isinstance(event, CheckpointSaved)]
    assert saved[-1] == peer.versions()


@pytest.mark.usefixtures("rarely")
async def test_who_reads_a_home_sees_the_newest_weights(home: Home) -> None:
    peer = Peer(home)
    await peer.round()
    await peer.round()
    model = load_trained(Home.inspect(home.path))
    owned = peer.slices[ZERO].replica.owned
    assert owned is not None
    assert np.array_equal(PLAN.gather(model.tensors(), ZERO), owned.anchor)


@pytest.mark.usefixtures("rarely")
async def test_a_checkpoint_is_written_when_the_peer_ends(home: Home) -> None:
    peer = Peer(home)
    await peer.round()
    await peer.round(is_last=True)
    assert in_checkpoint(home) == peer.versions()


@pytest.mark.usefixtures("rarely")
@pytest.mark.parametrize("change", [Slice.take_over, Slice.jump])
async def test_a_checkpoint_is_written_when_no_round_leads_to_what_there_is(
    home: Home, change: Callable[[Slice], None]
) -> None:
    peer = Peer(home)
    await peer.round()
    await peer.round()
    change(peer.slices[ONE])
    await peer.save()
    assert in_checkpoint(home) == peer.versions()
    assert_same(restarted(home), peer.slices)
    await peer.round()
    assert_same(restarted(home), peer.slices)
    await peer.round()
    assert in_checkpoint(home) != peer.versions(), "rounds do again"
    assert_same(restarted(home), peer.slices)


@pytest.mark.usefixtures("rarely")
async def test_an_owner_that_begins_anew_with_its_slice_is_not_taken_for_the_one_before(home: Home) -> None:
    peer = Peer(home)
    await peer.round()
    peer.slices[ZERO].take_over()
    await peer.save()
    assert_same(restarted(home), peer.slices)
    await peer.round()
    assert_same(restarted(home), peer.slices)


async def test_after_the_next_checkpoint_only_what_others_may_want_stays(home: Home, rarely) -> None:
    peer = Peer(home)
    for _ in range(2 * RUN.exchange.history):
        await peer.round()
    assert len(round_files(home)) == 3 * (2 * RUN.exchange.history - 1), "all since version 1"
    rarely(1e12)
    await peer.round()
    assert in_checkpoint(home) == peer.versions()
    assert len(round_files(home)) == 3 * RUN.exchange.history
    assert_same(restarted(home), peer.slices)


@pytest.mark.usefixtures("rarely")
async def test_a_disk_budget_gives_rounds_up_so_it_goes_by_checkpoints(home: Home) -> None:
    peer = Peer(home, LimitsConfig(disk_gb=1.0))
    for _ in range(3):
        await peer.round()
        assert in_checkpoint(home) == peer.versions()


async def test_a_full_disk_takes_no_round_that_is_needed(home: Home, rarely, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(home)
    for _ in range(3):
        await peer.round()

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("full")

    save_rounds = home_keeper.save_rounds
    monkeypatch.setattr(home_keeper, "save_replicas", refuse)
    rarely(1e12)
    await peer.round()
    assert in_checkpoint(home) == dict.fromkeys(PLAN.slice_ids, 1)
    assert {s: r.published.version for s, r in restarted(home).items()} == peer.versions()
    assert not peer.keeper.is_failing, "what is there is enough to vote"
    assert [e for e in peer.events if isinstance(e, CheckpointPostponed)]
    await peer.round()
    assert len([e for e in peer.events if isinstance(e, CheckpointPostponed)]) == 1, "not tried again at once"
    assert {s: r.published.version for s, r in restarted(home).items()} == peer.versions()
    monkeypatch.setattr(home_keeper, "save_rounds", refuse)
    await peer.round()
    assert peer.keeper.is_failing, "now nothing holds what would be voted for"
    now_s = clock.monotonic_s()
    with monkeypatch.context() as later:
        later.setattr(clock, "monotonic_s", lambda: now_s + 1000)
        later.setattr(home_keeper, "save_rounds", save_rounds)
        await peer.round()
        assert not peer.keeper.is_failing, "rounds do, which find room again"
        assert {s: r.published.version for s, r in restarted(home).items()} == peer.versions()
    await peer.round()
    assert peer.keeper.is_failing
    monkeypatch.setattr(home_keeper, "save_replicas", save_replicas)
    await peer.save()
    assert in_checkpoint(home) == peer.versions()
    assert not peer.keeper.is_failing


async def test_rounds_that_the_disk_did_not_take_are_in_a_checkpoint(
    home: Home, rarely, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(home)
    await peer.round()

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("full")

    save_rounds, now_s = home_keeper.save_rounds, clock.monotonic_s()
    monkeypatch.setattr(home_keeper, "save_rounds", refuse)
    await peer.round()
    assert in_checkpoint(home) == peer.versions()

    monkeypatch.setattr(home_keeper, "save_rounds", save_rounds)
    await peer.round()
    in_last_checkpoint = peer.versions()
    assert in_checkpoint(home) == in_last_checkpoint, "the disk may still be full"
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + 1000)
    for _ in range(3):
        await peer.round()
        assert in_checkpoint(home) == in_last_checkpoint
        assert_same(restarted(home), peer.slices)


async def test_moments_that_find_no_room_cost_no_vote(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(home)
    await peer.round()

    def refuse(*_: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(home_keeper, "save_progress", refuse)
    nothing: Any = SimpleNamespace(owners={})
    await peer.keeper.save_progress(nothing, Memory(frozenset(), Version(1), 0, {}))
    assert [e.reason for e in peer.events if isinstance(e, MomentsUnsaved)] == ["full"]
    assert not peer.keeper.is_failing
    assert not peer.keeper.trouble


@pytest.mark.usefixtures("rarely")
async def test_rounds_that_a_checkpoint_waits_for_are_synced_and_others_are_not(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    save_rounds = home_keeper.save_rounds

    def noticed(*arguments: Any, **options: Any) -> Any:
        synced.append(options["is_synced"])
        return save_rounds(*arguments, **options)

    monkeypatch.setattr(home_keeper, "save_rounds", noticed)
    peer = Peer(home)
    await peer.round()
    await peer.round()
    await peer.round(is_last=True)
    assert synced == [False, True, False]


@pytest.mark.usefixtures("rarely")
async def test_a_damaged_round_ends_the_way_and_the_state_before_it_counts(home: Home) -> None:
    peer = Peer(home)
    for _ in range(4):
        await peer.round()
    path = home.rounds_path / "0.3.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    versions = {s: r.published.version for s, r in restarted(home).items()}
    assert versions == {COMMON: 4, ZERO: 2, ONE: 4}


def test_rounds_of_another_branch_lead_nowhere(home: Home) -> None:
    ours, others = Slice(ZERO, is_owned=True), Slice(ZERO, is_owned=True)
    others._chance = np.random.default_rng(2)
    ours.move()
    since = RoundsSince({})
    since.begin({ZERO: ours.replica})
    ours.move()
    assert since.lead_to({ZERO: ours.replica}, {ZERO: ours.history.rounds()})
    assert since.unwritten(ZERO) == {2}
    since.written()
    assert since.unwritten(ZERO) == set()
    others.move()
    others.move()
    assert not since.lead_to({ZERO: others.replica}, {ZERO: others.history.rounds()})
    assert since.is_needed(ZERO, Version(2)), "until the next checkpoint is there"
    assert not since.is_needed(ZERO, Version(1))


def test_a_round_without_its_averages_does_not_lead_an_owner_on(home: Home) -> None:
    one = Slice(ZERO, is_owned=True)
    since = RoundsSince({})
    since.begin({ZERO: one.replica})
    one.move()
    bare = [PastRound(past.certificate, past.blobs[-1:]) for past in one.history.rounds()]
    assert not since.lead_to({ZERO: one.replica}, {ZERO: bare})


@pytest.mark.usefixtures("rarely")
@pytest.mark.parametrize("slice_id", PLAN.slice_ids)
async def test_a_round_of_which_nothing_but_the_certificate_is_there_ends_the_way(
    home: Home, slice_id: SliceId
) -> None:
    peer = Peer(home)
    for _ in range(3):
        await peer.round()
    path = home.rounds_path / f"{slice_id}.3.bin"
    length = int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[: 8 + length])
    assert restarted(home)[slice_id].published.version == 2


@pytest.mark.parametrize("field", ["digest", "published_digest"])
def test_what_an_owner_computes_must_have_the_certified_digests(field: str) -> None:
    one = Slice(ZERO, is_owned=True)
    before = one.replica
    one.move()
    assert one.replica.certificate is not None
    value = one.replica.certificate.value
    averages = one.history.rounds()[-1].blobs[:-1]
    bounds = part_bounds(PLAN.numel(ZERO), RUN.exchange.part_elements)
    rule = outer_rule(RUN.outer, RUN.rounds, ZERO)
    staged = owner_step(before, value, averages, bounds, RUN.exchange.codec, rule)
    assert staged.owned.digest == value.digest
    with pytest.raises(BadMessage, match="slice 0 v1 comes out with other digests than certified"):
        owner_step(before, replace(value, **{field: Digest("0" * 64)}), averages, bounds, RUN.exchange.codec, rule)


def test_what_a_follower_computes_must_have_the_certified_digest() -> None:
    one = Slice(ONE, is_owned=False)
    before = one.replica
    one.move()
    assert one.replica.certificate is not None
    value, update = one.replica.certificate.value, one.history.rounds()[-1].blobs[-1]
    assert follower_step(before, value, update, RUN.exchange.codec).digest == value.published_digest
    with pytest.raises(BadMessage, match="slice 1 v1 comes out with other digests than certified"):
        follower_step(before, replace(value, published_digest=Digest("0" * 64)), update, RUN.exchange.codec)


@pytest.mark.usefixtures("rarely")
async def test_moments_are_written_as_rarely_as_checkpoints(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, written = Peer(home), asyncio.Queue[int]()

    async def save_progress(*_: object) -> None:
        home.progress_path.write_bytes(bytes(1000))
        peer.keeper._progress_saved_s = (clock.monotonic_s(), 0.0)
        written.put_nowait(1)

    async def remember() -> None:
        pass

    monkeypatch.setattr(peer.keeper, "save_progress", save_progress)
    monkeypatch.setattr(home_keeper, "_CHECKPOINT_PAUSE_S", 0.0)
    stand_ins: list[Any] = [peer, SimpleNamespace(remember=remember)]
    keeping = asyncio.create_task(peer.keeper.keep(*stand_ins))
    for _ in range(3):
        saved = len(peer.events)
        peer.keeper.moved()
        async with asyncio.timeout(20):
            while len(peer.events) == saved:  # noqa: ASYNC110 - the event comes from the task under test
                await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    keeping.cancel()
    assert written.qsize() == 1


@pytest.fixture
def dies_at_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on no checkpoint comes to its end."""

    def die(*_: object) -> None:
        raise StorageError("full")

    return lambda: monkeypatch.setattr(home_keeper, "save_replicas", die)


@pytest.mark.usefixtures("rarely")
@pytest.mark.parametrize("is_last", [False, True])
async def test_who_is_killed_twice_before_the_next_checkpoint_has_lost_nothing(
    home: Home, dies_at_the_checkpoint: Callable[[], None], is_last: bool
) -> None:
    first = Peer(home)
    for _ in range(2 * RUN.exchange.history):
        await first.round()
    announced = first.versions()
    # Started again: the history has the newest eight, of more than those that lead from the checkpoint.
    second = Peer(home, checkpointed=load_replicas(home, refetch=False))
    second.slices = first.slices
    dies_at_the_checkpoint()
    await second.save(is_last=is_last)
    assert {s: r.published.version for s, r in restarted(home).items()} == announced


@pytest.mark.usefixtures("rarely")
@pytest.mark.parametrize("change", [Slice.take_over, Slice.jump])
async def test_a_way_that_ends_stays_until_the_checkpoint_is_there(
    home: Home, dies_at_the_checkpoint: Callable[[], None], change: Callable[[Slice], None]
) -> None:
    peer = Peer(home)
    for _ in range(2 * RUN.exchange.history):
        await peer.round()
    announced = peer.versions()
    change(peer.slices[ONE])
    dies_at_the_checkpoint()
    await peer.save()
    assert {s: r.published.version for s, r in restarted(home).items()} == announced


@pytest.mark.usefixtures("rarely")
async def test_an_owner_that_swaps_its_state_and_goes_on_is_found_again(home: Home) -> None:
    peer = Peer(home)
    await peer.round()
    await peer.round()
    peer.slices[ZERO].take_over()  # the checkpoint has the certified state, and nothing is saved in between
    await peer.round()
    await peer.round()
    assert_same(restarted(home), peer.slices)
    # The other way round: the checkpoint has the one that was taken over.
    peer.slices[ZERO].move()
    certified = peer.slices[ZERO]._owned
    peer.slices[ZERO].take_over()
    await peer.save(is_last=True)
    peer.slices[ZERO]._owned = certified
    await peer.round()
    await peer.round()
    assert_same(restarted(home), peer.slices)


@pytest.mark.usefixtures("rarely")
async def test_a_counted_round_is_written_over_a_poorer_file(home: Home) -> None:
    peer = Peer(home)
    await peer.round()
    poorer = home.rounds_path / "0.2.bin"
    poorer.write_bytes(b"")
    await peer.round()
    await peer.round()
    assert_same(restarted(home), peer.slices)


@pytest.mark.usefixtures("rarely")
async def test_a_disk_budget_that_comes_while_rounds_are_written_drops_none_that_are_needed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(home)
    for _ in range(4):
        await peer.round()
    save_rounds = home_keeper.save_rounds

    def limited(*arguments: Any, **options: Any) -> Any:
        # As small as it may be, so that rounds have to go.
        least = least_bytes(PLAN, frozenset({COMMON, ZERO}))
        peer.keeper.set_limit(LimitsConfig(disk_gb=least / 1e9), frozenset({COMMON, ZERO}))
        return save_rounds(*arguments, **options)

    monkeypatch.setattr(home_keeper, "save_rounds", limited)
    await peer.round()
    assert_same(restarted(home), peer.slices)
    await peer.round()
    assert in_checkpoint(home) == peer.versions(), "and by the next time it counts"


@pytest.mark.usefixtures("rarely")
async def test_a_certificate_of_which_a_bit_has_turned_is_not_gone_on_from(home: Home) -> None:
    peer = Peer(home)
    await peer.round()
    await peer.round()
    path = home.rounds_path / "1.2.bin"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    honest = peer.slices[ONE].replica.certificate
    for position in range(8, 8 + length, 5):
        turned = bytearray(data)
        turned[position] ^= 1
        path.write_bytes(turned)
        found = restarted(home)[ONE]
        assert found.published.version == 1 or found.certificate == honest


@pytest.mark.usefixtures("rarely")
async def test_rounds_take_no_more_room_than_two_checkpoints(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_since, "_ROOM", 2)
    peer = Peer(home)
    await peer.round()
    one_round = sum(file.path.stat().st_size for file in round_files(home))
    checkpoint_size = checkpoint_bytes(PLAN, frozenset({COMMON, ZERO}))
    written = set()
    for _ in range(3 * checkpoint_size // one_round):
        await peer.round()
        written.add(in_checkpoint(home)[ZERO])
        since = sum(f.path.stat().st_size for f in round_files(home) if f.version > in_checkpoint(home)[f.slice])
        assert since < 2 * (checkpoint_size + one_round)
    assert len(written) == 2
    assert_same(restarted(home), peer.slices)
