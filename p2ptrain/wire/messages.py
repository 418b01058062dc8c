"""What peers say to each other, as frozen dataclasses; above this module nobody sees protobuf.

``encode`` and ``decode`` are each other's inverse. Decoding checks the form (lengths of hashes, presence of fields,
limits on counts); whether a message makes sense now is for the receiver to judge. The fields are those of
proto/p2ptrain/wire/v1/peer.proto.
"""

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from p2ptrain.errors import BadMessage
from p2ptrain.ids import GENESIS, Digest, PeerId, RunId, SliceId, Version
from p2ptrain.wire.v1 import peer_pb2 as pb

PROTOCOL = 1
MAX_MEMBERS = 1024
"""Owners that one group may name; bounds what a message can make us allocate."""
MAX_PARTS = 65536
MAX_PEER_ID_CHARACTERS = 64
MAX_INVITE_CHARACTERS = 1024
MAX_TOKENS = 2**40
"""Of one contribution: above what anybody trains on in a round, and sums of many still fit in the field's 64 bits."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Bytes named by their SHA-256 and length."""

    sha256: Digest
    size_bytes: int

    @classmethod
    def of(cls, data: bytes | memoryview) -> "BlobRef":
        """The name of ``data``."""
        return cls(Digest(hashlib.sha256(data).hexdigest()), memoryview(data).nbytes)


@dataclass(frozen=True, slots=True)
class Contribution:
    """One owner's encoded pseudo-gradient, cut into parts, with the tokens that weigh it."""

    peer: PeerId
    tokens: int
    loss_nats: float
    parts: tuple[BlobRef, ...] = ()
    uplink_mbps: float = 0.0
    """What its sender can upload, so that parts can be shared by it; 0 is not known. Not in a committed value."""
    downlink_mbps: float = 0.0
    """What its sender lets itself download; 0 is no cap. Not in a committed value."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """The encoded weighted mean of one part, and whose contributions are in it."""

    part: int
    average: BlobRef
    contributors: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Ballot:
    """One try at deciding a version: a majority of ``members`` commits. Ordered by (epoch, attempt)."""

    epoch: int
    attempt: int
    members: tuple[PeerId, ...]

    @property
    def order(self) -> tuple[int, int]:
        """What makes one ballot higher than another."""
        return (self.epoch, self.attempt)

    @property
    def majority(self) -> int:
        """How many members commit."""
        return len(self.members) // 2 + 1

    def encode(self) -> bytes:
        """The ballot as bytes, for disk."""
        return _ballot_to_pb(self).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> "Ballot":
        """The ballot in ``data``.

        Raises:
            BadMessage: not an encoded ballot.
        """
        return _ballot_from_pb(_parse(pb.Ballot, data))


@dataclass(frozen=True)  # no slots: the hash is kept, or each of n votes would encode n contributions again
class Value:
    """What a commit decides about one slice; ``value_hash`` names it."""

    run: RunId
    slice: SliceId
    version: Version
    previous: Digest | None
    """Hash of the previous version's value; None for version 1."""
    digest: Digest
    """SHA-256 of the owners' state blob at this version."""
    published_digest: Digest
    update: BlobRef
    results: tuple[PartResult, ...]
    contributions: tuple[Contribution, ...]
    owners: tuple[PeerId, ...]
    """Owners of the next version."""
    tokens: int
    """Tokens in the slice's weights since version 0."""
    weight: int
    """Of the branch: over its rounds since version 0, tokens times contributors."""

    @property
    def loss_nats(self) -> float:
        """Mean training loss of the round, weighted by tokens."""
        total = sum(c.tokens for c in self.contributions)
        return sum(c.loss_nats * c.tokens for c in self.contributions) / total if total else math.nan

    def encode(self) -> bytes:
        """The bytes whose hash is signed."""
        return pb.Value(
            run=self.run,
            slice=self.slice,
            version=self.version,
            previous=bytes.fromhex(self.previous) if self.previous else b"",
            digest=bytes.fromhex(self.digest),
            published_digest=bytes.fromhex(self.published_digest),
            update=_blob_to_pb(self.update),
            results=_numbered_to_pb(self.results, self.contributions),
            contributions=[_contribution_to_pb(c) for c in self.contributions],
            owners=self.owners,
            tokens=self.tokens,
            weight=self.weight,
        ).SerializeToString(deterministic=True)

    @functools.cached_property
    def value_hash(self) -> Digest:
        """SHA-256 of the encoded value: its name in votes and in the next version's ``previous``."""
        return Digest(hashlib.sha256(self.encode()).hexdigest())

    @classmethod
    def decode(cls, data: bytes) -> "Value":
        """The value in ``data``.

        Raises:
            BadMessage: not an encoded value.
        """
        m = _parse(pb.Value, data)
        if m.version < 1 or not 1 <= len(m.owners) <= MAX_MEMBERS:
            raise BadMessage(f"value of slice {m.slice!r}: version {m.version}, {len(m.owners)} owners")
        if len(m.results) > MAX_PARTS or len(m.contributions) > MAX_MEMBERS:
            raise BadMessage(f"value with {len(m.results)} parts, {len(m.contributions)} contributions")
        contributions = tuple(map(_contribution_from_pb, m.contributions))
        return cls(
            run=RunId(m.run),
            slice=SliceId(m.slice),
            version=Version(m.version),
            previous=_digest(m.previous) if m.previous else None,
            digest=_digest(m.digest),
            published_digest=_digest(m.published_digest),
            update=_blob_from_pb(m.update),
            results=_numbered_from_pb(m.results, contributions),
            contributions=contributions,
            owners=tuple(map(_peer, m.owners)),
            tokens=m.tokens,
            weight=m.weight,
        )


