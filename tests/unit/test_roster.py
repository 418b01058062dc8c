"""A peer in a swarm that is larger than its directory shows: on the list and off it, and what it believes meanwhile."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from p2ptrain import clock
from p2ptrain.config.schema import ExchangeConfig
from p2ptrain.events import Event, ListingChanged
from p2ptrain.ids import COMMON, PeerId, RunId, SliceId
from p2ptrain.swarm.acquaintances import Acquaintances
from p2ptrain.swarm.address_book import AddressBook
from p2ptrain.swarm.answers import Condition
from p2ptrain.swarm.assignment import Assignment
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.coverage import Pace, Target
from p2ptrain.swarm.directory import Capacity, Claim
from p2ptrain.swarm.listing import DRAW_LEASES, draw_of, is_drawn, next_halvings
from p2ptrain.swarm.owner import SliceOwner
from p2ptrain.swarm.roster import Roster
from p2ptrain.swarm.spread import FAN_OUT
from p2ptrain.swarm.swarm import Swarm
from p2ptrain.wire.v1 import acquaint_pb2 as pb
from p2ptrain.wire.v1 import peer_pb2 as status_pb

RUN, SLICE = RunId("ab" * 32), SliceId("0")
LEASE_S, MOST = 30.0, 16
START_S = 1.8e9
PEERS = [PeerId(f"12D3Koo{n}") for n in range(400)]
NEW_S = 2 * LEASE_S + 1
"""After that a peer is no longer new, if a version was committed meanwhile."""


class Time:
    """Monotonic and wall clock, which a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 0.0
        monkeypatch.setattr(clock, "monotonic_s", lambda: self.s)
        monkeypatch.setattr(clock, "wall_s", lambda: START_S + self.s)


class Town:
    """A directory that lists some of many peers, who renew their claims every third of a lease and answer calls."""

    def __init__(self, time: Time, *, halvings: int, peers: int = len(PEERS)) -> None:
        self.published: list[Claim] = []
        self.called: list[PeerId] = []
        self.gone: set[PeerId] = set()
        self.unlisted: set[PeerId] = set()
        """They say so when they are asked."""
        self.shows: dict[PeerId, Claim] = {}
        self.asked_elsewhere: list[bool] = []
        self._time = time
        self._halvings = halvings
        self._peers = PEERS[:peers]

    async def publish(self, claim: Claim) -> bool:
        self.published.append(claim)
        return True

    async def claims(self, *, elsewhere: bool = False) -> Mapping[PeerId, Claim]:
        self.asked_elsewhere.append(elsewhere)
        return self._listed() | self.shows

    def _listed(self) -> dict[PeerId, Claim]:
        wall_s = START_S + self._time.s
        draws = {peer: draw_of(peer, wall_s, LEASE_S) for peer in self._peers}
        renewed_s = {peer: wall_s - (wall_s + number * 0.77) % (LEASE_S / 3) for number, peer in enumerate(self._peers)}
        return {
            peer: Claim(
                run=RUN,
                peer=peer,
                ready=() if peer in self.gone else (COMMON, SLICE),
                expires_s=(wall_s if peer in self.gone else renewed_s[peer]) + LEASE_S,
                halvings=self._halvings,
                draw=draw,
                is_withdrawn=peer in self.gone,
            )
            for peer, draw in draws.items()
            if is_drawn(peer, draw, self._halvings)
        }

    async def call(self, peer: PeerId, *_: object, **__: object) -> object:
        self.called.append(peer)
        return status_pb.StatusReply(unlisted=peer in self.unlisted)


class Part:
    """Our part in one owned slice."""

    def __init__(self, *owners: PeerId) -> None:
        self.owners = owners
        self.has_a_say = False
        self.replica: Any = SimpleNamespace(certificate=object(), published=SimpleNamespace(version=3))
        self.told: list[frozenset[PeerId]] = []

    def claims_changed(self, holders: frozenset[PeerId]) -> None:
        self.told.append(holders)


