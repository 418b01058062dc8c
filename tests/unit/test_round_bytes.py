"""What a round sends, against what docs/protocol.md says and what transfers add up to."""

import pytest

from p2ptrain.ids import COMMON, SliceId
from p2ptrain.swarm.round_bytes import averaging_bytes, round_bytes


@pytest.mark.parametrize("is_checked", [False, True])
def test_who_is_alone_sends_nothing_and_two_swap_halves(is_checked: bool) -> None:
    assert averaging_bytes(1000, 1, is_checked=is_checked) == 0
    assert averaging_bytes(1000, 2, is_checked=is_checked) == 1000


@pytest.mark.parametrize("owners", [3, 4, 8, 64])
def test_all_transfers_of_an_averaging_add_up(owners: int) -> None:
    part = 1000 / owners
    contributions, averages = owners * (owners - 1) * part, owners * (owners - 1) * part
    assert averaging_bytes(1000, owners, is_checked=False) == pytest.approx((contributions + averages) / owners)
    # Each part's checker fetches it from all but itself, and needs no average.
    checks, spared = owners * (owners - 1) * part, owners * part
    checked = averaging_bytes(1000, owners, is_checked=True)
    assert checked == pytest.approx((contributions + averages + checks - spared) / owners)


def test_the_example_of_the_protocol() -> None:
    tiny = {COMMON: 234_000, SliceId("0"): 399_000, SliceId("1"): 399_000}
    assert round_bytes(tiny, 4, max_owners=64, is_checked=True) == 2 * 234_000 + 399_000 + 399_000
    assert round_bytes(tiny, 4, max_owners=64, is_checked=False) == 1.5 * 234_000 + 399_000 + 399_000
    assert round_bytes(tiny, 2, max_owners=64, is_checked=True) == 234_000 + 399_000


def test_a_round_does_not_grow_beyond_what_its_owners_send() -> None:
    tiny = {COMMON: 234_000, SliceId("0"): 399_000, SliceId("1"): 399_000}
    assert round_bytes(tiny, 128, max_owners=64, is_checked=True) == round_bytes(
        tiny, 10_000, max_owners=64, is_checked=True
    )


def test_one_slice_has_no_updates_to_fetch() -> None:
    assert round_bytes({COMMON: 100, SliceId("0"): 1000}, 2, max_owners=64, is_checked=True) == 1100
