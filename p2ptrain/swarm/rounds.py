"""One slice's rounds as a pure state machine: ``advance(state, event, now_s) -> (state, commands)``.

A round commits the next version of the slice for all its owners, or changes nothing. Its stages at one owner:

    IDLE ──cut-off──▶ GATHERING ──plan──▶ REDUCING ──proposal──▶ VOTING ──majority──▶ IDLE at the next version

Deciding is single-decree Paxos (Lamport, "Paxos Made Simple", 2001) with the member list of the ballot as acceptors:

* ``Ready`` is the promise: its sender takes no part in a lower ballot of this version and names what it last accepted.
* Each ballot has one proposer, taken in turn by version and attempt. It plans who contributes and who reduces what,
  and proposes the result; when a ``Ready`` of its majority names an accepted value, it must propose the highest such.
* A member votes when it has computed the same digests itself. Votes of a majority are the certificate.

So two different values can never both be certified by one member list, whatever is lost, late or repeated, and a
proposer that dies costs one deadline. This needs a memory that outlives the process: promises and votes are on disk
before anybody hears of them. The members are the owners that the last certificate names. If a majority of them has no
live claim any more, the peers that hold the slice and have one go on in a higher epoch.

Whoever holds the slice and is not named yet is a *guest*: a member's ``Ready`` is sent to it as well and asks for an
``Offer``, which is planned, reduced and weighed like a member's contribution. It has no vote until the commit names it.

Nothing here reads a clock, a socket or an array: the edge (swarm/owner.py) carries commands out and reports events.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from p2ptrain.ids import GENESIS, Digest, PeerId, short
from p2ptrain.swarm.confirming import (
    announced,
    disagreement,
    inputs_to_check,
    is_confirmed,
    is_held_elsewhere,
    liars,
    plan_to_settle,
    result_of,
    whom_to_wait_for,
    without_the_word_of,
)
from p2ptrain.swarm.deadlines import Deadline
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.proposing import (
    binding_value,
    first_plan,
    guests,
    is_staged,
    missing_parts,
    plan_without,
    stands_on_a_rival,
    transfers_s,
    value_of,
)
from p2ptrain.swarm.round_commands import (
    AskCutOff,
    CatchUp,
    Check,
    Command,
    Commit,
    Entered,
    FetchAverage,
    FetchInputs,
    LeftOut,
    Lied,
    Promise,
    Reduce,
    Send,
    SignVote,
    StageResults,
    TellHead,
    Void,
)
from p2ptrain.swarm.round_events import (
    ClaimsSeen,
    CutOff,
    Event,
    HeadMoved,
    Heard,
    PartReduced,
    RivalMet,
    Staged,
    StageFailed,
    Tick,
    Unreachable,
)
from p2ptrain.swarm.round_state import MAX_OWNERS, RoundState, Rules, Stage, begin, in_ballot, membership, proposer_of
from p2ptrain.wire.messages import (
    Accepted,
    Ballot,
    CastVote,
    Certificate,
    Committed,
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

__all__ = [
    "MAX_OWNERS",
    "AskCutOff",
    "CatchUp",
    "Check",
    "ClaimsSeen",
    "Command",
    "Commit",
    "CutOff",
    "Entered",
    "Event",
    "FetchAverage",
    "FetchInputs",
    "Head",
    "HeadMoved",
    "Heard",
    "LeftOut",
    "Lied",
    "PartReduced",
    "Promise",
    "Reduce",
    "RivalMet",
    "RoundState",
    "Rules",
    "Send",
    "SignVote",
    "Stage",
    "StageFailed",
    "StageResults",
    "Staged",
    "TellHead",
    "Tick",
    "Unreachable",
    "Void",
    "advance",
    "begin",
]

MAX_ATTEMPTS = 3
"""Ballots that one round tries before it is void and training goes on."""
MAX_REVISIONS = 3
"""Times that a proposer hands a dead reducer's parts to others before it gives the ballot up."""
MAX_EARLY = 256
"""Messages kept for a ballot or version that we have not reached; bounds what others can make us hold."""
MAX_EARLY_PER_SENDER = 16
"""Of these, from one sender, so that nobody can push out what the others said."""
_REDUCE_SHARE = 0.6
"""Of the reduce deadline, how long a reducer waits for contributions; in the rest the others fetch its averages."""
_CHECK_SHARE = 0.3
"""The same, at least, for who computes an average once more; all that it fetches has been fetched by somebody
before."""
MAX_LEAP = 65536
"""A ballot that is further ahead is refused, or one liar could use all numbers up. Voids count up by one a minute."""