class Peer:
    """One that owns slice 0 and the common part."""

    def __init__(self, me: PeerId, town: Town, *, quorum: int = 1, most: int = MOST) -> None:
        self.me = me
        self.events: list[Event] = []
        exchange = ExchangeConfig(lease_s=LEASE_S, max_listed=most)
        node: Any = SimpleNamespace(
            call=town.call, bootstraps=(), is_there=None, door=SimpleNamespace(is_out=lambda peer: False)
        )
        identity: Any = SimpleNamespace(peer_id=me)
        bus: Any = SimpleNamespace(emit=self.events.append)
        rest: dict[str, Any] = {"outer": None, "blobs": None, "listener": None, "numel": {COMMON: 1, SLICE: 1}}
        self.context = Context(
            run=RUN,
            identity=identity,
            exchange=exchange,
            node=node,
            events=bus,
            book=AddressBook(me),
            quorum=quorum,
            **rest,
        )
        self.condition = Condition(state="", reason="", tokens=0, validation_loss_nats=0.0, capacity=Capacity())
        target = Target(replicas=2, quorum=1)
        pace = Pace.of(lease_s=LEASE_S, look_s=2.0)
        mine = Assignment(me, RUN, (SLICE,), target=target, pace=pace, capacity=Capacity)
        mine.ready = frozenset([COMMON, SLICE])
        self.parts = {COMMON: Part(*PEERS[:3]), SLICE: Part(*PEERS[:3])}
        owners: Any = self.parts
        self.assignment = mine
        self.roster = Roster(self.context, town, mine, owners, lambda: self.condition)

    def commits(self) -> None:
        """A version of each slice."""
        for part in self.parts.values():
            part.replica.published.version += 1


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def someone(*, drawn: bool, halvings: int = 6, at_s: float = START_S + NEW_S) -> PeerId:
    """A peer that the lot lists at that time, or does not, and that no certificate names."""
    return next(p for p in PEERS[3:] if is_drawn(p, draw_of(p, at_s, LEASE_S), halvings) == drawn)


async def started(time: Time, town: Town, me: PeerId, *, most: int = MOST, quorum: int = 1) -> Peer:
    """The peer, no longer new."""
    peer = Peer(me, town, most=most, quorum=quorum)
    await peer.roster.publish()
    await peer.roster.look()
    await peer.roster.list_or_withdraw()
    time.s += NEW_S
    peer.commits()
    await peer.roster.look()
    return peer


async def test_a_peer_of_a_swarm_that_the_directory_can_show_is_always_listed(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=0, peers=MOST), PEERS[MOST])
    assert peer.context.halvings == 1, "it is one too many"
    for _ in range(30):
        time.s += LEASE_S * DRAW_LEASES / 7
        await peer.roster.list_or_withdraw()
    in_crowd = len([c for c in town.published if c.is_withdrawn])
    few = await started(time, town := Town(time, halvings=0, peers=MOST - 1), PEERS[MOST])
    for _ in range(30):
        time.s += LEASE_S * DRAW_LEASES / 7
        await few.roster.list_or_withdraw()
    assert in_crowd > 0
    assert few.context.halvings == 0
    assert not any(c.is_withdrawn for c in town.published)
    assert few.events == []


async def test_who_is_not_drawn_withdraws_once_it_is_not_new_and_says_so(time: Time) -> None:
    town = Town(time, halvings=6)
    peer = Peer(someone(drawn=False), town)
    await peer.roster.publish()
    await peer.roster.look()
    await peer.roster.list_or_withdraw()
    assert peer.context.is_listed, "others must see a newcomer"
    time.s += NEW_S
    await peer.roster.list_or_withdraw()
    assert peer.context.is_listed, "no version was committed that could have named it"
    peer.commits()
    await peer.roster.list_or_withdraw()
    assert not peer.context.is_listed
    last = town.published[-1]
    assert last.is_withdrawn
    assert not last.slices
    assert last.expires_s > town.published[-2].expires_s, "or the directory would keep the one before"
    (said,) = peer.events
    assert isinstance(said, ListingChanged)
    assert not said.is_listed
    assert 200 < said.peers < 800
    assert peer.roster.why_not_listed().startswith(f"some {said.peers} peers take part")


