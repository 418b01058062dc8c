"""The view that journals add up to."""

from collections.abc import Iterable

from p2ptrain.dashboard.projection import Place, SwarmView, add_note, fold, with_fate
from p2ptrain.events import (
    BranchLost,
    Evaluated,
    Event,
    InnerStepDone,
    PeerLost,
    PeerStarted,
    PeerStopped,
    Record,
    RoundCommitted,
    RoundStage,
    RoundVoid,
    SlicesClaimed,
    StateChanged,
    Traffic,
)
from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version

RUN = RunId("3f2a91bc" * 8)
IDS = {name: PeerId(f"12D3KooWxxxxxxxx{name[-1] * 6}") for name in ("peer-a", "peer-b", "peer-c", "peer-d")}
ONE = SliceId("1")


def journal(*told: tuple[str, Event], start: SwarmView | None = None) -> SwarmView:
    """The view after these events, each a second after the one before."""
    view = start if start is not None else SwarmView()
    for i, (name, event) in enumerate(told):
        sequence = view.peers[name].last_sequence + 1 if name in view.peers else 1
        view = fold(view, name, Record(sequence=sequence, time_s=1000.0 + i, event=event))
    return view


def started(*names: str) -> SwarmView:
    return journal(
        *(
            (name, PeerStarted(peer=IDS[name], run=RUN, addresses=[f"/ip4/127.0.0.1/tcp/1/p2p/{IDS[name]}"]))
            for name in names
        )
    )


def commit(
    version: int,
    owners: Iterable[str],
    *,
    digest: str = "ab",
    epoch: int = 1,
    members: Iterable[str] = (),
    slice_id: SliceId = ONE,
) -> RoundCommitted:
    peers = [IDS[name] for name in owners]
    return RoundCommitted(
        slice=slice_id,
        version=Version(version),
        epoch=epoch,
        digest=Digest(digest * 32),
        members=[IDS[name] for name in members],
        contributors=peers,
        owners=peers,
        tokens=100,
        seconds=0.5,
    )


def texts(view: SwarmView) -> list[str]:
    return [note.text for note in view.notes]


def test_peer_is_shown_as_its_own_journal_tells() -> None:
    view = journal(
        ("peer-a", SlicesClaimed(slices=[ONE, COMMON], reason="asked for")),
        ("peer-a", StateChanged(state="TRAINING", reason="round 3")),
        ("peer-a", InnerStepDone(round=Version(3), inner_step=7, loss_nats=2.5, tokens=1000, seconds=0.5)),
        ("peer-a", Traffic(sent_bytes=10, received_bytes=20, sending="slice 1 v4")),
        ("peer-a", RoundStage(slice=ONE, version=Version(4), attempt=1, stage="reducing", detail="2 of 4 parts")),
        start=started("peer-a"),
    )
    peer = view.peers["peer-a"]
    assert (view.run, peer.peer, peer.slices, peer.state, peer.reason) == (
        RUN,
        IDS["peer-a"],
        (COMMON, ONE),
        "TRAINING",
        "round 3",
    )
    assert (peer.round, peer.inner_step, peer.train_loss_nats, peer.tokens_per_s) == (3, 7, 2.5, 2000)
    assert (peer.sent_bytes, peer.received_bytes, peer.sending) == (10, 20, "slice 1 v4")
    assert (peer.stages[ONE].version, peer.stages[ONE].stage) == (4, "reducing")


def test_a_round_is_no_longer_in_a_stage_once_it_committed_or_is_void() -> None:
    stage = RoundStage(slice=ONE, version=Version(1), attempt=1, stage="voting", detail="")
    void = RoundVoid(slice=ONE, version=Version(1), attempt=1, reason="no majority")
    for end in (commit(1, ["peer-a"]), void):
        view = journal(("peer-a", stage), ("peer-a", end), start=started("peer-a"))
        assert view.peers["peer-a"].stages[ONE].stage == ""


def test_what_is_not_measured_is_none_not_zero() -> None:
    peer = started("peer-a").peers["peer-a"]
    assert (peer.sent_bytes, peer.train_loss_nats, peer.tokens_per_s, peer.round) == (None, None, None, None)


def test_speed_follows_a_machine_that_slows_down_but_not_one_odd_step() -> None:
    def step(seconds: float) -> tuple[str, Event]:
        return "peer-a", InnerStepDone(round=Version(0), inner_step=0, loss_nats=1.0, tokens=1000, seconds=seconds)

    steady = journal(*[step(1.0)] * 10)
    odd = journal(step(10.0), start=steady).peers["peer-a"].tokens_per_s
    slow = journal(*[step(10.0)] * 20, start=steady).peers["peer-a"].tokens_per_s
    assert odd is not None
    assert slow is not None
    assert odd > 800
    assert slow < 120


