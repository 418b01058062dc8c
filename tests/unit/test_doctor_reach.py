"""The doctor's verdict on the router."""

from p2ptrain.node.doctor_reach import judge_router
from p2ptrain.wire.reach import Reach


def test_peer_that_can_be_called_is_well() -> None:
    assert judge_router(Reach(way="mapped", nat="open", reason="1 of 1 could"), 1).verdict == "ok"


def test_peer_behind_a_router_is_told_how_it_would_be_better() -> None:
    finding = judge_router(Reach(way="relayed", nat="symmetric", reason="0 of 2 could"), 2)
    assert finding.verdict == "warn"
    assert "symmetric" in finding.evidence
    assert "--map-port" in finding.remedy


def test_firewall_needs_another_remedy_than_a_router() -> None:
    finding = judge_router(Reach(way="relayed", nat="none", reason="0 of 1 could"), 1)
    assert "let the peer's TCP port in" in finding.remedy


def test_peer_that_no_relay_takes_cannot_be_reached() -> None:
    assert judge_router(Reach(way="relayed", nat="cone", reason="0 of 1 could"), 0).verdict == "fail"


def test_what_nobody_could_look_at_is_not_measured() -> None:
    finding = judge_router(Reach(way="direct", nat="unknown", reason="no bootstrap could be asked"), 0)
    assert finding.verdict == "not measured"
