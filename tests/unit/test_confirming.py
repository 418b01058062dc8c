"""Which averages may be gone on with, and who is named when they differ; no machine, only a state."""

from dataclasses import replace

import pytest

from p2ptrain.ids import PeerId, Version
from p2ptrain.swarm import rounds
from p2ptrain.swarm.confirming import (
    announced,
    disagreement,
    inputs_to_check,
    is_confirmed,
    liars,
    plan_to_settle,
    result_of,
    whom_to_wait_for,
    without_the_word_of,
)
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.round_state import RoundState
from p2ptrain.wire.messages import Accepted, Ballot, Contribution, PartResult, Plan, Ready, Value
from tests.support.simulated_group import RULES, RUN, SLICE, blob_of, digest_of, peer_ids

A, B, C, D = MEMBERS = tuple(peer_ids(4))
HEAD = Head(version=Version(3), value_hash=digest_of("v3"), epoch=1, owners=MEMBERS, tokens=0, weight=0)
CONTRIBUTIONS = tuple(Contribution(peer, 10, 1.0, (blob_of(peer, 0), blob_of(peer, 1))) for peer in MEMBERS)
PLAN = Plan(0, CONTRIBUTIONS, (B, C), (C, D))
"""Of version 4, proposed by A: B reduces part 0 and C part 1, C checks part 0 and D part 1."""
READY = {c.peer: Ready(c, None, HEAD.value_hash) for c in CONTRIBUTIONS}


def says(average: str, part: int = 0, contributors: tuple[PeerId, ...] = MEMBERS) -> PartResult:
    return PartResult(part, blob_of(average, part), contributors)


def state(*said: tuple[PeerId, PartResult], me: PeerId = D, plan: Plan = PLAN) -> RoundState:
    s = rounds.begin(run=RUN, slice_id=SLICE, me=me, rules=RULES, head=HEAD, claims=frozenset(MEMBERS))
    s = replace(s, plan=plan, ready=READY)
    for member, result in said:
        s = announced(s, member, result)
    return s


def value(*results: PartResult) -> Value:
    return Value(
        run=RUN,
        slice=SLICE,
        version=Version(4),
        previous=HEAD.value_hash,
        digest=digest_of("state"),
        published_digest=digest_of("published"),
        update=blob_of("update"),
        results=results,
        contributions=CONTRIBUTIONS,
        owners=MEMBERS,
        tokens=40,
        weight=160,
    )


def test_one_word_is_not_gone_on_with_and_two_that_agree_are() -> None:
    s = state((B, says("mean")))
    assert (result_of(s, 0), whom_to_wait_for(s, 0)) == (None, C)
    assert result_of(announced(s, B, says("mean")), 0) is None, "said twice by one is one word"
    assert result_of(announced(s, D, says("mean", contributors=(A, B))), 0) is None, "of other contributions"
    assert result_of(announced(s, C, says("mean")), 0) == says("mean")


def test_a_plan_without_checkers_waits_for_the_reducer_alone() -> None:
    s = state(plan=replace(PLAN, checkers=()))
    assert (result_of(s, 0), whom_to_wait_for(s, 0)) == (None, B)
    assert result_of(announced(s, B, says("mean")), 0) == says("mean")


def test_what_two_agree_on_is_not_replaced_by_what_two_others_say_later() -> None:
    s = state((B, says("mean")), (C, says("mean")), (A, says("other")), (D, says("other")))
    assert result_of(s, 0) == says("mean")


