"""The edge of one owned slice: carries out what the round's state machine commands, and tells it what happened.

Everything goes through one queue, so the machine sees events one at a time; what takes long (fetching, averaging, the
outer step) runs beside it as a task of the current ballot and comes back as an event.
"""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from p2ptrain import clock
from p2ptrain.errors import (
    AveragesUnavailable,
    BadMessage,
    BadRecord,
    BlobUnavailable,
    NonFiniteUpdate,
    PeerUnreachable,
    StorageError,
)
from p2ptrain.events import PeerLost, ReducerLied, RoundCommitted, RoundStage, RoundVoid
from p2ptrain.ids import GENESIS, PeerId, SliceId, Version
from p2ptrain.swarm import rounds
from p2ptrain.swarm.beside import begin_beside
from p2ptrain.swarm.catch_up import catch_up, fetch_owned, fetch_results, head_of
from p2ptrain.swarm.certificates import check_vote, sign_vote
from p2ptrain.swarm.context import Context, Past, Replica
from p2ptrain.swarm.deadlines import MIN_MEASURED
from p2ptrain.swarm.delegation import Contained, Delegation
from p2ptrain.swarm.error_feedback import (
    EncodedContribution,
    Residual,
    encode_contribution,
    keep_rounded_away,
    no_residual,
    split,
)
from p2ptrain.swarm.history import History
from p2ptrain.swarm.part_averages import PartAverage, PartAverages
from p2ptrain.swarm.plausible import check_plausible
from p2ptrain.swarm.proposing import guests
from p2ptrain.swarm.served_state import ServedState
from p2ptrain.swarm.state import OwnedState, StagedState, outer_step
from p2ptrain.swarm.why import SliceSituation
from p2ptrain.wire.codec import Float32, encoded_bytes
from p2ptrain.wire.messages import (
    Accepted,
    Ballot,
    BlobRef,
    CastVote,
    Certificate,
    Committed,
    Contribution,
    Entrust,
    PartResult,
    RoundMessage,
    Value,
)

