"""What sightings of others say about our router, and what a peer makes of it."""

import pytest

from p2ptrain.ids import PeerId
from p2ptrain.wire.daemon_options import daemon_environment, daemon_options
from p2ptrain.wire.reach import Reach, Sighting, Way, described, first_guess, judged, nat_kind, planned_relayed_mbps

HOME, PUBLIC = ["192.168.1.2"], ["203.0.113.7"]
RELAY = "/ip4/44.77.0.10/tcp/31337/p2p/12D3Boot"


def seen(port: int = 31000, *, ip: str = "44.77.0.20", could_dial: bool = False, by: str = "x") -> Sighting:
    return Sighting(by=PeerId(by), ip=ip, port=port, could_dial=could_dial)


def test_machine_at_home_starts_relayed_unless_its_bootstraps_are_at_home_too() -> None:
    assert first_guess(HOME, ["44.77.0.10"]) == "relayed"
    assert first_guess(HOME, ["boot.example.org"]) == "relayed"
    assert first_guess(HOME, ["192.168.1.9"]) == "direct"
    assert first_guess([*HOME, "44.77.0.20"], ["44.77.0.10"]) == "direct"


def test_nobody_to_ask_leaves_the_guess() -> None:
    assert judged(HOME, 31337, [], "relayed").way == "relayed"
    assert judged(HOME, 31337, [], "direct").way == "direct"


def test_one_success_is_enough_to_be_called() -> None:
    reach = judged(HOME, 31337, [seen(), seen(could_dial=True, by="y")], "relayed")
    assert (reach.way, reach.public, reach.nat) == ("mapped", "44.77.0.20:31337", "open")
    assert judged(PUBLIC, 31337, [seen(ip=PUBLIC[0], could_dial=True)], "relayed").way == "direct"


def test_firewall_before_a_public_address_makes_relayed() -> None:
    reach = judged(PUBLIC, 31337, [seen(ip=PUBLIC[0])], "direct")
    assert (reach.way, reach.nat) == ("relayed", "none")
    assert "firewall" in reach.reason


def test_router_is_symmetric_when_two_see_different_ports() -> None:
    assert nat_kind(HOME, 31337, [seen(1), seen(2, by="y")]) == "symmetric"
    assert nat_kind(HOME, 31337, [seen(1), seen(1, by="y")]) == "cone"


def test_one_sighting_tells_a_cone_only_by_our_own_port() -> None:
    assert nat_kind(HOME, 31337, [seen(31337)]) == "cone"
    assert nat_kind(HOME, 31337, [seen(40000)]) == "unknown"


def test_who_dials_from_any_port_cannot_be_told_what_its_router_does_to_ports() -> None:
    two = [seen(40000), seen(40001, by="y")]
    assert judged(HOME, 31337, two, "direct").nat == "unknown"
    assert judged(HOME, 31337, two, "relayed").nat == "symmetric"


@pytest.mark.parametrize(("way", "keeps_port"), [("direct", False), ("mapped", True), ("relayed", True)])
def test_only_who_is_called_where_it_is_dials_from_any_port(way: Way, *, keeps_port: bool) -> None:
    environment = daemon_environment(Reach(way=way, nat="unknown", reason=""))
    assert environment == ({} if keeps_port else {"LIBP2P_TCP_REUSEPORT": "false"})


def test_reach_in_a_word_says_how_the_others_are_connected() -> None:
    a, b = PeerId("a"), PeerId("b")
    relayed = Reach(way="relayed", nat="cone", reason="no")
    assert described(relayed, {a: "relayed", b: "direct"}, {a: False, b: False})[0] == "hole-punched"
    assert described(relayed, {a: "relayed", b: "direct"}, {a: True, b: False})[0] == "relayed"
    assert described(relayed, {b: "direct"}, {b: False})[0] == "relayed", "nobody can call it all the same"
    assert described(Reach(way="mapped", nat="open", reason="yes"), {a: "relayed"}, {a: True})[0] == "direct"


def test_relayed_peer_is_planned_with_half_of_its_uplink_and_little_before_a_measurement() -> None:
    assert planned_relayed_mbps(20.0) == 10.0
    assert 0 < planned_relayed_mbps(0.0) < 10


def announced(way: str, public: str = "", **changes: object) -> list[str] | None:
    reach = Reach(way=way, nat="unknown", public=public, reason="")  # type: ignore[arg-type]
    usual = {"listen": [], "own_ips": HOME, "port": 9, "announce": [], "relays": [RELAY], "is_alone": False}
    options, _ = daemon_options(reach, **usual | changes)  # type: ignore[arg-type]
    return options.get("announce_maddrs")


def test_relayed_node_announces_its_circuits_and_a_mapped_one_the_router_first() -> None:
    assert announced("relayed") == ["/ip4/192.168.1.2/tcp/9", f"{RELAY}/p2p-circuit"]
    assert announced("mapped", "44.77.0.20:9") == ["/ip4/44.77.0.20/tcp/9", *announced("relayed")]
    assert announced("direct") is None
    assert announced("relayed", is_alone=True) is None
    assert announced("relayed", announce=["/dns4/a/tcp/1"]) == ["/dns4/a/tcp/1"]
