"""What a peer does about an order of the run's authority."""

from pathlib import Path

import pytest

from p2ptrain import clock
from p2ptrain.config.schema import NetworkConfig, PeerConfig
from p2ptrain.events import EventBus, OrderHeard
from p2ptrain.identity.authority import Door, GuestList, Order, write_guests
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import COMMON, PeerId, RunId, SliceId, numbered_slices
from p2ptrain.node.orders import Orders
from p2ptrain.swarm.assignment import Assignment
from p2ptrain.swarm.coverage import Change, Pace, Target
from p2ptrain.swarm.directory import Capacity, Claim

RUN = RunId("ab" * 32)
ME = PeerId("me")
AUTHORITY = Identity.from_seed(bytes(32))


def slices(*numbers: int) -> frozenset[SliceId]:
    return frozenset(SliceId(str(number)) for number in numbers)


class Story:
    """One peer with slice 0 in a run of four, and what it is asked for."""

    def __init__(self, *, max_slices: int = 2) -> None:
        self.ordered = slices()
        self.now_s = 1000.0
        self.mine = Assignment(
            ME,
            RUN,
            numbered_slices(4),
            target=Target(replicas=2, quorum=1),
            pace=Pace.of(lease_s=30.0, look_s=2.0),
            capacity=lambda: Capacity(max_slices=max_slices),
            ordered=lambda: self.ordered,
        )
        self.mine.ready = slices(0) | {COMMON}

    def due(self, *others: Claim) -> Change | None:
        claims = {claim.peer: claim for claim in (*others, self.mine.claim(self.now_s + 30))}
        return self.mine.due(claims, monotonic_s=self.now_s, wall_s=self.now_s)


def other(name: str, *numbers: int) -> Claim:
    return Claim(run=RUN, peer=PeerId(name), ready=tuple(sorted(slices(*numbers))), expires_s=2000.0)


def test_an_order_is_followed_slice_by_slice_and_the_rest_is_left_at_last() -> None:
    story, mine = Story(), None
    story.ordered, mine = slices(1, 3), story.mine
    for wanted in ("1", "3"):
        change = story.due()
        assert change is not None
        assert (change.gains, change.yields, change.cause) == (SliceId(wanted), None, "assigned")
        assert "authority" in change.reason
        mine.begin(change, story.now_s)
        assert story.due() is None, "one after the other"
        mine.has_joined(SliceId(wanted))
    change = story.due()
    assert change is not None
    assert (change.gains, change.yields) == (None, SliceId("0"))
    mine.begin(change, story.now_s)
    assert not mine.stays_after_all(SliceId("0")), "its owner leaves as soon as others have it, not sooner"
    assert not mine.may_release(SliceId("0"), {ME: mine.claim(2000.0)}), "nobody else owns it yet"
    assert mine.may_release(SliceId("0"), {ME: mine.claim(2000.0), PeerId("o"): other("o", 0)})
    mine.has_released(SliceId("0"))
    assert story.due() is None, "all is as it was asked for"


def test_a_slice_is_given_up_when_the_one_in_its_place_has_come_and_not_before() -> None:
    story = Story()
    crowd = [other("o", 0), other("p", 0), other("q", 0), other("r", 1, 2)]
    claims = {claim.peer: claim for claim in crowd}
    story.mine.begin(Change(peer=ME, cause="lopsided", reason="", gains=SliceId("3"), yields=SliceId("0")), story.now_s)
    assert not story.mine.may_release(SliceId("0"), claims), "others have it, but we have nothing else yet"
    story.mine.has_joined(SliceId("3"))
    assert story.mine.may_release(SliceId("0"), claims)


def test_under_an_order_the_others_plan_without_this_peer_and_afterwards_with_it() -> None:
    story = Story()
    story.ordered = slices(0)
    assert story.mine.claim(0.0).is_fixed
    crowd = [other(f"p{n}", 0) for n in range(4)]
    assert story.due(*crowd) is None, "slices 1 to 3 have no owner, but this peer is asked to stay"
    story.ordered = slices()
    assert not story.mine.claim(0.0).is_fixed


def test_a_volunteer_who_chose_is_not_moved() -> None:
    story = Story()
    story.mine.is_fixed = True
    story.ordered = slices(3)
    assert story.due() is None
    assert not story.mine.ordered


@pytest.mark.parametrize(
    ("chosen", "max_slices", "follows", "refusal"),
    [
        (None, 2, slices(0, 3), ""),
        (None, 1, slices(0), "slices 3 are left out: --max-slices is 1"),
        ((SliceId("1"),), 2, slices(), "you chose this peer's slices with --slices"),
    ],
)
def test_the_volunteer_hears_of_an_order_once_and_whether_it_is_followed(
    chosen: tuple[SliceId, ...] | None, max_slices: int, follows: frozenset[SliceId], refusal: str, tmp_path: Path
) -> None:
    door = Door(RUN, AUTHORITY.peer_id, "open")
    heard: list[OrderHeard] = []
    bus = EventBus(sinks=[lambda record: heard.append(record.event)])  # type: ignore[arg-type]
    config = PeerConfig(home=tmp_path, network=NetworkConfig(), slices=chosen, max_slices=max_slices)
    orders = Orders(door, ME, config, numbered_slices(4), bus)
    orders.say()
    assert not heard
    assert orders.text() == ""
    order = Order(slices=(SliceId("0"), SliceId("3")), until_s=clock.wall_s() + 3600)
    door.learn(write_guests(AUTHORITY, GuestList(run=RUN, serial=1, orders={ME: order})))
    for _ in range(2):
        orders.say()
    assert len(heard) == 1
    assert heard[0].refusal.startswith(refusal)
    assert bool(heard[0].refusal) == bool(refusal)
    assert orders.followed() == follows
    assert ("not followed" in orders.text()) == bool(refusal)
    door.learn(write_guests(AUTHORITY, GuestList(run=RUN, serial=2)))
    orders.say()
    assert heard[-1].line() == "the run's authority asks for no slices of this peer any more"
    assert not orders.followed()
