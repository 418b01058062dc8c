"""A slice's state from one version to the next."""

import numpy as np
import pytest

from p2ptrain.errors import BadMessage
from p2ptrain.ids import Version
from p2ptrain.swarm.state import OwnedState, PublishedState, outer_step
from p2ptrain.wire.codec import Float32, decode, encode, round_to_bf16

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


def test_a_long_slice_moves_as_it_would_in_one_stretch() -> None:
    numel = 600_001
    random = np.random.default_rng(1)
    anchor, momentum, gradient = (random.standard_normal(numel).astype(np.float32) for _ in range(3))
    owned = OwnedState.of(Version(0), anchor, momentum)
    published = PublishedState.of(Version(0), round_to_bf16(anchor))

    def rule(version: Version, anchor: Float32, momentum: Float32, gradient: Float32) -> tuple[Float32, Float32]:
        return anchor - gradient, momentum + gradient

    bounds = [(0, 250_112), (250_112, 500_224), (500_224, numel)]
    parts = [encode("int8", gradient[start:stop]) for start, stop in bounds]
    staged = outer_step(owned, published, parts, bounds, "int8", rule)
    whole = np.concatenate(
        [decode("int8", part, stop - start) for part, (start, stop) in zip(parts, bounds, strict=True)]
    )
    expected = OwnedState.of(Version(1), anchor - whole, momentum + whole)
    assert staged.owned.digest == expected.digest
    assert bytes(staged.owned.blob[:8]) == (1).to_bytes(8, "little")
    update = encode("int8", expected.anchor - published.values)
    assert staged.update == update
    bits = round_to_bf16(published.values + decode("int8", update, numel))
    assert staged.published.digest == PublishedState.of(Version(1), bits).digest
    assert not staged.owned.anchor.flags.writeable


@pytest.mark.parametrize("broken", ["anchor", "momentum"])
def test_a_step_that_is_not_finite_anywhere_is_refused(broken: str) -> None:
    owned, published = OwnedState.of(Version(0), ONES, ONES), PublishedState.of(Version(0), round_to_bf16(ONES))
    bad = np.array([1, np.inf], np.float32)

    def rule(version: Version, anchor: Float32, momentum: Float32, gradient: Float32) -> tuple[Float32, Float32]:
        if gradient[0] == 1:
            return anchor, momentum
        return (bad, momentum) if broken == "anchor" else (anchor, bad)

    parts = [encode("float32", ONES[:2]), encode("float32", 2 * ONES[2:])]
    with pytest.raises(BadMessage, match="NaN or infinity"):
        outer_step(owned, published, parts, [(0, 2), (2, 4)], "float32", rule)