@dataclass(frozen=True, slots=True)
class Vote:
    """A member's signature over a ballot and a value's hash."""

    peer: PeerId
    signature: bytes
    invite: str = ""
    """The run's authority's, where it asks for one: proof that the member was let in, also when it is long gone."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Proof that a majority of the ballot's members committed a value."""

    value: Value
    ballot: Ballot
    votes: tuple[Vote, ...]

    def encode(self) -> bytes:
        """The certificate as bytes, for disk and for messages."""
        return _certificate_to_pb(self).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> "Certificate":
        """The certificate in ``data``, its signatures unchecked.

        Raises:
            BadMessage: not an encoded certificate.
        """
        return _certificate_from_pb(_parse(pb.Certificate, data))


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a member last voted for at a version, and in which ballot."""

    ballot: Ballot
    value: Value


@dataclass(frozen=True, slots=True)
class Ready:
    """The sender has reached the cut-off and will take no part in a lower ballot."""

    contribution: Contribution | None
    """None: votes, but has nothing to add."""
    accepted: Accepted | None
    previous: Digest | None = None
    """Hash of the value that the sender holds and its contribution starts from; None at version 0."""
    beside: Version = GENESIS
    """The common part's, that the same cut-off goes into; ``GENESIS`` where the sender does not tell."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A guest, who holds the slice but is no member yet, has reached the cut-off that a member's Ready asked for."""

    contribution: Contribution | None
    """None: has nothing to add."""
    previous: Digest | None = None
    """As in ``Ready``."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The proposer's list: who contributes, and who reduces which part. A higher revision replaces dead reducers."""

    revision: int
    contributions: tuple[Contribution, ...]
    reducers: tuple[PeerId, ...]
    checkers: tuple[PeerId, ...] = ()
    """Who computes which part once more, so that no single member is believed; empty where there is nobody else, or
    the manifest asks for no checks."""


@dataclass(frozen=True, slots=True)
class Propose:
    """The proposer asks for votes on a value."""

    value: Value


@dataclass(frozen=True, slots=True)
class CastVote:
    """A vote on its way to the other members."""

    value_hash: Digest
    vote: Vote


@dataclass(frozen=True, slots=True)
class Committed:
    """A certificate, told to whoever has an older version."""

    certificate: Certificate


