"""How long claims count when clocks differ and jump; fake time."""

import pytest

from p2ptrain.ids import PeerId, RunId
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.leases import Leases

A = PeerId("a")
LEASE_S, HOUR_S = 30.0, 3600.0


def look(leases: Leases, expires_s: float, *, monotonic_s: float, wall_s: float) -> float | None:
    """Until when the claim counts if it is newer than what was known."""
    claim = Claim(run=RunId("r"), peer=A, expires_s=expires_s)
    newer = leases.renewed({A: claim}, monotonic_s=monotonic_s, wall_s=wall_s)
    return newer[A].expires_s if newer else None


@pytest.mark.parametrize("ahead_s", [0.0, 30.0, HOUR_S])
def test_a_dead_peer_is_forgotten_after_a_lease_whatever_its_clock_said(ahead_s: float) -> None:
    leases, expires_s = Leases(LEASE_S), 1e9 + ahead_s + LEASE_S
    assert look(leases, expires_s, monotonic_s=10.0, wall_s=1e9) == 10.0 + LEASE_S
    assert look(leases, expires_s, monotonic_s=20.0, wall_s=1e9 + 10) is None, "the same record proves no life"
    assert look(leases, expires_s + 10, monotonic_s=20.0, wall_s=1e9 + 10) == 20.0 + LEASE_S


@pytest.mark.parametrize(("jump_s", "left_s"), [(-HOUR_S, LEASE_S), (HOUR_S, 0.0)])
def test_a_jump_of_our_own_clock_keeps_nobody_longer_than_a_lease(jump_s: float, left_s: float) -> None:
    leases = Leases(LEASE_S)
    look(leases, 1000.0 + LEASE_S, monotonic_s=10.0, wall_s=1000.0)
    assert look(leases, 1000.0 + LEASE_S, monotonic_s=11.0, wall_s=1001.0 + jump_s) is None
    # After a jump ahead everybody seems expired: they are called, and those that answer stay.
    assert look(leases, 1010.0 + LEASE_S, monotonic_s=20.0, wall_s=1010.0 + jump_s) == 20.0 + left_s


def test_a_claim_that_says_less_than_a_lease_counts_for_less() -> None:
    assert look(Leases(LEASE_S), 1005.0, monotonic_s=7.0, wall_s=1000.0) == 12.0
