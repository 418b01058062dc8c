"""Fault injection: off unless a test asks for it twice, and at the stage that it names."""

import pytest

from p2ptrain.errors import UsageError
from p2ptrain.events import Record, RoundStage
from p2ptrain.ids import SliceId, Version
from p2ptrain.node import fail_at
from p2ptrain.node.fail_at import FailAt, fault_from_environment


def test_without_the_variable_nothing_is_injected() -> None:
    assert fault_from_environment({"P2PTRAIN_TEST": "1"}) is None


def test_a_fault_outside_a_test_is_refused() -> None:
    with pytest.raises(UsageError, match="would break itself"):
        fault_from_environment({"P2PTRAIN_FAIL_AT": "voting:1:kill"})


@pytest.mark.parametrize(
    "text", ["voting", "voting:0:kill", "lunch:1:kill", "voting:1:stop", "voting:1:kill=3", "a:b:c"]
)
def test_what_is_no_fault_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="STAGE:N:kill"):
        FailAt.parse(text)


def test_it_strikes_once_at_the_nth_beginning_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    struck: list[FailAt] = []
    monkeypatch.setattr(fail_at, "_strike", struck.append)
    sink = fault_from_environment({"P2PTRAIN_FAIL_AT": "reducing:2:stop=3", "P2PTRAIN_TEST": "1"})
    assert sink is not None
    for number, stage in enumerate(["gathering", "reducing", "voting", "gathering", "reducing", "reducing"], 1):
        event = RoundStage(slice=SliceId("0"), version=Version(1), attempt=0, stage=stage, detail="")
        sink(Record(sequence=number, time_s=0.0, event=event))
        assert len(struck) == (number >= 5)
    assert struck == [FailAt(stage="reducing", nth=2, stopped_s=3.0)]
