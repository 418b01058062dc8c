"""What a soak will do, and how its journals are counted."""

from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.events import Record, RoundCommitted
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.node.soak import SoakReport, diverged_in_journals
from p2ptrain.node.soak_plan import plan_soak


@given(seed=st.integers(0, 10_000), peers=st.integers(3, 16), seconds=st.integers(60, 1200))
def test_plan_hurts_at_most_half_and_leaves_everybody_well_at_the_end(seed: int, peers: int, seconds: int) -> None:
    plan = plan_soak(seed, peers=peers, seconds=seconds)
    assert plan == plan_soak(seed, peers=peers, seconds=seconds)
    assert [one.at_s for one in plan] == sorted(one.at_s for one in plan)
    alive, hurt_until = set(range(peers)), dict[int, float]()
    for one in plan:
        if one.kind == "join":
            assert one.peer not in alive
            alive.add(one.peer)
            continue
        assert one.peer in alive - {0}
        assert hurt_until.get(one.peer, 0.0) <= one.at_s, "nothing happens to a peer that is frozen or cut off"
        assert one.at_s + one.lasts_s <= max(0.7 * seconds, seconds - 90) + 1e-6
        hurt_until[one.peer] = one.at_s + one.lasts_s
        if one.kind == "kill":
            alive.remove(one.peer)
        well = [peer for peer in alive if hurt_until.get(peer, 0.0) <= one.at_s]
        assert len(well) >= peers // 2
    assert len(alive) == peers


def test_long_plan_has_everything_in_it() -> None:
    kinds = {one.kind for one in plan_soak(1, peers=8, seconds=1200)}
    assert kinds == {"join", "kill", "freeze", "cut"}


def committed(version: int, digest: str, members: str, previous: str = "p") -> Record:
    event = RoundCommitted(
        slice=SliceId("0"),
        version=Version(version),
        epoch=2,
        digest=Digest(digest),
        members=[PeerId(member) for member in members],
        contributors=[],
        owners=[],
        tokens=1,
        seconds=0.1,
        previous=previous,
    )
    return Record(sequence=1, time_s=0.0, event=event)


def test_two_digests_by_the_same_members_are_a_divergence_and_those_of_two_sides_of_a_cut_are_not() -> None:
    same = {"a": [committed(1, "x", "abd")], "b": [committed(1, "x", "abd")], "c": [committed(1, "y", "c")]}
    assert diverged_in_journals(same) == 0
    assert diverged_in_journals({**same, "d": [committed(1, "z", "abd")]}) == 1


def test_one_member_list_may_decide_a_version_once_on_each_branch() -> None:
    alone, back = committed(2, "x", "a", previous="its own v1"), committed(2, "y", "a", previous="the others' v1")
    assert diverged_in_journals({"a": [alone, back]}) == 0
    assert diverged_in_journals({"a": [alone, committed(2, "z", "a", previous="its own v1")]}) == 1


def test_report_names_each_broken_promise() -> None:
    values = {
        "seed": 1,
        "peers": 8,
        "rounds": 9,
        "events": {},
        "slices_covered": True,
        "diverged_owners": 0,
        "val_loss_first": 5.0,
        "val_loss_last": 3.0,
        "rss_growth_percent": 1.0,
        "open_files_growth": 0,
    }
    assert SoakReport(**values).problems(4.0) == []
    broken = {
        "slices_covered": False,
        "diverged_owners": 1,
        "val_loss_last": float("nan"),
        "rss_growth_percent": 40.0,
        "open_files_growth": 30,
    }
    for name, value in broken.items():
        assert len(SoakReport(**{**values, name: value}).problems(4.0)) == 1, name