async def test_a_withdrawal_is_repeated_for_a_lease_and_then_there_is_silence(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=6), someone(drawn=False))
    await peer.roster.list_or_withdraw()
    time.s += LEASE_S / 2
    await peer.roster.publish()
    assert [c.is_withdrawn for c in town.published[-2:]] == [True, True]
    count = len(town.published)
    time.s += LEASE_S
    await peer.roster.publish()
    await peer.roster.leave()
    assert len(town.published) == count


@pytest.mark.parametrize("needed", ["has a say", "only holder", "without a certificate", "fetching", "ordered"])
async def test_whom_the_others_need_stays_listed(time: Time, needed: str) -> None:
    peer = await started(time, Town(time, halvings=6), someone(drawn=False))
    if needed == "has a say":
        peer.parts[SLICE].has_a_say = True
    elif needed == "only holder":
        peer.context.claims = {peer.me: peer.context.claims[peer.me]}
    elif needed == "without a certificate":
        peer.parts[COMMON].replica.certificate = None
    elif needed == "ordered":
        peer.assignment._ordered = lambda: frozenset([SliceId("1")])
    else:
        peer.assignment.joining = frozenset([SliceId("1")])
    await peer.roster.list_or_withdraw()
    assert peer.context.is_listed


async def test_who_is_not_listed_decides_nothing_and_takes_the_named_owners_for_alive(time: Time) -> None:
    peer = await started(time, Town(time, halvings=6), someone(drawn=False))
    named = frozenset(peer.parts[SLICE].owners)
    assert peer.me in peer.parts[SLICE].told[-1]
    await peer.roster.list_or_withdraw()
    assert peer.me not in peer.parts[SLICE].told[-1]
    assert named <= peer.parts[SLICE].told[-1]


async def test_who_is_not_listed_looks_seldom_and_asks_nobody_whether_he_lives(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=6), someone(drawn=False))
    await peer.roster.list_or_withdraw()
    await peer.roster.look()
    town.called.clear()
    seen = set(peer.context.claims)
    time.s += 60
    assert not peer.roster.is_look_due
    time.s += 2.0 * 2**6
    assert peer.roster.is_look_due
    time.s += DRAW_LEASES * LEASE_S
    await peer.roster.look()
    assert set(peer.context.claims) - seen, "the list is another one by now"
    assert set(peer.context.claims) - {peer.me} == set(await town.claims()) - {peer.me}
    assert town.called == []


async def test_listed_again_it_looks_first_and_then_shows_itself(time: Time) -> None:
    me = someone(drawn=False)
    peer = await started(time, town := Town(time, halvings=6), me)
    await peer.roster.list_or_withdraw()
    before = len(town.published)
    while not is_drawn(me, draw_of(me, START_S + time.s, LEASE_S), peer.context.halvings):
        time.s += LEASE_S
    await peer.roster.list_or_withdraw()
    assert peer.context.is_listed
    time.s += 2
    assert peer.roster.is_look_due, "from now on it looks as often as the others"
    assert [c.is_withdrawn for c in town.published[before:]] == [False]
    assert set(peer.context.claims) == set(await town.claims()) | {me}
    assert town.called == [], "claims of minutes ago are forgotten, not asked after"


@pytest.mark.parametrize("peers", [70, 100, 140, 390])
async def test_a_peer_comes_and_goes_with_its_draws_and_sees_the_whole_list_each_time(time: Time, peers: int) -> None:
    halvings = next_halvings(0, peers, 64)
    peer = await started(time, town := Town(time, halvings=halvings, peers=peers), PEERS[peers], most=64)
    changes, draws, before = 0, 3, peer.context.is_listed
    for tick in range(int(draws * DRAW_LEASES * LEASE_S / 2)):
        time.s += 2.0
        await peer.roster.list_or_withdraw()
        if peer.roster.is_look_due:
            await peer.roster.look()
            listed = {*await town.claims()}
            assert len(listed - {*peer.context.claims}) <= 1, (tick, "claims that were not renewed since count, too")
        changes += peer.context.is_listed != before
        before = peer.context.is_listed
    assert changes <= draws + 1
    assert len([e for e in peer.events if isinstance(e, ListingChanged)]) >= changes


