"""The demo kills its victim in the middle of a round, or not at all."""

from p2ptrain.events import Event, PeerStarted, Record, RoundCommitted, RoundStage, RoundVoid
from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version
from p2ptrain.node.demo_strike import (
    Contributed,
    Freeze,
    KillAndReplace,
    OpenRound,
    Resume,
    Strike,
    StrikePhase,
    advance,
)

ONE = SliceId("1")
START = Strike(victim="peer-d", replacement="peer-e", from_version=Version(8))
D, E = PeerId("12D3KooWd"), PeerId("12D3KooWe")


def commit(version: int, *, slice_id: SliceId = ONE, contributors: tuple[PeerId, ...] = (D,)) -> RoundCommitted:
    return RoundCommitted(
        slice=slice_id,
        version=Version(version),
        epoch=1,
        digest=Digest("ab" * 32),
        members=[],
        contributors=list(contributors),
        owners=[D],
        tokens=1,
        seconds=0.1,
    )


def stage(version: int, name: str, *, slice_id: SliceId = ONE) -> RoundStage:
    return RoundStage(slice=slice_id, version=Version(version), attempt=1, stage=name, detail="")


def told(name: str, *happened: Event, at_s: float = 100.0) -> list[tuple[str, Record]]:
    return [(name, Record(sequence=1, time_s=at_s, event=event)) for event in happened]


def armed() -> Strike:
    strike, command = advance(START, told("peer-a", commit(8, slice_id=COMMON)), 100.0)
    assert (strike.phase, command) == (StrikePhase.ARMED, None)
    return strike


def killed(at_s: float = 100.0) -> Strike:
    strike, _ = advance(armed(), told("peer-d", stage(9, "reducing")), at_s)
    strike, command = advance(strike, [], at_s)
    assert isinstance(command, KillAndReplace)
    return strike


def test_victim_lives_until_the_common_part_has_come_far_enough() -> None:
    records = told("peer-a", commit(7, slice_id=COMMON), commit(20)) + told("peer-d", stage(8, "reducing"))
    strike, command = advance(START, records, 100.0)
    assert (strike.phase, command) == (StrikePhase.WAITING, None)


def test_victim_is_frozen_while_reducing_and_killed_if_the_round_is_still_open_then() -> None:
    strike, command = advance(armed(), told("peer-d", stage(9, "gathering"), stage(9, "reducing")), 100.0)
    assert command == Freeze()
    strike, command = advance(strike, [], 101.0)
    assert command == KillAndReplace(round=OpenRound(slice=ONE, version=Version(9), stage="reducing"))
    assert (strike.phase, strike.killed_at_s) == (StrikePhase.KILLED, 101.0)


def test_victim_goes_on_if_its_journal_shows_the_commit_after_the_freeze() -> None:
    for end in (commit(9), RoundVoid(slice=ONE, version=Version(9), attempt=1, reason="x"), stage(9, "voting")):
        strike, command = advance(armed(), told("peer-d", stage(9, "reducing")), 100.0)
        assert command == Freeze()
        strike, command = advance(strike, told("peer-d", end), 100.0)
        assert (command, strike.phase, strike.killed_at_s) == (Resume(), StrikePhase.ARMED, None)
        _, command = advance(strike, told("peer-d", stage(10, "reducing")), 100.0)
        assert command == Freeze()


def test_other_peers_rounds_and_finished_ones_are_no_target() -> None:
    for records in (
        told("peer-c", stage(9, "reducing")),
        told("peer-d", stage(9, "gathering")),
        told("peer-d", stage(9, "reducing"), commit(9)),
    ):
        assert advance(armed(), records, 100.0)[1] is None


def test_numbered_slice_is_preferred_to_the_common_part_but_either_will_do() -> None:
    both = told("peer-d", stage(9, "reducing", slice_id=COMMON), stage(9, "reducing"))
    for records, hit in ((both, ONE), (both[:1], COMMON)):
        strike, _ = advance(armed(), records, 100.0)
        _, command = advance(strike, [], 100.0)
        assert isinstance(command, KillAndReplace)
        assert command.round.slice == hit


def test_later_stages_will_do_when_reducing_is_never_seen() -> None:
    strike = armed()
    assert advance(strike, told("peer-d", stage(30, "voting")), 100.0)[1] is None
    for version in range(9, 15):
        strike, command = advance(strike, told("peer-d", commit(version)), 100.0)
        assert command is None
    assert advance(strike, told("peer-d", stage(30, "gathering")), 100.0)[1] is None
    assert advance(strike, told("peer-d", stage(30, "voting")), 100.0)[1] == Freeze()
    for version in range(15, 21):
        strike, _ = advance(strike, told("peer-d", commit(version)), 100.0)
    assert advance(strike, told("peer-d", stage(30, "gathering")), 100.0)[1] == Freeze()


def test_replacement_counts_from_its_first_contribution_to_a_commit_after_the_kill() -> None:
    strike, _ = advance(killed(at_s=100.0), [], 106.0)
    strike, command = advance(strike, told("peer-a", commit(9, contributors=(E,)), at_s=101.0), 101.0)
    assert command is None, "nobody knows yet who peer-e is"
    strike, _ = advance(strike, told("peer-e", PeerStarted(peer=E, run=RunId("0" * 64), addresses=[])), 102.0)
    strike, command = advance(strike, told("peer-a", commit(10, contributors=(D,)), at_s=103.0), 103.0)
    assert (command, strike.replaced_after_s) == (None, None)
    last = commit(11, contributors=(D, E), slice_id=COMMON)
    strike, command = advance(strike, told("peer-b", last, at_s=112.5), 113.0)
    assert command == Contributed(round=last, after_s=12.5)
    assert (strike.phase, strike.replaced_after_s) == (StrikePhase.REPLACED, 12.5)
    assert advance(strike, told("peer-c", last, at_s=114.0), 114.0)[1] is None


def test_only_later_commits_of_the_slice_that_was_hit_show_that_training_went_on() -> None:
    strike = killed(at_s=100.0)
    records = (
        told("peer-c", commit(9), at_s=99.9)
        + told("peer-c", commit(8), at_s=101.0)
        + told("peer-a", commit(9, slice_id=COMMON), at_s=101.0)
    )
    strike, _ = advance(strike, records, 101.0)
    assert strike.committed_after == frozenset()
    strike, _ = advance(strike, told("peer-c", commit(9), at_s=109.0), 109.0)
    assert strike.committed_after == {9}


def test_nobody_is_killed_twice() -> None:
    strike = killed()
    assert advance(strike, told("peer-d", stage(10, "reducing")), 101.0)[1] is None