RoundBody = Ready | Offer | Plan | PartResult | Propose | CastVote | Committed


@dataclass(frozen=True, slots=True)
class RoundMessage:
    """A message of the round that would commit ``version`` of ``slice``."""

    run: RunId
    slice: SliceId
    version: Version
    ballot: Ballot
    body: RoundBody

    def to_pb(self) -> pb.RoundMessage:
        """The protobuf form."""
        m = pb.RoundMessage(run=self.run, slice=self.slice, version=self.version, ballot=_ballot_to_pb(self.ballot))
        match self.body:
            case Ready(contribution, accepted, previous, beside):
                ready = pb.Ready(previous_sha256=bytes.fromhex(previous or ""), beside=beside)
                if contribution:
                    ready.contribution.CopyFrom(_contribution_to_pb(contribution))
                if accepted:
                    ready.accepted.ballot.CopyFrom(_ballot_to_pb(accepted.ballot))
                    ready.accepted.value = accepted.value.encode()
                m.ready.CopyFrom(ready)
            case Offer(contribution, previous):
                offer = pb.Offer(previous_sha256=bytes.fromhex(previous or ""))
                if contribution:
                    offer.contribution.CopyFrom(_contribution_to_pb(contribution))
                m.offer.CopyFrom(offer)
            case Plan(revision, contributions, reducers, checkers):
                m.plan.CopyFrom(
                    pb.Plan(
                        revision=revision,
                        contributions=[_contribution_to_pb(c) for c in contributions],
                        reducers=_numbers(reducers, self.ballot.members),
                        checkers=_numbers(checkers, self.ballot.members),
                    )
                )
            case PartResult():
                m.result.CopyFrom(_result_to_pb(self.body))
            case Propose(value):
                m.proposal = value.encode()
            case CastVote(value_hash, vote):
                m.vote.CopyFrom(pb.CastVote(value_sha256=bytes.fromhex(value_hash), vote=_vote_to_pb(vote)))
            case Committed(certificate):
                m.committed.CopyFrom(_certificate_to_pb(certificate))
        return m

    @classmethod
    def from_pb(cls, m: pb.RoundMessage) -> "RoundMessage":
        """The message in its protobuf form.

        Raises:
            BadMessage: a field is missing, malformed or beyond its limit.
        """
        body: RoundBody
        match m.WhichOneof("kind"):
            case "ready":
                r = m.ready
                accepted = None
                if r.HasField("accepted"):
                    accepted = Accepted(_ballot_from_pb(r.accepted.ballot), Value.decode(r.accepted.value))
                previous = _digest(r.previous_sha256) if r.previous_sha256 else None
                contribution = _contribution_from_pb(r.contribution) if r.HasField("contribution") else None
                body = Ready(contribution, accepted, previous, Version(r.beside))
            case "offer":
                o = m.offer
                previous = _digest(o.previous_sha256) if o.previous_sha256 else None
                body = Offer(_contribution_from_pb(o.contribution) if o.HasField("contribution") else None, previous)
            case "plan":
                num_parts, num_contributions = len(m.plan.reducers), len(m.plan.contributions)
                if max(num_parts, len(m.plan.checkers)) > MAX_PARTS or num_contributions > MAX_MEMBERS:
                    raise BadMessage(f"plan with {num_parts} parts, {num_contributions} contributions")
                body = Plan(
                    m.plan.revision,
                    tuple(map(_contribution_from_pb, m.plan.contributions)),
                    _named(m.plan.reducers, tuple(map(_peer, m.ballot.members))),
                    _named(m.plan.checkers, tuple(map(_peer, m.ballot.members))),
                )
            case "result":
                body = _result_from_pb(m.result)
            case "proposal":
                body = Propose(Value.decode(m.proposal))
            case "vote":
                body = CastVote(_digest(m.vote.value_sha256), _vote_from_pb(m.vote.vote))
            case "committed":
                body = Committed(_certificate_from_pb(m.committed))
            case _:
                raise BadMessage("round message of a kind that this version does not know")
        return cls(RunId(m.run), SliceId(m.slice), Version(m.version), _ballot_from_pb(m.ballot), body)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrust:
    """A holder that was not drawn asks an owner to bring its work along, or hands it over."""

    run: RunId
    slice: SliceId
    version: Version
    """That the round would commit."""
    previous: Digest | None
    """As in ``Ready``."""
    is_cut_off: bool = False
    """False: asks for a place, and what there is to add comes later."""
    contribution: Contribution | None = None
    """None at a cut-off: has nothing to add."""
    invite: str = ""
    """As in ``Claim``, of a sender that has no claim in the directory."""

    def to_pb(self) -> pb.EntrustRequest:
        """The protobuf form."""
        m = pb.EntrustRequest(
            run=self.run,
            slice=self.slice,
            version=self.version,
            previous_sha256=bytes.fromhex(self.previous or ""),
            cut_off=self.is_cut_off,
            invite=self.invite,
        )
        if self.contribution:
            m.contribution.CopyFrom(_contribution_to_pb(self.contribution))
        return m

    @classmethod
    def from_pb(cls, m: pb.EntrustRequest) -> "Entrust":
        """The request in its protobuf form.

        Raises:
            BadMessage: a field is malformed or beyond its limit.
        """
        return cls(
            run=RunId(m.run),
            slice=SliceId(m.slice),
            version=Version(m.version),
            previous=_digest(m.previous_sha256) if m.previous_sha256 else None,
            is_cut_off=m.cut_off,
            contribution=_contribution_from_pb(m.contribution) if m.HasField("contribution") else None,
            invite=m.invite,
        )


