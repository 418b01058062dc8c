"""Messages that no honest peer sends, and an owner's ears and state machine to hear them, in one process.

    python -m tests.support.hostile_messages 1000000

feeds so many to one owner and prints what came of it; a smaller number is a test.
"""

import random
import resource
import sys
import time
from collections import Counter

from google.protobuf.message import DecodeError

from p2ptrain.errors import BadMessage, BadRecord
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.swarm import rounds
from p2ptrain.swarm.certificates import check_certificate, check_vote, sign_vote
from p2ptrain.swarm.plausible import check_plausible
from p2ptrain.wire.messages import (
    Accepted,
    Ballot,
    BlobRef,
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
)
from p2ptrain.wire.v1 import peer_pb2 as pb

RUN, SLICE, NUM_PARTS = RunId("ab" * 32), SliceId("0"), 3
RULES = rounds.Rules(gather_s=5.0, reduce_s=5.0, vote_s=2.0)


class Hostile:
    """A member of the group with a valid key and no manners."""

    def __init__(self, seed: int, me: Identity, members: tuple[PeerId, ...]) -> None:
        self.chance = random.Random(seed)
        self.me = me
        self.members = members
        self.strangers = [Identity.generate().peer_id for _ in range(3)]
        self._well_formed = [self._message().to_pb().SerializeToString() for _ in range(400)]

    def data(self) -> bytes:
        """The next message: random bytes, a valid one cut, damaged, blown up, or as it should be at the wrong time."""
        draw = self.chance.random()
        valid = self.chance.choice(self._well_formed)
        if draw < 0.1:
            return self.chance.randbytes(self.chance.randrange(300))
        if draw < 0.3:
            return valid[: self.chance.randrange(len(valid))]
        if draw < 0.6:
            damaged = bytearray(valid)
            for _ in range(self.chance.randrange(1, 5)):
                damaged[self.chance.randrange(len(damaged))] = self.chance.randrange(256)
            return bytes(damaged)
        if draw < 0.61:
            return valid * self.chance.randrange(2, 20)
        if draw < 0.62:
            return self._message().to_pb().SerializeToString()
        return valid

    def _digest(self) -> Digest:
        return Digest(self.chance.randbytes(32).hex())

    def _blob(self) -> BlobRef:
        return BlobRef(self._digest(), self.chance.choice([0, 1, 100, 2**40, 2**63]))

    def _peer(self) -> PeerId:
        return self.chance.choice([*self.members, *self.strangers])

    def _peers(self) -> tuple[PeerId, ...]:
        return tuple(self._peer() for _ in range(self.chance.randrange(1, 5)))

    def _ballot(self) -> Ballot:
        members = self.members if self.chance.random() < 0.8 else self._peers()
        return Ballot(self.chance.choice([0, 1, 1, 1, 2, 2**31]), self.chance.choice([0, 0, 1, 2, 2**31]), members)

    def _contribution(self) -> Contribution:
        parts = tuple(self._blob() for _ in range(self.chance.choice([NUM_PARTS] * 5 + [0, 1, 50])))
        tokens = self.chance.choice([0, 1, 1000, 2**40])
        return Contribution(self._peer(), tokens, self.chance.choice([1.0, float("nan"), -1e300]), parts, 1.0)

    def _result(self) -> PartResult:
        return PartResult(self.chance.choice([0, 1, 2, 3, 60000]), self._blob(), self._peers())

    def _value(self) -> Value:
        return Value(
            run=RUN,
            slice=SLICE,
            version=self._version(),
            previous=self.chance.choice([None, self._digest()]),
            digest=self._digest(),
            published_digest=self._digest(),
            update=self._blob(),
            results=tuple(self._result() for _ in range(self.chance.choice([NUM_PARTS] * 5 + [0, 40]))),
            contributions=tuple(self._contribution() for _ in range(self.chance.randrange(4))),
            owners=self._peers(),
            tokens=self.chance.choice([0, 1, 2**50]),
            weight=self.chance.choice([0, 1, 2**60]),
        )

    def _version(self) -> Version:
        return Version(self.chance.choice([1, 1, 1, 1, 2, 3, 2**40]))

    def _body(self, ballot: Ballot) -> RoundBody:
        match self.chance.randrange(7):
            case 0:
                accepted = Accepted(self._ballot(), self._value()) if self.chance.random() < 0.5 else None
                return Ready(self._contribution() if self.chance.random() < 0.8 else None, accepted)
            case 5:
                return Offer(self._contribution() if self.chance.random() < 0.8 else None)
            case 1:
                num_parts = self.chance.choice([NUM_PARTS] * 5 + [0, 100])
                reducers = tuple(self.chance.choice(ballot.members) for _ in range(num_parts))
                return Plan(self.chance.randrange(5), tuple(self._contribution() for _ in range(3)), reducers)
            case 2:
                return self._result()
            case 3:
                return Propose(self._value())
            case 4:
                value = self._value()
                return CastVote(value.value_hash, sign_vote(self.me, ballot, value))
            case _:
                value = self._value()
                return Committed(Certificate(value, ballot, (sign_vote(self.me, ballot, value),)))

    def _message(self) -> RoundMessage:
        ballot = self._ballot()
        return RoundMessage(RUN, SLICE, self._version(), ballot, self._body(ballot))


