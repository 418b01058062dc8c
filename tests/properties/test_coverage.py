"""The plan of who owns what: it converges whatever the peers saw of each other, and then nobody moves any more."""

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from p2ptrain.ids import PeerId, SliceId, numbered_slices
from p2ptrain.swarm.coverage import (
    Change,
    Considered,
    Coverage,
    Member,
    Pace,
    Target,
    change_of,
    consider,
    coverage,
    plan,
)
from tests.support.simulated_coverage import Simulation, World

TARGET = Target(replicas=2, quorum=1)
PACE = Pace.of(lease_s=30.0, look_s=2.0)
LONG_AGO, NOW = 0.0, 10_000.0


def s(*numbers: int) -> frozenset[SliceId]:
    return frozenset(SliceId(str(n)) for n in numbers)


def owner(name: str, *slices: int, **more: object) -> Member:
    return Member(peer=PeerId(name), ready=s(*slices), **more)  # type: ignore[arg-type]


def planned(*members: Member, slices: int = 2, target: Target = TARGET) -> list[Change]:
    return plan(numbered_slices(slices), members, target, pace=PACE, now_s=NOW)


worlds = st.builds(
    World,
    num_slices=st.integers(1, 6),
    target=st.builds(Target, replicas=st.integers(1, 3), quorum=st.just(1)),
    missed=st.sampled_from([0.0, 0.3, 0.7]),
    lease_s=st.just(10.0),
    look_s=st.just(1.0),
    fetch_s=st.sampled_from([1.0, 10.0, 60.0]),
    seed=st.integers(0, 10_000),
)


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(world=worlds, rooms=st.lists(st.integers(1, 3), min_size=1, max_size=10), kills=st.integers(0, 4))
def test_after_churn_the_swarm_covers_what_it_can_and_comes_to_rest(world: World, rooms: list[int], kills: int) -> None:
    simulation = Simulation(world)
    for room in rooms:
        simulation.join(max_slices=room)
        simulation.run(4.0)
    for _ in range(min(kills, len(rooms) - 1)):
        simulation.run(25.0)
        simulation.kill_one()
    simulation.run(600.0)
    room = sum(peer.me.max_slices for peer in simulation.peers.values())
    counts = simulation.counts()
    if room >= world.num_slices:
        assert min(counts) >= 1, counts
    if all(peer.me.max_slices == 1 for peer in simulation.peers.values()) and min(counts) < world.target.replicas:
        assert max(counts) - min(counts) <= 1, counts
    if world.missed < 0.5:
        # Two owners that leave together wait a lease to see each other's claim say so. Where seven of ten looks miss a
        # record, one in forty such waits sees nothing; the slice is then taken over again, as after a crash.
        assert not simulation.orphaned_by_a_move
    done = len(simulation.changes)
    simulation.run(200.0)
    assert simulation.changes[done:] == [], "a swarm at rest stays at rest"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_plan_does_not_depend_on_the_order_of_the_claims(data: st.DataObject) -> None:
    slices = numbered_slices(3)
    some = st.frozensets(st.sampled_from(slices), max_size=3)
    names = data.draw(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1))
    members = [
        Member(
            peer=PeerId(name),
            ready=data.draw(some),
            joining=data.draw(st.frozensets(st.sampled_from(slices), max_size=1)),
            max_slices=data.draw(st.integers(1, 3)),
            tokens_per_s=data.draw(st.sampled_from([0.0, 100.0, 2000.0])),
            is_fixed=data.draw(st.booleans()),
        )
        for name in names
    ]
    changes = planned(*members, slices=3)
    assert changes == planned(*data.draw(st.permutations(members)), slices=3)
    assert len({change.peer for change in changes}) == len(changes), "a peer does one thing at a time"
    by_peer = {member.peer: member for member in members}
    for change in changes:
        member = by_peer[change.peer]
        assert not member.is_fixed
        assert change.gains not in member.held
        # The plan counts on owners that still fetch; Assignment gives a slice up when they are ready (may_yield).
        others = [m for m in members if m.peer != change.peer and change.yields in m.held - m.leaving]
        assert change.yields is None or others


