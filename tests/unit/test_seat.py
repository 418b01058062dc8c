"""What a seat says of its peer."""

from types import SimpleNamespace
from typing import Any

import pytest

from p2ptrain.node.seat import Seat


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("TRAINING", "PAUSED: you paused it"),
        ("COMPLETE", "COMPLETE: all 24 rounds are done"),
    ],
)
def test_a_run_that_is_complete_is_not_paused(state: str, sentence: str) -> None:
    seat: Any = SimpleNamespace(
        _vitals=SimpleNamespace(state="", reason=""),
        _peer=SimpleNamespace(swarm=object(), why=lambda: (state, "all 24 rounds are done")),
        _verdict=SimpleNamespace(allowed=False),
        _pause_sentence=lambda: "you paused it",
        _unsettled=None,
    )
    reply = Seat.why(seat)
    assert reply.sentence == sentence
    assert not reply.is_contributing


@pytest.mark.parametrize(("wanted", "is_capped"), [(2, False), (3, True), (1000, True)])
def test_more_threads_than_processors_are_a_problem_that_is_told(
    wanted: int, is_capped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2ptrain.node.seat.most_threads", lambda: 2)
    problems: dict[str, str] = {}
    seat: Any = SimpleNamespace(_limits=SimpleNamespace(threads=wanted), _note_problem=problems.__setitem__)
    Seat._tune_machine(seat, {"threads"})
    assert problems["threads"].startswith(f"threads = {wanted} is more than the 2 processors") == is_capped
    assert bool(problems["threads"]) == is_capped
