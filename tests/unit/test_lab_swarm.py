"""The swarm in one process: what it computes, and that it computes it again."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from p2ptrain.config.schema import (
    ExchangeConfig,
    InnerConfig,
    ModelConfig,
    OuterConfig,
    OverlapConfig,
    RunConfig,
    SlicingConfig,
)
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import NonFiniteUpdate
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.virtual_swarm import VirtualSwarm, dealt_slices
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.training.outer_step import OuterState, outer_step
from p2ptrain.training.pseudo_gradient import pseudo_gradient

pytestmark = pytest.mark.usefixtures("one_thread")
RUN = RunConfig(
    name="lab",
    seed=1,
    rounds=6,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_hidden=64, context=32),
    slicing=SlicingConfig(slices=2, parts=("mlp", "heads")),
    inner=InnerConfig(steps=3, batch=2, lr=4e-3, warmup_steps=4),
    outer=OuterConfig(lr=0.5, momentum=0.7),
    exchange=ExchangeConfig(part_elements=3000),
)
TEXT = np.frombuffer(Path(__file__).read_bytes(), dtype=np.uint8)
CORPUS = Corpus(train=TEXT[1000:], validation=TEXT[:1000], fingerprint=Digest("0" * 64))
ZERO = SliceId("0")


def swarm(run: RunConfig = RUN, peers: int = 4) -> VirtualSwarm:
    return VirtualSwarm(run, CORPUS, dealt_slices(peers, run.slicing.slices))


def digests(of: VirtualSwarm) -> list[str]:
    return [digest for s in of.plan.slice_ids for digest in (of.digest(s), of.published_digest(s))]


def test_slices_are_dealt_round_robin_and_everybody_has_the_common_part() -> None:
    dealt = dealt_slices(4, 2)
    assert [sorted(slices) for slices in dealt.values()] == [["0", "common"], ["1", "common"]] * 2
    assert list(dealt_slices(12, 1)) == sorted(dealt_slices(12, 1))


def test_two_swarms_of_one_seed_hold_the_same_bits_and_another_seed_does_not() -> None:
    first, second, other = swarm(), swarm(), swarm(replace(RUN, seed=2))
    for _ in range(3):
        assert first.train_round() == 4 * 3 * 2 * 32
        second.train_round()
        other.train_round()
        assert digests(first) == digests(second)
    assert not set(digests(first)) & set(digests(other))
    assert first.validation_loss(8) == second.validation_loss(8)


def test_a_swarm_restored_from_its_file_goes_on_with_the_same_bits() -> None:
    whole, first, second = swarm(), swarm(), swarm()
    for _ in range(4):
        whole.train_round()
    for _ in range(2):
        first.train_round()
    second.restore(first.save())
    assert (second.version, digests(second)) == (first.version, digests(first))
    for _ in range(2):
        second.train_round()
    assert digests(second) == digests(whole)


def overlapped(delay_steps: int, **changes: object) -> RunConfig:
    return replace(RUN, overlap=replace(OverlapConfig(delay_steps=delay_steps), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("delay_steps", [1, 3])
def test_an_outer_step_is_merged_after_the_delay_with_the_progress_made_meanwhile(delay_steps: int) -> None:
    lab = swarm(overlapped(delay_steps))
    lab.train_round()
    peer = lab.peers[0]
    snapshot = lab.inner(peer).local_values(ZERO)
    first_anchor = lab.values(frozenset({ZERO}))[ZERO]
    assert not np.array_equal(snapshot, first_anchor), "not merged before the next round's inner steps"
    beside = swarm(overlapped(delay_steps))
    beside.train_round()
    for _ in range(delay_steps):
        beside.inner(peer).step(Version(1))
    progress = beside.inner(peer).local_values(ZERO) - snapshot
    for slice_id in (ZERO, COMMON):
        merged = beside.values(frozenset({slice_id}))[slice_id]
        before = snapshot if slice_id == ZERO else lab.inner(peer).local_values(COMMON)
        beside.inner(peer).replace(slice_id, merged + (beside.inner(peer).local_values(slice_id) - before))
    beside.inner(peer).replace(SliceId("1"), beside.values(frozenset())[SliceId("1")])
    for _ in range(RUN.inner.steps - delay_steps):
        beside.inner(peer).step(Version(1))
    lab.train_round()
    assert np.any(progress != 0)
    assert np.array_equal(lab.inner(peer).local_values(ZERO), beside.inner(peer).local_values(ZERO))


def test_overlap_costs_little_of_what_is_learned_and_a_restored_swarm_goes_on_with_the_same_bits() -> None:
    waits, overlaps, first, second = swarm(), *(swarm(overlapped(2)) for _ in range(3))
    before = waits.validation_loss(8)
    for _ in range(6):
        waits.train_round()
        overlaps.train_round()
    learned, learned_overlapped = (before - lab.validation_loss(8) for lab in (waits, overlaps))
    assert learned_overlapped > 0.7 * learned
    for _ in range(3):
        first.train_round()
    second.restore(first.save())
    for _ in range(3):
        second.train_round()
    assert digests(second) == digests(overlaps)


def with_lot(places: int, run: RunConfig = RUN) -> RunConfig:
    """Three owners a version, who bring the work of so many others each."""
    exchange = replace(run.exchange, codec="float32", max_owners=3, max_constituents=places)
    return replace(run, exchange=exchange, slicing=replace(run.slicing, slices=1))


def test_three_owners_with_places_for_all_decide_what_all_would_have_decided() -> None:
    few = swarm(with_lot(4), peers=7)
    everybody = swarm(replace(with_lot(4), exchange=replace(RUN.exchange, codec="float32")), peers=7)
    for _ in range(3):
        few.train_round()
        everybody.train_round()
    assert all(len(state.owners) == 3 and len(state.contained) == 7 for state in few._slices.values())
    for slice_id, values in everybody.values(frozenset(everybody.plan.slice_ids)).items():
        np.testing.assert_allclose(few.values(frozenset(few.plan.slice_ids))[slice_id], values, atol=1e-5)


@pytest.mark.parametrize("places", [0, 1])
@pytest.mark.parametrize("delay_steps", [0, 2])
def test_who_is_not_drawn_and_finds_no_place_waits_and_a_restored_swarm_goes_on_with_the_same_bits(
    places: int, delay_steps: int
) -> None:
    run = with_lot(places, overlapped(delay_steps))
    straight, first, second = (swarm(run, peers=7) for _ in range(3))
    counted = set()
    for _ in range(6):
        straight.train_round()
        counted |= straight._slices[COMMON].contained
        assert len(straight._slices[COMMON].contained) == 3 + 3 * places
        if delay_steps == 0:
            assert all(footings[COMMON].tokens == 0 for footings in straight._footings.values()), "kept by nobody"
    assert len(counted) > 3 + 3 * places, "others took their turn"
    for _ in range(3):
        first.train_round()
    second.restore(first.save())
    for _ in range(3):
        second.train_round()
    assert digests(second) == digests(straight)


def test_who_had_a_place_and_nothing_to_contribute_keeps_what_it_trained_meanwhile() -> None:
    lab = swarm(overlapped(2))
    idle = lab.peers[0]
    lab.train_turn(dict.fromkeys(lab.peers, 3) | {idle: 0})
    assert idle not in lab._slices[COMMON].contained
    lab.train_turn(dict.fromkeys(lab.peers, 3))
    tokens = lab.inner(idle).run.inner.batch * RUN.model.context
    assert lab._footings[idle][COMMON].tokens == 3 * tokens, "two before the commit reached it, and one after"


def fragmented(delay_steps: int, fragments: int = 2) -> RunConfig:
    return replace(overlapped(delay_steps), slicing=replace(RUN.slicing, fragments=fragments))


@pytest.mark.parametrize("delay_steps", [0, 1, 2, 3])
def test_fragments_are_cut_off_in_turn_and_a_restored_swarm_goes_on_with_the_same_bits(delay_steps: int) -> None:
    whole, first, second = (swarm(fragmented(delay_steps)) for _ in range(3))
    before = {s: whole.digest(s) for s in whole.plan.slice_ids}
    assert whole.train_turn(dict.fromkeys(whole.peers, 1)) == 4 * 2 * 32
    assert {s for s in before if whole.digest(s) != before[s]} == {s for s in before if s.endswith(".0")}
    assert whole.version == 0
    whole.train_turn(dict.fromkeys(whole.peers, 2))
    assert whole.version == 1
    for _ in range(3):
        whole.train_round()
    for _ in range(2):
        first.train_round()
    second.restore(first.save())
    for _ in range(2):
        second.train_round()
    assert digests(second) == digests(whole)


@pytest.mark.parametrize("delay_steps", [0, 1])
def test_fragments_cost_little_of_what_is_learned(delay_steps: int) -> None:
    at_once, in_turn = swarm(overlapped(delay_steps)), swarm(fragmented(delay_steps))
    before = at_once.validation_loss(8)
    for _ in range(6):
        at_once.train_round()
        in_turn.train_round()
    learned, learned_in_turn = (before - lab.validation_loss(8) for lab in (at_once, in_turn))
    assert learned_in_turn > 0.7 * learned


def test_fragments_change_nothing_where_an_outer_step_takes_over_what_was_trained() -> None:
    """Outer lr 1 without momentum or rounding moves a lone owner's anchor to its weights, whenever that is."""
    labs = []
    for fragments in (1, 2):
        slicing = SlicingConfig(slices=1, fragments=fragments)
        exact = replace(RUN, outer=OuterConfig(lr=1.0, momentum=0.0), exchange=ExchangeConfig(codec="float32"))
        labs.append(swarm(replace(exact, slicing=slicing), peers=1))
    for lab in labs:
        for _ in range(3):
            lab.train_round()
    whole, divided = (
        lab.plan.assemble({s: lab.inner(lab.peers[0]).local_values(s) for s in lab.plan.slice_ids}) for lab in labs
    )
    for name, values in whole.items():
        torch.testing.assert_close(divided[name], values, rtol=0, atol=1e-5)