async def test_a_slice_below_its_quorum_has_all_its_holders_listed(time: Time) -> None:
    peer = await started(time, Town(time, halvings=6), someone(drawn=False), quorum=3)
    two = dict.fromkeys(PEERS[:2], Claim(run=RUN, peer=PEERS[0], ready=(COMMON, SLICE), expires_s=time.s + LEASE_S))
    peer.context.claims = {peer.me: peer.context.claims[peer.me], **two}
    await peer.roster.list_or_withdraw()
    assert peer.context.is_listed


async def test_who_was_withdrawn_unseen_is_not_kept_because_it_answers(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=0, peers=10), PEERS[11])
    town._peers = town._peers[1:]  # its record is gone, and so is its withdrawal
    for is_unlisted in (False, True):
        town.unlisted = {PEERS[0]} if is_unlisted else set()
        time.s += LEASE_S + 1
        await peer.roster.look()
        assert (PEERS[0] in peer.context.claims) == (not is_unlisted)


async def relisted(time: Time, town: Town, me: PeerId) -> Peer:
    """A peer that was not listed and is drawn again a moment ago."""
    peer = await started(time, town, me)
    await peer.roster.list_or_withdraw()
    assert not peer.context.is_listed
    while not is_drawn(me, draw_of(me, START_S + time.s, LEASE_S), peer.context.halvings):
        time.s += LEASE_S
    return peer


@pytest.mark.parametrize("first_look", ["misses some", "finds nobody"])
async def test_listed_again_it_decides_only_when_another_node_has_shown_its_claim(time: Time, first_look: str) -> None:
    me = someone(drawn=False)
    peer = await relisted(time, town := Town(time, halvings=6), me)
    peer.parts[SLICE].owners = tuple(PEERS[390:393])
    everybody, town._peers = town._peers, [] if first_look == "finds nobody" else town._peers[:20]
    await peer.roster.list_or_withdraw()
    assert peer.context.is_listed
    assert {*PEERS[390:393]} <= peer.parts[SLICE].told[-1], "the owners named last are taken for alive"
    assert me not in peer.parts[SLICE].told[-1]
    town._peers = everybody
    time.s += 2
    await peer.roster.look()
    assert me not in peer.parts[SLICE].told[-1], "nobody has shown our claim"
    town.shows = {me: town.published[-1]}
    time.s += 2
    await peer.roster.look()
    assert me in peer.parts[SLICE].told[-1]
    assert town.asked_elsewhere[-2:] == [True, True]
    await peer.roster.look()
    assert town.asked_elsewhere[-1] is False


async def test_listed_again_and_never_seen_it_decides_after_a_while(time: Time) -> None:
    me = someone(drawn=False)
    peer = await relisted(time, Town(time, halvings=6), me)
    await peer.roster.list_or_withdraw()
    assert me not in peer.parts[SLICE].told[-1]
    time.s += 31
    await peer.roster.look()
    assert me in peer.parts[SLICE].told[-1]


async def test_named_while_it_is_not_listed_it_goes_by_the_certificate(time: Time) -> None:
    peer = await started(time, Town(time, halvings=6), someone(drawn=False))
    await peer.roster.list_or_withdraw()
    peer.parts[SLICE].owners = (peer.me, *PEERS[:2])
    await peer.roster.look()
    assert peer.me not in peer.parts[SLICE].told[-1]


async def test_who_cannot_vote_leaves_its_slices_to_the_others_but_counts_itself(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=0, peers=10), PEERS[11])
    peer.condition = replace(peer.condition, can_vote=False)
    await peer.roster.publish()
    await peer.roster.look()
    assert town.published[-1].ready == ()
    assert peer.me in peer.parts[SLICE].told[-1], "or it would take the others for gone when its disk is free again"


