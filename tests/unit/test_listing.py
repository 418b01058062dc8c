"""Who is listed when more take part than the directory should show: how many, whose draw, and what a lie is worth."""

from collections.abc import Iterable

import pytest

from p2ptrain.ids import PeerId, RunId
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.listing import DRAW_LEASES, draw_of, is_drawn, is_of_now, next_halvings, num_peers

LEASE_S = 30.0
DRAW_S = DRAW_LEASES * LEASE_S
NOW_S = 1.8e9
MANY = [PeerId(f"12D3Koo{n}") for n in range(10_000)]


def listed(peers: Iterable[PeerId], halvings: int, *, wall_s: float = NOW_S) -> list[Claim]:
    """The claims of those of the peers whom the lot lists."""
    draws = {peer: draw_of(peer, wall_s, LEASE_S) for peer in peers}
    return [claim(peer, halvings, draw) for peer, draw in draws.items() if is_drawn(peer, draw, halvings)]


def claim(peer: PeerId, halvings: int = 0, draw: int = 0) -> Claim:
    return Claim(run=RunId("ab" * 32), peer=peer, expires_s=NOW_S + LEASE_S, halvings=halvings, draw=draw)


def estimate(*claims: Claim, wall_s: float = NOW_S) -> int:
    return num_peers(c for c in claims if is_of_now(c, wall_s, LEASE_S))


def test_while_all_are_listed_their_number_is_exact_whatever_their_clocks_say() -> None:
    assert estimate(*(claim(peer, draw=n) for n, peer in enumerate(MANY[:77]))) == 77
    assert estimate() == 0


@pytest.mark.parametrize("halvings", [1, 4, 6])
def test_each_halving_lists_half_and_those_that_are_listed_stand_for_all(halvings: int) -> None:
    drawn = listed(MANY, halvings)
    expected = len(MANY) / 2**halvings
    assert abs(len(drawn) - expected) < 4 * expected**0.5
    assert abs(estimate(*drawn) - len(MANY)) < 4 * 2**halvings * expected**0.5


def test_peers_that_do_not_agree_how_often_to_halve_are_counted_all_the_same() -> None:
    drawn = [*listed(MANY[:5000], 5), *listed(MANY[5000:], 6)]
    assert 7500 < estimate(*drawn) < 12_500


def test_owners_that_are_listed_because_others_need_them_do_not_count() -> None:
    drawn = listed(MANY, 6)
    others = [peer for peer in MANY if peer not in {c.peer for c in drawn}][:64]
    needed = [claim(peer, 6, draw_of(peer, NOW_S, LEASE_S)) for peer in others]
    assert estimate(*drawn, *needed) == estimate(*drawn)


def test_who_says_that_it_stands_for_a_million_counts_for_two_of_the_others() -> None:
    drawn, now = listed(MANY, 6), draw_of(MANY[0], NOW_S, LEASE_S)
    made_up = (PeerId(f"liar{n}") for n in range(200_000))
    liar = next(peer for peer in made_up if any(is_drawn(peer, t, 14) for t in (now, now + 1)))
    draw = now if is_drawn(liar, now, 14) else now + 1
    assert estimate(*drawn, claim(liar, 14, draw)) == estimate(*drawn) + 2**7
    assert estimate(*drawn, claim(liar, 40, draw)) == estimate(*drawn), "and its lot does not say forty"


def test_a_lot_of_long_ago_or_far_ahead_does_not_count_but_a_clock_may_be_a_draw_off() -> None:
    drawn = listed(MANY, 6)
    for off, expected in ((-0.9, len(drawn)), (0.9, len(drawn)), (-2.1, 0), (2.1, 0)):
        counted = estimate(*drawn, wall_s=NOW_S + off * DRAW_S)
        assert (counted >= 64 * expected > 0) if expected else counted == 0, off


def test_everybody_has_its_turn_and_the_list_changes_little_by_little() -> None:
    some = MANY[:300]
    seen, before = set[PeerId](), {c.peer for c in listed(some, 3)}
    for step in range(1, 800):
        now = {c.peer for c in listed(some, 3, wall_s=NOW_S + step * DRAW_S / 10)}
        assert len(now ^ before) < len(some) / 8, "a tenth of the draws end in a tenth of a draw"
        seen, before = seen | now, now
    assert seen == set(some)


@pytest.mark.parametrize(
    ("before", "peers", "expected"),
    [
        (0, 0, 0),
        (0, 128, 0),
        (0, 129, 1),
        (0, 257, 2),
        (0, 10_000, 7),
        (1, 128, 1),
        (1, 97, 1),
        (1, 96, 0),
        (6, 3000, 5),
        (7, 0, 0),
        (0, 1 << 200, 48),
    ],
)
def test_halvings_follow_the_number_of_peers_and_go_back_only_when_there_are_clearly_fewer(
    before: int, peers: int, expected: int
) -> None:
    assert next_halvings(before, peers, 128) == expected