def test_the_loss_falls() -> None:
    trained = swarm()
    before = trained.validation_loss(8)
    for _ in range(6):
        trained.train_round()
    assert trained.validation_loss(8) < before - 0.5


def test_one_slice_without_rounding_is_the_diloco_that_is_checked_against_plain_autograd() -> None:
    run = replace(RUN, slicing=SlicingConfig(slices=1), exchange=ExchangeConfig(codec="float32"))
    lab = swarm(run, peers=2)
    plan = SlicePlan.of(run.model, run.slicing)
    values = initial_values(run, plan)
    loops = [InnerLoop(run, plan, frozenset(plan.slice_ids), values, CORPUS, peer) for peer in lab.peers]
    states = {slice_id: OuterState.initial(values[slice_id]) for slice_id in plan.slice_ids}
    for version in range(3):
        lab.train_round()
        for loop in loops:
            for _ in range(run.inner.steps):
                loop.step(Version(version))
        for slice_id, state in states.items():
            first, second = (pseudo_gradient(state.anchor, loop.local_values(slice_id)) for loop in loops)
            halves = first * np.float32(0.5) + second * np.float32(0.5)
            states[slice_id] = outer_step(state, halves, lr=run.outer.lr, momentum=run.outer.momentum)
            for loop in loops:
                loop.replace(slice_id, states[slice_id].anchor)
            assert lab.digest(slice_id) == states[slice_id].digest(Version(version + 1))


