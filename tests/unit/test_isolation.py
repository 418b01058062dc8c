"""When a peer knows that nobody sees it, in fake time."""

import pytest

from p2ptrain.swarm.isolation import PROBE_EVERY_S, Evidence, judged, pause_s, probed

CUT_S = 100.0
"""When the network goes, in the stories below."""


def story(
    until_s: float, *, answers: bool, sees_us: bool | None, heard_s: float = 0.0, addresses: int = 3
) -> float | None:
    """Probes all is well with until the cut, and then these outcomes; returns when it was first called isolated."""
    evidence, now_s = Evidence(looked_s=0.0, contact_s=0.0), 0.0
    while now_s < until_s:
        fine = now_s < CUT_S
        answered = fine or answers
        # An answer takes no time, its absence the call's deadline.
        now_s += 0.0 if answered else 4.0
        evidence = probed(evidence, answers=int(answered), sees_us=True if fine else sees_us, now_s=now_s)
        heard = now_s if fine else heard_s
        evidence, verdict = judged(evidence, heard_s=heard, num_addresses=addresses, now_s=now_s)
        if verdict.is_isolated:
            assert "Training goes on" in verdict.reason
            return now_s
        now_s += pause_s(evidence, chance=0.0)
    return None


def test_silence_is_known_within_thirty_seconds() -> None:
    found_s = story(200, answers=False, sees_us=None)
    assert found_s is not None
    assert CUT_S + 10 < found_s < CUT_S + 30


def test_missing_claim_is_known_within_thirty_seconds_although_others_answer() -> None:
    found_s = story(200, answers=True, sees_us=False)
    assert found_s is not None
    assert CUT_S + 10 < found_s <= CUT_S + 30


def test_whoever_is_called_from_outside_is_not_isolated() -> None:
    assert story(200, answers=False, sees_us=None, heard_s=195.0) is None


def test_bootstrap_alone_is_company_enough() -> None:
    assert story(300, answers=True, sees_us=None) is None


def test_first_peer_of_a_run_has_nobody_to_be_cut_off_from() -> None:
    assert story(300, answers=False, sees_us=None, addresses=0) is None


def test_one_who_sees_us_outweighs_those_who_do_not() -> None:
    evidence = Evidence(looked_s=0.0, contact_s=0.0, unseen_since_s=0.0)
    evidence = probed(evidence, answers=3, sees_us=True, now_s=30.0)
    assert evidence.unseen_since_s is None


def test_peer_that_slept_gives_the_others_time_to_answer_before_it_complains() -> None:
    evidence = Evidence(looked_s=0.0, contact_s=0.0, unseen_since_s=0.0)
    evidence, verdict = judged(evidence, heard_s=0.0, num_addresses=1, now_s=3600.0)
    assert not verdict.is_isolated
    evidence = probed(evidence, answers=0, sees_us=None, now_s=3608.0)
    assert not judged(evidence, heard_s=0.0, num_addresses=1, now_s=3608.0)[1].is_isolated
    evidence, _ = judged(evidence, heard_s=0.0, num_addresses=1, now_s=3612.0)
    assert judged(evidence, heard_s=0.0, num_addresses=1, now_s=3616.0)[1].is_isolated


@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_pauses_grow_while_nobody_answers_and_leave_room_to_be_back_in_thirty_seconds(chance: float) -> None:
    evidence = Evidence(looked_s=0.0, contact_s=0.0)
    assert pause_s(evidence, chance) == PROBE_EVERY_S
    pauses = []
    for _ in range(60):
        evidence = probed(evidence, answers=0, sees_us=None, now_s=0.0)
        pauses.append(pause_s(evidence, chance))
    assert pauses == sorted(pauses)
    assert 1.0 < pauses[0] <= 2.0
    assert 8.0 <= pauses[-1] <= 12.0
    evidence = probed(evidence, answers=1, sees_us=None, now_s=1.0)
    assert pause_s(evidence, chance) == PROBE_EVERY_S
