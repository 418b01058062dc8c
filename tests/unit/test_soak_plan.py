"""What a soak will do, and how its journals are counted."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.events import Evaluated, Record, RoundCommitted
from p2ptrain.ids import Digest, PeerId, SliceId, Version
from p2ptrain.node.soak import Soak, SoakReport, _least, _losses, diverged_in_journals
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


class Starting:
    """A swarm of which somebody asks whether its peers average yet."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def wait_until_all_average(self, names: Sequence[str], within_s: float) -> None:
        self.asked += names


def test_a_joiner_is_waited_for_once_before_anything_is_done_to_it() -> None:
    swarm: Any = Starting()
    soak = Soak(seed=9, peers=4, seconds=180, swarm=swarm, say=lambda line: None)
    soak._averaging.update(f"peer-{number:03d}" for number in range(4))
    victims = [victim for _, victim, _ in soak._steps(plan_soak(9, peers=4, seconds=180))]
    assert victims.count("peer-004") == 2, "it is frozen, and killed later"
    for victim in victims:
        soak._wait_until_it_averages(victim)
    assert swarm.asked == ["peer-004"]


def test_what_a_round_takes_and_gives_back_is_no_growth() -> None:
    assert _least([(300, 40), (290, 55), (310, 38)]) == (290, 38)


def test_first_loss_is_that_of_the_earliest_version_whoever_evaluated_it() -> None:
    def evaluated(round: int, loss_nats: float) -> Record:
        return Record(sequence=round, time_s=0.0, event=Evaluated(round=Version(round), loss_nats=loss_nats))

    journals = {"late": [evaluated(90, 3.0), evaluated(99, 2.5)], "first": [evaluated(1, 5.5), evaluated(99, 2.7)]}
    assert _losses(journals, ["late"]) == (5.5, 2.5)
