"""Messages of strangers: limits before memory is taken, BadMessage and nothing else, names that never change."""

import random
from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError

from p2ptrain.errors import BadMessage
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.wire.messages import (
    MAX_MEMBERS,
    MAX_PARTS,
    MAX_TOKENS,
    Accepted,
    Ballot,
    BlobRef,
    Certificate,
    Committed,
    Contribution,
    PartResult,
    Plan,
    Propose,
    Ready,
    RoundBody,
    RoundMessage,
    Value,
    Vote,
)
from p2ptrain.wire.v1 import peer_pb2 as pb

A, B = PeerId("a"), PeerId("b")
BLOB = BlobRef(Digest("11" * 32), 7)
CROWD = tuple(PeerId(f"peer{i}") for i in range(MAX_MEMBERS + 1))
BALLOT = Ballot(1, 2, (A, B))
VALUE = Value(
    run=RunId("run"),
    slice=SliceId("0"),
    version=Version(3),
    previous=Digest("22" * 32),
    digest=Digest("33" * 32),
    published_digest=Digest("44" * 32),
    update=BLOB,
    results=(PartResult(0, BLOB, (A, B)),),
    contributions=(Contribution(A, 30, 2.0), Contribution(B, 10, 4.0)),
    owners=(A, B),
    tokens=123,
    weight=456,
)
CERTIFICATE = Certificate(VALUE, BALLOT, (Vote(A, b"x"), Vote(B, b"y")))


def message(body: RoundBody, ballot: Ballot = BALLOT) -> RoundMessage:
    return RoundMessage(RunId("run"), SliceId("0"), Version(3), ballot, body)


def test_a_value_keeps_its_name_from_release_to_release() -> None:
    assert VALUE.value_hash == "af02ea20696b390245a6404dddf888499f0f0b11316585242b63bc099da6bdc2"


def test_the_loss_of_a_round_is_weighted_by_tokens() -> None:
    assert VALUE.loss_nats == 2.5


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (Ready(Contribution(A, MAX_TOKENS + 1, 1.0), None), "tokens"),
        (Ready(Contribution(A, 1, 1.0, (BLOB,) * (MAX_PARTS + 1)), None), "parts"),
        (Ready(Contribution(A, 1, 1.0, (), 1.0, float("nan")), None), "nan down"),
        (Ready(Contribution(A, 1, 1.0, (), -1.0), None), "-1.0 Mbit/s up"),
        (Ready(None, Accepted(Ballot(1, 0, CROWD), VALUE)), "members"),
        (Plan(0, (), (A,) * (MAX_PARTS + 1)), "parts"),
        (Plan(0, (Contribution(A, 1, 1.0),) * (MAX_MEMBERS + 1), (A,)), "contributions"),
        (PartResult(MAX_PARTS, BLOB, (A,)), "part"),
        (PartResult(0, BLOB, CROWD), "contributors"),
        (Propose(replace(VALUE, owners=())), "0 owners"),
        (Propose(replace(VALUE, owners=CROWD)), "owners"),
        (Propose(replace(VALUE, version=Version(0))), "version 0"),
        (Propose(replace(VALUE, contributions=(Contribution(A, 1, 1.0),) * (MAX_MEMBERS + 1))), "contributions"),
        (Propose(replace(VALUE, digest=Digest("33"))), "32 bytes, this has 1"),
        (Committed(replace(CERTIFICATE, votes=(Vote(A, b""),) * (MAX_MEMBERS + 1))), "votes"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_with_the_reason(body: RoundBody, problem: str) -> None:
    with pytest.raises(BadMessage, match=problem):
        RoundMessage.from_pb(message(body).to_pb())


def test_a_ballot_of_too_many_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(BadMessage, match="1025 members"):
        RoundMessage.from_pb(message(Ready(None, None), Ballot(0, 0, CROWD)).to_pb())
    with pytest.raises(BadMessage, match="kind"):
        RoundMessage.from_pb(pb.RoundMessage(run="run", slice="0", version=3))


def owners(count: int) -> tuple[PeerId, ...]:
    return tuple(PeerId(f"12D3KooW{number:044}") for number in range(count))


def test_a_certificate_of_sixteen_owners_and_thirty_thousand_parts_fits_into_a_call() -> None:
    names = owners(16)
    refs = tuple(BlobRef(Digest(f"{part:064x}"), 266_240) for part in range(30_000))
    results = [PartResult(part, ref, names) for part, ref in enumerate(refs)]
    results[7] = replace(results[7], contributors=names[1:3])  # the others were late for this part
    value = replace(
        VALUE, results=tuple(results), contributions=tuple(Contribution(n, 1, 1.0) for n in names), owners=names
    )
    ballot = Ballot(1, 0, names)
    sent = message(Committed(Certificate(value, ballot, tuple(Vote(n, bytes(64)) for n in names))), ballot).to_pb()
    assert sent.ByteSize() < 2 * 1024 * 1024
    assert RoundMessage.from_pb(sent).body.certificate.value == value  # type: ignore[union-attr]


def test_a_plan_of_eight_owners_and_ten_thousand_parts_fits_into_a_call() -> None:
    names = owners(8)
    refs = tuple(BlobRef(Digest(f"{part:064x}"), 266_240) for part in range(10_000))
    plan = Plan(0, tuple(Contribution(n, 1, 1.0, refs) for n in names), names * 1250)
    sent = message(plan, Ballot(1, 0, names)).to_pb()
    assert sent.ByteSize() < 4 * 1024 * 1024
    assert RoundMessage.from_pb(sent).body == plan


def test_a_number_that_no_peer_has_and_an_average_of_nobody_are_refused() -> None:
    plan = message(Plan(0, (), (A, B))).to_pb()
    plan.plan.reducers[1] = 2
    with pytest.raises(BadMessage, match="none of 2"):
        RoundMessage.from_pb(plan)
    with pytest.raises(BadMessage, match="nobody"):
        RoundMessage.from_pb(message(PartResult(0, BLOB, ())).to_pb())
    value = pb.Value.FromString(VALUE.encode())
    value.results[0].contributor_numbers.append(2)
    with pytest.raises(BadMessage, match="none of 2"):
        Value.decode(value.SerializeToString())


def test_what_a_cut_off_goes_into_beside_the_slice_is_told() -> None:
    sent = message(Ready(None, None, beside=Version(7)))
    assert RoundMessage.from_pb(sent.to_pb()).body == sent.body


def test_a_line_is_announced_in_both_directions() -> None:
    sent = message(Ready(Contribution(A, 1, 1.0, (BLOB,), 20.0, 50.0), None))
    assert RoundMessage.from_pb(sent.to_pb()).body == sent.body


def test_truncated_or_damaged_bytes_are_a_bad_message_and_nothing_else() -> None:
    chance = random.Random(1)
    for body in (
        Ready(Contribution(A, 1, 1.0, (BLOB,)), Accepted(BALLOT, VALUE)),
        Propose(VALUE),
        Committed(CERTIFICATE),
    ):
        sent = message(body).to_pb().SerializeToString()
        damaged = [sent[:stop] for stop in range(len(sent))]
        for _ in range(500):
            other = bytearray(sent)
            other[chance.randrange(len(other))] = chance.randrange(256)
            damaged.append(bytes(other))
        refused = 0
        for data in damaged:
            try:
                RoundMessage.from_pb(pb.RoundMessage.FromString(data))
            except (DecodeError, BadMessage):  # protobuf's own error is the node's to handle
                refused += 1
        assert refused > len(damaged) / 4
