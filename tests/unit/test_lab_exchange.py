"""Virtual peers that exchange their slices: what moves with a slice decides what is left of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import SlicingConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.ids import COMMON, Digest, SliceId
from p2ptrain.node.virtual_swarm import Carry, VirtualSwarm, dealt_slices

TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)
CORPUS = Corpus(train=TEXT[500:], validation=TEXT[:500], fingerprint=Digest("0" * 64))
RUN = replace(parse_run(preset_text("nano"), "nano"), slicing=SlicingConfig(slices=2))
ZERO, ONE = SliceId("0"), SliceId("1")


def exchanged(carry: Carry) -> tuple[VirtualSwarm, VirtualSwarm]:
    """A swarm whose two peers exchanged slices after a round, and one in which nobody did."""
    swarms = (VirtualSwarm(RUN, CORPUS, dealt_slices(2, 2)), VirtualSwarm(RUN, CORPUS, dealt_slices(2, 2)))
    for swarm in swarms:
        swarm.train_round()
    a, b = swarms[0].peers
    swarms[0].exchange_slices(a, b, carry)
    return swarms


def test_with_the_outer_state_the_slices_are_the_same_and_learning_goes_on() -> None:
    moved, stays = exchanged("outer state")
    a, b = moved.peers
    assert (moved.inner(a).owned, moved.inner(b).owned) == ({COMMON, ONE}, {COMMON, ZERO})
    assert moved.digest(ZERO) == stays.digest(ZERO)
    assert not moved.inner(a).moments(ONE).mean.any()
    before = moved.digest(ZERO)
    moved.train_round()
    assert moved.digest(ZERO) != before


def test_inner_moments_arrive_as_the_owner_before_had_them() -> None:
    moved, stays = exchanged("inner moments")
    a, b = moved.peers
    assert np.array_equal(moved.inner(a).moments(ONE).mean, stays.inner(b).moments(ONE).mean)


def test_with_nothing_the_new_owner_starts_from_the_published_weights() -> None:
    moved, stays = exchanged("nothing")
    assert moved.digest(ZERO) != stays.digest(ZERO)
    assert moved.published_digest(ZERO) == stays.published_digest(ZERO)
