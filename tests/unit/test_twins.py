"""Two processes with one identity, judged from the claims that are found under it; what an operator is told."""

from p2ptrain.node.problems import Problems
from p2ptrain.swarm.twins import Twins

US, PAST, TWIN = 1, 2, 3


def test_a_twin_is_known_when_it_renews_its_claim() -> None:
    twins = Twins(US)
    twins.published(100.0)
    assert not twins.is_alive(TWIN, 105.0), "may have been published by a process that is dead by now"
    assert not twins.is_alive(TWIN, 105.0)
    assert twins.is_alive(TWIN, 108.0)
    assert twins.is_alive(TWIN, 120.0), "as long as it goes on"


def test_our_own_past_is_no_twin_however_late_its_claims_are_found() -> None:
    twins = Twins(US)
    assert not twins.is_alive(PAST, 90.0), "before we said anything ourselves"
    twins.published(100.0)
    for expires_s in (88.0, 94.0, 99.0, 94.0, 100.0):
        assert not twins.is_alive(PAST, expires_s)
    assert not twins.is_alive(US, 200.0)
    assert not twins.is_alive(0, 110.0)
    assert not twins.is_alive(0, 120.0), "an older version's claims have no number"


def test_a_past_whose_clock_was_ahead_renews_nothing() -> None:
    twins = Twins(US)
    twins.published(100.0)
    assert not any(twins.is_alive(PAST, 400.0) for _ in range(5))


def test_claims_by_many_numbers_do_not_fill_the_memory() -> None:
    twins = Twins(US)
    twins.published(100.0)
    for number in range(10, 1000):
        twins.is_alive(number, 101.0)
    assert len(twins._seen_s) < 10


def test_a_problem_begins_once_and_ends_when_it_is_no_longer_reported() -> None:
    problems = Problems()
    assert problems.report("twin", "two", 10.0)
    assert not problems.report("twin", "two", 20.0)
    assert problems.current(70.0) == {"twin": "two"}
    assert problems.current(90.0) == {}
    assert problems.report("twin", "two", 90.0)
