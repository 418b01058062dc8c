"""A swarm of which three in four are behind routers trains, while the network changes. Run by ``make test-net``."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from p2ptrain.events import Evaluated, ReachChanged, RoundCommitted, Traffic
from tests.support.home_networks import Internet, Line, Nat
from tests.support.live_swarm import LiveSwarm, eventually
from tests.support.nat_lab import note

pytestmark = [pytest.mark.net, pytest.mark.timeout(900)]

ROUNDS = 10
_READ_STATUS = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/status.json').read().decode())"
OUT = Path(os.environ["P2PTRAIN_NET_RESULTS"]) if "P2PTRAIN_NET_RESULTS" in os.environ else None
HOMES = {"cloud": "none", "full": "full", "cone": "restricted", "symmetric": "symmetric"}


def test_three_of_four_behind_routers_train_ten_rounds_through_a_restart_and_a_new_address(tmp_path: Path) -> None:
    line = Line(up_mbit=20, down_mbit=50, delay_ms=10, loss_percent=0.2)
    with Internet({"boot": "none", **HOMES}, line) as net:
        inside = {name: net.inside(name) for name in ("boot", *HOMES)}
        with LiveSwarm(tmp_path, "tiny", inside | {"bootstrap": net.inside("boot")}, slices=2) as swarm:
            swarm.children[0].kill()  # it listens on the loopback of its host
            status = ("--status", "127.0.0.1:8080")
            swarm.address = swarm.start_bootstrap("boot", net.public_address("boot"), 31337, *status)
            peers = {name: swarm.start_peer(name, str(n % 2)) for n, name in enumerate(HOMES)}

            def reached(version: int) -> bool:
                for peer in peers.values():
                    peer.check()
                return all(any(e.version >= version for e in peer.committed("common")) for peer in peers.values())

            logs = lambda: "\n".join(f"--- {p.name}\n{p.log()}" for p in peers.values())  # noqa: E731
            eventually(lambda: reached(3), what=f"three rounds\n{logs()}")
            swarm.children[1].kill()
            swarm.start_bootstrap("boot", net.public_address("boot"), 31337, *status)
            eventually(lambda: reached(6), what=f"three more after the restart\n{logs()}")
            net.move("symmetric", "44.77.0.99")
            eventually(lambda: reached(ROUNDS), what=f"ten rounds\n{logs()}")

            everybody = {peer.id for peer in peers.values()}
            last = [e for p in peers.values() for e in p.committed("common") if e.version >= 8]
            together = [e for e in last if everybody <= set(e.contributors)]
            assert together, "after all of it, all four contribute to one round again"
            swarm.assert_same_digests()
            page = [*net.inside("boot"), "python3", "-c", _READ_STATUS]
            relay = json.loads(subprocess.run(page, capture_output=True, check=True).stdout)["relay"]
            note(OUT, f"swarm | relay since its restart | {relay}")
            for name, peer in peers.items():
                losses = [event.loss_nats for event in peer.events(Evaluated)]
                reach = [event.reach for event in peer.events(ReachChanged)]
                sent = peer.events(Traffic)[-1]
                rounds = len({event.version for event in peer.events(RoundCommitted) if event.slice == "common"})
                loss = f"{losses[0]:.3f} to {losses[-1]:.3f}"
                note(
                    OUT,
                    f"swarm | {name} | {' then '.join(reach)} | {rounds} rounds | loss {loss}"
                    f" | sent {sent.sent_bytes / 1e6:.1f} MB, received {sent.received_bytes / 1e6:.1f} MB",
                )
                assert losses[-1] < losses[0]
            assert peers["cloud"].events(ReachChanged)[-1].reach == "direct"
            assert peers["full"].events(ReachChanged)[-1].reach == "direct"
            assert peers["symmetric"].events(ReachChanged)[0].reach == "relayed"


def test_two_homes_and_one_bootstrap_are_enough_for_a_direct_connection(tmp_path: Path) -> None:
    homes: dict[str, Nat] = {"a": "restricted", "b": "restricted"}
    with Internet({"boot": "none", **homes}) as net:
        inside = {name: net.inside(name) for name in ("boot", *homes)}
        with LiveSwarm(tmp_path, "tiny", inside | {"bootstrap": net.inside("boot")}, slices=2) as swarm:
            swarm.children[0].kill()  # it listens on the loopback of its host
            swarm.address = swarm.start_bootstrap("boot", net.public_address("boot"), 31337)
            peers = [swarm.start_peer(name, str(n)) for n, name in enumerate(homes)]

            def punched() -> bool:
                for peer in peers:
                    peer.check()
                return all(any(e.reach == "hole-punched" for e in peer.events(ReachChanged)) for peer in peers)

            logs = lambda: "\n".join(f"--- {p.name}\n{p.log()}" for p in peers)  # noqa: E731
            eventually(punched, what=f"a hole is punched\n{logs()}")
            before = max((event.version for peer in peers for event in peer.committed("common")), default=0)
            eventually(
                lambda: all(any(e.version > before + 2 for e in peer.committed("common")) for peer in peers),
                what=f"they train through it\n{logs()}",
            )
            swarm.assert_same_digests()
