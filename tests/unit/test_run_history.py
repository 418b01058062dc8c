"""What a bootstrap node remembers of its run."""

import json

from p2ptrain.ids import PeerId
from p2ptrain.node.run_history import FORGET_AFTER_S, MAX_INCIDENTS, MAX_PEERS, MAX_POINTS, STALLED_AFTER_S, RunHistory
from tests.support.reports import peer, report

A, B = PeerId("peer-a"), PeerId("peer-b")


def said(history: RunHistory) -> list[str]:
    return [incident.text for incident in history.incidents]


def test_a_run_that_has_not_begun_is_no_incident() -> None:
    history = RunHistory()
    history.observe(report(0), 0.0)
    assert said(history) == []


def test_a_slice_that_loses_its_last_owner_is_an_alarm_until_somebody_owns_it() -> None:
    history = RunHistory()
    history.observe(report(1, peer(A, "0")), 0.0)
    history.observe(report(1, peer(A), silent=(B,)), 5.0)
    assert [(i.severity, i.text) for i in history.incidents] == [("alarm", "slice 0 has no owner")]
    history.observe(report(1, peer(A), silent=(B,)), 10.0)
    assert len(said(history)) == 1, "said once"
    history.observe(report(2, peer(A, "0")), 15.0)
    assert said(history)[-1] == "slice 0 is owned again"


def test_a_slice_below_the_quorum_is_an_alarm_until_it_has_enough_owners() -> None:
    history = RunHistory(quorum=2)
    history.observe(report(1, peer(A, "0"), peer(B, "0")), 0.0)
    history.observe(report(1, peer(A, "0")), 5.0)
    alarms = [i.text for i in history.incidents if i.severity == "alarm"]
    assert "slice 0 has 1 of 2 owners that it needs: nothing is committed" in alarms
    history.observe(report(2, peer(A, "0"), peer(B, "0")), 10.0)
    assert "slice 0 has the owners that it needs, or none" in said(history)


def test_peers_that_come_and_go_are_named() -> None:
    history = RunHistory()
    history.observe(report(1, peer(A, "0")), 0.0)
    history.observe(report(2, peer(A, "0"), peer(B, "0")), 5.0)
    history.observe(report(3, peer(A, "0")), 10.0)
    assert said(history) == ["peer-b joined with slices common, 0", "peer-b left; it owned slices common, 0"]


def test_a_silent_peer_stays_listed_until_it_is_given_up() -> None:
    history = RunHistory()
    history.observe(report(1, peer(A, "0"), peer(B, "0")), 0.0)
    history.observe(report(2, peer(A, "0"), silent=(B,)), 60.0)
    listed = {p["peer"]: p["answered_s_ago"] for p in history.to_json(60.0)["peers"]}
    assert listed == {A: 0.0, B: 60.0}
    history.observe(report(3, peer(A, "0"), silent=(B,)), FORGET_AFTER_S + 1)
    assert [p["peer"] for p in history.to_json(999.0)["peers"]] == [A]


def test_a_slice_that_does_not_move_is_stalled_until_it_commits() -> None:
    history = RunHistory()
    history.observe(report(4, peer(A, "0")), 0.0)
    history.observe(report(4, peer(A, "0")), STALLED_AFTER_S + 1)
    assert history.to_json(400.0)["slices"][1]["is_stalled"]
    assert said(history)[-1] == "slice 0 has not committed for 5 minutes"
    history.observe(report(5, peer(A, "0")), STALLED_AFTER_S + 6)
    assert said(history)[-1] == "slice 0 commits again"


def test_owners_with_different_bits_are_an_alarm() -> None:
    history = RunHistory()
    history.observe(report(4, peer(A, "0"), digests="xy"), 0.0)
    assert {i.severity for i in history.incidents} == {"alarm"}
    assert "different bits" in said(history)[0]


def test_a_slice_whose_owners_are_silent_keeps_the_version_that_was_seen() -> None:
    history = RunHistory()
    history.observe(report(7, peer(A, "0")), 0.0)
    history.observe(report(0, silent=(A,)), 5.0)
    assert history.to_json(5.0)["slices"][0]["version"] == 7


def test_the_curve_of_a_long_run_is_thinned_and_keeps_both_ends() -> None:
    history = RunHistory()
    for version in range(1, 3 * MAX_POINTS):
        history.observe(report(version, peer(A, "0"), loss=1 / version), float(version))
    assert MAX_POINTS / 2 <= len(history.loss) <= MAX_POINTS
    assert (history.loss[0].version, history.loss[-1].version) == (1, 3 * MAX_POINTS - 1)


def test_a_flood_of_identities_does_not_grow_the_node() -> None:
    history = RunHistory()
    for start in range(0, 3 * MAX_PEERS, 500):
        crowd = [peer(PeerId(f"{number}")) for number in range(start, start + 500)]
        # All within a moment, and their claims still stand: none of them is old enough to be forgotten.
        now_s = 1.0 + start / MAX_PEERS
        history.observe(report(1, *crowd, silent=tuple(PeerId(str(n)) for n in range(start))), now_s)
    assert now_s < FORGET_AFTER_S
    state = history.to_json(0.0)
    assert len(state["peers"]) <= MAX_PEERS
    assert len(state["incidents"]) <= MAX_INCIDENTS


def test_curve_and_incidents_survive_a_restart() -> None:
    history = RunHistory()
    history.observe(report(1, peer(A, "0")), 1.0)
    history.observe(report(2, peer(A)), 2.0)
    saved = json.loads(json.dumps(history.to_json(2.0)))
    after = RunHistory()
    after.remember(saved)
    assert after.loss == history.loss
    assert list(after.incidents) == list(history.incidents)