def test_non_owners_compute_with_the_published_weights_and_owners_with_anchors() -> None:
    trained = swarm()
    trained.train_round()
    anchors, published = trained.values(frozenset(trained.plan.slice_ids)), trained.values(frozenset())
    owner, other = (trained.inner(peer) for peer in trained.peers[:2])
    assert np.array_equal(owner.local_values(ZERO), anchors[ZERO])
    assert np.array_equal(other.local_values(ZERO), published[ZERO])
    assert not np.array_equal(anchors[ZERO], published[ZERO])
    assert hashlib.sha256(published[ZERO].view(np.uint32).__rshift__(16).astype("<u2").tobytes()).hexdigest() == (
        trained.published_digest(ZERO)
    )


def test_a_virtual_peer_that_looks_back_leaves_out_a_share_of_what_others_changed_last() -> None:
    back, ahead = (VirtualSwarm(RUN, CORPUS, dealt_slices(2, 2), look_back=share) for share in (0.25, 0.0))
    begin = torch.from_numpy(initial_values(RUN, ahead.plan)[ZERO]).bfloat16().float().numpy()
    for one in (back, ahead):
        one.train_round()
    published = ahead.values(frozenset({COMMON}))[ZERO]
    _, other = back.peers
    found = back.inner(other).local_values(ZERO)
    np.testing.assert_allclose(found, published - 0.25 * (published - begin), rtol=0, atol=1e-7)
    assert back.digest(ZERO) == ahead.digest(ZERO)
    assert back.published_digest(ZERO) == ahead.published_digest(ZERO)
    restored = VirtualSwarm(RUN, CORPUS, dealt_slices(2, 2), look_back=0.25)
    restored.restore(back.save())
    for one in (back, restored, ahead):
        one.train_round()
    assert digests(restored) == digests(back) != digests(ahead)


