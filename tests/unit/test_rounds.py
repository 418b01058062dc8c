"""Transitions of the round machine, one sentence each; what holds in every order is in tests/properties."""

from dataclasses import replace

import pytest

from p2ptrain.ids import PeerId, Version
from p2ptrain.swarm import rounds
from p2ptrain.swarm.deadlines import StageDurations
from p2ptrain.swarm.proposing import value_of
from p2ptrain.swarm.rounds import (
    AskCutOff,
    CatchUp,
    Check,
    ClaimsSeen,
    Command,
    Commit,
    CutOff,
    FetchAverage,
    FetchInputs,
    Head,
    HeadMoved,
    Heard,
    LeftOut,
    Lied,
    PartReduced,
    Promise,
    Reduce,
    Send,
    SignVote,
    Stage,
    Staged,
    StageFailed,
    StageResults,
    TellHead,
    Tick,
    Unreachable,
    Void,
)
from p2ptrain.wire.messages import (
    Accepted,
    Ballot,
    CastVote,
    Certificate,
    Committed,
    Contribution,
    Offer,
    PartResult,
    Plan,
    Propose,
    Ready,
    RoundBody,
    RoundMessage,
    Value,
    Vote,
)
from tests.support.simulated_group import RULES, RUN, SLICE, blob_of, digest_of, peer_ids

A, B, C = MEMBERS = tuple(peer_ids(3))
GUEST = PeerId("N")
HEAD = Head(version=Version(4), value_hash=digest_of("v4"), epoch=1, owners=MEMBERS, tokens=1000, weight=3000)
BALLOT = Ballot(1, 0, MEMBERS)  # of version 5: proposer C, in the next attempts A, then B
NOTHING = Ready(None, None, HEAD.value_hash)
NEXT, THIRD = replace(BALLOT, attempt=1), replace(BALLOT, attempt=2)


class Owner:
    """One state machine and the last commands that it gave."""

    def __init__(self, me: PeerId, **known: object) -> None:
        self.me = me
        given = {"rules": RULES, "head": HEAD, "claims": frozenset(MEMBERS)} | known
        self.state = rounds.begin(run=RUN, slice_id=SLICE, me=me, **given)  # type: ignore[arg-type]
        self.now_s = 0.0
        self.commands: list[Command] = []

    def does(self, event: rounds.Event) -> "Owner":
        self.state, self.commands = rounds.advance(self.state, event, self.now_s)
        return self

    def hears(self, sender: PeerId, body: RoundBody, ballot: Ballot = BALLOT, version: int = 5) -> "Owner":
        return self.does(Heard(sender, RoundMessage(RUN, SLICE, Version(version), ballot, body)))

    def cuts_off(self) -> "Owner":
        return self.does(CutOff(contribution(self.me)))

    def waits_for_its_deadline(self) -> "Owner":
        assert self.state.deadline_s is not None
        self.now_s = self.state.deadline_s
        return self.does(Tick())

    def stages(self) -> "Owner":
        (command,) = self.told(StageResults)
        return self.does(staged(command.results))

    def told(self, kind: type) -> list:  # type: ignore[type-arg]
        return [command for command in self.commands if isinstance(command, kind)]

    def sent(self, kind: type) -> list:  # type: ignore[type-arg]
        return [(send.to, send.body) for send in self.told(Send) if isinstance(send.body, kind)]


def contribution(peer: PeerId, num_parts: int = 3) -> Contribution:
    return Contribution(peer, 10, 1.0, tuple(blob_of(peer, j) for j in range(num_parts)))


def ready(peer: PeerId, accepted: Accepted | None = None) -> Ready:
    return Ready(contribution(peer), accepted, HEAD.value_hash)


def result(part: int) -> PartResult:
    return PartResult(part, blob_of("average", part), MEMBERS)


RESULTS = tuple(result(part) for part in range(3))
PLAN = Plan(0, tuple(map(contribution, MEMBERS)), MEMBERS, (B, C, A))
"""A reduces part 0 and checks 2, B reduces 1 and checks 0, C reduces 2 and checks 1."""


def staged(results: tuple[PartResult, ...]) -> Staged:
    return Staged(results, digest_of("state", results), digest_of("published", results), blob_of("update", results))


def value(results: tuple[PartResult, ...] = RESULTS, previous: Head = HEAD) -> Value:
    outcome = staged(results)
    return Value(
        run=RUN,
        slice=SLICE,
        version=Version(previous.version + 1),
        previous=previous.value_hash,
        digest=outcome.digest,
        published_digest=outcome.published_digest,
        update=outcome.update,
        results=results,
        contributions=tuple(replace(contribution(peer), parts=()) for peer in MEMBERS),
        owners=MEMBERS,
        tokens=previous.tokens + 30,
        weight=previous.weight + 90,
    )


def vote(peer: PeerId, of: Value) -> CastVote:
    return CastVote(of.value_hash, Vote(peer, b"signature"))


def averaged(owner: Owner) -> Owner:
    """All parts are announced, by their reducers and by whoever checks them."""
    for reducer, checker, part in zip(PLAN.reducers, PLAN.checkers, range(3), strict=True):
        for peer in (reducer, checker):
            if peer == owner.me:
                owner.does(PartReduced(result(part)))
            else:
                owner.hears(peer, result(part))
    return owner


def averaged_by_two(owner: Owner, plan: Plan) -> None:
    """A and C alone are ready: each checks what the other reduces."""
    for part, reducer in enumerate(plan.reducers):
        average = replace(result(part), contributors=(A, C))
        if reducer == A:
            owner.hears(A, average).does(PartReduced(average))
        else:
            owner.does(PartReduced(average)).hears(A, average)


