"""Who owns the next version when more hold the slice than a group may have."""

from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.ids import PeerId
from p2ptrain.swarm.electorate import drawn

peers = st.sets(st.integers(0, 200).map(lambda n: PeerId(f"p{n}")), min_size=1, max_size=60)


@given(holders=peers, present=peers, most=st.integers(3, 40), lot=st.text(max_size=5))
def test_a_group_is_full_but_no_fuller_and_a_majority_of_it_has_the_state(
    holders: set[PeerId], present: set[PeerId], most: int, lot: str
) -> None:
    owners = drawn(holders, present=present, most=most, lot=lot)
    assert list(owners) == sorted(set(owners))
    assert set(owners) <= holders
    assert len(owners) == min(most, len(holders))
    majority = len(owners) // 2 + 1
    assert len(set(owners) & present) >= min(majority, len(holders & present))


def test_the_order_in_which_holders_are_given_does_not_matter() -> None:
    holders = [PeerId(f"p{n}") for n in range(50)]
    assert drawn(holders, present=(), most=8, lot="x") == drawn(holders[::-1], present=(), most=8, lot="x")


def test_everybody_has_a_turn_as_often_as_everybody_else() -> None:
    holders = [PeerId(f"p{n}") for n in range(40)]
    owners: tuple[PeerId, ...] = ()
    turns = dict.fromkeys(holders, 0)
    for version in range(2000):
        owners = drawn(holders, present=owners, most=8, lot=str(version))
        for peer in owners:
            turns[peer] += 1
    assert max(turns.values()) < 1.4 * 2000 * 8 / 40
    assert min(turns.values()) > 0.6 * 2000 * 8 / 40