def test_a_peer_with_fewer_steps_counts_less_and_one_without_any_counts_nothing() -> None:
    alone, beside, slow = (VirtualSwarm(RUN, CORPUS, dealt_slices(3, 2)) for _ in range(3))
    a, b, c = alone.peers  # a and c own slice 0
    alone.train_round({a: 3, b: 3, c: 0})
    beside.train_round({a: 3, b: 3, c: 3})
    slow.train_round({a: 3, b: 3, c: 1})
    assert len({lab.digest(ZERO) for lab in (alone, beside, slow)}) == 3
    only = VirtualSwarm(
        RUN, CORPUS, {PeerId(a): frozenset({COMMON, ZERO}), PeerId(b): frozenset({COMMON, SliceId("1")})}
    )
    only.train_round()
    assert digests(only) == digests(alone)


def test_the_common_part_may_have_a_learning_rate_of_its_own() -> None:
    outer = replace(RUN.outer, common_lr_ratio=1e-30)
    still = VirtualSwarm(replace(RUN, outer=outer), CORPUS, dealt_slices(2, 2))
    before, moving = still.values(frozenset({COMMON, ZERO})), swarm(peers=2)
    still.train_round()
    moving.train_round()
    assert np.array_equal(still.values(frozenset({COMMON}))[COMMON], before[COMMON])
    assert still.digest(ZERO) == moving.digest(ZERO)


def test_flops_are_those_that_torch_counts_without_attention() -> None:
    lab = swarm()
    counted = 0
    for peer in lab.peers:
        with FlopCounterMode(display=False) as counter:
            lab.inner(peer).step(Version(0))
        counts = counter.get_flop_counts()["Global"]
        counted += sum(
            flops for name, flops in counts.items() if "attention" not in str(name) and "bmm" not in str(name)
        )
    assert lab.flops(4 * 2 * 32) == pytest.approx(counted, rel=1e-3)


def test_training_that_diverges_is_an_error_and_not_a_number() -> None:
    wild = swarm(replace(RUN, outer=OuterConfig(lr=1e30, momentum=0.0)))
    wild.train_round()
    with pytest.raises(NonFiniteUpdate):
        wild.train_round()