def reducing_proposer() -> Owner:
    return Owner(C).cuts_off().hears(A, ready(A)).hears(B, ready(B))


# Gathering.


def test_the_promise_is_on_disk_before_the_others_hear_that_we_are_ready() -> None:
    owner = Owner(A).cuts_off()
    kinds = [type(command) for command in owner.commands]
    assert kinds.index(Promise) < kinds.index(Send)
    assert owner.sent(Ready) == [((B, C), ready(A))]
    assert owner.state.stage is Stage.GATHERING


def test_the_first_ready_of_another_owner_asks_us_once_to_end_the_inner_steps() -> None:
    owner = Owner(A).hears(B, ready(B))
    assert owner.told(AskCutOff) == [AskCutOff(0.7 * RULES.gather_s)]
    assert owner.hears(C, ready(C)).commands == []


def test_patience_counts_from_the_first_ready_and_not_from_our_own() -> None:
    owner = Owner(C).hears(A, ready(A))
    owner.now_s = 14.0
    assert owner.cuts_off().state.deadline_s == RULES.gather_s


def test_the_proposer_plans_when_all_are_ready_and_deals_the_parts_around() -> None:
    owner = Owner(C).cuts_off().hears(A, ready(A))
    assert owner.sent(Plan) == []
    owner.hears(B, ready(B))
    assert owner.sent(Plan) == [((A, B), PLAN)]
    assert owner.told(Reduce) == [Reduce((2,), PLAN.contributions, 6.0)]


def test_a_slow_line_reduces_and_checks_nothing_and_is_waited_for_in_all_stages() -> None:
    lines = {A: 0.002, B: 1.0, C: 1.0}  # Mbit/s; blobs here have a thousand bytes

    def over_its_line(peer: PeerId) -> Ready:
        return Ready(replace(contribution(peer), downlink_mbps=lines[peer]), None, HEAD.value_hash)

    owner = Owner(C).does(CutOff(over_its_line(C).contribution))
    usual = owner.state
    owner.hears(A, over_its_line(A)).hears(B, over_its_line(B))
    ((_, plan),) = owner.sent(Plan)
    assert A not in {*plan.reducers, *plan.checkers}
    assert {B, C} == {*plan.checkers}
    planned_s = 8e-6 * sum(blob.size_bytes for blob in plan.contributions[0].parts) / lines[A]
    assert owner.state.planned_s == pytest.approx(planned_s)
    assert owner.state.reduce_limit.seconds == pytest.approx(2 * planned_s)
    assert owner.state.gather_limit.seconds == RULES.gather_s, "never longer than the manifest says"
    assert owner.state.vote_limit.seconds == pytest.approx(min(2 * planned_s, 4 * RULES.vote_s))
    assert owner.state.vote_limit.seconds > usual.vote_limit.seconds
    bare = value_of(owner.state, staged(RESULTS), plan).contributions
    assert [(c.peer, c.parts, c.uplink_mbps, c.downlink_mbps) for c in bare] == [(peer, (), 0, 0) for peer in MEMBERS]
    later = replace(HEAD, version=Version(5), value_hash=digest_of("v5"), tokens=2000)
    assert owner.does(HeadMoved(later)).state.planned_s == pytest.approx(planned_s), "the next round waits for it, too"


def test_averages_are_checked_even_if_one_line_alone_is_fast_enough_to_reduce() -> None:
    owner = Owner(C).cuts_off()
    for peer, mbps in ((A, 0.002), (B, 1.0)):
        owner.hears(peer, Ready(replace(contribution(peer), uplink_mbps=mbps), None, HEAD.value_hash))
    ((_, plan),) = owner.sent(Plan)
    assert set(plan.reducers) == {B}
    assert len(plan.checkers) == len(plan.reducers)
    assert B not in plan.checkers


def test_the_proposer_does_not_wait_for_an_owner_without_a_live_claim() -> None:
    owner = Owner(C).cuts_off().hears(A, ready(A))
    assert len(owner.does(ClaimsSeen(frozenset([A, C]))).sent(Plan)) == 1


def test_after_the_deadline_the_proposer_goes_on_with_a_majority() -> None:
    owner = Owner(C).cuts_off().hears(A, ready(A)).waits_for_its_deadline()
    assert [left.peer for left in owner.told(LeftOut)] == [B]
    assert [body.reducers for _, body in owner.sent(Plan)] == [(A, C, A)]


def test_without_a_majority_the_round_is_void_and_says_so() -> None:
    owner = Owner(C).cuts_off().waits_for_its_deadline()
    assert owner.told(Void) == [Void(Version(5), 0, "1 of 3 owners are ready, 2 are needed")]
    assert (owner.state.stage, owner.state.head) == (Stage.IDLE, HEAD)


def test_a_round_that_nobody_contributes_to_is_void() -> None:
    owner = Owner(C).does(CutOff(None)).hears(A, NOTHING).hears(B, NOTHING)
    assert [void.reason for void in owner.told(Void)] == ["no owner had anything to contribute"]


def test_a_contribution_of_another_length_is_left_out_of_the_plan() -> None:
    owner = Owner(C).cuts_off().hears(A, Ready(contribution(A, num_parts=1), None, HEAD.value_hash)).hears(B, ready(B))
    ((_, plan),) = owner.sent(Plan)
    assert [c.peer for c in plan.contributions] == [B, C]


