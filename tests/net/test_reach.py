"""How nodes behind every kind of router reach each other, and go on doing so. Run by ``make test-net``, as root."""

import itertools
import os
from pathlib import Path

import pytest

from tests.support.home_networks import NATS, Internet, Nat
from tests.support.nat_lab import first_success, note, public_address, start_bootstraps, start_node, until

pytestmark = [pytest.mark.net, pytest.mark.timeout(600)]

REACHABLE_S = 15.0
ANOTHER_RELAY_S = 10.0
SHARED_MACHINE_S = 15.0
"""Room for machines that are busy with other things; the measured time is what counts, and is printed."""
MIB = 1 << 20
OUT = Path(os.environ["P2PTRAIN_NET_RESULTS"]) if "P2PTRAIN_NET_RESULTS" in os.environ else None


@pytest.mark.parametrize(("nat_a", "nat_b"), list(itertools.combinations_with_replacement(NATS, 2)))
def test_one_bootstrap_is_enough_for_any_two_routers(nat_a: Nat, nat_b: Nat, tmp_path: Path) -> None:
    with Internet({"boot": "none", "a": nat_a, "b": nat_b}) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        a, b = (start_node(net, tmp_path, name, [address]) for name in ("a", "b"))
        for node, nat in ((a, nat_a), (b, nat_b)):
            assert node.way == ("mapped" if nat == "full" else "relayed")
            assert node.up_after_s < REACHABLE_S + SHARED_MACHINE_S
        for sender, receiver, way in ((a, b, f"{nat_a} -> {nat_b}"), (b, a, f"{nat_b} -> {nat_a}")):
            _, result = first_success(lambda s=sender, r=receiver: s.ask("send", r.peer, 8 * MIB), within_s=60)
            assert result["arrived"] == 8 * MIB
            seconds = result["seconds"] - result["open_s"]
            path = "relayed" if result["relayed"][1] else "direct"
            note(OUT, f"one | {way} | {path} | up {sender.up_after_s:.1f} s | {8 * MIB * 8e-6 / seconds:.1f} Mbit/s")
            if "full" in (nat_a, nat_b):
                assert path == "direct"


@pytest.mark.parametrize(("nat_a", "nat_b"), list(itertools.combinations_with_replacement(NATS[1:], 2)))
def test_with_five_public_nodes_holes_are_punched_where_the_routers_allow(
    nat_a: Nat, nat_b: Nat, tmp_path: Path
) -> None:
    names = [f"boot{n}" for n in range(5)]
    with Internet({**dict.fromkeys(names, "none"), "a": nat_a, "b": nat_b}) as net:
        boots = start_bootstraps(net, tmp_path, names)
        addresses = [public_address(net, name, boot) for name, boot in zip(names, boots, strict=True)]
        a, b = (start_node(net, tmp_path, name, addresses) for name in ("a", "b"))
        assert (a.nat, b.nat) == tuple("cone" if nat == "restricted" else "symmetric" for nat in (nat_a, nat_b))
        first_success(lambda: a.ask("send", b.peer, MIB), within_s=60)
        cones = (nat_a, nat_b) == ("restricted", "restricted")
        if cones:
            # By libp2p, which tries once for each connection and believes four others, or by us.
            until(lambda: a.ask("paths").get(b.peer) is False or a.ask("punch", b.peer), 60, "a hole is punched")
        for sender, receiver, way in ((a, b, f"{nat_a} -> {nat_b}"), (b, a, f"{nat_b} -> {nat_a}")):
            _, result = first_success(lambda s=sender, r=receiver: s.ask("send", r.peer, 8 * MIB), within_s=60)
            seconds = result["seconds"] - result["open_s"]
            path = "relayed" if result["relayed"][1] else "hole-punched"
            note(OUT, f"five | {way} | {path} | up {sender.up_after_s:.1f} s | {8 * MIB * 8e-6 / seconds:.1f} Mbit/s")


def test_four_of_four_relayed_transfers_of_64_megabytes_arrive(tmp_path: Path) -> None:
    with Internet({"boot": "none", "a": "restricted", "b": "symmetric"}) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        a, b = (start_node(net, tmp_path, name, [address]) for name in ("a", "b"))
        first_success(lambda: a.ask("send", b.peer, MIB), within_s=30)
        cpu_s = boot.ask("cpu_s")
        for sender, receiver in ((a, b), (b, a)) * 2:
            result = sender.ask("send", receiver.peer, 64 * MIB)
            assert result["arrived"] == 64 * MIB, result
            assert result["relayed"] == [True, True]
            note(OUT, f"64 MiB relayed | {64 * MIB * 8e-6 / result['seconds']:.1f} Mbit/s")
        note(OUT, f"256 MiB relayed | {boot.ask('cpu_s') - cpu_s:.1f} s of the bootstrap's Python")


