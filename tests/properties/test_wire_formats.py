"""Encodings: within their stated error, the same bits everywhere, and nothing but BadMessage for garbage."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import BadMessage, NonFiniteUpdate
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.swarm.reduce import part_bounds, weighted_mean
from p2ptrain.wire.codec import INT4_BLOCK, INT8_BLOCK, bf16_to_float32, decode, encode, encoded_bytes, round_to_bf16
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
    RoundMessage,
    Value,
    Vote,
)
from p2ptrain.wire.v1 import peer_pb2 as pb

vectors = st.tuples(st.integers(1, 700), st.integers(0, 2**32 - 1), st.sampled_from([1e-42, 1e-30, 1e-3, 1.0, 1e30]))


def vector(numel: int, seed: int, scale: float) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(numel).astype(np.float32) * np.float32(scale)
    values[::7] = 0
    return values


@given(vectors)
def test_int8_is_within_half_a_step_of_its_block(shape: tuple[int, int, float]) -> None:
    values = vector(*shape)
    data = encode("int8", values)
    assert len(data) == encoded_bytes("int8", values.size)
    back = decode("int8", data, values.size)
    for start in range(0, values.size, INT8_BLOCK):
        block, decoded = values[start : start + INT8_BLOCK], back[start : start + INT8_BLOCK]
        step = np.abs(block).max() / 127
        assert np.abs(block - decoded).max() <= step * 0.50001 or np.abs(block).max() < 2.0**-118
    assert encode("int8", back) == encode("int8", decode("int8", encode("int8", back), values.size))


@given(vectors)
def test_int4_is_within_half_a_step_of_its_block_or_a_step_where_it_clips(shape: tuple[int, int, float]) -> None:
    values = vector(*shape)
    data = encode("int4", values)
    assert len(data) == encoded_bytes("int4", values.size)
    back = decode("int4", data, values.size)
    for start in range(0, values.size, INT4_BLOCK):
        block, decoded = values[start : start + INT4_BLOCK], back[start : start + INT4_BLOCK]
        peak = block[np.abs(block).argmax()]
        step = np.abs(peak) / 8
        clipped = (np.sign(block) == -np.sign(peak)) & (np.abs(block) > 7.4 * step)
        error = np.where(clipped, np.abs(block - decoded) / 2, np.abs(block - decoded))
        # bf16 holds the scale to one part in 512, which the peak's eight steps feel.
        assert error.max() <= step * (0.5 + 8 / 512 + 1e-5) or np.abs(peak) < 2.0**-118


def test_int8_has_these_very_bytes() -> None:
    values = np.array([0.0, 1.0, -0.5, 127.0, -127.0, 2.5, 3.5], np.float32)
    # One scale, 1.0 as little-endian float32; ties go to the even number: -0.5 to 0, 2.5 to 2, 3.5 to 4.
    assert encode("int8", values).hex() == "0000803f" + "00" + "01" + "00" + "7f" + "81" + "02" + "04"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(bad: float) -> None:
    for codec in ("int8", "int4", "float32"):
        with pytest.raises(NonFiniteUpdate, match="1 of 3"):
            encode(codec, np.array([1.0, bad, 2.0], np.float32))


def test_other_lengths_and_values_that_are_not_finite_are_refused() -> None:
    data = bytes(encode("int8", np.ones(300, np.float32)))
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(BadMessage, match="are 308 bytes"):
            decode("int8", wrong, 300)
    infinite = np.array([np.inf, 1.0], np.float32).tobytes()
    with pytest.raises(BadMessage, match="NaN or infinite"):
        decode("float32", infinite, 2)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bf16_rounds_like_torch(patterns: list[int]) -> None:
    values = np.array(patterns, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    bits = round_to_bf16(values)
    assert (bits == expected.view(torch.uint16).numpy()).all()
    assert (bf16_to_float32(bits) == expected.float().numpy()).all()


@given(st.permutations(range(5)), st.lists(st.integers(1, 10**6), min_size=5, max_size=5), st.integers(0, 2**32 - 1))
def test_average_does_not_depend_on_who_came_first(order: list[int], tokens: list[int], seed: int) -> None:
    parts = {PeerId(f"peer{i}"): (tokens[i], vector(100, seed + i, 1.0)) for i in range(5)}
    shuffled = {peer: parts[peer] for peer in (list(parts)[i] for i in order)}
    assert weighted_mean(parts).tobytes() == weighted_mean(shuffled).tobytes()
    exact = sum(t * v.astype(np.float64) for t, v in parts.values()) / sum(tokens)
    assert np.allclose(weighted_mean(parts), exact, atol=1e-6)


@given(st.integers(1, 3000), st.integers(1, 400))
def test_parts_cover_a_slice_once(numel: int, part_elements: int) -> None:
    bounds = part_bounds(numel, part_elements)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == numel
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(bounds))


@pytest.mark.parametrize(
    ("numel", "largest", "expected"),
    [
        (1000, 1 << 20, [1000]),
        (100_000, 1 << 20, [65536, 34464]),
        (1_500_000, 1 << 20, [94208] * 15 + [86880]),
        (100_000, 40_000, [40_000, 40_000, 20_000]),
        (40 << 20, 1 << 20, [1 << 20] * 40),
    ],
)
def test_slices_have_sixteen_parts_or_more_unless_those_were_tiny(
    numel: int, largest: int, expected: list[int]
) -> None:
    assert [stop - start for start, stop in part_bounds(numel, largest)] == expected


peers = st.text("abcXYZ123", min_size=1, max_size=8).map(PeerId)
hashes = st.binary(min_size=32, max_size=32).map(lambda raw: Digest(raw.hex()))
blobs = st.builds(BlobRef, hashes, st.integers(0, 2**40))
peer_lists = st.lists(peers, min_size=1, max_size=4).map(tuple)
contributions = st.builds(
    Contribution,
    peers,
    st.integers(0, 2**40),
    st.floats(0, 10),
    st.lists(blobs, max_size=3).map(tuple),
    st.floats(0, 1e6),
)
results = st.builds(PartResult, st.integers(0, 100), blobs, peer_lists)
ballots = st.builds(Ballot, st.integers(0, 99), st.integers(0, 99), peer_lists)
values = st.builds(
    Value,
    run=st.just(RunId("ab" * 32)),
    slice=st.just(SliceId("0")),
    version=st.integers(1, 99).map(Version),
    previous=st.none() | hashes,
    digest=hashes,
    published_digest=hashes,
    update=blobs,
    results=st.lists(results, max_size=3).map(tuple),
    contributions=st.lists(contributions, max_size=3).map(tuple),
    owners=peer_lists,
    tokens=st.integers(0, 2**40),
    weight=st.integers(0, 2**50),
)
votes = st.builds(Vote, peers, st.binary(max_size=64))
certificates = st.builds(Certificate, values, ballots, st.lists(votes, max_size=3).map(tuple))
bodies = st.one_of(
    st.builds(Ready, st.none() | contributions, st.none() | st.builds(Accepted, ballots, values)),
    st.builds(Offer, st.none() | contributions, st.none() | hashes),
    st.builds(Plan, st.integers(0, 9), st.lists(contributions, max_size=3).map(tuple), peer_lists),
    results,
    st.builds(Propose, values),
    st.builds(CastVote, hashes, votes),
    st.builds(Committed, certificates),
)
messages = st.builds(
    RoundMessage, st.just(RunId("ab" * 32)), st.just(SliceId("0")), st.integers(0, 99).map(Version), ballots, bodies
).map(lambda m: replace(m, body=replace(m.body, reducers=m.ballot.members)) if isinstance(m.body, Plan) else m)


@given(messages)
def test_every_message_comes_back_as_it_was_sent(message: RoundMessage) -> None:
    sent = message.to_pb().SerializeToString()
    assert RoundMessage.from_pb(pb.RoundMessage.FromString(sent)) == message


@given(certificates)
def test_certificate_comes_back_and_its_value_keeps_its_name(certificate: Certificate) -> None:
    back = Certificate.decode(certificate.encode())
    assert back == certificate
    assert back.value.value_hash == certificate.value.value_hash


@given(certificates, st.integers(0, 10**6), st.integers(0, 255))
def test_damaged_certificate_is_a_bad_message_or_another_certificate(
    certificate: Certificate, where: int, byte: int
) -> None:
    data = bytearray(certificate.encode())
    data[where % len(data)] ^= byte
    try:
        damaged = Certificate.decode(bytes(data))
    except BadMessage:
        return
    assert byte == 0 or damaged != certificate or damaged.encode() == certificate.encode()


@given(st.binary(max_size=200))
def test_random_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(BadMessage):
        Certificate.decode(data)


def test_ballot_comes_back_from_disk() -> None:
    ballot = Ballot(3, 4, (PeerId("a"), PeerId("b")))
    assert Ballot.decode(ballot.encode()) == ballot
    with pytest.raises(BadMessage):
        Ballot.decode(b"\xff\xff")