def test_slice_counts_each_round_once_however_many_owners_report_it() -> None:
    owners = ["peer-a", "peer-b"]
    view = started(*owners)
    for version in (1, 2, 3):
        view = journal(*((name, commit(version, owners, digest=f"{version:02}")) for name in owners), start=view)
    void = RoundVoid(slice=ONE, version=Version(4), attempt=1, reason="no majority")
    view = journal(("peer-a", void), ("peer-b", void), start=view)
    one = view.slices[ONE]
    assert (one.version, len(one.committed), len(one.void), one.tokens) == (3, 3, 1, 300)
    assert one.agreeing == one.owners == (IDS["peer-a"], IDS["peer-b"])
    assert sum("v3 committed" in text for text in texts(view)) == 1
    assert sum("void" in text for text in texts(view)) == 1


def test_owner_that_lags_behind_does_not_agree_yet_but_is_no_conflict() -> None:
    owners = ["peer-a", "peer-b"]
    view = journal(
        ("peer-a", commit(1, owners)),
        ("peer-b", commit(1, owners)),
        ("peer-a", commit(2, owners, digest="cd")),
        start=started(*owners),
    )
    assert view.slices[ONE].agreeing == (IDS["peer-a"],)
    view = journal(("peer-b", commit(2, owners, digest="cd")), start=view)
    assert view.slices[ONE].agreeing == (IDS["peer-a"], IDS["peer-b"])
    assert view.slices[ONE].conflicts == ()


def test_two_digests_of_one_version_are_a_conflict_that_stays() -> None:
    owners = ["peer-a", "peer-b"]
    view = journal(
        ("peer-a", commit(1, owners, digest="ab")), ("peer-b", commit(1, owners, digest="ff")), start=started(*owners)
    )
    assert view.slices[ONE].conflicts == (Place(1, Version(1)),)
    assert view.slices[ONE].agreeing == (IDS["peer-a"],)
    trouble = [note for note in view.notes if note.kind == "trouble"]
    assert [note.text for note in trouble] == ["slice 1 v1 has another digest than on the other owners"]
    both = [(name, commit(2, owners, digest="cd")) for name in owners]
    assert journal(*both, start=view).slices[ONE].conflicts == (Place(1, Version(1)),)


def test_rival_branches_in_different_epochs_are_no_conflict_and_the_later_epoch_is_shown() -> None:
    view = journal(
        ("peer-a", commit(5, ["peer-a"], digest="ab", epoch=1)),
        ("peer-b", commit(5, ["peer-b"], digest="cd", epoch=2)),
        start=started("peer-a", "peer-b"),
    )
    assert view.slices[ONE].conflicts == ()
    assert (view.slices[ONE].epoch, view.slices[ONE].owners) == (2, (IDS["peer-b"],))


def test_two_sides_of_a_cut_may_decide_differently_in_epochs_of_one_number() -> None:
    view = journal(
        ("peer-a", commit(5, ["peer-a"], digest="ab", epoch=2, members=["peer-a"])),
        ("peer-b", commit(5, ["peer-b"], digest="cd", epoch=2, members=["peer-b"])),
        start=started("peer-a", "peer-b"),
    )
    assert view.slices[ONE].conflicts == ()


def test_whoever_gives_its_branch_up_is_shown_on_the_other_even_if_that_has_lower_numbers() -> None:
    view = journal(
        ("peer-a", commit(9, ["peer-a"], epoch=2)),
        ("peer-a", BranchLost(slice=ONE, version=Version(9), followed=Version(5), tokens=1, followed_tokens=2)),
        start=started("peer-a", "peer-b"),
    )
    assert (view.slices[ONE].version, view.slices[ONE].digest) == (5, None)
    view = journal(("peer-a", commit(6, ["peer-a", "peer-b"], epoch=1)), start=view)
    assert (view.slices[ONE].version, view.slices[ONE].epoch) == (6, 1)


def test_late_report_of_an_old_version_does_not_set_the_slice_back() -> None:
    owners = ["peer-a", "peer-b"]
    view = journal(("peer-a", commit(7, owners)), ("peer-b", commit(6, owners, digest="06")), start=started(*owners))
    assert view.slices[ONE].version == 7


def test_digests_of_a_long_run_are_not_kept_forever() -> None:
    view = started("peer-a")
    for version in range(1, 200):
        view = journal(("peer-a", commit(version, ["peer-a"], digest=f"{version:04x}"[-2:])), start=view)
    assert len(view.slices[ONE].digests) < 50
    assert view.slices[ONE].agreeing == (IDS["peer-a"],)
    assert len(view.slices[ONE].committed) == 199


def test_validation_curve_is_the_mean_over_peers_in_the_order_of_rounds() -> None:
    def evaluated(number: int, loss: float) -> Evaluated:
        return Evaluated(round=Version(number), loss_nats=loss)

    view = journal(
        ("peer-a", evaluated(1, 3.0)),
        ("peer-a", evaluated(2, 2.0)),
        ("peer-b", evaluated(1, 5.0)),
        ("peer-b", evaluated(0, 5.5)),
    )
    assert view.validation_curve() == [(0, 5.5), (1, 4.0), (2, 2.0)]


