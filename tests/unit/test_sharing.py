"""Who reduces how much, how long that may take, and who tells whom: pure decisions."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2ptrain.ids import Digest, PeerId
from p2ptrain.swarm.reduce import line_mbps, planned_transfer_s, share_parts, who_checks
from p2ptrain.swarm.spread import FAN_OUT, whom_to_tell
from p2ptrain.wire.messages import BlobRef, Contribution

A, B, C, D = map(PeerId, "abcd")
BLOB = BlobRef(Digest("11" * 32), 1_000_000)


def upload_slices(share: float, members: int) -> float:
    """What a member sends, in slices."""
    return (1 - share) + share * (members - 1)


def test_without_known_uplinks_parts_go_round() -> None:
    assert share_parts(5, {B: 0.0, A: 0.0}) == (A, B, A, B, A)
    assert share_parts(1, {B: 0.0, A: 0.0}) == (A,)


def test_with_two_members_shares_do_not_matter_for_uplinks_and_stay_even() -> None:
    assert Counter(share_parts(10, {A: 1.0, B: 100.0})) == {A: 5, B: 5}


def test_uplinks_are_done_at_the_same_time() -> None:
    uplinks = {A: 15.0, B: 20.0, C: 30.0, D: 20.0}
    parts = Counter(share_parts(1000, uplinks))
    seconds = [upload_slices(parts[peer] / 1000, 4) / uplinks[peer] for peer in uplinks]
    assert max(seconds) == pytest.approx(min(seconds), rel=0.02)


def test_a_slow_line_sends_its_contribution_and_reduces_nothing() -> None:
    parts = Counter(share_parts(300, {A: 1.0, B: 50.0, C: 50.0, D: 50.0}))
    assert parts == {B: 100, C: 100, D: 100}


def test_an_unknown_uplink_counts_as_the_usual_one() -> None:
    assert Counter(share_parts(300, {A: 20.0, B: 0.0, C: 20.0})) == {A: 100, B: 100, C: 100}


@given(st.integers(1, 200), st.dictionaries(st.integers(0, 99), st.floats(0, 1.7e308), min_size=1, max_size=12))
@example(10, {0: 2.2e-311, 1: 5e-324, 2: 0.0})
@example(10, {0: 1.7e308, 1: 1.7e308, 2: 1.0})
def test_every_part_has_one_reducer_whatever_is_announced(num_parts: int, announced: dict[int, float]) -> None:
    uplinks = {PeerId(str(number)): uplink for number, uplink in announced.items()}
    reducers = share_parts(num_parts, uplinks)
    assert len(reducers) == num_parts
    assert set(reducers) <= set(uplinks)
    assert reducers == share_parts(num_parts, dict(reversed(uplinks.items())))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ({A: 100.0, B: 20.0, C: 20.0, D: 1.0}, [A, B, C]),  # one is so fast that it reduces everything
        ({A: 1.0, B: 0.0, C: 10.0, D: 300.0}, [B, C, D]),  # what is not known counts as usual
        ({A: 300.0, B: 20.0, C: 10.0, D: 1.0}, [A, B, C]),  # half as fast will do
        ({A: 100.0, B: 1.0, C: 1.0}, [A, B, C]),  # somebody has to
        ({A: 0.0, B: 0.0, C: 0.0}, [A, B, C]),
        ({A: 0.0}, [A]),
    ],
)
def test_who_alone_is_fast_is_checked_by_those_whose_lines_are_good_for_it(
    lines: dict[PeerId, float], expected: list[PeerId]
) -> None:
    reducers = share_parts(1 if not any(lines.values()) else 1000, lines)
    assert len(set(reducers)) == 1
    assert who_checks(reducers, lines) == expected


def test_among_several_reducers_they_alone_check() -> None:
    assert who_checks((B, A, B), {A: 30.0, B: 40.0, C: 2.0}) == [A, B]


def test_plans_wait_for_the_slowest_line_that_is_known_up_to_a_limit() -> None:
    contributions = [Contribution(A, 1, 1.0, (BLOB,) * 4, 8.0), Contribution(B, 1, 1.0, (BLOB,) * 4)]
    # A sends 2 of 4 parts to B and 2 averages of its own: 4 MB at 1 MB/s.
    assert planned_transfer_s(contributions, [A, A, B, B], 2, at_most_s=60) == pytest.approx(4.0)
    assert planned_transfer_s(contributions, [A, A, B, B], 2, at_most_s=3) == 3
    both = planned_transfer_s(contributions, [A, A, B, B], 2, checkers=[B, B, A, A], at_most_s=60)
    assert both == pytest.approx(4.0), "of two, each sends all of its contribution and no average"
    four = planned_transfer_s(contributions, [A, B, C, D], 4, checkers=[B, C, D, A], at_most_s=60)
    assert four == pytest.approx(4.0 * (0.75 + 0.75 + 0.25 * 2)), "contribution twice, averages to two"
    assert planned_transfer_s(contributions[1:], [B, B, B, B], 2, at_most_s=60) == 0
    assert planned_transfer_s([Contribution(A, 0, 1.0)], [], 1, at_most_s=60) == 0


def test_plans_wait_for_the_lowest_cap_on_downloads_and_give_it_less_to_reduce() -> None:
    capped = Contribution(A, 1, 1.0, (BLOB,) * 4, uplink_mbps=80.0, downlink_mbps=8.0)
    # 3 contributions to its part and 3 averages: 6 MB at 1 MB/s.
    assert planned_transfer_s([capped], [A, B, C, D], 4, at_most_s=60) == pytest.approx(6.0)
    with_checks = planned_transfer_s([capped], [A, B, C, D], 4, checkers=[B, C, D, A], at_most_s=60)
    assert with_checks == pytest.approx(8.0), "3 contributions to its part, 3 to the one that it checks, 2 averages"
    assert planned_transfer_s([replace(capped, downlink_mbps=0.0)], [A, B, C, D], 4, at_most_s=60) == pytest.approx(0.6)
    assert line_mbps(capped) == 8.0
    assert line_mbps(replace(capped, uplink_mbps=0.0)) == 8.0
    assert line_mbps(replace(capped, downlink_mbps=0.0)) == 80.0
    assert line_mbps(replace(capped, uplink_mbps=0.0, downlink_mbps=0.0)) == 0.0


@pytest.mark.parametrize(("num_peers", "num_voters"), [(2, 2), (3, 2), (10, 1), (200, 3), (1000, 4)])
def test_news_reach_everybody_once_and_nobody_tells_more_than_a_few(num_peers: int, num_voters: int) -> None:
    peers = [PeerId(f"peer{number}") for number in range(num_peers)]
    voters, value_hash = peers[:num_voters], Digest("ab" * 32)
    told: Counter[PeerId] = Counter()
    hop, hops = list(voters), 0
    while hop:
        following = [to for peer in hop for to in whom_to_tell(peer, peers, voters, value_hash)]
        told.update(following)
        hop, hops = following, hops + 1
    assert told == Counter(peers[num_voters:])
    assert hops <= 2 + num_peers.bit_length()
    assert all(len(whom_to_tell(peer, peers, voters, value_hash)) <= FAN_OUT for peer in peers)


def test_another_version_has_another_tree() -> None:
    peers = [PeerId(f"peer{number}") for number in range(30)]
    trees = {
        version: tuple(tuple(whom_to_tell(peer, peers, peers[:2], Digest(version * 64))) for peer in peers)
        for version in "0123"
    }
    assert len(set(trees.values())) == 4


def test_a_peer_that_nobody_sees_yet_tells_without_failing() -> None:
    assert whom_to_tell(C, [A, B], [A, B], Digest("ab" * 32)) == []