def test_a_contribution_in_somebody_elses_name_is_not_taken() -> None:
    assert Owner(C).cuts_off().hears(A, ready(B)).state.ready.keys() == {C}


def test_a_silent_proposer_costs_one_attempt() -> None:
    owner = Owner(B).cuts_off().waits_for_its_deadline()
    assert [left.peer for left in owner.told(LeftOut)] == [C]
    assert (owner.state.ballot, owner.state.stage) == (NEXT, Stage.GATHERING)
    assert owner.sent(Ready) == [((A, C), ready(B))]


def test_a_proposer_that_is_known_to_be_gone_is_not_waited_for_again() -> None:
    owner = Owner(B).cuts_off().does(Unreachable(A)).does(Unreachable(C))
    assert owner.state.ballot == THIRD
    assert owner.state.proposer == B


def test_when_its_attempts_are_used_up_the_round_is_void() -> None:
    owner = Owner(B).cuts_off()
    owner.hears(A, ready(A), NEXT).hears(A, ready(A), THIRD).hears(A, ready(A), replace(BALLOT, attempt=3))
    owner.waits_for_its_deadline()
    assert [void.reason for void in owner.told(Void)] == [f"proposer {C} is silent; 4 attempts failed"]


def test_an_owner_in_a_lower_ballot_is_told_ours() -> None:
    owner = Owner(B).cuts_off().hears(A, ready(A), NEXT).hears(C, ready(C), BALLOT)
    assert owner.told(Send) == [Send((C,), NEXT, ready(B), Version(5))]


def test_an_owner_in_a_lower_ballot_makes_an_idle_one_cut_off() -> None:
    owner = Owner(B, promised=Ballot(1, 4, MEMBERS)).hears(C, ready(C), BALLOT)
    assert owner.told(AskCutOff)


# Reducing.


def test_averages_that_arrive_before_the_plan_count() -> None:
    plan = replace(PLAN, checkers=(B, A, A))
    owner = Owner(A).cuts_off().hears(B, result(1)).hears(C, result(2)).hears(B, result(0)).hears(C, plan)
    assert [(check.result, check.reducer) for check in owner.told(Check)] == [(result(1), B), (result(2), C)]
    assert owner.told(FetchInputs) == [], "they are being checked"
    left_s = owner.state.deadline_s - owner.state.stage_began_s
    assert [check.within_s for check in owner.told(Check)] == [pytest.approx(left_s)] * 2, "as long as others wait"
    assert owner.does(PartReduced(result(1))).sent(PartResult) == [((B, C), result(1))]
    assert owner.does(PartReduced(result(2))).told(StageResults) == []
    owner.does(PartReduced(result(0)))
    assert owner.sent(PartResult) == [((B, C), result(0))]
    assert owner.told(StageResults) == [StageResults(RESULTS)]


def test_what_a_check_and_the_outer_step_will_take_is_fetched_as_soon_as_it_can_be_named() -> None:
    owner = Owner(A).cuts_off().hears(C, PLAN)
    assert owner.told(FetchInputs) == [FetchInputs({2: C}, PLAN.contributions, 6.0)]
    for revision in (1, 2):
        assert owner.hears(C, replace(PLAN, revision=revision)).told(FetchInputs) == [], "once for each part"
    assert owner.hears(B, result(1)).told(FetchAverage) == [FetchAverage(result(1), B)]
    for number in range(3):
        another = replace(result(1), average=blob_of("another", number))
        assert owner.hears(B, another).told(FetchAverage) == [], "a liar has us fetch one, and no more"
    assert owner.hears(C, result(2)).told(FetchAverage) == [], "who computes it need not fetch it"
    assert owner.hears(B, result(0)).told(FetchAverage) == [], "nor who has"
    assert owner.hears(C, result(1)).told(FetchAverage) == [], "once is enough"


def test_where_nobody_checks_averages_are_fetched_when_they_are_announced() -> None:
    owner = Owner(A, rules=replace(RULES, check_averages=False)).cuts_off().hears(C, replace(PLAN, checkers=()))
    assert owner.told(FetchInputs) == []
    assert owner.hears(B, result(1)).told(FetchAverage) == [FetchAverage(result(1), B)]


def test_an_owner_that_has_not_cut_off_reduces_and_votes_all_the_same() -> None:
    owner = Owner(A).hears(C, PLAN)
    assert owner.told(Reduce) == [Reduce((0,), PLAN.contributions, 6.0)]
    assert averaged(owner).stages().hears(C, Propose(value())).told(SignVote) == [SignVote(BALLOT, value())]


def test_a_plan_counts_only_from_the_proposer_and_for_members() -> None:
    assert Owner(A).hears(B, PLAN).state.plan is None
    assert Owner(A).hears(C, replace(PLAN, reducers=(A, A, PeerId("X")))).state.plan is None


def test_an_average_that_was_not_asked_for_in_this_ballot_is_dropped() -> None:
    owner = Owner(A).cuts_off().hears(C, PLAN)
    assert owner.does(PartReduced(result(1))).commands == []
    assert owner.hears(B, ready(B), NEXT).does(PartReduced(result(0))).sent(PartResult) == []


def test_only_the_parts_of_an_unreachable_reducer_go_to_others_in_the_same_ballot() -> None:
    owner = reducing_proposer().does(Unreachable(A))
    ((_, plan),) = owner.sent(Plan)
    assert (plan.revision, plan.reducers) == (1, (B, B, C))
    assert [left.peer for left in owner.told(LeftOut)] == [A]
    assert owner.state.ballot == BALLOT