def test_a_peer_with_room_takes_an_orphan_before_anybody_moves() -> None:
    (change,) = planned(owner("a", 0), owner("b", 0), owner("c", 0, max_slices=2))
    assert (change.peer, change.gains, change.yields, change.cause) == ("c", "1", None, "uncovered")
    assert change.is_urgent


def test_without_room_exactly_one_of_the_thickest_slice_moves_to_an_orphan() -> None:
    members = [owner("a", 0, changed_s=NOW), owner("b", 0, changed_s=NOW), owner("c", 1)]
    (change,) = planned(*members, slices=3)
    assert change.peer in ("a", "b"), "an orphan does not wait for a cool-down"
    assert (change.gains, change.yields) == ("2", "0")


def test_nobody_moves_for_a_difference_of_one() -> None:
    assert planned(owner("a", 0), owner("b", 0), owner("c", 1)) == []


def test_a_peer_that_changed_a_moment_ago_does_not_move_to_a_thin_slice() -> None:
    rested, tired = owner("a", 0), owner("b", 0, changed_s=NOW - 10)
    (change,) = planned(rested, tired, owner("c", 0, changed_s=NOW - 10), owner("d", 1))
    assert (change.peer, change.yields, change.gains) == ("a", "0", "1")
    assert planned(tired, owner("c", 0, changed_s=NOW - 10), owner("e", 0, changed_s=NOW), owner("d", 1)) == []


def test_slices_chosen_by_hand_stay() -> None:
    assert planned(owner("a", 0, is_fixed=True, max_slices=2), owner("b", 0, is_fixed=True)) == []


def test_a_second_slice_is_given_back_only_above_the_target() -> None:
    helper = owner("a", 0, 1, max_slices=2)
    assert planned(helper, owner("b", 0), owner("c", 1)) == []
    (change,) = planned(helper, owner("b", 0), owner("c", 1), owner("d", 1))
    assert (change.peer, change.yields, change.gains, change.cause) == ("a", "1", None, "plenty")


def test_newcomers_that_see_each_other_spread_and_those_with_more_tokens_weigh_more() -> None:
    both = planned(Member(peer=PeerId("x")), Member(peer=PeerId("y")), slices=2)
    assert {change.gains for change in both} == {"0", "1"}
    fast, slow = owner("a", 0, tokens_per_s=900.0), owner("b", 1, tokens_per_s=100.0)
    (choice,) = planned(fast, slow, Member(peer=PeerId("x")))
    assert choice.gains == "1"


def test_a_line_is_carried_out_when_it_has_stood_long_enough() -> None:
    thin = Change(peer=PeerId("a"), gains=SliceId("1"), cause="thin", reason="")
    first = consider(None, thin, 100.0)
    assert first is not None
    again = consider(first, thin, 120.0)
    assert again == first
    assert not first.is_due(PACE, 100.0 + PACE.patience_s - 1)
    assert first.is_due(PACE, 100.0 + PACE.patience_s)
    other = consider(first, Change(peer=PeerId("a"), gains=SliceId("0"), cause="thin", reason=""), 125.0)
    assert isinstance(other, Considered)
    assert other.since_s == 125.0
    assert consider(first, None, 130.0) is None
    assert change_of(PeerId("b"), [thin]) is None


def test_coverage_says_what_a_slice_lacks() -> None:
    members = [owner("a", 0, leaving=s(0)), owner("b", 0), Member(peer=PeerId("c"), joining=s(1))]
    found = coverage(numbered_slices(2), members, TARGET)
    assert found[SliceId("0")] == Coverage(slice=SliceId("0"), ready=1, joining=0, target=TARGET)
    assert found[SliceId("0")].verdict == "THIN: 1 of 2 owners"
    assert found[SliceId("1")].verdict == "NOT COVERED: 0 of 1 owners that it needs, 1 joining"
    assert coverage(s(0), [owner("a", 0), owner("b", 0)], TARGET)[SliceId("0")].verdict == "ok"