async def test_what_is_published_after_leaving_stays_unsaid(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=0, peers=3), PEERS[11])
    await peer.roster.leave()
    count = len(town.published)
    await peer.roster.be_away(is_away=True)
    await peer.roster.publish()
    assert len(town.published) == count
    assert not peer.context.is_listed, "and so it answers"


async def test_who_is_stopped_while_it_withdraws_still_says_so(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=6), someone(drawn=False))
    await peer.roster.list_or_withdraw()
    count = len(town.published)
    await peer.roster.leave()
    assert [claim.is_withdrawn for claim in town.published[count:]] == [True]


async def test_slices_that_changed_between_two_looks_make_a_peer_new_too(time: Time) -> None:
    peer = await started(time, Town(time, halvings=6), someone(drawn=False))
    peer.parts[SliceId("1")] = Part(*PEERS[:3])
    await peer.roster.list_or_withdraw()
    time.s += NEW_S
    await peer.roster.list_or_withdraw()
    assert peer.context.is_listed, "no version of theirs was committed since"
    peer.commits()
    await peer.roster.list_or_withdraw()
    assert not peer.context.is_listed


async def test_a_withdrawn_claim_counts_no_more_at_once(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=0, peers=10), PEERS[11])
    assert PEERS[5] in peer.context.holders(SLICE)
    town.gone.add(PEERS[5])
    time.s += 1
    await peer.roster.look()
    assert PEERS[5] not in peer.context.claims
    assert PEERS[5] not in peer.parts[SLICE].told[-1]


async def test_who_leaves_withdraws(time: Time) -> None:
    peer = await started(time, town := Town(time, halvings=0, peers=3), PEERS[11])
    await peer.roster.leave()
    assert town.published[-1].is_withdrawn
    assert not town.published[-1].slices


class News:
    """What a peer tells whom, and whom it asks, with 20 listed peers and 20 others in its address book."""

    def __init__(self, time: Time, *, is_listed: bool, halvings: int) -> None:
        self.listed, self.others = PEERS[10:30], PEERS[100:120]
        self.peer = Peer(PEERS[0], Town(time, halvings=halvings))
        context = self.peer.context
        context.is_listed, context.halvings = is_listed, halvings
        context.claims = {p: Claim(run=RUN, peer=p, expires_s=time.s + LEASE_S) for p in (PEERS[0], *self.listed)}
        for other in (*self.listed[:3], *self.others):
            context.book.met(other, [f"/ip4/203.0.113.7/tcp/1/p2p/{other}"], 1.0)
        self.context = context

    def told_of_a_commit(self) -> list[PeerId]:
        nothing: Any = SimpleNamespace(capacity=Capacity())
        swarm = Swarm(self.context, nothing, lambda: nothing, Target(replicas=2, quorum=1))
        value: Any = SimpleNamespace(version=3, value_hash="ab")
        certificate: Any = SimpleNamespace(value=value, votes=[SimpleNamespace(peer=PEERS[0])], ballot=None)
        part: Any = SimpleNamespace(replica=SimpleNamespace(certificate=certificate))
        swarm.owners[SLICE] = part
        told: list[PeerId] = []

        async def tell(peer: PeerId, _: object) -> None:
            told.append(peer)

        async def announce() -> None:
            async with asyncio.TaskGroup() as swarm._group:
                swarm.announce(SLICE)

        swarm._tell = tell  # type: ignore[method-assign]
        asyncio.run(announce())
        return told

    def asked(self) -> list[PeerId]:
        nothing: Any = None
        return Acquaintances(self.context, nothing, nothing, nothing)._whom_to_ask()


def test_news_go_down_the_tree_of_the_listed_and_from_the_others_to_each_other(time: Time) -> None:
    assert set(News(time, is_listed=True, halvings=3).told_of_a_commit()) <= {*PEERS[10:30]}
    unlisted = News(time, is_listed=False, halvings=3)
    for _ in range(10):
        told = unlisted.told_of_a_commit()
        assert len(told) == FAN_OUT
        assert set(told) <= set(unlisted.others), "those that are listed hear it from the voters"