def test_a_reducer_that_is_gone_after_it_delivered_is_replaced_only_where_it_was_to_check() -> None:
    owner = reducing_proposer().hears(A, result(0)).does(Unreachable(A))
    ((_, plan),) = owner.sent(Plan)
    assert (plan.reducers, plan.checkers) == ((A, B, C), (B, C, B))
    assert (owner.state.ballot, owner.state.stage) == (BALLOT, Stage.REDUCING)


def test_parts_that_are_late_go_to_others_three_times_and_then_to_the_next_attempt() -> None:
    owner = reducing_proposer()
    owner.does(PartReduced(result(2))).waits_for_its_deadline()
    assert [body.reducers for _, body in owner.sent(Plan)] == [(C, C, C)]
    owner.waits_for_its_deadline().waits_for_its_deadline()
    assert owner.state.ballot == BALLOT
    assert owner.waits_for_its_deadline().state.ballot.attempt > 0


def test_an_owner_that_is_late_gets_the_plan_and_in_the_vote_the_proposal() -> None:
    owner = Owner(C).cuts_off().hears(A, ready(A)).waits_for_its_deadline()
    ((_, plan),) = owner.sent(Plan)
    assert owner.hears(B, ready(B)).sent(Plan) == [((B,), plan)]
    averaged_by_two(owner, plan)
    owner.stages()
    ((_, proposal),) = owner.sent(Propose)
    assert owner.hears(B, ready(B)).sent(Propose) == [((B,), proposal)]


# Proposing and voting.


def test_a_round_goes_from_averages_to_a_commit_by_two_of_three() -> None:
    owner = averaged(reducing_proposer()).stages()
    assert owner.sent(Propose) == [((A, B), Propose(value()))]
    assert owner.told(SignVote) == [SignVote(BALLOT, value())]
    assert owner.hears(C, vote(C, value())).told(Commit) == []
    (commit,) = owner.hears(A, vote(A, value())).told(Commit)
    assert commit.certificate == Certificate(value(), BALLOT, (Vote(A, b"signature"), Vote(C, b"signature")))
    assert (owner.state.head, owner.state.stage) == (Head.of(commit.certificate), Stage.IDLE)
    assert owner.state.accepted is None


def test_a_vote_waits_until_two_have_announced_every_average() -> None:
    owner = Owner(B).cuts_off().hears(C, PLAN).hears(A, result(0)).does(PartReduced(result(0)))
    owner.does(PartReduced(result(1))).hears(C, result(2)).hears(C, Propose(value())).stages()
    assert owner.told(SignVote) == []
    assert [check.result for check in owner.told(Check)] == []
    assert owner.hears(A, result(1)).told(SignVote) == []
    assert owner.hears(A, result(2)).told(SignVote) == [SignVote(BALLOT, value())]


def test_a_voter_that_has_not_heard_the_checker_computes_the_average_itself() -> None:
    owner = Owner(B).cuts_off().hears(C, PLAN).hears(A, result(0)).hears(A, result(1)).hears(C, result(2))
    owner.does(PartReduced(result(0))).does(PartReduced(result(1))).hears(C, Propose(value()))
    assert [check.result for check in owner.told(Check)] == [result(2)]
    assert owner.stages().told(SignVote) == [SignVote(BALLOT, value())] * 0
    assert owner.does(PartReduced(result(2))).told(SignVote) == [SignVote(BALLOT, value())]


def test_a_proposer_that_names_no_checkers_and_lies_gets_no_vote_and_is_named() -> None:
    lie = PartResult(2, blob_of("lie"), MEMBERS)
    told = (result(0), result(1), lie)
    owner = Owner(A).cuts_off().hears(C, replace(PLAN, checkers=())).does(PartReduced(result(0)))
    owner.hears(B, result(1)).hears(C, lie).stages()
    owner.hears(C, Propose(value(told)))
    assert [check.result for check in owner.told(Check)] == [result(1), lie]
    owner.does(PartReduced(result(1)))
    assert owner.does(PartReduced(result(2))).told(SignVote) == []
    assert owner.told(Lied) == [], "one of two words"
    assert [lied.peer for lied in owner.hears(B, result(2)).told(Lied)] == [C]
    assert owner.told(SignVote) == []
    assert owner.state.ballot.attempt > 0, "the next member proposes"


def test_where_the_manifest_asks_for_no_checks_the_reducers_word_is_enough() -> None:
    owner = Owner(C, rules=replace(RULES, check_averages=False)).cuts_off().hears(A, ready(A)).hears(B, ready(B))
    ((_, plan),) = owner.sent(Plan)
    assert plan.checkers == ()
    for part, reducer in enumerate(plan.reducers):
        owner.does(PartReduced(result(part))) if reducer == C else owner.hears(reducer, result(part))
    assert owner.stages().sent(Propose) == [((A, B), Propose(value()))]
    assert owner.told(Check) == []
    assert owner.told(SignVote) == [], "its reducers may give their averages to it alone"
    assert owner.hears(B, CastVote(digest_of("another value"), Vote(B, b"signature"))).told(SignVote) == []
    assert owner.hears(A, vote(A, value())).told(SignVote) == [SignVote(BALLOT, value())]


def test_where_the_manifest_asks_for_no_checks_a_voter_computes_nothing_twice() -> None:
    owner = Owner(A, rules=replace(RULES, check_averages=False)).cuts_off().hears(C, replace(PLAN, checkers=()))
    owner.does(PartReduced(result(0))).hears(B, result(1)).hears(C, Propose(value()))
    assert owner.told(Check) == []
    assert owner.stages().told(SignVote) == [SignVote(BALLOT, value())]