def test_lost_relay_is_noticed_and_another_one_used(tmp_path: Path) -> None:
    with Internet({"boot0": "none", "boot1": "none", "a": "restricted", "b": "symmetric"}) as net:
        boots = start_bootstraps(net, tmp_path, ["boot0", "boot1"])
        addresses = [public_address(net, f"boot{n}", boot) for n, boot in enumerate(boots)]
        a, b = (start_node(net, tmp_path, name, addresses) for name in ("a", "b"))
        first_success(lambda: a.ask("send", b.peer, MIB), within_s=30)
        used = max(range(2), key=lambda n: boots[n].ask("usage")["carried_bytes"])
        boots[used].kill()
        another_s, result = first_success(lambda: a.ask("send", b.peer, MIB), within_s=60)
        assert result["relayed"] == [True, True]
        gone_s = until(lambda: len(b.ask("places")) == 1, 30, "the lost place is known")
        note(
            OUT, f"relay killed | another one used after {another_s:.1f} s, place known to be lost {gone_s:.1f} s later"
        )
        assert another_s < ANOTHER_RELAY_S + SHARED_MACHINE_S


def test_bootstrap_is_restarted_in_the_middle_and_places_are_back(tmp_path: Path) -> None:
    with Internet({"boot": "none", "a": "restricted", "b": "symmetric"}) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        a, b = (start_node(net, tmp_path, name, [address]) for name in ("a", "b"))
        first_success(lambda: a.ask("send", b.peer, MIB), within_s=30)
        boot.kill()
        until(lambda: not a.ask("places") and not b.ask("places"), 30, "both know that the relay is gone")
        start_bootstraps(net, tmp_path, ["boot"])
        places_s = until(lambda: a.ask("places") and b.ask("places"), 60, "both have their places back")
        sent_s, result = first_success(lambda: b.ask("send", a.peer, MIB), within_s=60)
        assert result["relayed"] == [True, True]
        note(OUT, f"only bootstrap restarted | places back after {places_s:.1f} s, transfer {sent_s:.1f} s later")


@pytest.mark.parametrize("nat", NATS)
def test_provider_changes_a_router_s_address_in_the_middle(nat: Nat, tmp_path: Path) -> None:
    with Internet({"boot": "none", "a": nat, "b": "restricted"}) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        a, b = (start_node(net, tmp_path, name, [address]) for name in ("a", "b"))
        first_success(lambda: b.ask("send", a.peer, MIB), within_s=30)
        net.move("a", "44.77.0.99")
        if nat == "full":  # a peer measures every minute, and when its places change; here we ask for it
            until(lambda: a.ask("look")["public"].startswith("44.77.0.99:"), 60, "the new address is known")
        back_s, result = first_success(lambda: b.ask("send", a.peer, MIB), within_s=120)
        path = "relayed" if result["relayed"][1] else "direct"
        note(OUT, f"address of {nat} changed | transfer after {back_s:.1f} s, {path}")


@pytest.mark.parametrize("nat", ["mapping", "upnp", "pmp"])
def test_port_that_the_router_passes_on_when_asked_makes_a_peer_behind_it_direct(nat: Nat, tmp_path: Path) -> None:
    with Internet({"boot": "none", "a": nat, "b": "symmetric"}) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        a = start_node(net, tmp_path, "a", [address], map_port=True)
        b = start_node(net, tmp_path, "b", [address])
        assert (a.way, a.nat) == ("mapped", "open")
        _, result = first_success(lambda: b.ask("send", a.peer, MIB), within_s=30)
        assert result["relayed"] == [False, False]
        note(OUT, f"port mapped, {nat} | direct | up {a.up_after_s:.1f} s")


def test_one_bootstrap_is_enough_to_punch_a_hole_through_two_routers_that_keep_ports(tmp_path: Path) -> None:
    with Internet({"boot": "none", "a": "restricted", "b": "restricted", "c": "symmetric"}) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        a, b, c = (start_node(net, tmp_path, name, [address]) for name in ("a", "b", "c"))
        for node in (b, c):
            _, result = first_success(lambda n=node: a.ask("send", n.peer, MIB), within_s=60)
            assert result["relayed"] == [True, True]
        took_s = until(lambda: a.ask("punch", b.peer), 60, "a hole is punched")
        assert not a.ask("punch", c.peer)
        carried = boot.ask("usage")["carried_bytes"]
        for sender, receiver in ((a, b), (b, a)):
            _, result = first_success(lambda s=sender, r=receiver: s.ask("send", r.peer, 8 * MIB), within_s=60)
            assert result["relayed"] == [False, False]
            seconds = result["seconds"] - result["open_s"]
            note(OUT, f"one, punched after {took_s:.1f} s | {8 * MIB * 8e-6 / seconds:.1f} Mbit/s")
        assert boot.ask("usage")["carried_bytes"] < carried + MIB
        _, result = first_success(lambda: c.ask("send", a.peer, MIB), within_s=60)
        assert result["relayed"] == [True, True]