def test_who_is_not_listed_mostly_asks_others_that_are_not_either(time: Time) -> None:
    news = News(time, is_listed=False, halvings=3)
    asked = [news.asked() for _ in range(2000)]
    of_listed = sum(bool(set(some) & set(news.listed)) for some in asked)
    assert 170 < of_listed < 330, "one in eight"
    assert all(len(some) == 5 for some in asked)
    listed = News(time, is_listed=True, halvings=3)
    assert all(len(set(listed.asked()) & set(listed.listed)) == 3 for _ in range(100))


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_claim_that_nobody_shows_is_no_sign_of_isolation_for_who_is_not_listed(time: Time, is_listed: bool) -> None:
    news, nothing = News(time, is_listed=is_listed, halvings=3), None
    asking = Acquaintances(news.context, nothing, lambda: None, nothing)  # type: ignore[arg-type]

    async def answer(peer: PeerId, *, hang_up: bool = False) -> pb.AcquaintReply:
        return pb.AcquaintReply(sees_you=False)

    asking._ask = answer  # type: ignore[method-assign]
    asking._evidence = replace(asking._evidence, unseen_since_s=0.0)  # from the moments before it was withdrawn
    asyncio.run(asking._probe())
    assert (asking._evidence.unseen_since_s is None) == (not is_listed)
    assert asking._evidence.probes_failed == 0


@pytest.mark.parametrize(("is_listed", "ordered"), [(True, False), (False, False), (False, True)])
async def test_who_is_not_listed_takes_no_slice(time: Time, is_listed: bool, ordered: bool) -> None:
    peer = await started(time, Town(time, halvings=6), someone(drawn=False))
    nothing: Any = SimpleNamespace(
        capacity=Capacity(max_slices=2), ordered=frozenset([SLICE, SliceId("1")] if ordered else [])
    )
    peer.context.is_listed = is_listed
    peer.context.numel = {COMMON: 1, SLICE: 1, SliceId("1"): 1}  # which nobody owns
    peer.context.claims = {peer.me: peer.context.claims[peer.me]}
    swarm = Swarm(peer.context, nothing, lambda: nothing, Target(replicas=2, quorum=1))
    assert swarm.assignment.has_open_order == ordered
    swarm.assignment.ready = frozenset([COMMON, SLICE])
    peer.context.claims = {peer.me: swarm.assignment.claim(START_S)}
    swarm._due_change()
    time.s += 5 * LEASE_S
    change = swarm._due_change()
    assert (change.gains if change else None) == (SliceId("1") if is_listed else None), "an order has it listed first"


@pytest.mark.parametrize("is_listed", [True, False])
async def test_news_are_pulled_and_claims_looked_at_as_a_peer_s_place_on_the_list_allows(
    time: Time, monkeypatch: pytest.MonkeyPatch, is_listed: bool
) -> None:
    news, nothing = (
        News(time, is_listed=is_listed, halvings=40),
        SimpleNamespace(capacity=Capacity(), ordered=frozenset()),
    )
    swarm = Swarm(news.context, nothing, lambda: nothing, Target(replicas=2, quorum=1))  # type: ignore[arg-type,return-value]
    pulled, looks, ticks = list[PeerId](), 0, 0

    async def pull(peer: PeerId) -> None:
        pulled.append(peer)

    async def look() -> bool:
        nonlocal looks
        looks += 1
        swarm.roster._looked_s = time.s
        return True

    async def tick(seconds: float) -> None:
        nonlocal ticks
        ticks, time.s = ticks + 1, time.s + 0.999 * seconds  # a timer may be a little early
        if ticks % 50 == 0:
            raise asyncio.CancelledError

    async def nothing_to_do() -> None:
        pass

    swarm._pull_news_from = pull  # type: ignore[method-assign,assignment]
    swarm.roster.look = look  # type: ignore[method-assign,assignment]
    swarm.roster.list_or_withdraw = nothing_to_do  # type: ignore[method-assign]
    monkeypatch.setattr(asyncio, "sleep", tick)
    for work in (swarm._pull_news, swarm._keep_directory):
        with pytest.raises(asyncio.CancelledError):
            await work()
    assert set(pulled) <= set(news.listed if is_listed else news.others)
    assert pulled
    assert looks == (49 if is_listed else 1)


