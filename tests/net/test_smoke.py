"""The emulated networks in ``make test``: two peers behind routers, and two that dial each other at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.home_networks import Internet, Line
from tests.support.live_swarm import PATIENCE_S
from tests.support.nat_lab import first_success, public_address, start_bootstraps, start_node, until
from tests.support.net_node import NetNode

pytestmark = pytest.mark.faults

PAST_THE_DEFAULT_LIMIT = 1 << 20
"""p2pd's own relay cuts after 128 KiB, every second time."""


def test_peers_behind_two_routers_reach_each_other_through_the_bootstrap(tmp_path: Path) -> None:
    with Internet({"boot": "none", "a": "restricted", "b": "symmetric"}) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        a, b = (start_node(net, tmp_path, name, [address]) for name in ("a", "b"))
        assert (a.way, b.way) == ("relayed", "relayed")
        _, result = first_success(lambda: a.ask("send", b.peer, PAST_THE_DEFAULT_LIMIT), within_s=PATIENCE_S)
        assert result["arrived"] == PAST_THE_DEFAULT_LIMIT
        assert result["relayed"] == [True, True]
        assert boot.ask("usage")["carried_bytes"] > PAST_THE_DEFAULT_LIMIT


def test_two_that_dial_each_other_at_once_both_get_through(tmp_path: Path) -> None:
    line = Line(delay_ms=25.0, loss_percent=0.0)  # long enough for two calls to cross on the way
    with Internet({"boot": "none", "a": "none", "b": "none"}, line) as net:
        (boot,) = start_bootstraps(net, tmp_path, ["boot"])
        address = public_address(net, "boot", boot)
        nodes = [start_node(net, tmp_path, name, [address]) for name in ("a", "b")]
        assert [node.way for node in nodes] == ["direct", "direct"]
        for _ in range(4):
            for node in nodes:
                node.ask("hang_up")
            until(lambda: not any(_are_connected(*pair) for pair in (nodes, nodes[::-1])), PATIENCE_S, "all hung up")
            together = threading.Barrier(2)

            def send(number: int, together: threading.Barrier = together) -> Any:
                together.wait()
                return nodes[number].ask("send", nodes[1 - number].peer, 1000)

            with ThreadPoolExecutor(2) as threads:
                for result in threads.map(send, range(2)):
                    assert result["arrived"] == 1000, result


def _are_connected(node: NetNode, other: NetNode) -> bool:
    return other.peer in node.ask("paths")
