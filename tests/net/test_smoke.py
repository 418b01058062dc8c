"""The one emulated network in ``make test``: two peers behind routers, one of them symmetric, and a relay."""

from pathlib import Path

import pytest

from tests.support.home_networks import Internet
from tests.support.live_swarm import PATIENCE_S
from tests.support.nat_lab import first_success, public_address, start_bootstraps, start_node

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
