"""Whatever arrives is refused or a legal step, and never held beyond a bound; see tests/support/hostile_messages.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import BadMessage
from p2ptrain.ids import PeerId
from p2ptrain.swarm.plausible import check_plausible
from p2ptrain.wire.messages import Ballot, Contribution, PartResult, Plan, RoundMessage
from tests.properties.test_wire_formats import messages
from tests.support.hostile_messages import RUN, SLICE, Victim, attack
from tests.unit.test_messages import BLOB, message

A, B = PeerId("a"), PeerId("b")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_member_that_sends_anything_at_any_time_neither_stops_nor_fills_an_owner(seed: int) -> None:
    victim = attack(2500, seed)
    assert victim.refused["BadMessage"] > 300
    assert victim.commands["Promise"] > 3, "its rounds went on"


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["a", "abc", "X"]), messages | st.binary(max_size=200)), max_size=10))
def test_any_sequence_of_messages_is_survived(heard: list[tuple[str, RoundMessage | bytes]]) -> None:
    victim = Victim(A, (A, PeerId("abc")))
    for sender, sent in heard:
        if isinstance(sent, RoundMessage):
            sent = RoundMessage(RUN, SLICE, sent.version, sent.ballot, sent.body).to_pb().SerializeToString()
        victim.hears(PeerId(sender), sent)
        victim.now_s += 1.0


def test_parts_and_names_that_the_slice_does_not_have_are_refused() -> None:
    two = (BLOB, BLOB)
    check_plausible(message(PartResult(1, BLOB, (A, B, PeerId("guest")))), 2, max_owners=3)
    for body in (
        PartResult(2, BLOB, (A,)),
        PartResult(0, BLOB, (A, B, PeerId("guest"), PeerId("one too many"))),
        PartResult(0, BLOB, (A, A, A)),
        Plan(0, (), (A, A, B)),
        Plan(0, (Contribution(A, 1, 1.0, (BLOB,)),), (A, B)),
        Plan(0, tuple(Contribution(PeerId(name), 1, 1.0, two) for name in "abcd"), (A, B)),
        Plan(0, (Contribution(A, 1, 1.0, two),) * 2, (A, B)),
    ):
        with pytest.raises(BadMessage):
            check_plausible(message(body, Ballot(1, 2, (A, B))), 2, max_owners=3)