_LIE_WEIGHT = 8
"""Strikes for a wrong average, which no bug or bad line makes: enough to be cut off at once."""
_PATIENCE_SHARE = 0.5
"""Of what a ready owner waits for the others, how long each of these may wait for its constituents."""
_FIRST_PATIENCE_S = 2.0
"""The same, beside the transfer, while we have measured too few rounds to know what the others wait."""
_DELIVER_AGAIN_S = 1.0
_MAX_DELIVER_AGAIN_S = 5.0
"""As long as p2pd dials nobody anew to whom a call has failed."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """Our part in a round that is not settled: when it began and what we sent."""

    started_s: float
    sent: EncodedContribution | None = None


_Outcome = tuple[tuple[PartResult, ...], StagedState, list[bytes | memoryview]]
"""Results, the state that they give, and the averages that they name."""


class SliceOwner:
    """One slice that this peer owns, from version to version."""

    def __init__(self, context: Context, slice_id: SliceId, replica: Replica, past: Past) -> None:
        assert replica.owned is not None
        self.slice = slice_id
        self.replica = replica
        self.history = History(slice_id, context.blobs.store, context.exchange.history)
        self.loss_nats = float("nan")
        """Of the last committed round."""
        self._context = context
        exchange = context.exchange
        head = head_of(replica)
        accepted, promise = past.accepted, past.promise
        if accepted and accepted.value.previous != head.value_hash:
            accepted = None  # a vote on a version that has been decided since
        holders = context.holders(slice_id) | ({context.me} if context.is_listed else frozenset())
        promised = promise.ballot if promise and promise.version == head.version + 1 else None
        self._state = rounds.begin(
            run=context.run,
            slice_id=slice_id,
            me=context.me,
            rules=rounds.Rules(
                gather_s=exchange.gather_timeout_s,
                reduce_s=exchange.reduce_timeout_s,
                vote_s=exchange.vote_timeout_s,
                max_owners=exchange.max_owners,
                quorum=context.quorum,
                check_averages=exchange.check_averages,
            ),
            head=head,
            claims=holders,
            accepted=accepted,
            promised=promised,
        )
        self._holders = holders
        """As the machine was told last."""
        self._averages = PartAverages(context, slice_id, self._round_label)
        self._queue: asyncio.Queue[rounds.Event] = asyncio.Queue()
        self._group: asyncio.TaskGroup
        self._staged: _Outcome | None = None
        """What the machine's last ``Staged`` stands for."""
        self._computed: dict[tuple[PartResult, ...], _Outcome] = {}
        """Outcomes that the machine has not heard of yet."""
        self._residual = no_residual(context.bounds(slice_id))
        """What encoding rounded away from our contributions so far; added to the next one (error feedback)."""
        self._pending: _Pending | None = None
        self._catching_up = False
        self._one_vote_at_a_time = asyncio.Lock()
        self._one_promise_at_a_time = asyncio.Lock()
        self._promised: tuple[rounds.Promise, asyncio.Future[bool]] | None = None
        """Our last promise, and whether the disk took it."""
        self._delegation = Delegation(context, slice_id, self._spawn)
        self._served = ServedState(context.blobs.store, slice_id)
        self._serve_state()
        if accepted:
            for average in past.averages:
                context.blobs.store.hold(self._vote_label, average)

    @property
    def situation(self) -> SliceSituation:
        """Where the round stands, for whoever asks why."""
        s = self._state
        members = frozenset(s.ballot.members)
        deadline_in_s = None if s.deadline_s is None else s.deadline_s - clock.monotonic_s()
        return SliceSituation(
            slice=self.slice,
            version=s.version,
            stage=s.stage.value,
            members=members,
            living=(members & (s.claims | {s.me})) - s.suspects,
            ready=frozenset(s.ready),
            deadline_in_s=deadline_in_s,
            is_pending=self._pending is not None,
            holders=s.claims | {s.me},
            quorum=s.rules.quorum,
        )

    @property
    def residual(self) -> Residual:
        """What encoding rounded away from our contributions so far."""
        return self._residual

    def restore_residual(self, values: Float32) -> None:
        """Go on with what ``residual`` gave before a restart at the same version, all parts in one: [numel]."""
        self._residual = split(values, self._context.bounds(self.slice))

    # What others call.

    async def run(self) -> None:
        """Drive the rounds until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._take_place()
            while True:
                self._handle(await self._next_event())

    def heard(self, sender: PeerId, message: RoundMessage) -> None:
        """A round message arrived.

        Raises:
            BadRecord: it carries a vote or certificate that does not verify; the message is dropped.
            BadMessage: it cannot be about this slice.
        """
        check_plausible(message, len(self._context.bounds(self.slice)), self._context.exchange.max_owners)
        if sender not in self._context.claims and sender not in self._state.ballot.members:
            # Nothing that a stranger says is kept. If it is ahead of us, we still want to know.
            message = replace(message, ballot=replace(message.ballot, members=()))
        match message.body:
            case CastVote(value_hash, vote):
                if vote.peer != sender:
                    raise BadRecord("a vote that another peer cast")
                if sender in message.ballot.members:
                    check_vote(vote, message.ballot, value_hash)
                message = replace(message, body=CastVote(value_hash, self._context.with_invite(vote)))
            case Committed(certificate):
                message = replace(message, body=Committed(self._context.checked(certificate, [self.slice])))
        self._queue.put_nowait(rounds.Heard(sender, message))

    def learn(self, certificate: Certificate, peer: PeerId) -> None:
        """Another peer has this checked certificate of a newer version."""
        self._queue.put_nowait(rounds.Heard(peer, self._committed_message(certificate)))

    def meet_rival(self, peer: PeerId) -> None:
        """A peer stands at an older version, or the same, of what may be another branch: the higher one is for both."""
        self._queue.put_nowait(rounds.RivalMet(peer))

    def claims_changed(self, holders: frozenset[PeerId]) -> None:
        """These peers hold the slice, as far as we know."""
        if holders != self._holders:
            self._holders = holders
            self._queue.put_nowait(rounds.ClaimsSeen(holders))

    async def contribute(
        self, pseudo_gradient: Float32, tokens: int, loss_nats: float, beside: Version = GENESIS
    ) -> None:
        """End this peer's inner steps and average; the listener hears when the round is settled.

        Args:
            pseudo_gradient: anchor minus local weights, [numel].
            tokens: what weighs it; 0 takes part without adding anything.
            loss_nats: mean training loss since the last round.
            beside: version of the common part that the same cut-off goes into; ``GENESIS`` if that means nothing.
        """
        contribution: Contribution | None = None
        sent: EncodedContribution | None = None
        refs: tuple[BlobRef, ...] = ()
        pending = self._pending = _Pending(clock.monotonic_s())
        brought = await self._delegation.bring(pseudo_gradient, tokens, loss_nats, self._patience_s)
        if brought.tokens > 0 and self._pending is pending:
            try:
                sent, refs = await asyncio.to_thread(self._encoded, brought.pseudo_gradient, self._residual)
            except NonFiniteUpdate as error:
                if self._pending is pending:
                    self._pending = None
                    self._settle_void(f"the pseudo-gradient is withheld: {error}")
                return
        if self._pending is not pending:
            return  # the round is settled, or has a later contribution of ours: this work stays in our weights
        if sent:
            for part, ref in zip(sent.parts, refs, strict=True):
                self._context.blobs.store.hold(self._contribution_label, part, sha256=ref.sha256)
            up_mbps, down_mbps = self._context.line_mbps(self.slice)
            contribution = Contribution(self._context.me, brought.tokens, brought.loss_nats, refs, up_mbps, down_mbps)
            pending = self._pending = _Pending(clock.monotonic_s(), sent)
        self._delegation.contributed(brought)
        await self._delegation.make_sure(self._possible_delegates)
        # Nobody contributes both by itself and by way of another, or its work would count twice.
        if self._has_place and not self._delegation.has_handed_over:
            self._spawn(self._delegation.hand_over(None))
        elif await self._delegation.hand_over(contribution):
            contribution = None
        if self._pending is pending:
            self._queue.put_nowait(rounds.CutOff(contribution, beside))

    def contained(self, certificate: Certificate) -> Contained:
        """What of our work a version contains; asked while its commit is told, and not later."""
        return self._delegation.contained(certificate)

    def entrusted(self, sender: PeerId, request: Entrust) -> str:
        """A holder wants us to bring its work along; why not, or nothing if we do.

        Raises:
            BadMessage: what it hands over cannot be a contribution to this slice.
        """
        s = self._state
        if s.me not in s.ballot.members:
            return "only owners bring the work of others along"
        is_counted_in = sender in s.ballot.members or sender in guests(s)
        if sender in self._context.claims:
            may_come = sender in s.claims and not is_counted_in
        else:  # not listed, as most peers of a large swarm
            may_come = not is_counted_in and self._context.admits(sender, request.invite)
        if not may_come and not self._delegation.adds_nothing(sender, request):
            return "only of holders of the slice without a place in the group is work brought along"
        return self._delegation.entrusted(sender, request)

    def heard_from_delegate(self, sender: PeerId, version: Version, *, cut_off_within_s: float, tokens: int) -> bool:
        """An owner asks for our work, or tells us that its contribution has it; False: we are not its constituent.

        Arguments as of ``Caller.tell_constituent``.
        """
        if not self._delegation.has_delegate(sender, version):
            return False
        if tokens:
            self._delegation.note_brought(sender, tokens)
        elif cut_off_within_s > 0 and not self.is_averaging:
            within_s = min(cut_off_within_s, self._context.exchange.gather_timeout_s)
            self._context.listener.cut_off_wanted(self.slice, within_s)
        return True

    @property
    def is_averaging(self) -> bool:
        """Whether a contribution of ours waits for its round to be settled."""
        return self._pending is not None

    @property
    def can_stop(self) -> bool:
        """Whether this peer owes the slice nothing: no round is open, and no vote of ours waits for its certificate."""
        s = self._state
        return s.stage is rounds.Stage.IDLE and not self.is_averaging and s.accepted is None

    @property
    def has_a_say(self) -> bool:
        """Whether the others count on us: by the last certificate, in a ballot since, or for what we voted for."""
        s, me = self._state, self._context.me
        return me in s.head.owners or me in s.ballot.members or s.accepted is not None

    @property
    def owners(self) -> tuple[PeerId, ...]:
        """Who decides the next version."""
        return self._state.head.owners or self._state.ballot.members

    # The machine and its commands.

    async def _next_event(self) -> rounds.Event:
        if self._state.deadline_s is None:
            return await self._queue.get()
        try:
            async with asyncio.timeout(max(0.0, self._state.deadline_s - clock.monotonic_s())):
                return await self._queue.get()
        except TimeoutError:
            return rounds.Tick()

    def _handle(self, event: rounds.Event) -> None:
        staged = self._computed.pop(event.results, None) if isinstance(event, rounds.Staged) else None
        if isinstance(event, rounds.Staged) and staged is None:
            return  # of a version that we have left since
        self._state, commands = rounds.advance(self._state, event, clock.monotonic_s())
        if staged is not None and (self._state.staged is event or any(isinstance(c, rounds.Commit) for c in commands)):
            self._staged = staged
        for command in commands:
            self._carry_out(command)
        self._take_place()

    @property
    def _patience_s(self) -> float:
        """How long to wait for constituents from now on: the other owners may wait for us already."""
        s, now_s = self._state, clock.monotonic_s()
        waits_since_s = now_s if s.first_ready_s is None else s.first_ready_s
        patience_s = _PATIENCE_SHARE * s.gather_limit.seconds
        if len(s.durations.gather) < MIN_MEASURED:  # those who have measured more will not wait for so long
            up_mbps, _ = self._context.line_mbps(self.slice)
            megabits = 8e-6 * encoded_bytes(self._context.exchange.codec, self._context.numel[self.slice])
            patience_s = min(patience_s, _FIRST_PATIENCE_S + (megabits / up_mbps if up_mbps else 0.0))
        return max(0.0, waits_since_s + patience_s - now_s)

    @property
    def _has_place(self) -> bool:
        """Whether the group counts us in, as a member or as a guest."""
        s = self._state
        return s.me in s.ballot.members or s.me in guests(s)

    @property
    def _possible_delegates(self) -> list[PeerId]:
        claims, sees_all = self._context.claims, self._context.is_listed
        return [m for m in self._state.ballot.members if (not claims[m].is_away if m in claims else not sees_all)]

    def _take_place(self) -> None:
        """Once a version has begun: as an owner bring others' work along, without a place among them find who does."""
        s = self._state
        if self._delegation.next == (s.version, s.head.value_hash):
            self._delegation.has_place = self._delegation.has_place or self._has_place
            if s.me not in s.ballot.members:
                self._delegation.bring_nobody()
            return
        has_place = self._has_place
        self._delegation.begin(s.version, s.head.value_hash, has_place=has_place)
        if not has_place and self._context.exchange.max_constituents:
            self._delegation.look_for_delegate(self._possible_delegates)

    def _carry_out(self, command: rounds.Command) -> None:
        match command:
            case rounds.Send(to, ballot, body, version):
                message = RoundMessage(self._context.run, self.slice, version, ballot, body)
                promised = self._promised_in(version, ballot)
                for peer in to:
                    self._spawn(self._deliver_as_promised(peer, message, promised))
            case rounds.AskCutOff(within_s):
                self._context.listener.cut_off_wanted(self.slice, within_s)
                self._delegation.ask_for_work(self._patience_s)
            case rounds.Reduce(parts, contributions, within_s):
                for part in parts:
                    averaging = functools.partial(self._averages.reduce, part, contributions, within_s)
                    self._spawn(self._average(averaging))
            case rounds.FetchInputs(parts, contributions, within_s):
                for part, reducer in parts.items():
                    fetching = self._averages.fetch_inputs(part, contributions, reducer, within_s, self._is_wanted())
                    self._spawn(fetching)
            case rounds.FetchAverage(result, reducer):
                self._spawn(self._averages.fetch_average(result, reducer, self._is_wanted()))
            case rounds.Check(result, contributions, reducer, within_s):
                averaging = functools.partial(self._averages.check, result, contributions, reducer, within_s)
                self._spawn(self._average(averaging))
            case rounds.Lied(peer, part, announced, correct):
                self._context.events.emit(
                    ReducerLied(peer=peer, slice=self.slice, part=part, announced=announced, correct=correct)
                )
                self._context.node.door.accuse(
                    peer, f"a wrong average of part {part} of slice {self.slice}", weight=_LIE_WEIGHT
                )
            case rounds.StageResults(results):
                self._spawn(self._stage(results))
            case rounds.Promise():
                on_disk = asyncio.get_running_loop().create_future()
                self._promised = command, on_disk
                self._spawn(self._promise(command, on_disk))
            case rounds.SignVote(ballot, value):
                assert self._staged is not None
                assert self._staged[0] == value.results
                # The round may be void and this value be proposed again: its averages stay until a version is decided.
                for result in value.results:
                    self._context.blobs.store.keep(self._vote_label, result.average.sha256)
                self._spawn(self._vote(ballot, value, self._staged[2], self._promised_in(value.version, ballot)))
            case rounds.Commit(certificate, beside):
                self._commit(certificate, beside)
            case rounds.Void(version, attempt, reason):
                event = RoundVoid(slice=self.slice, version=version, attempt=attempt, reason=reason)
                self._context.events.emit(event)
                self._settle()
            case rounds.CatchUp(peer):
                if not self._catching_up:
                    self._catching_up = True
                    self._spawn(self._catch_up(peer))
            case rounds.TellHead(peer):
                self._tell_head(peer)
            case rounds.Entered(stage, version, attempt, detail, deadline):
                self._context.events.emit(
                    RoundStage(
                        slice=self.slice,
                        version=version,
                        attempt=attempt,
                        stage=stage,
                        detail=detail,
                        deadline_s=deadline.seconds,
                        deadline_reason=deadline.reason,
                    )
                )
            case rounds.LeftOut(peer, reason):
                self._context.events.emit(PeerLost(peer=peer, slice=self.slice, reason=reason))
                if peer == self._context.me:
                    self._spawn(self._try_other_state())

    async def _promise(self, promise: rounds.Promise, on_disk: "asyncio.Future[bool]") -> None:
        async with self._one_promise_at_a_time:
            try:
                await asyncio.to_thread(self._context.listener.save_promise, self.slice, promise)
            except StorageError:  # as in ``_vote``
                on_disk.set_result(False)
            else:
                on_disk.set_result(True)

    def _promised_in(self, version: Version, ballot: Ballot) -> "asyncio.Future[bool] | None":
        """Whether the disk took our promise to take part in this ballot; None where there is none, as of a guest."""
        if self._promised is None or self._promised[0] != rounds.Promise(version, ballot):
            return None
        return self._promised[1]

    async def _deliver_as_promised(
        self, peer: PeerId, message: RoundMessage, promised: "asyncio.Future[bool] | None"
    ) -> None:
        if await _is_on_disk(promised):  # else we are silent to the others, which they are prepared for
            await self._deliver(peer, message)

    async def _vote(
        self,
        ballot: Ballot,
        value: Value,
        averages: list[bytes | memoryview],
        promised: "asyncio.Future[bool] | None",
    ) -> None:
        if not await _is_on_disk(promised):
            return
        async with self._one_vote_at_a_time:  # an earlier vote must not replace a later one on disk
            accepted = Accepted(ballot, value)
            try:
                await asyncio.to_thread(self._context.listener.save_accepted, self.slice, accepted, averages)
            except StorageError:  # told by whoever saves; what is not on disk must not be said
                return
        vote = CastVote(value.value_hash, sign_vote(self._context.identity, ballot, value, self._context.invite))
        message = RoundMessage(self._context.run, self.slice, value.version, ballot, vote)
        for peer in ballot.members:
            if peer != self._context.me:
                self._spawn(self._deliver(peer, message))
        self._queue.put_nowait(rounds.Heard(self._context.me, message))

    async def _deliver(self, peer: PeerId, message: RoundMessage) -> None:
        """Hand a message over, also to a peer whose link is broken now and comes back while the ballot lasts."""
        again_after_s = _DELIVER_AGAIN_S
        while True:
            try:
                is_taken = await self._context.caller.deliver(peer, message)
            except PeerUnreachable:
                self._queue.put_nowait(rounds.Unreachable(peer))
            else:
                if not is_taken:
                    self._queue.put_nowait(rounds.Unreachable(peer))
                return
            await asyncio.sleep(random.uniform(0.5, 1.0) * again_after_s)  # noqa: S311 - so that two do not call at once
            if (message.version, message.ballot) != (self._state.version, self._state.ballot):
                return
            again_after_s = min(2 * again_after_s, _MAX_DELIVER_AGAIN_S)

    async def _average(self, averaging: Callable[[], Awaitable[PartAverage | None]]) -> None:
        """Announce what comes out, unless the round has moved on."""
        is_wanted = self._is_wanted()
        one = await averaging()
        if one is not None and is_wanted():
            ref = one.reducers or self._context.blobs.store.hold(self._round_label, one.data, sha256=one.sha256)
            self._queue.put_nowait(rounds.PartReduced(PartResult(one.part, ref, one.contributors)))

    def _is_wanted(self) -> Callable[[], bool]:
        """Whether, later, what is begun now is still for the ballot of then."""
        version, ballot = self._state.version, self._state.ballot
        return lambda: (version, ballot) == (self._state.version, self._state.ballot)

    async def _stage(self, results: tuple[PartResult, ...]) -> None:
        context, replica = self._context, self.replica
        assert replica.owned is not None
        reducers = self._state.plan.reducers if self._state.plan else ()
        everybody = [*self._state.ballot.members, *self._state.claims]
        donors = [context.donors([*reducers[r.part : r.part + 1], *everybody], self.slice) for r in results]
        try:
            averages = await fetch_results(context, self.slice, self._state.version, results, donors)
            staged, update = await asyncio.to_thread(self._outer_step, replica.owned, replica, averages)
        except (BlobUnavailable, BadMessage) as error:
            missing = error.parts if isinstance(error, AveragesUnavailable) else ()
            withheld = frozenset(reducers[part] for part in missing if part < len(reducers))
            if self.replica is replica:
                self._queue.put_nowait(rounds.StageFailed(results, str(error), withheld))
            return
        if self.replica is not replica:
            return
        for result, data in zip(results, averages, strict=True):
            # Others may come to us for what its reducer can no longer give.
            context.blobs.store.hold(self._round_label, data, sha256=result.average.sha256)
        self._have_staged(results, staged, update, averages)

    def _have_staged(
        self, results: tuple[PartResult, ...], staged: StagedState, update: BlobRef, averages: list[bytes | memoryview]
    ) -> None:
        self._context.blobs.store.hold(self._round_label, staged.update, sha256=update.sha256)
        self._computed[results] = (results, staged, averages)
        self._queue.put_nowait(rounds.Staged(results, staged.owned.digest, staged.published.digest, update))

    async def _try_other_state(self) -> None:
        """If our outer step gives other bits than the proposal's, see whether the slice's other state gives the same.

        A slice whose owners are all gone is taken over from its published weights. When one of them comes back in the
        same moment, there are owners of one version with the certified state and owners without, who could never agree.
        Everybody can have both: the certified one from its holders, the other one from the published weights.
        """
        replica, proposal, outcome = self.replica, self._state.proposal, self._staged
        certificate, owned = replica.certificate, replica.owned
        if not (certificate and owned and proposal and outcome) or outcome[0] != proposal.results:
            return
        if owned.digest != certificate.value.digest:
            try:
                other = await fetch_owned(self._context, replica)
            except (BlobUnavailable, BadMessage):
                return
        else:
            other = await asyncio.to_thread(replica.published.taken_over)
        results, _, averages = outcome
        staged, update = await asyncio.to_thread(self._outer_step, other, replica, averages)
        if staged.owned.digest != proposal.digest or self.replica is not replica:
            return
        self.replica = replace(replica, owned=other)
        self._serve_state()
        self._have_staged(results, staged, update, averages)

    def _commit(self, certificate: Certificate, beside: Version) -> None:
        assert self._staged is not None
        results, staged, averages = self._staged
        assert (results, staged.owned.digest) == (certificate.value.results, certificate.value.digest)
        self._keep_what_was_rounded_away(certificate)
        self._move(certificate, Replica(certificate, staged.published, staged.owned), [*averages, staged.update])
        self._tell_of_commit(certificate)
        self._context.announce(self.slice)
        self._settle(beside)

    def _tell_of_commit(self, certificate: Certificate) -> None:
        value, now_s = certificate.value, clock.monotonic_s()
        self._context.events.emit(
            RoundCommitted(
                slice=self.slice,
                version=value.version,
                epoch=certificate.ballot.epoch,
                members=list(certificate.ballot.members),
                digest=value.digest,
                previous=value.previous or "",
                contributors=[c.peer for c in value.contributions],
                owners=list(value.owners),
                tokens=sum(c.tokens for c in value.contributions),
                seconds=now_s - self._pending.started_s if self._pending else 0.0,
            )
        )

    def _keep_what_was_rounded_away(self, certificate: Certificate) -> None:
        """The codec's error is not lost: see ``error_feedback``."""
        if self._pending is None or self._pending.sent is None:
            return
        self._residual = keep_rounded_away(self._residual, self._pending.sent, self.contained(certificate).parts)

    async def _catch_up(self, peer: PeerId) -> None:
        try:
            certificates = await self._context.caller.newer_certificates(peer, {self.slice: self._state.head.version})
            if not certificates:  # it has a rival branch with fewer versions than ours
                certificates = await self._context.caller.newer_certificates(peer, {self.slice: GENESIS})
            if certificates and self._is_staged(certificates[0]):
                self._handle(rounds.Heard(peer, self._committed_message(certificates[0])))
            steps = await catch_up(self._context, self.slice, self.replica, certificates, peer)
        finally:
            self._catching_up = False
        # The machine may have committed the same meanwhile.
        steps = [step for step in steps if rounds.Head.of(step.certificate).outranks(head_of(self.replica))]
        for step in steps:
            is_ours = self._pending is not None and step.certificate.value.previous == self._state.head.value_hash
            if is_ours:  # a guest's, or one that the others committed without our vote
                self._keep_what_was_rounded_away(step.certificate)
            self._move(step.certificate, step.replica, step.blobs)
            if is_ours and self.contained(step.certificate).parts:
                self._tell_of_commit(step.certificate)
        if certificates and not steps and not rounds.Head.of(certificates[-1]).outranks(self._state.head):
            self._tell_head(peer)
        if steps:
            self._handle(rounds.HeadMoved(head_of(self.replica)))
            self._context.announce(self.slice)
            self._settle()

    def _move(self, certificate: Certificate, replica: Replica, blobs: list[bytes | memoryview]) -> None:
        self.replica = replica
        self.loss_nats = certificate.value.loss_nats
        self.history.add(certificate, blobs)
        self._serve_state()
        self._context.blobs.store.release(self._vote_label)
        self._staged = None
        self._computed.clear()
        self._context.listener.slice_moved(self.slice)

    def _serve_state(self) -> None:
        owned, published = self.replica.owned, self.replica.published
        assert owned is not None
        self._served.serve(published.version, [owned, published], clock.monotonic_s())

    def stop_serving(self) -> None:
        """This peer's follower side serves the published weights from now on."""
        self._served.stop()

    def _settle_void(self, reason: str) -> None:
        event = RoundVoid(
            slice=self.slice, version=self._state.version, attempt=self._state.ballot.attempt, reason=reason
        )
        self._context.events.emit(event)
        self._context.listener.round_settled(self.slice, GENESIS)

    def _settle(self, beside: Version = GENESIS) -> None:
        """The round is over: nobody needs its contribution and averages any more, and training may go on.

        Args:
            beside: the highest version of the common part that another owner was cut off for together with this slice.
        """
        self._context.blobs.store.release(self._contribution_label)
        self._context.blobs.store.release(self._round_label)
        if self._pending is not None:
            self._pending = None
            self._context.listener.round_settled(self.slice, beside)

    def _is_staged(self, certificate: Certificate) -> bool:
        """Whether a certificate proves what we have computed ourselves, and only lacked the votes for."""
        staged = self._staged
        return staged is not None and staged[0] == certificate.value.results

    def _tell_head(self, peer: PeerId) -> None:
        if self.replica.certificate:
            self._spawn(self._deliver(peer, self._committed_message(self.replica.certificate)))

    def _committed_message(self, certificate: Certificate) -> RoundMessage:
        value = certificate.value
        return RoundMessage(self._context.run, self.slice, value.version, certificate.ballot, Committed(certificate))

    # What takes long with large slices, and would keep all messages waiting: called in a thread.

    def _encoded(self, pseudo_gradient: Float32, residual: Residual) -> tuple[EncodedContribution, tuple[BlobRef, ...]]:
        """Our contribution, from a pseudo-gradient [numel], and the names of its parts."""
        bounds = self._context.bounds(self.slice)
        sent = encode_contribution(self._context.exchange.codec, pseudo_gradient, residual, bounds)
        return sent, tuple(map(BlobRef.of, sent.parts))

    def _outer_step(
        self, owned: OwnedState, replica: Replica, averages: list[bytes | memoryview]
    ) -> tuple[StagedState, BlobRef]:
        """What a state of the replica's version becomes by these averages, and the update's name."""
        context, bounds, rule = self._context, self._context.bounds(self.slice), self._context.outer(self.slice)
        staged = outer_step(owned, replica.published, averages, bounds, context.exchange.codec, rule)
        return staged, BlobRef.of(staged.update)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any] | None":
        return begin_beside(self._group, work)

    @property
    def _contribution_label(self) -> str:
        return f"slice {self.slice} contribution"

    @property
    def _round_label(self) -> str:
        return f"slice {self.slice} round"

    @property
    def _vote_label(self) -> str:
        return f"slice {self.slice} vote"


async def _is_on_disk(promised: "asyncio.Future[bool] | None") -> bool:
    """Waits for the disk."""
    return promised is None or await asyncio.shield(promised)
