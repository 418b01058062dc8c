"""When a machine's old connections are worth nothing: pure, and with this machine's own routing table."""

from p2ptrain.swarm.upheaval import ASLEEP_S, MAX_TARGETS, Ground, hosts_in, source_of, upheaval

A, B = "203.0.113.1", "198.51.100.2"
HOME = {A: "192.168.1.5", B: "192.168.1.5"}


def after(seconds: float, sources: dict[str, str]) -> str:
    return upheaval(Ground(looked_s=100.0, sources=HOME), Ground(looked_s=100.0 + seconds, sources=sources))


def test_a_machine_that_stays_where_it_is_keeps_its_connections() -> None:
    assert after(1.0, HOME) == ""
    assert after(1.0, {**HOME, "192.0.2.3": "10.8.0.2"}) == "", "a peer that we hear of for the first time"
    assert after(1.0, {A: HOME[A]}) == "", "a peer that was forgotten"


def test_another_address_on_the_way_to_anybody_is_a_move() -> None:
    assert "another address" in after(1.0, {A: "192.168.7.9", B: HOME[B]})


def test_a_network_that_is_gone_is_no_reason_until_it_is_there_again() -> None:
    gone = {A: "", B: ""}
    assert after(1.0, gone) == ""
    back = upheaval(Ground(looked_s=0.0, sources=gone), Ground(looked_s=1.0, sources=HOME))
    assert "a network again" in back


def test_sleep_is_noticed_and_a_busy_second_is_not() -> None:
    assert "slept for 16 s" in after(ASLEEP_S + 1, HOME)
    assert after(ASLEEP_S / 2, HOME) == ""


def test_only_addresses_of_other_machines_are_looked_up() -> None:
    addresses = [f"/ip4/{A}/tcp/1/p2p/x", "/ip4/127.0.0.1/tcp/1", "/dns4/example.org/tcp/1", "/ip6/2001:db8::1/tcp/1"]
    assert hosts_in([*addresses, *addresses, "/ip4/nonsense", "", "/ip4"]) == [A, "2001:db8::1"]
    assert len(hosts_in(f"/ip4/203.0.113.{n}/tcp/1" for n in range(99))) == MAX_TARGETS


def test_this_machine_reaches_itself_and_says_by_which_address() -> None:
    assert source_of("127.0.0.1") == "127.0.0.1"
    assert source_of("240.0.0.1") in ("", source_of("198.51.100.7")), "an address without a route is no error"