def test_of_two_that_differ_a_third_decides_and_the_liars_parts_go_to_others() -> None:
    lie = PartResult(0, blob_of("lie"), MEMBERS)
    owner = reducing_proposer().hears(A, lie)
    assert owner.hears(B, result(0)).told(Lied) == []
    ((_, plan),) = owner.sent(Plan)
    assert plan.checkers[0] == C
    assert [check.result for check in owner.told(Check)] == [lie]
    owner.does(PartReduced(result(0)))
    assert [(lied.peer, lied.part) for lied in owner.told(Lied)] == [(A, 0)]
    ((_, plan),) = owner.sent(Plan)
    assert A not in plan.checkers
    assert (plan.reducers[0], owner.state.agreed[0]) == (A, result(0)), "what two agree on stands"
    assert owner.hears(A, PartResult(1, blob_of("lie"), MEMBERS)).state.reduced.get((1, A)) is None


def test_two_who_lie_differently_are_both_named_although_one_of_them_proposes() -> None:
    four = tuple(peer_ids(4))
    first, proposer, other, me = four
    ballot = Ballot(1, 0, four)
    plan = Plan(0, tuple(map(contribution, four)), (proposer, first, other), (me, other, first))
    owner = Owner(me, head=replace(HEAD, owners=four), claims=frozenset(four)).cuts_off().hears(proposer, plan, ballot)
    right = PartResult(0, blob_of("average", 0), four)
    owner.hears(proposer, replace(right, average=blob_of("lie")), ballot).does(PartReduced(right))
    assert owner.hears(other, replace(right, average=blob_of("another lie")), ballot).told(Lied) == []
    owner.hears(first, right, ballot)
    assert {lied.peer for lied in owner.told(Lied)} == {proposer, other}
    assert owner.state.ballot.attempt > 0
    assert {proposer, other} <= owner.state.suspects


def test_votes_that_arrive_before_the_proposal_count() -> None:
    owner = averaged(Owner(A).cuts_off().hears(C, PLAN)).stages()
    owner.hears(B, vote(B, value())).hears(C, vote(C, value())).hears(C, Propose(value()))
    assert [type(command) for command in owner.commands[-2:]] == [SignVote, Commit]


def test_one_owner_voting_twice_is_no_majority() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(value())).stages()
    for _ in range(3):
        assert owner.hears(C, vote(C, value())).told(Commit) == []


def test_a_vote_in_the_name_of_a_stranger_is_not_counted() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(value())).stages().hears(C, vote(C, value()))
    assert owner.hears(B, vote(PeerId("X"), value())).told(Commit) == []


def test_an_outer_step_that_is_reported_twice_is_voted_on_once() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(value())).stages()
    assert owner.does(staged(RESULTS)).told(SignVote) == []


def test_an_outer_step_of_other_averages_that_ends_late_does_not_undo_the_vote() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(value())).stages().does(staged(RESULTS[::-1]))
    assert owner.hears(A, vote(A, value())).hears(B, vote(B, value())).told(Commit)


def test_the_proposer_repeats_the_value_that_was_accepted_last() -> None:
    older, newer = value(RESULTS[::-1]), value()
    owner = Owner(B, promised=NEXT).cuts_off().hears(A, ready(A, Accepted(NEXT, newer)), THIRD)
    owner.hears(C, ready(C, Accepted(BALLOT, older)), THIRD)
    assert owner.sent(Propose) == [((A, C), Propose(newer))]
    assert owner.told(StageResults) == [StageResults(newer.results)]


def test_an_accepted_value_of_another_branch_binds_nobody() -> None:
    rival = value(previous=replace(HEAD, value_hash=digest_of("rival")))
    owner = Owner(A).cuts_off().hears(B, ready(B), NEXT).hears(C, ready(C, Accepted(BALLOT, rival)), NEXT)
    assert owner.sent(Propose) == []
    assert len(owner.sent(Plan)) == 1


def test_who_cannot_have_the_averages_does_not_take_the_ballot_from_the_others() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(value())).does(StageFailed(RESULTS, "nobody holds it"))
    assert [left.peer for left in owner.told(LeftOut)] == [A]
    assert (owner.state.ballot, owner.state.stage) == (BALLOT, Stage.VOTING)


def test_whose_average_could_not_be_had_reduces_nothing_more_of_this_version() -> None:
    owner = Owner(C).cuts_off().does(StageFailed(RESULTS, "nobody holds it", withheld=frozenset([B, C])))
    ((_, plan),) = owner.hears(A, ready(A)).hears(B, ready(B)).sent(Plan)
    assert set(plan.reducers) == set(plan.checkers) == {A, C}
    assert {c.peer for c in plan.contributions} == {A, B, C}, "what it trained counts all the same"


def test_where_everybody_else_withholds_and_averages_are_checked_all_are_asked_again() -> None:
    owner = Owner(C).cuts_off().does(StageFailed(RESULTS, "our own line is cut", withheld=frozenset([A, B])))
    ((_, plan),) = owner.hears(A, ready(A)).hears(B, ready(B)).sent(Plan)
    assert set(plan.reducers) == {A, B, C}
    assert plan.checkers


def test_who_computes_another_digest_does_not_vote() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(replace(value(), digest=digest_of("wrong")))).stages()
    assert owner.told(SignVote) == []
    assert [left.peer for left in owner.told(LeftOut)] == [A]
    assert owner.state.ballot == BALLOT
    assert owner.hears(B, vote(B, value())).commands == [], "it is said once"


