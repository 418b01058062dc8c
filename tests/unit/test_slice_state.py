"""A slice's state from one version to the next."""

import numpy as np

from p2ptrain.ids import Version
from p2ptrain.swarm.state import OwnedState, PublishedState, outer_step
from p2ptrain.wire.codec import Float32, encode, round_to_bf16

ONES = np.ones(4, np.float32)


def test_the_run_s_rule_is_told_which_version_it_makes() -> None:
    made = []

    def rule(version: Version, anchor: Float32, momentum: Float32, gradient: Float32) -> tuple[Float32, Float32]:
        made.append(version)
        return anchor - gradient, momentum

    owned, published = OwnedState.of(Version(6), ONES, ONES), PublishedState.of(Version(6), round_to_bf16(ONES))
    average = encode("float32", ONES / 2)
    staged = outer_step(owned, published, [average], [(0, 4)], "float32", rule)
    assert made == [7]
    assert (staged.owned.version, staged.published.version) == (7, 7)
    assert np.array_equal(staged.owned.anchor, ONES / 2)