class Victim:
    """An owner as the network sees it: what ``SliceOwner.heard`` and its queue do, without a network."""

    def __init__(self, me: PeerId, members: tuple[PeerId, ...]) -> None:
        self.me = me
        self.members = members
        self.now_s = 0.0
        self.refused: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.state = rounds.begin(
            run=RUN, slice_id=SLICE, me=me, rules=RULES, head=rounds.Head(), claims=frozenset(members)
        )

    def hears(self, sender: PeerId, data: bytes) -> None:
        """One message from the network."""
        try:
            message = RoundMessage.from_pb(pb.RoundMessage.FromString(data))
            check_plausible(message, NUM_PARTS, rounds.MAX_OWNERS)
            _check_signatures(sender, message)
        except (DecodeError, BadMessage, BadRecord) as error:
            self.refused[type(error).__name__] += 1
            return
        if (message.run, message.slice) == (RUN, SLICE):
            self.advances(rounds.Heard(sender, message))

    def advances(self, event: rounds.Event) -> None:
        """One event of the state machine."""
        self.state, commands = rounds.advance(self.state, event, self.now_s)
        self.commands.update(type(command).__name__ for command in commands)

    def lives_on(self, chance: random.Random) -> None:
        """What goes on meanwhile: time passes, and its own inner steps end."""
        self.now_s += 4 * chance.random()
        parts = tuple(BlobRef(Digest(f"{part:064x}"), 100) for part in range(NUM_PARTS))
        self.advances(rounds.CutOff(Contribution(self.me, 1000, 1.0, parts)))
        self.advances(rounds.Tick())
        self.advances(rounds.ClaimsSeen(frozenset(self.members)))

    def held_messages(self) -> int:
        """What others have made this peer hold."""
        s = self.state
        return len(s.early) + len(s.reduced) + len(s.votes) + len(s.ready) + len(s.offers)


def _check_signatures(sender: PeerId, message: RoundMessage) -> None:
    match message.body:
        case CastVote(value_hash, vote):
            if vote.peer != sender:
                raise BadRecord("a vote that another peer cast")
            check_vote(vote, message.ballot, value_hash)
        case Committed(certificate):
            check_certificate(certificate, RUN, [SLICE], 1)


def attack(count: int, seed: int) -> Victim:
    """Have one member send ``count`` messages to another; anything but a refusal or a legal step raises."""
    hostile, victim = Identity.generate(), Identity.generate()
    members = tuple(sorted([hostile.peer_id, victim.peer_id, Identity.generate().peer_id]))
    source, target = Hostile(seed, hostile, members), Victim(victim.peer_id, members)
    for number in range(count):
        target.hears(hostile.peer_id, source.data())
        if number % 50 == 0:
            target.lives_on(source.chance)
        bound = rounds.MAX_EARLY_PER_SENDER + len(members) * (NUM_PARTS + 2)
        assert target.held_messages() <= bound, target.held_messages()
        assert target.state.head == rounds.Head(), "one of three committed"
    return target


def main() -> None:
    """Attack with as many messages as the command line says."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    attack(count // 10, seed)  # caches are warm
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.process_time()
    victim = attack(count, seed + 1)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    heard = count - victim.refused.total()
    sys.stdout.write(
        f"{count} messages in {time.process_time() - began_s:.0f} s of one core: {dict(victim.refused)} refused,"
        f" {heard} heard, commands {dict(victim.commands)}; {victim.held_messages()} held, peak memory"
        f" +{grown_kib} KiB\n"
    )


if __name__ == "__main__":
    main()
