"""How long a lone owner's rounds are while somebody wants to join."""

from p2ptrain.ids import COMMON, PeerId, RunId, SliceId
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.pacing import newcomers_need_s

ME, A, B = (PeerId(name) for name in "mab")
ZERO, ONE = SliceId("0"), SliceId("1")
UPDATE_BYTES = {COMMON: 1_000_000, SliceId("0.1"): 2_000_000, ONE: 4_000_000}
"""Of a round in which a fragment of one slice has its turn."""


def claim(peer: PeerId, ready: tuple[SliceId, ...] = (), joining: tuple[SliceId, ...] = ()) -> Claim:
    return Claim(run=RunId("r"), peer=peer, ready=ready, joining=joining, expires_s=0.0)


def need(*others: Claim, ready: tuple[SliceId, ...] = (COMMON, ZERO), uplink_mbps: float = 20.0) -> tuple[int, float]:
    claims = {one.peer: one for one in (claim(ME, ready), *others)}
    return newcomers_need_s(ME, claims, UPDATE_BYTES, uplink_mbps, 60.0)


def test_a_newcomer_gets_twice_the_time_that_a_rounds_updates_take() -> None:
    assert need(claim(A, joining=(COMMON, ZERO))) == (1, 2 * 3_000_000 * 8e-6 / 20)
    assert need(claim(A, joining=(COMMON, ZERO)), claim(B, joining=(COMMON, ONE)))[1] == 4 * 3_000_000 * 8e-6 / 20


def test_nobody_waits_without_a_newcomer_who_depends_on_them() -> None:
    assert need() == (0, 0.0)
    assert need(claim(A)) == (0, 0.0), "it has not chosen yet"
    assert need(claim(A, ready=(COMMON, ONE), joining=(ZERO,))) == (0, 0.0), "it trains meanwhile"
    assert need(claim(A, ready=(COMMON, ZERO)), claim(B, joining=(COMMON, ZERO))) == (0, 0.0), "rounds take two"


def test_only_what_nobody_else_owns_counts() -> None:
    assert need(claim(A, ready=(COMMON, ONE)), claim(B, joining=(COMMON, ZERO))) == (1, 2 * 2_000_000 * 8e-6 / 20)


def test_no_longer_than_the_manifest_lets_members_wait_and_not_for_an_unknown_line() -> None:
    assert need(claim(A, joining=(COMMON, ZERO)), uplink_mbps=0.01)[1] == 60.0
    assert need(claim(A, joining=(COMMON, ZERO)), uplink_mbps=0.0)[1] == 0.0