@pytest.mark.parametrize("changes", [{"tokens": 5}, {"slice": "1"}, {"run": "other"}])
def test_a_proposal_about_something_else_is_not_voted_on(changes: dict[str, object]) -> None:
    wrong = replace(value(), **changes)  # type: ignore[arg-type]
    assert Owner(A).cuts_off().hears(C, Propose(wrong)).state.stage is Stage.GATHERING


def test_a_second_proposal_in_a_ballot_is_ignored() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(value()))
    assert owner.hears(C, Propose(value(RESULTS[::-1]))).state.proposal == value()


# Membership, branches, restarts.


def test_a_proposer_that_restarts_does_not_return_to_the_ballot_it_may_have_proposed_in() -> None:
    assert Owner(C, promised=BALLOT).state.ballot == NEXT
    assert Owner(A, promised=BALLOT).state.ballot == BALLOT


def test_an_owner_that_restarts_after_its_vote_goes_on_above_it_and_names_it() -> None:
    accepted = Accepted(BALLOT, value())
    owner = Owner(A, accepted=accepted, promised=BALLOT).does(CutOff(None))
    assert owner.state.ballot == NEXT
    assert owner.sent(Ready) == [((B, C), Ready(None, accepted, HEAD.value_hash))]


WITH_GUEST = frozenset([*MEMBERS, GUEST])


def offer(guest: PeerId = GUEST) -> Offer:
    return Offer(contribution(guest), HEAD.value_hash)


def test_a_guest_ends_its_inner_steps_when_a_member_is_ready_and_offers_what_it_has_to_all() -> None:
    guest = Owner(GUEST, claims=WITH_GUEST).hears(A, ready(A))
    assert guest.told(AskCutOff)
    assert not guest.hears(B, ready(B)).commands, "it has been asked"
    guest.cuts_off()
    assert guest.sent(Offer) == [(MEMBERS, offer())]
    assert guest.state.stage is Stage.IDLE
    assert not guest.told(Promise), "it has no vote"
    assert guest.hears(C, ready(C)).sent(Offer) == [((C,), offer())], "the first may have come too early"


def test_a_member_that_is_ready_asks_guests_as_well() -> None:
    owner = Owner(A, claims=WITH_GUEST).cuts_off()
    assert owner.sent(Ready) == [((B, C, GUEST), ready(A))]


def test_a_guests_offer_is_planned_like_a_members_contribution_but_it_reduces_nothing() -> None:
    proposer = Owner(C, claims=WITH_GUEST).cuts_off().hears(A, ready(A)).hears(B, ready(B))
    assert not proposer.sent(Plan), "it waits for the guest that it has asked"
    ((to, plan),) = proposer.hears(GUEST, offer()).sent(Plan)
    assert to == (A, B)
    assert [c.peer for c in plan.contributions] == [*MEMBERS, GUEST]
    assert GUEST not in plan.reducers
    member = Owner(A, claims=frozenset(MEMBERS)).cuts_off().hears(C, plan)
    assert member.told(Reduce), "though it has not seen the guest's claim yet"


def test_an_offer_that_came_before_the_members_were_ready_is_kept() -> None:
    proposer = Owner(C, claims=WITH_GUEST).hears(GUEST, offer()).cuts_off().hears(A, ready(A)).hears(B, ready(B))
    ((_, plan),) = proposer.sent(Plan)
    assert GUEST in {c.peer for c in plan.contributions}


def test_a_guest_with_nothing_to_add_is_not_waited_for() -> None:
    proposer = Owner(C, claims=WITH_GUEST).cuts_off().hears(A, ready(A)).hears(B, ready(B))
    ((_, plan),) = proposer.hears(GUEST, Offer(None, HEAD.value_hash)).sent(Plan)
    assert [c.peer for c in plan.contributions] == list(MEMBERS)


@pytest.mark.parametrize("gone", ["silent", "unreachable", "without a claim"])
def test_a_guest_that_does_not_answer_costs_no_more_than_the_deadline(gone: str) -> None:
    proposer = Owner(C, claims=WITH_GUEST).cuts_off().hears(A, ready(A)).hears(B, ready(B))
    match gone:
        case "silent":
            proposer.waits_for_its_deadline()
        case "unreachable":
            proposer.does(Unreachable(GUEST))
        case _:
            proposer.does(ClaimsSeen(frozenset(MEMBERS)))
    ((_, plan),) = proposer.sent(Plan)
    assert [c.peer for c in plan.contributions] == list(MEMBERS)
    assert not proposer.told(LeftOut), "nobody is accused"


def test_a_member_that_was_left_out_is_not_waited_for_again_as_a_guest() -> None:
    proposer = Owner(C).cuts_off().hears(A, ready(A)).waits_for_its_deadline()
    ((_, plan),) = proposer.sent(Plan)
    averaged_by_two(proposer, plan)
    without_b = proposer.stages().state.proposal
    assert without_b is not None
    assert without_b.owners == (A, C)
    proposer.hears(C, vote(C, without_b)).hears(A, vote(A, without_b))
    assert proposer.state.version == 6
    assert B in proposer.state.left_out
    proposer.cuts_off()
    assert proposer.sent(Ready)[0][0] == (A, B), "it is asked all the same"
    assert proposer.state.invited == frozenset()