def test_notes_call_peers_by_the_names_of_their_journals() -> None:
    lost = PeerLost(peer=IDS["peer-b"], slice=ONE, reason="its link broke")
    view = journal(("peer-a", lost), start=started("peer-a", "peer-b"))
    assert (texts(view)[-1], view.notes[-1].kind) == ("lost peer-b in slice 1: its link broke", "trouble")
    assert texts(view)[0] == f"peer-a of run 3f2a91bc listens on /ip4/127.0.0.1/tcp/1/p2p/{IDS['peer-a']}"


def test_what_several_peers_notice_is_said_once_until_it_is_old_news() -> None:
    lost = PeerLost(peer=IDS["peer-b"], slice=ONE, reason="its link broke")
    again = PeerLost(peer=IDS["peer-b"], slice=ONE, reason="its claim expired")
    other = PeerLost(peer=IDS["peer-b"], slice=COMMON, reason="its link broke")
    view = journal(("peer-a", lost), ("peer-c", lost), ("peer-d", again), ("peer-d", other), start=started("peer-b"))
    assert texts(view)[1:] == ["lost peer-b in slice 1: its link broke", "lost peer-b in slice common: its link broke"]
    for version in range(1, 40):
        view = journal(("peer-a", commit(version, ["peer-a"])), start=view)
    assert texts(journal(("peer-a", lost), start=view))[-1] == "lost peer-b in slice 1: its link broke"


def test_what_happens_every_round_is_routine_and_every_step_is_no_note_at_all() -> None:
    view = journal(
        ("peer-a", InnerStepDone(round=Version(0), inner_step=0, loss_nats=1.0, tokens=1, seconds=1.0)),
        ("peer-a", StateChanged(state="AVERAGING", reason="")),
        ("peer-a", Traffic(sent_bytes=1, received_bytes=1, sending="")),
        ("peer-a", commit(1, ["peer-a"])),
        ("peer-a", StateChanged(state="COMPLETE", reason="all rounds are done")),
    )
    assert [note.kind for note in view.notes] == ["routine", "plain"]


def test_notes_are_counted_beyond_those_that_are_kept() -> None:
    lost = PeerLost(peer=IDS["peer-b"], slice=ONE, reason="x")
    void = [("peer-a", RoundVoid(slice=ONE, version=Version(i), attempt=1, reason="x")) for i in range(1000)]
    view = journal(("peer-a", lost), *void)
    assert view.num_notes == 1001
    assert len(view.notes) < 1000


def test_killed_peer_sends_nothing_until_it_starts_again() -> None:
    view = journal(
        ("peer-a", Traffic(sent_bytes=1, received_bytes=1, sending="a part")),
        ("peer-a", RoundStage(slice=ONE, version=Version(1), attempt=1, stage="reducing", detail="")),
        start=started("peer-a"),
    )
    killed = with_fate(view, "peer-a", "killed").peers["peer-a"]
    assert (killed.fate, killed.sending, dict(killed.stages)) == ("killed", "", {})
    again = journal(
        ("peer-a", PeerStarted(peer=IDS["peer-a"], run=RUN, addresses=[])), start=with_fate(view, "peer-a", "killed")
    )
    assert again.peers["peer-a"].fate == "alive"
    stopped = journal(("peer-a", PeerStopped(reason="SIGTERM")), start=view)
    assert stopped.peers["peer-a"].fate == "stopped"
    asleep = journal(("peer-a", StateChanged(state="PAUSED", reason="you paused it")), start=stopped)
    assert asleep.peers["peer-a"].fate == "asleep", "it goes on when its pause is over"
    goes_on = journal(("peer-a", PeerStarted(peer=IDS["peer-a"], run=RUN, addresses=[])), start=asleep)
    assert goes_on.peers["peer-a"].fate == "alive"


def test_gap_in_a_journal_is_noticed_and_a_fresh_journal_is_none() -> None:
    state = StateChanged(state="TRAINING", reason="")
    view = SwarmView()
    for sequence in (1, 2, 6, 7):
        view = fold(view, "peer-a", Record(sequence=sequence, time_s=1.0, event=state))
    assert view.peers["peer-a"].missing_records == 3
    view = fold(view, "peer-a", Record(sequence=1, time_s=2.0, event=state))
    assert view.peers["peer-a"].missing_records == 3


def test_folding_changes_no_earlier_view() -> None:
    before = started("peer-a")
    copy = repr(before)
    journal(("peer-a", commit(1, ["peer-a"])), ("peer-a", Evaluated(round=Version(1), loss_nats=2.0)), start=before)
    assert repr(before) == copy
    assert add_note(before, before.notes[0]).num_notes == before.num_notes + 1
