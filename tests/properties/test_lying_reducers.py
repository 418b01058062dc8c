"""Whoever announces wrong averages is found out, and no lie is ever committed: real machines in fake time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties.test_rounds import ROUND_BOUND_S, faults, run_with_faults, weathers
from tests.support.simulated_group import SimulatedGroup, Weather, peer_ids


def found_out(group: SimulatedGroup) -> set[str]:
    """Whom honest members have convicted."""
    return {whom for by, whom in group.convicted if by not in group.liars}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [3, 4, 5, 8])
def test_one_liar_among_the_owners_is_caught_and_the_rounds_go_on(size: int, seed: int) -> None:
    group = SimulatedGroup(peer_ids(size), seed=seed, num_parts=2 * size)
    liar = peer_ids(size)[seed % size]
    group.liars = {liar}
    assert group.run_until(lambda: min(group.versions().values()) >= 6, within_s=600), "the simulator checks commits"
    assert group.lies, "it had the opportunity"
    assert found_out(group) == {liar}
    attempts = [commit.certificate.ballot.attempt for commit in group.commits]
    assert max(attempts) <= 3


@pytest.mark.parametrize("check_averages", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_who_keeps_its_averages_to_itself_holds_nobody_up_for_long(seed: int, check_averages: bool) -> None:
    group = SimulatedGroup(peer_ids(4), seed=seed, num_parts=8, check_averages=check_averages)
    group.withholders = {peer_ids(4)[seed]}
    assert group.run_until(lambda: min(group.versions().values()) >= 8, within_s=600)
    voids = {void.version for _, void in group.voids}
    assert len(voids) <= (0 if check_averages else 2), "an attempt until it is known, and one when it proposes"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", [5, 6])
def test_two_who_lie_differently_are_both_caught_by_the_majority(size: int, seed: int) -> None:
    group = SimulatedGroup(peer_ids(size), seed=seed, num_parts=2 * size)
    group.liars = {peer_ids(size)[seed], peer_ids(size)[seed + 1]}
    assert group.run_until(lambda: min(group.versions().values()) >= 4, within_s=900), "the simulator checks commits"
    assert found_out(group) == group.liars


@pytest.mark.parametrize("seed", range(6))
def test_in_a_group_of_two_a_lie_is_never_committed(seed: int) -> None:
    group = SimulatedGroup(peer_ids(2), seed=seed, num_parts=4)
    group.liars = {peer_ids(2)[seed % 2]}
    group.run(120)
    assert group.lies
    assert group.commits == []
    assert found_out(group) == set(), "nobody can tell which of the two lies"


@pytest.mark.parametrize("seed", range(4))
def test_where_everybody_is_honest_nobody_is_convicted_and_every_average_was_computed_twice(seed: int) -> None:
    group = SimulatedGroup(peer_ids(5), seed=seed, num_parts=10)
    assert group.run_until(lambda: min(group.versions().values()) >= 8, within_s=600)
    assert group.convicted == []
    assert group.counts["Check"] >= 8 * 10
    assert all(commit.certificate.ballot.attempt == 0 for commit in group.commits)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(3, 6),
    liar=st.integers(0, 5),
    seed=st.integers(0, 2**32),
    weather=weathers,
    happenings=faults,
)
def test_in_any_weather_no_lie_is_committed_and_no_honest_member_is_convicted(
    size: int, liar: int, seed: int, weather: Weather, happenings: list[tuple[str, int, float]]
) -> None:
    group = SimulatedGroup(peer_ids(size), seed=seed, weather=weather, num_parts=size, lease_s=None)
    group.liars = {peer_ids(size)[liar % size]}
    run_with_faults(group, happenings)
    group.run(120)
    assert found_out(group) <= group.liars
    group.check_agreement()


@pytest.mark.parametrize("seed", range(10))
def test_a_member_that_dies_does_not_help_the_liar(seed: int) -> None:
    group = SimulatedGroup(peer_ids(4), seed=seed, num_parts=8, weather=Weather(reduce_s=(0.5, 2.0)))
    group.liars = {peer_ids(4)[seed % 4]}
    group.run(7)
    group.crash(peer_ids(4)[(seed + 1) % 4])
    versions = group.versions()
    assert group.run_until(
        lambda: min(group.versions().values()) >= max(versions.values()) + 3, within_s=3 * ROUND_BOUND_S
    )