def test_offers_of_strangers_in_others_names_and_from_other_versions_are_not_taken() -> None:
    stranger, proposer = PeerId("S"), Owner(C, claims=WITH_GUEST).cuts_off()
    assert not proposer.hears(stranger, offer(stranger)).state.offers
    assert not proposer.hears(GUEST, offer(A)).state.offers
    rival = Offer(contribution(GUEST), digest_of("another v4"))
    assert proposer.hears(GUEST, rival).told(CatchUp)
    assert proposer.hears(GUEST, offer(), version=4).told(TellHead)
    assert not proposer.state.offers


def test_a_full_group_asks_no_guests() -> None:
    owner = Owner(A, claims=WITH_GUEST, rules=replace(RULES, max_owners=3)).cuts_off()
    assert owner.sent(Ready) == [((B, C), ready(A))]
    assert not owner.hears(GUEST, offer()).state.offers


@pytest.mark.parametrize("full", [True, False])
def test_a_holder_offers_its_contribution_unasked_only_where_the_group_has_room_for_it(full: bool) -> None:
    rules = replace(RULES, max_owners=3) if full else RULES
    holder = Owner(GUEST, claims=WITH_GUEST, rules=rules).cuts_off()
    assert holder.sent(Offer) == ([] if full else [(MEMBERS, offer())])
    holder.hears(A, ready(A))
    assert holder.sent(Offer)[-1] == ((A,), offer()), "who asks is answered in any case"


def test_who_has_no_claim_of_its_own_founds_no_group_whatever_became_of_the_owners() -> None:
    unlisted = Owner(GUEST, claims=frozenset(MEMBERS)).cuts_off()
    unlisted.does(ClaimsSeen(frozenset()))
    unlisted.does(ClaimsSeen(frozenset([PeerId("X"), PeerId("Y")])))
    assert unlisted.state.ballot.members == MEMBERS
    assert not unlisted.told(Promise)
    owners = (PeerId("T"), PeerId("U"), PeerId("V"))
    newer = {"version": Version(9), "tokens": HEAD.tokens + 1, "weight": HEAD.weight + 1}
    unlisted.does(HeadMoved(replace(HEAD, owners=owners, **newer)))
    assert unlisted.state.ballot.members == owners, "also if it knows none of them"
    assert not unlisted.cuts_off().told(Promise)


def test_who_is_not_seen_as_a_holder_offers_nothing_unasked() -> None:
    assert Owner(GUEST, claims=frozenset(MEMBERS)).cuts_off().sent(Offer) == []


def test_a_guests_contribution_counts_as_soon_as_the_members_are_gone() -> None:
    guest = Owner(GUEST, claims=WITH_GUEST).cuts_off()
    assert guest.does(ClaimsSeen(frozenset([GUEST]))).told(Promise)
    assert guest.state.contribution == contribution(GUEST)
    assert guest.state.stage is Stage.REDUCING


def test_whoever_has_a_claim_at_the_proposal_is_an_owner_of_the_next_version() -> None:
    owner = reducing_proposer().does(ClaimsSeen(frozenset([*MEMBERS, PeerId("N")])))
    averaged(owner).stages()
    ((_, proposal),) = owner.sent(Propose)
    assert proposal.value.owners == (*MEMBERS, "N")


def test_when_the_majority_has_no_claims_those_who_remain_go_on_in_a_higher_epoch() -> None:
    owner = Owner(A).cuts_off().does(ClaimsSeen(frozenset([A])))
    assert owner.state.ballot == Ballot(2, 0, (A,))
    assert owner.state.stage is Stage.REDUCING  # alone, it has nobody to wait for
    assert {left.peer for left in owner.told(LeftOut)} == {B, C}


def test_a_newcomer_gives_way_when_the_owners_are_back() -> None:
    newcomer = PeerId("N")
    owner = Owner(newcomer, claims=frozenset([newcomer, PeerId("M")])).cuts_off()
    assert owner.state.stage is Stage.GATHERING
    owner.does(ClaimsSeen(frozenset([*MEMBERS, newcomer])))
    assert owner.told(Void)
    assert owner.state.stage is Stage.IDLE


def test_readiness_for_other_members_does_not_count_when_the_members_change() -> None:
    founder = Owner(A, head=Head(), claims=frozenset([A, B]))
    founder.hears(B, replace(ready(B), previous=None), Ballot(1, 0, (A, B)), version=1)
    assert founder.state.ready
    assert not founder.does(ClaimsSeen(frozenset(MEMBERS))).state.ready


def test_an_owner_that_is_behind_is_told_and_late_votes_need_no_answer() -> None:
    owner = Owner(A)
    assert owner.hears(B, ready(B), version=4).commands == [TellHead(B)]
    assert owner.hears(B, vote(B, value()), version=4).commands == []
    assert owner.hears(B, result(0), version=4).commands == []


def test_a_message_from_the_future_is_kept_until_we_have_caught_up() -> None:
    after = Head(version=Version(5), value_hash=value().value_hash, epoch=1, owners=MEMBERS, tokens=1030, weight=3090)
    theirs = replace(ready(B), previous=after.value_hash)
    owner = Owner(A).hears(B, theirs, version=6)
    assert owner.commands == [CatchUp(B)]
    assert owner.does(HeadMoved(after)).state.ready == {B: theirs}


def test_what_one_peer_says_too_early_cannot_push_out_what_another_said() -> None:
    owner = Owner(A).hears(B, ready(B), version=6)
    for attempt in range(rounds.MAX_EARLY + 5):
        owner.hears(C, ready(C), replace(BALLOT, attempt=attempt), version=6)
    assert [heard.sender for heard in owner.state.early] == [B] + [C] * rounds.MAX_EARLY_PER_SENDER