_M = TypeVar("_M", pb.Ballot, pb.Value, pb.Certificate)


def _parse(kind: type[_M], data: bytes) -> _M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadMessage(f"not a {kind.DESCRIPTOR.name}: {len(data)} bytes do not decode") from error


def _digest(raw: bytes) -> Digest:
    if len(raw) != 32:
        raise BadMessage(f"a SHA-256 has 32 bytes, this has {len(raw)}")
    return Digest(raw.hex())


def _peer(text: str) -> PeerId:
    if not 0 < len(text) <= MAX_PEER_ID_CHARACTERS:
        raise BadMessage(f"a peer id has 52 characters, this has {len(text)}")
    return PeerId(text)


def _blob_to_pb(ref: BlobRef) -> pb.BlobRef:
    return pb.BlobRef(sha256=bytes.fromhex(ref.sha256), size_bytes=ref.size_bytes)


def _blob_from_pb(m: pb.BlobRef) -> BlobRef:
    return BlobRef(_digest(m.sha256), m.size_bytes)


def _contribution_to_pb(c: Contribution) -> pb.Contribution:
    return pb.Contribution(
        peer=c.peer,
        tokens=c.tokens,
        loss_nats=c.loss_nats,
        parts=[_blob_to_pb(part) for part in c.parts],
        uplink_mbps=c.uplink_mbps,
        downlink_mbps=c.downlink_mbps,
    )


def _contribution_from_pb(m: pb.Contribution) -> Contribution:
    if len(m.parts) > MAX_PARTS:
        raise BadMessage(f"contribution with {len(m.parts)} parts")
    if m.tokens > MAX_TOKENS:
        raise BadMessage(f"contribution of {m.tokens} tokens; {MAX_TOKENS} are the most")
    if not (0 <= m.uplink_mbps < math.inf and 0 <= m.downlink_mbps < math.inf):
        raise BadMessage(f"contribution over a line of {m.uplink_mbps} Mbit/s up and {m.downlink_mbps} down")
    return Contribution(
        _peer(m.peer), m.tokens, m.loss_nats, tuple(map(_blob_from_pb, m.parts)), m.uplink_mbps, m.downlink_mbps
    )


def _result_to_pb(r: PartResult) -> pb.PartResult:
    return pb.PartResult(part=r.part, average=_blob_to_pb(r.average), contributors=r.contributors)