@pytest.mark.parametrize(
    ("said", "differing", "named"),
    [
        ([(B, says("mean"))], set(), set()),
        ([(B, says("mean")), (C, says("lie"))], {B, C}, set()),
        ([(B, says("mean")), (C, says("lie", contributors=(A, B)))], set(), set()),
        ([(B, says("mean")), (C, says("lie")), (D, says("mean"))], set(), {C}),
        ([(B, says("lie")), (C, says("another lie")), (A, says("mean")), (D, says("mean"))], set(), {B, C}),
        ([(B, says("mean")), (C, says("mean")), (D, says("lie", contributors=(A, B)))], set(), set()),
    ],
)
def test_who_differs_is_unsettled_until_two_agree_and_then_the_others_are_liars(
    said: list[tuple[PeerId, PartResult]], differing: set[PeerId], named: set[PeerId]
) -> None:
    s = state(*said)
    assert disagreement(s, 0) == differing
    assert liars(s, 0).keys() == named
    assert all(result.average != says("mean").average for result in liars(s, 0).values())


def test_a_third_who_is_ready_and_not_suspected_settles_a_disagreement() -> None:
    s = state((B, says("mean")), (C, says("lie")))
    for suspects, checkers in ((frozenset[PeerId](), {A, D}), (frozenset({A}), {D})):
        plan = plan_to_settle(replace(s, suspects=suspects), 0, frozenset({B, C}))
        assert plan is not None
        assert (plan.revision, plan.reducers, plan.checkers[1]) == (1, PLAN.reducers, D)
        assert plan.checkers[0] in checkers
    assert plan_to_settle(replace(s, suspects=frozenset({A, D})), 0, frozenset({B, C})) is None


def test_the_word_of_a_liar_counts_for_no_part() -> None:
    s = without_the_word_of(state((B, says("mean")), (C, says("lie")), (C, says("mean", 1))), C)
    assert (s.reduced.keys(), s.convicted, s.disputed) == ({(0, B)}, {C}, frozenset())


def test_an_average_is_computed_once_more_unless_we_have_or_cannot() -> None:
    s = state()
    assert inputs_to_check(s, says("mean", contributors=(A, C))) == (CONTRIBUTIONS[0], CONTRIBUTIONS[2])
    assert inputs_to_check(s, says("mean", contributors=(A, PeerId("stranger")))) == ()
    assert inputs_to_check(replace(s, checking=frozenset({says("mean")})), says("mean")) == ()
    s = announced(s, D, says("ours"))
    assert inputs_to_check(s, says("mean")) == ()
    assert inputs_to_check(s, says("mean", contributors=(A, C))) != ()


def test_a_value_is_confirmed_by_two_words_for_every_part_or_by_our_own_for_what_another_proposes() -> None:
    both = (says("mean"), says("mean", 1))
    s = state((B, both[0]), (C, both[0]), (C, both[1]))
    assert not is_confirmed(s, value(*both))
    assert not is_confirmed(announced(s, D, says("other", 1)), value(*both))
    assert is_confirmed(announced(s, D, both[1]), value(*both))
    ours = state((B, both[0]), (C, both[0]), (D, both[1]))
    assert is_confirmed(ours, value(*both))
    assert not is_confirmed(replace(ours, head=replace(HEAD, version=Version(6))), value(*both)), "we propose it"
    assert not is_confirmed(announced(s, B, both[1]), value(says("lie"), both[1]))


def test_what_was_accepted_before_is_confirmed_without_its_inputs() -> None:
    earlier = Accepted(replace(state().ballot, attempt=0), value(says("mean"), says("mean", 1)))
    other = Accepted(earlier.ballot, value(says("other"), says("mean", 1)))
    s = state()
    assert not is_confirmed(s, earlier.value)
    assert is_confirmed(replace(s, accepted=earlier), earlier.value)
    assert not is_confirmed(replace(s, accepted=other), earlier.value)
    for accepted, is_enough in ((earlier, True), (other, False)):
        ready = {**READY, B: replace(READY[B], accepted=accepted)}
        assert is_confirmed(replace(s, ready=ready), earlier.value) is is_enough


def test_a_single_owner_confirms_itself() -> None:
    alone = replace(state(), ballot=Ballot(2, 0, (D,)))
    assert is_confirmed(alone, value(says("mean"), says("mean", 1)))