def test_an_old_head_that_arrives_late_is_ignored_and_a_branch_of_higher_rank_is_followed() -> None:
    old = replace(HEAD, version=Version(3), value_hash=digest_of("v3"), weight=2700)
    assert Owner(A).does(HeadMoved(old)).state.head == HEAD
    alone = replace(old, epoch=2, value_hash=digest_of("alone"))
    assert Owner(A).does(HeadMoved(alone)).state.head == HEAD, "an epoch is no merit: whoever is alone has a new one"
    rival = replace(old, weight=3001, value_hash=digest_of("rival"))
    assert Owner(A).does(HeadMoved(rival)).state.head == rival


def test_a_proposal_or_certificate_of_another_branch_lets_the_edge_settle_it() -> None:
    rival = replace(HEAD, value_hash=digest_of("rival"))
    assert Owner(A).cuts_off().hears(C, Propose(value(previous=rival))).commands == [CatchUp(C)]
    before = replace(HEAD, version=Version(3), value_hash=digest_of("v3"), weight=2700)
    lost = Committed(Certificate(value(previous=before), BALLOT, ()))
    assert Owner(A).hears(C, lost, version=4).commands == [TellHead(C)]
    won = Committed(Certificate(replace(value(previous=before), weight=3001), BALLOT, ()))
    assert Owner(A).hears(C, won, version=4).commands == [CatchUp(C)]


def test_a_certificate_for_what_we_have_staged_commits_it() -> None:
    owner = Owner(A).cuts_off().hears(C, Propose(value())).stages()
    certificate = Certificate(value(), BALLOT, (Vote(B, b""), Vote(C, b"")))
    assert owner.hears(B, Committed(certificate)).told(Commit) == [Commit(certificate)]


def test_our_bits_with_owners_and_voters_that_somebody_made_up_are_not_committed() -> None:
    """Whoever knows a round's averages can sign anything beside them, with keys of its own."""
    for ballot in (Ballot(BALLOT.epoch, 0, (PeerId("X"),)), Ballot(BALLOT.epoch + 7, 0, MEMBERS)):
        owner = Owner(A).cuts_off().hears(C, Propose(value())).stages()
        false = replace(value(), owners=(PeerId("X"),), weight=2**62)
        certificate = Certificate(false, ballot, tuple(Vote(peer, b"") for peer in ballot.members))
        assert owner.hears(B, Committed(certificate)).told(Commit) == []
        assert owner.told(CatchUp) == [CatchUp(B)], "whether it is to be believed is for others to say"
        assert owner.hears(B, vote(B, value())).hears(C, vote(C, value())).told(Commit), "the round goes on"


def test_owners_tell_what_else_the_same_cut_off_goes_into_and_a_commit_says_how_far_the_others_are() -> None:
    owner = Owner(A).does(CutOff(contribution(A), beside=Version(9)))
    assert [body.beside for _, body in owner.sent(Ready)] == [9]
    owner.hears(B, replace(ready(B), beside=Version(7))).hears(C, replace(ready(C), beside=Version(8)))
    owner.hears(C, Propose(value())).stages()
    certificate = Certificate(value(), BALLOT, (Vote(B, b""), Vote(C, b"")))
    assert owner.hears(B, Committed(certificate)).told(Commit) == [Commit(certificate, Version(8))]
    assert owner.state.ready == {}


@pytest.mark.parametrize("order", [(1, 2**32 - 1), (2**32 - 1, 0)])
def test_a_ballot_that_uses_up_the_numbers_is_refused(order: tuple[int, int]) -> None:
    owner = Owner(A).cuts_off().hears(B, ready(B), Ballot(*order, MEMBERS))
    assert owner.state.ballot == BALLOT


def test_of_ballots_that_were_kept_only_the_highest_is_entered() -> None:
    founder = Owner(A, head=Head(), claims=frozenset([A, B])).cuts_off()
    for attempt in range(3):
        founder.hears(B, replace(ready(B), previous=None), Ballot(2, attempt, MEMBERS), version=1)
    founder.does(ClaimsSeen(frozenset(MEMBERS)))
    assert [promise.ballot.order for promise in founder.told(Promise)] == [(2, 0), (2, 2)]


def test_a_plan_in_our_own_name_that_we_did_not_make_is_not_followed() -> None:
    owner = Owner(C).hears(C, Plan(0, (), (C,)))
    assert owner.state.plan is None


@pytest.mark.parametrize(
    "ballot", [BALLOT, NEXT, Ballot(1, 0, (A, PeerId("X"))), Ballot(0, 0, (A, B))], ids=["same", "next", "other", "low"]
)
def test_ready_of_a_rival_branch_makes_us_look_at_its_head_and_counts_for_nothing(ballot: Ballot) -> None:
    owner = Owner(C).cuts_off()
    before = owner.state
    owner.hears(A, Ready(contribution(A), None, digest_of("rival v4")), ballot)
    assert owner.commands == [CatchUp(A)]
    assert owner.state == before


def test_a_measured_deadline_leaves_members_out_but_does_not_give_a_round_up() -> None:
    owner = Owner(C).cuts_off()
    owner.state = replace(owner.state, durations=StageDurations(gather=(0.2,) * 9), deadline_s=1.3)
    owner.waits_for_its_deadline()  # alone, with two of three needed
    assert not owner.told(Void)
    assert owner.state.deadline_s == RULES.gather_s
    assert owner.hears(A, ready(A)).told(Void) == []
    late = Owner(C).cuts_off()
    assert late.waits_for_its_deadline().told(Void), "at the manifest's deadline it is void"
