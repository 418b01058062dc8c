"""Too many connections from one address."""

from p2ptrain.ids import PeerId
from p2ptrain.wire.crowd import Connection, Crowd


def connections(count: int, address: str, name: str = "peer") -> list[Connection]:
    return [Connection(PeerId(f"{name} {i}"), address) for i in range(count)]


def test_the_newest_of_a_crowd_have_to_go_and_others_are_left_in_peace() -> None:
    crowd = Crowd(per_address=3)
    first, others = connections(3, "203.0.113.7"), connections(3, "198.51.100.1", "other")
    assert crowd.too_many([*first, *others]) == []
    late = connections(5, "203.0.113.7", "late")
    gone = crowd.too_many([*late, *first, *others])
    assert sorted(gone) == sorted(c.peer for c in late)
    assert (crowd.cut, crowd.busiest, crowd.present) == (5, "203.0.113.7", 11)
    assert crowd.too_many([*first, *others]) == []
    assert crowd.busiest == ""


def test_several_connections_of_one_peer_are_one() -> None:
    crowd = Crowd(per_address=2)
    assert crowd.too_many(connections(2, "203.0.113.7") * 4) == []


def test_addresses_of_one_household_count_together_in_ipv6_but_not_in_ipv4() -> None:
    crowd = Crowd(per_address=2)
    six = [Connection(PeerId(str(i)), f"2001:db8:1:2::{i:x}") for i in range(4)]
    assert len(crowd.too_many(six)) == 2
    assert crowd.busiest == "2001:db8:1:2::/64"
    assert Crowd(per_address=2).too_many([Connection(PeerId(str(i)), f"203.0.113.{i}") for i in range(9)]) == []


def test_whoever_comes_through_a_relay_has_no_address_to_count() -> None:
    assert Crowd(per_address=1).too_many(connections(9, "")) == []


def test_who_has_left_is_forgotten() -> None:
    crowd = Crowd(per_address=1)
    for i in range(50):
        crowd.too_many([Connection(PeerId(str(i)), "203.0.113.7")])
    assert crowd.present == len(crowd._arrival) == 1