async def test_who_changes_slices_is_new_once_more(time: Time) -> None:
    peer = await started(time, Town(time, halvings=6), someone(drawn=False))
    peer.assignment.joining = frozenset([SliceId("1")])
    await peer.roster.list_or_withdraw()
    peer.assignment.joining = frozenset()
    peer.parts[SliceId("1")] = Part(*PEERS[:3])
    time.s += LEASE_S
    for _ in range(2):
        peer.commits()
        await peer.roster.list_or_withdraw()
        assert peer.context.is_listed
        time.s += LEASE_S
    time.s += 2
    await peer.roster.list_or_withdraw()
    assert not peer.context.is_listed


@pytest.mark.parametrize(
    ("is_named", "is_member", "has_voted"),
    [(True, False, False), (False, True, False), (False, False, True), (False,) * 3],
)
def test_who_has_a_say_is_named_or_takes_part_or_has_voted(is_named: bool, is_member: bool, has_voted: bool) -> None:
    me, others = PEERS[0], PEERS[1:3]
    state = SimpleNamespace(
        head=SimpleNamespace(owners=[*others, me] if is_named else others),
        ballot=SimpleNamespace(members=[*others, me] if is_member else others),
        accepted=object() if has_voted else None,
    )
    owner = SimpleNamespace(_state=state, _context=SimpleNamespace(me=me))
    assert SliceOwner.has_a_say.fget(owner) == (is_named or is_member or has_voted)  # type: ignore[attr-defined]


def some_swarm(context: Context) -> Swarm:
    nothing: Any = SimpleNamespace(capacity=Capacity(), ordered=frozenset())
    return Swarm(context, nothing, lambda: nothing, Target(replicas=2, quorum=1))


@pytest.mark.parametrize("is_listed", [True, False])
def test_whoever_asks_for_its_status_hears_whether_a_peer_is_listed(time: Time, is_listed: bool) -> None:
    context = News(time, is_listed=is_listed, halvings=3).context
    context.node.traffic = SimpleNamespace(sent_bytes=1, received_bytes=1)  # type: ignore[attr-defined,assignment]
    condition = Condition(state="", reason="", tokens=0, validation_loss_nats=0.0, capacity=Capacity())
    nothing: Any = None
    swarm = Swarm(context, nothing, lambda: condition, Target(replicas=2, quorum=1))
    assert swarm.status().unlisted == (not is_listed)


def test_of_very_many_those_are_asked_that_own_the_slice(time: Time) -> None:
    context = News(time, is_listed=True, halvings=0).context
    owners = {*PEERS[50:53], *PEERS[200:203]}
    context.claims = {
        peer: Claim(run=RUN, peer=peer, ready=(COMMON, SLICE) if peer in owners else (COMMON,), expires_s=99.0)
        for peer in PEERS
    }
    swarm = some_swarm(context)
    asked = swarm._joining._whom_to_ask_for([SLICE])
    assert len(asked) == len(set(asked)) == 64
    assert owners < set(asked)
    assert context.me not in asked
    context.claims = dict(list(context.claims.items())[:60])
    assert set(swarm._joining._whom_to_ask_for([SLICE, COMMON])) == {*PEERS[1:60]}, "of fewer, all"


def test_who_knows_nobody_that_is_not_listed_asks_those_that_are(time: Time) -> None:
    context = News(time, is_listed=False, halvings=40).context
    assert not context.may_ask_listed()
    context.book.contacts.clear()
    assert context.may_ask_listed()