def advance(state: RoundState, event: Event, now_s: float) -> tuple[RoundState, list[Command]]:
    """The state after ``event`` at monotonic time ``now_s``, and what the edge must do about it."""
    turn = _Turn(state, now_s)
    match event:
        case CutOff():
            turn.cut_off(event)
        case Heard(sender, message):
            turn.heard(sender, message)
        case Unreachable(peer):
            turn.unreachable(peer)
        case RivalMet(peer):
            turn.rival_met(peer)
        case ClaimsSeen(holders):
            turn.claims_seen(holders)
        case PartReduced(result):
            turn.part_reduced(result)
        case Staged():
            turn.staged(event)
        case StageFailed():
            turn.stage_failed(event)
        case HeadMoved(head):
            turn.head_moved(head)
        case Tick():
            turn.tick()
    turn.give_what_was_held()
    return turn.state, turn.commands


class _Turn:
    """One call of ``advance``: the state being replaced and the commands being collected."""

    def __init__(self, state: RoundState, now_s: float) -> None:
        self.state = state
        self.now_s = now_s
        self.commands: list[Command] = []

    # What the edge reports.

    def cut_off(self, cut_off: CutOff) -> None:
        s = self.state
        if s.stage is not Stage.IDLE:
            return
        if s.me not in s.ballot.members:
            self._set(held=cut_off)
            if s.asked or s.me in guests(s):  # of many holders only some have a place in the group
                self._offer(s.ballot.members)
            return
        self._set(contribution=cut_off.contribution, beside=cut_off.beside, attempts=1)
        self._promise()

    def give_what_was_held(self) -> None:
        """A guest has become a member, because the others are gone."""
        s = self.state
        if s.held and s.stage is Stage.IDLE and s.me in s.ballot.members:
            self._set(held=None)
            self.cut_off(s.held)

    def heard(self, sender: PeerId, message: RoundMessage) -> None:
        s = self.state
        if isinstance(message.body, Committed):
            self._heard_committed(sender, message.body.certificate)
        elif message.version < s.version:
            # Late votes and averages of a round that is over come after every commit and need no answer.
            if not isinstance(message.body, CastVote | PartResult):
                self._do(TellHead(sender))
        elif stands_on_a_rival(s, message):
            # It stands on a rival of our version, so its promise and contribution say nothing about ours. The ballots
            # of two branches need not have a member list, or even an order, in common: whoever notices must look.
            self._do(CatchUp(sender))
        elif isinstance(message.body, Offer) and message.version == s.version:
            self._heard_offer(sender, message.body)
        elif sender not in message.ballot.members or s.me not in message.ballot.members:
            is_invitation = isinstance(message.body, Ready) and sender in message.ballot.members
            if message.version > s.version:
                if is_invitation:
                    self._keep_for_later(sender, message)
                self._do(CatchUp(sender))
            elif is_invitation:
                self._heard_invitation(sender)
        elif message.version > s.version:
            self._keep_for_later(sender, message)
            self._do(CatchUp(sender))
        elif message.ballot == s.ballot:
            self._heard_in_ballot(sender, message.body)
        elif message.ballot.order < s.ballot.order:
            if isinstance(message.body, Ready) and sender in s.ballot.members:
                if s.promised:
                    self._send([sender], self._my_ready())
                else:
                    self._ask_cut_off()
        elif message.ballot.epoch > s.ballot.epoch + MAX_LEAP or message.ballot.attempt > s.ballot.attempt + MAX_LEAP:
            return
        elif message.ballot.order > s.ballot.order and message.ballot.members == self._target_members():
            self._adopt(message.ballot)
            self._heard_in_ballot(sender, message.body)
        else:
            self._keep_for_later(sender, message)

    def unreachable(self, peer: PeerId) -> None:
        s = self.state
        if peer in s.invited:
            self._set(invited=s.invited - {peer})
            if s.stage is Stage.GATHERING:
                self._plan_if_possible()
            return
        if peer == s.me or peer in s.suspects or peer not in s.ballot.members or s.stage is Stage.IDLE:
            return
        self._suspect(peer, "its link is broken")
        if s.proposer == s.me:
            if s.stage is Stage.GATHERING:
                self._plan_if_possible()
            elif s.stage is Stage.REDUCING and s.plan and missing_parts(s, [peer]):
                self._replace_reducers([peer])
        elif peer == s.proposer and s.stage is not Stage.VOTING:
            self._next_attempt(f"proposer {short(peer)} is gone")

    def rival_met(self, peer: PeerId) -> None:
        self._do(CatchUp(peer))

    def claims_seen(self, holders: frozenset[PeerId]) -> None:
        self._set(claims=holders)
        members = self._target_members()
        s = self.state
        if members == s.ballot.members:
            if s.stage is Stage.GATHERING:
                self._plan_if_possible()
            return
        if s.promised:
            gone = sorted(set(s.ballot.members) - set(members))
            if gone:
                self._do(*(LeftOut(peer, "its claim expired") for peer in gone))
            ballot = Ballot(s.ballot.epoch + 1, 0, members)
            if s.me in members:
                self._adopt(ballot)
            else:
                self._void("the owners are back, and this peer becomes one with their next commit", ballot)
        else:
            epoch = max(s.ballot.epoch, membership(s.me, s.head, holders, s.rules)[0])
            self.state = in_ballot(self.state, Ballot(epoch, s.ballot.attempt, members))
            self._hear_early()

    def part_reduced(self, result: PartResult) -> None:
        s = self.state
        is_reduced = s.plan and result.part in s.reducing and s.plan.reducers[result.part] == s.me
        is_checked = any(c.part == result.part and c.contributors == result.contributors for c in s.checking)
        if not (is_reduced or is_checked):
            return
        self._send([m for m in s.ballot.members if m != s.me], result)
        self._heard_result(s.me, result)

    def staged(self, staged: Staged) -> None:
        s = self.state
        if s.proposal and staged.results != s.proposal.results:
            return
        self._set(staged=staged)
        self._use_staged()

    def stage_failed(self, failed: StageFailed) -> None:
        self._set(withholding=self.state.withholding | failed.withheld - {self.state.me})
        s = self.state
        if failed.results != s.staging:
            return
        if s.proposer == s.me:
            self._next_attempt(f"the averages could not be had: {failed.reason}")
        elif s.proposal:
            # A majority may well commit without us; a higher ballot would take it away from them.
            self._do(LeftOut(s.me, f"the proposed averages could not be had: {failed.reason}"))

    def head_moved(self, head: Head) -> None:
        if head.outranks(self.state.head):
            self._move(head)

    def tick(self) -> None:
        s = self.state
        if s.deadline_s is None or self.now_s < s.deadline_s:
            return
        if s.stage is Stage.GATHERING and len(s.ready) < s.needed and self._may_wait_longer():
            return
        silent = [m for m in s.ballot.members if m not in s.ready and m != s.me and m not in s.suspects]
        match s.stage:
            case Stage.GATHERING if s.proposer == s.me:
                for peer in silent:
                    self._suspect(peer, f"was not ready {s.gather_limit.seconds:.1f} s after the first owner was")
                self._set(invited=frozenset())
                self._plan_if_possible()
                if self.state.stage is Stage.GATHERING:
                    have, members = len(self.state.ready), len(s.ballot.members)
                    self._void(f"{have} of {members} owners are ready, {s.needed} are needed")
            case Stage.REDUCING if s.proposer == s.me:
                self._replace_reducers(s.ballot.members)
            case Stage.GATHERING | Stage.REDUCING:
                self._suspect(s.proposer, f"proposed nothing while {s.stage.value}")
                self._next_attempt(f"proposer {short(s.proposer)} is silent")
            case Stage.VOTING:
                self._next_attempt("no majority voted in time")
            case Stage.IDLE:
                self._set(deadline_s=None)

    def _may_wait_longer(self) -> bool:
        """Whether to go on gathering: what was measured says whom to leave out, the manifest when to give up."""
        s = self.state
        extra_s = 0.0 if s.proposer == s.me else s.vote_limit.seconds
        last_s = s.stage_began_s + s.rules.gather_s + extra_s
        if self.now_s < last_s:
            self._set(deadline_s=last_s)
            return True
        return False

    # Hearing within the ballot.

    def _heard_in_ballot(self, sender: PeerId, body: RoundBody) -> None:
        if sender in self.state.suspects and sender not in self.state.convicted:
            self._set(suspects=self.state.suspects - {sender})
        match body:
            case Ready():
                self._heard_ready(sender, body)
            case Plan():
                self._heard_plan(sender, body)
            case PartResult():
                self._heard_result(sender, body)
            case Propose(value):
                self._heard_proposal(sender, value)
            case CastVote(value_hash, vote):
                self._heard_vote(value_hash, vote)
            case Committed(certificate):
                self._heard_committed(sender, certificate)

    def _heard_ready(self, sender: PeerId, ready: Ready) -> None:
        s = self.state
        if ready.contribution and ready.contribution.peer != sender:
            return
        first_ready_s = self.now_s if s.first_ready_s is None else s.first_ready_s
        self._set(ready={**s.ready, sender: ready}, first_ready_s=first_ready_s)
        if s.stage is Stage.IDLE:
            self._ask_cut_off()
        elif s.stage is Stage.GATHERING:
            self._plan_if_possible()
        elif s.proposer == s.me and s.proposal:
            self._send([sender], Propose(s.proposal))
        elif s.proposer == s.me and s.plan:
            self._send([sender], s.plan)

    def _heard_offer(self, sender: PeerId, offer: Offer) -> None:
        s = self.state
        is_own = offer.contribution is None or offer.contribution.peer == sender
        if is_own and sender in guests(s):
            self._set(offers={**s.offers, sender: offer.contribution})
            if s.stage is Stage.GATHERING:
                self._plan_if_possible()

    def _heard_invitation(self, member: PeerId) -> None:
        """A round gathers without us."""
        if self.state.me in self.state.ballot.members:
            return  # not by what we know; whoever is right, the next look at the directory tells
        if self.state.held:
            self._offer([member])
        else:
            self._ask_cut_off()

    def _ask_cut_off(self) -> None:
        if not self.state.asked:
            self._set(asked=True)
            # Some of the others' patience is left for our pseudo-gradient to be computed and for the message.
            self._do(AskCutOff(0.7 * self.state.rules.gather_s))

    def _heard_plan(self, sender: PeerId, plan: Plan) -> None:
        s = self.state
        known = s.plan.revision if s.plan else -1
        members = set(s.ballot.members)
        fits = {*plan.reducers, *plan.checkers} <= members
        if sender != s.proposer or plan.revision <= known or s.stage is Stage.VOTING or not fits:
            return
        if sender == s.me:  # our own plans are followed where they are made; this is none of them
            return
        self._follow(plan)

    def _heard_result(self, sender: PeerId, result: PartResult) -> None:
        s = self.state
        if sender in s.convicted:
            return
        is_first = (result.part, sender) not in s.reduced
        self.state = announced(s, sender, result)
        if self.state.plan and len(s.ballot.members) > 1:
            if is_first:  # or a liar could have us fetch as many averages as it can make
                self._fetch_early(sender, result)
            self._check(result.part)
            self._judge(result.part)
        self._stage_if_complete()
        if self.state.stage is Stage.VOTING and self.state.staged and self.state.proposal:
            self._use_staged()

    def _fetch_early(self, sender: PeerId, result: PartResult) -> None:
        """An average that its reducer announces is most likely the one that the outer step will take."""
        s, plan = self.state, self.state.plan
        assert plan is not None
        by_reducer = sender != s.me and sender == plan.reducers[result.part]
        if by_reducer and s.stage is Stage.REDUCING and s.me not in plan.checkers[result.part : result.part + 1]:
            self._do(FetchAverage(result, sender))

    def _check(self, part: int) -> None:
        """Compute a part once more if it is ours to check and its reducer has announced it."""
        s = self.state
        if s.plan is None or not s.plan.checkers or s.plan.checkers[part] != s.me:
            return
        result = s.reduced.get((part, s.plan.reducers[part]))
        if result:
            self._compute(result)

    def _compute(self, result: PartResult) -> None:
        s = self.state
        assert s.plan is not None
        inputs = inputs_to_check(s, result)
        if not inputs:
            return
        self._set(checking=s.checking | {result})
        reducer = s.plan.reducers[result.part]
        # Giving up earlier than the proposer does would help nobody.
        left_s = 0.0 if s.deadline_s is None else s.deadline_s - self.now_s
        self._do(Check(result, inputs, reducer, max(left_s, _CHECK_SHARE * s.reduce_limit.seconds)))

    def _judge(self, part: int) -> None:
        """Name who announced a wrong average; while nobody can tell who did, as the proposer, ask a third."""
        lies = {peer: lie for peer, lie in liars(self.state, part).items() if peer != self.state.me}
        if lies:
            self._convict(part, lies)
        s = self.state
        unsettled = disagreement(s, part)
        if not unsettled or s.disputed or s.proposer != s.me or s.stage is not Stage.REDUCING:
            return
        if s.plan is None or not s.plan.checkers:
            return
        self._set(disputed=unsettled)
        plan = plan_to_settle(s, part, unsettled)
        if plan is None:
            names = " and ".join(short(m) for m in sorted(unsettled))
            self._next_attempt(f"{names} disagree on the average of part {part}")
            return
        self._send([m for m in s.ballot.members if m != s.me], plan)
        self._follow(plan)

    def _convict(self, part: int, lies: Mapping[PeerId, PartResult]) -> None:
        """Members lied: nothing that they computed in this ballot counts, and their parts go to others."""
        s = self.state
        for peer, lie in lies.items():
            self._do(Lied(peer, part, lie.average.sha256, s.agreed[part].average.sha256))
            self.state = without_the_word_of(self.state, peer)
            if peer not in s.suspects:
                self._suspect(peer, f"its average of part {part} is not what the inputs give")
        if s.proposer == s.me and s.stage is Stage.REDUCING and missing_parts(self.state, lies):
            self._replace_reducers(lies)
        elif s.proposer in lies and s.stage in (Stage.GATHERING, Stage.REDUCING, Stage.VOTING):
            self._next_attempt(f"proposer {short(s.proposer)} lied about an average")

    def _heard_proposal(self, sender: PeerId, value: Value) -> None:
        s = self.state
        if sender != s.proposer or s.proposal or (value.run, value.slice, value.version) != (s.run, s.slice, s.version):
            return
        if value.previous != s.head.value_hash:
            # It is on another branch; the edge finds out which of the two outranks the other.
            self._do(CatchUp(sender))
            return
        if (value.tokens, value.weight) != s.head.sums_with(value.contributions):
            return
        self._set(
            proposal=value,
            promised=True,
            stage=Stage.VOTING,
            stage_began_s=self.now_s,
            reduced_s=self.now_s - s.stage_began_s if s.stage is Stage.REDUCING else 0.0,
            deadline_s=self._deadline(s.vote_limit.seconds),
        )
        if s.plan and not is_confirmed(self.state, value):
            for result in value.results:
                if s.agreed.get(result.part) != result:  # who told the proposer may not have reached us
                    self._compute(result)
        if s.staged and s.staged.results == value.results:
            self._use_staged()
        elif s.staging != value.results:
            self._set(staging=value.results)
            self._do(StageResults(value.results))

    def _heard_vote(self, value_hash: Digest, vote: Vote) -> None:
        s = self.state
        has_voted = any(peer == vote.peer for _, peer in s.votes)
        if vote.peer in s.ballot.members and not has_voted:  # or one member could fill our memory with its votes
            self._set(votes={**s.votes, (value_hash, vote.peer): vote})
            if s.proposal and is_staged(self.state, s.proposal):
                self._use_staged()  # our own vote may have waited for this one
            self._commit_if_decided()

    def _heard_committed(self, sender: PeerId, certificate: Certificate) -> None:
        s = self.state
        value = certificate.value
        ballot = certificate.ballot
        # Our bits may come with other owners and sums: those whom we count on must have signed them.
        is_ours = ballot.epoch == s.ballot.epoch and set(ballot.members) == set(s.ballot.members)
        follows = value.version == s.version and value.previous == s.head.value_hash
        if follows and is_ours and is_staged(self.state, value):
            self._commit(certificate)
        elif Head.of(certificate).outranks(s.head):
            self._do(CatchUp(sender))
        elif value.version >= s.head.version and value.value_hash != s.head.value_hash:
            # Whoever sent it is on a branch that has lost and does not know.
            self._do(TellHead(sender))

    # Acting.

    def _promise(self) -> None:
        """Take part in the current ballot."""
        s = self.state
        ready = self._my_ready()
        limit = s.gather_limit
        extra_s = 0 if s.proposer == s.me else s.vote_limit.seconds
        first_ready_s = self.now_s if s.first_ready_s is None else s.first_ready_s
        self._set(
            stage=Stage.GATHERING,
            promised=True,
            ready={**s.ready, s.me: ready},
            first_ready_s=first_ready_s,
            stage_began_s=first_ready_s,
            deadline_s=first_ready_s + limit.seconds + extra_s,
            invited=guests(s) - s.left_out,
        )
        self._do(Promise(s.version, s.ballot))
        self._enter("gathering", f"{len(self.state.ready)} of {len(s.ballot.members)} owners ready", limit)
        self._send([*(m for m in s.ballot.members if m != s.me), *sorted(guests(s))], ready)
        self._plan_if_possible()

    def _plan_if_possible(self) -> None:
        """As the proposer: when every member is ready or given up, and a majority is ready, fix who contributes."""
        s = self.state
        absent = {m for m in s.ballot.members if m not in s.ready and m not in s.suspects}
        waiting = (absent | s.invited - s.offers.keys()) & s.claims
        if s.proposer != s.me or s.plan or waiting or len(s.ready) < s.needed or s.me not in s.ready:
            return
        value = binding_value(s)
        if value is not None:
            self._enter("proposing", "again what an earlier ballot may have decided", s.vote_limit)
            self._propose(value)
            return
        plan = first_plan(s)
        if plan is None:
            self._void("no owner had anything to contribute")
            return
        self._send([m for m in s.ballot.members if m != s.me], plan)
        self._follow(plan)

    def _replace_reducers(self, late: Collection[PeerId]) -> None:
        """As the proposer: hand the parts that late reducers have not delivered to the others."""
        s = self.state
        assert s.plan is not None
        missing = missing_parts(s, late)
        for peer in ({whom_to_wait_for(s, j) for j in missing} & set(late)) - {s.me} - s.suspects:
            self._suspect(peer, "reduced nothing in time")
        if s.plan.revision >= MAX_REVISIONS or not missing:
            self._next_attempt(f"parts {missing} were never averaged" if missing else "staging took too long")
            return
        plan = plan_without(self.state, missing, late)
        self._send([m for m in s.ballot.members if m != s.me], plan)
        self._follow(plan)

    def _follow(self, plan: Plan) -> None:
        self._set(planned_s=transfers_s(self.state, plan))
        s = self.state
        limit = s.reduce_limit
        extra_s = 0 if s.proposer == s.me else s.vote_limit.seconds
        mine = frozenset(j for j, reducer in enumerate(plan.reducers) if reducer == s.me) - s.reducing
        if s.stage is not Stage.REDUCING:
            self._set(stage_began_s=self.now_s, gathered_s=self.now_s - s.stage_began_s if s.promised else 0.0)
        self._set(
            plan=plan,
            stage=Stage.REDUCING,
            promised=True,
            reducing=s.reducing | mine,
            deadline_s=self._deadline(limit.seconds + extra_s),
        )
        names = ", ".join(short(c.peer) for c in plan.contributions)
        self._enter("reducing", f"{len(mine)} of {len(plan.reducers)} parts here, contributions of {names}", limit)
        if mine:
            self._do(Reduce(tuple(sorted(mine)), plan.contributions, _REDUCE_SHARE * limit.seconds))
        to_check = {j: plan.reducers[j] for j, checker in enumerate(plan.checkers) if checker == s.me}
        # Once for a part: whoever made one plan after the other could fill our memory.
        to_fetch = {j: r for j, r in to_check.items() if (j, r) not in s.reduced and j not in s.fetching}
        if to_fetch:
            self._set(fetching=s.fetching | to_fetch.keys())
            self._do(FetchInputs(to_fetch, plan.contributions, _REDUCE_SHARE * limit.seconds))
        for part in to_check:
            self._check(part)
        self._stage_if_complete()

    def _stage_if_complete(self) -> None:
        s = self.state
        if s.plan is None or s.stage is not Stage.REDUCING:
            return
        results = [result_of(s, j) for j in range(len(s.plan.reducers))]
        complete = tuple(r for r in results if r)
        if len(complete) < len(results) or s.staging == complete:
            return
        self._set(staging=complete)
        if s.staged and s.staged.results == complete:
            self._use_staged()
        else:
            self._do(StageResults(complete))

    def _use_staged(self) -> None:
        """The outer step is computed: propose it, or vote for the proposal that says the same."""
        s = self.state
        staged = s.staged
        assert staged is not None
        if s.proposal:
            if s.proposal.results != staged.results:
                return
            if not is_staged(self.state, s.proposal):
                # Who of us miscomputed is for the majority to say; a higher ballot would take its round away.
                theirs = short(s.proposal.digest)
                self._do(
                    LeftOut(s.me, f"its outer step gives digest {short(staged.digest)}, the proposal says {theirs}")
                )
                return
            if (s.accepted and s.accepted.ballot == s.ballot) or not is_confirmed(s, s.proposal):
                return
            if not is_held_elsewhere(s, s.proposal):
                return
            self._set(accepted=Accepted(s.ballot, s.proposal))
            self._do(SignVote(s.ballot, s.proposal))
            self._commit_if_decided()
        elif s.proposer == s.me and s.stage is Stage.REDUCING and s.plan and s.staging == staged.results:
            self._propose(value_of(s, staged, s.plan))

    def _propose(self, value: Value) -> None:
        s = self.state
        self._enter(
            "voting",
            f"digest {short(value.digest)}, {s.needed} of {len(s.ballot.members)} must agree",
            s.vote_limit,
        )
        self._send([m for m in s.ballot.members if m != s.me], Propose(value))
        self._heard_proposal(s.me, value)

    def _commit_if_decided(self) -> None:
        s = self.state
        if s.proposal is None or not is_staged(self.state, s.proposal):
            return
        value_hash = s.proposal.value_hash
        votes = tuple(vote for (voted, _), vote in sorted(s.votes.items()) if voted == value_hash)
        if len(votes) >= s.needed:
            self._commit(Certificate(s.proposal, s.ballot, votes))

    def _commit(self, certificate: Certificate) -> None:
        s = self.state
        beside = max((ready.beside for peer, ready in s.ready.items() if peer != s.me), default=GENESIS)
        self._do(Commit(certificate, beside))
        if s.stage is Stage.VOTING and s.gathered_s and s.reduced_s:  # we were there from the first stage on
            took = {"gather_s": s.gathered_s, "reduce_s": s.reduced_s, "vote_s": self.now_s - s.stage_began_s}
            self._set(durations=s.durations.after_round(**took))
        self._move(Head.of(certificate))

    def _move(self, head: Head) -> None:
        s = self.state
        self.state = begin(
            run=s.run,
            slice_id=s.slice,
            me=s.me,
            rules=s.rules,
            head=head,
            claims=s.claims,
        )
        self._set(early=s.early, durations=s.durations, planned_s=s.planned_s, left_out=s.suspects)
        self._hear_early()

    def _next_attempt(self, reason: str) -> None:
        s = self.state
        self._set(failures=s.failures + 1)
        if s.attempts >= MAX_ATTEMPTS:
            self._void(f"{reason}; {s.attempts} attempts failed")
            return
        ballot = replace(s.ballot, attempt=s.ballot.attempt + 1)
        for _ in s.ballot.members:  # once around, in case that everybody is suspected
            if proposer_of(s.version, ballot) in s.suspects:
                ballot = replace(ballot, attempt=ballot.attempt + 1)
        self._adopt(ballot)

    def _void(self, reason: str, ballot: Ballot | None = None) -> None:
        s = self.state
        self._do(Void(s.version, s.ballot.attempt, reason))
        self._set(failures=s.failures + 1)
        self.state = in_ballot(self.state, ballot or replace(s.ballot, attempt=s.ballot.attempt + 1))
        self._set(stage=Stage.IDLE, contribution=None, attempts=0, deadline_s=None, suspects=frozenset())
        self._hear_early()

    def _adopt(self, ballot: Ballot) -> None:
        """Go up to a higher ballot, with the same contribution."""
        self.state = in_ballot(self.state, ballot)
        if self.state.stage is not Stage.IDLE:
            self._set(attempts=self.state.attempts + 1)
            self._promise()
        self._hear_early()

    def _keep_for_later(self, sender: PeerId, message: RoundMessage) -> None:
        heard = Heard(sender, message)
        kept = [other for other in self.state.early if other != heard]
        of_sender = [other for other in kept if other.sender == sender]
        if len(of_sender) >= MAX_EARLY_PER_SENDER:
            kept.remove(of_sender[0])
        self._set(early=(*kept, heard)[-MAX_EARLY:])

    def _hear_early(self) -> None:
        # The highest ballot first: adopting each on the way up would send a Ready for each.
        early = sorted(self.state.early, key=lambda heard: heard.message.ballot.order, reverse=True)
        self._set(early=())
        for heard in early:
            self.heard(heard.sender, heard.message)

    def _target_members(self) -> tuple[PeerId, ...]:
        s = self.state
        return membership(s.me, s.head, s.claims, s.rules)[1]

    def _offer(self, to: Sequence[PeerId]) -> None:
        """As a guest: have our contribution counted."""
        s = self.state
        if s.held:
            self._send(to, Offer(s.held.contribution, s.head.value_hash))

    def _my_ready(self) -> Ready:
        s = self.state
        return Ready(s.contribution, s.accepted, s.head.value_hash, s.beside)

    def _suspect(self, peer: PeerId, reason: str) -> None:
        self._set(suspects=self.state.suspects | {peer})
        self._do(LeftOut(peer, reason))

    def _send(self, to: Sequence[PeerId], body: RoundBody) -> None:
        if to:
            self._do(Send(tuple(to), self.state.ballot, body, self.state.version))

    def _enter(self, stage: str, detail: str, limit: Deadline) -> None:
        self._do(Entered(stage, self.state.version, self.state.ballot.attempt, detail, limit))

    def _deadline(self, seconds: float) -> float:
        return self.now_s + seconds

    def _do(self, *commands: Command) -> None:
        self.commands.extend(commands)

    def _set(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
