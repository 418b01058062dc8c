"""The sentence that says what a peer is doing and why."""

from dataclasses import replace

from p2ptrain.ids import COMMON, PeerId, SliceId, Version
from p2ptrain.swarm.why import Answer, Since, Situation, SliceSituation, explain

A, B, C = PeerId("12D3KooWaaaaaa"), PeerId("12D3KooWbbbbbb"), PeerId("12D3KooWcccccc")


def slice_of(stage: str = "gathering", **changes: object) -> SliceSituation:
    values: dict[str, object] = {
        "slice": SliceId("3"),
        "version": Version(7),
        "stage": stage,
        "members": frozenset([A, B]),
        "living": frozenset([A, B]),
        "holders": frozenset([A, B]),
    }
    return SliceSituation(**{**values, **changes})  # type: ignore[arg-type]


def averaging(*slices: SliceSituation, **changes: str) -> Answer:
    return explain(Situation(state="AVERAGING", reason="slices 3", slices=slices, **changes))


def test_missing_owner_is_named_with_how_many_are_needed_and_since_when() -> None:
    since = Since(clock_text=lambda s: f"{s:.0f}")
    answer = averaging(slice_of(living=frozenset([A])))
    state, sentence = since.told(answer, 100.0)
    assert state == "WAITING"
    wanted = "not averaging: slice 3 has 1 of 2 owners it needs; waiting for 1 more since {} (bbbbbb), or until "
    assert sentence.startswith(wanted.format(100))
    assert since.told(answer, 160.0)[1].startswith(wanted.format(100)), "the same matter goes on"
    other = averaging(slice_of(slice=SliceId("4"), living=frozenset([A])))
    assert "more since 170" in since.told(other, 170.0)[1]


def test_slice_below_the_quorum_says_so_in_every_stage_of_the_round() -> None:
    alone = slice_of(members=frozenset([A]), living=frozenset([A]), holders=frozenset([A]), quorum=2)
    wanted = "not averaging: slice 3 has 1 of 2 owners it needs; waiting for 1 more since 02:14"
    since = Since(clock_text=lambda _: "02:14")
    assert since.told(averaging(alone), 1.0) == ("WAITING", wanted)
    training = explain(Situation(state="TRAINING", reason="round 3 of 9", slices=[replace(alone, is_pending=False)]))
    state, sentence = since.told(training, 61.0)
    assert (state, sentence.partition(";")[0]) == ("TRAINING", wanted.partition(";")[0])
    assert sentence.startswith(wanted)
    enough = replace(alone, holders=frozenset([A, B]), living=frozenset([A, B]), ready=frozenset([A]))
    assert averaging(enough).state == "AVERAGING"
    assert explain(Situation(state="PAUSED", reason="by you", slices=[alone])).state != "TRAINING"


def test_isolation_outranks_the_disk_and_the_disk_a_missing_owner() -> None:
    poor = slice_of(living=frozenset([A]))
    assert averaging(poor, isolation="nobody answers", disk_trouble="full").state == "ISOLATED"
    answer = averaging(poor, disk_trouble="full")
    assert "nothing can be saved" in answer.sentence
    assert "full" in answer.sentence
    assert answer.state == "AVERAGING"


def test_each_stage_says_whom_it_waits_for_and_how_long() -> None:
    gathering = averaging(slice_of(ready=frozenset([A]), deadline_in_s=6.2)).sentence
    assert gathering == "slice 3 v7 waits for the inner steps of bbbbbb, at most 6 s more"
    assert "plan" in averaging(slice_of(ready=frozenset([A, B]))).sentence
    assert "averaged by 2 owners" in averaging(slice_of("reducing")).sentence
    voting = averaging(slice_of("voting", members=frozenset([A, B, C]))).sentence
    assert voting == "slice 3 v7 waits for the votes of 2 of 3 owners"


def test_slices_that_this_peer_does_not_wait_for_are_not_mentioned() -> None:
    settled = slice_of("reducing", slice=COMMON, is_pending=False, living=frozenset([A]))
    assert "common" not in averaging(settled, slice_of("reducing")).sentence


def test_an_order_of_the_authority_is_told_last() -> None:
    since = Since(clock_text=lambda _: "02:14")
    answer = averaging(slice_of("reducing"), order="the authority asks")
    assert since.told(answer, 1.0)[1] == "slice 3 v7 is being averaged by 2 owners (since 02:14); the authority asks"
    both = explain(Situation(state="TRAINING", reason="round 3", order="the authority asks", listing="not listed"))
    assert both.note == "the authority asks; not listed"
    calm = explain(Situation(state="TRAINING", reason="round 3 of 9", order="the authority asks"))
    assert since.told(calm, 1.0)[1] == "round 3 of 9; the authority asks"


def test_peer_that_trains_says_what_it_entered() -> None:
    answer = explain(Situation(state="TRAINING", reason="round 3 of 9", slices=[slice_of("idle", is_pending=False)]))
    assert answer == Answer("TRAINING", "round 3 of 9", "")
    assert Since().told(answer, 1.0) == ("TRAINING", "round 3 of 9")