def _result_from_pb(m: pb.PartResult) -> PartResult:
    if not m.contributors:
        raise BadMessage(f"average of part {m.part} of nobody's contributions")
    if m.part >= MAX_PARTS or len(m.contributors) > MAX_MEMBERS:
        raise BadMessage(f"average of part {m.part} from {len(m.contributors)} contributors")
    return PartResult(m.part, _blob_from_pb(m.average), tuple(map(_peer, m.contributors)))


def _numbered_to_pb(results: Iterable[PartResult], contributions: tuple[Contribution, ...]) -> list[pb.PartResult]:
    """Results in a value, where contributors are numbers, or nothing when all contributions are in it.

    A part is then 42 bytes and more, however many owners there are: names are 52 bytes each, and a certificate with
    thousands of parts must fit into a message. Anybody may send a full one, and it is encoded again before a signature
    of it is checked, so what is the same for all results is looked up once.
    """
    peers = tuple(c.peer for c in contributions)
    number = {peer: i for i, peer in enumerate(peers)}

    def numbered(r: PartResult) -> pb.PartResult:
        if r.contributors == peers and peers:
            return pb.PartResult(part=r.part, average=_blob_to_pb(r.average))
        if all(peer in number for peer in r.contributors):
            numbers = [number[peer] for peer in r.contributors]
            return pb.PartResult(part=r.part, average=_blob_to_pb(r.average), contributor_numbers=numbers)
        return _result_to_pb(r)

    return [numbered(r) for r in results]


def _numbered_from_pb(
    results: Iterable[pb.PartResult], contributions: tuple[Contribution, ...]
) -> tuple[PartResult, ...]:
    peers = tuple(c.peer for c in contributions)

    def named(m: pb.PartResult) -> PartResult:
        if m.contributors:
            return _result_from_pb(m)
        if m.part >= MAX_PARTS or len(m.contributor_numbers) > MAX_MEMBERS:
            raise BadMessage(f"average of part {m.part} from {len(m.contributor_numbers)} contributors")
        contributors = _named(m.contributor_numbers, peers) if m.contributor_numbers else peers
        return PartResult(m.part, _blob_from_pb(m.average), contributors)

    return tuple(map(named, results))


def _numbers(peers: tuple[PeerId, ...], among: tuple[PeerId, ...]) -> list[int]:
    number = {peer: i for i, peer in enumerate(among)}
    return [number[peer] for peer in peers]


def _named(numbers: Iterable[int], among: tuple[PeerId, ...]) -> tuple[PeerId, ...]:
    try:
        return tuple(among[number] for number in numbers)
    except IndexError as error:
        raise BadMessage(f"a peer by a number that none of {len(among)} has") from error


def _ballot_to_pb(b: Ballot) -> pb.Ballot:
    return pb.Ballot(epoch=b.epoch, attempt=b.attempt, members=b.members)


def _ballot_from_pb(m: pb.Ballot) -> Ballot:
    if len(m.members) > MAX_MEMBERS:
        raise BadMessage(f"ballot with {len(m.members)} members")
    return Ballot(m.epoch, m.attempt, tuple(map(_peer, m.members)))


def _certificate_to_pb(c: Certificate) -> pb.Certificate:
    return pb.Certificate(
        value=c.value.encode(),
        ballot=_ballot_to_pb(c.ballot),
        votes=map(_vote_to_pb, c.votes),
    )


def _certificate_from_pb(m: pb.Certificate) -> Certificate:
    if len(m.votes) > MAX_MEMBERS:
        raise BadMessage(f"certificate with {len(m.votes)} votes")
    return Certificate(Value.decode(m.value), _ballot_from_pb(m.ballot), tuple(map(_vote_from_pb, m.votes)))


def _vote_to_pb(v: Vote) -> pb.Vote:
    return pb.Vote(peer=v.peer, signature=v.signature, invite=v.invite)


def _vote_from_pb(m: pb.Vote) -> Vote:
    if len(m.invite) > MAX_INVITE_CHARACTERS:
        raise BadMessage(f"vote with an invitation of {len(m.invite)} characters")
    return Vote(_peer(m.peer), m.signature, m.invite)
