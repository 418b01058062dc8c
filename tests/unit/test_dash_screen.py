"""The dashboard's pictures: exact at every size, true to what the journal says, legible without colour and Unicode."""

import re
from dataclasses import replace

import pytest

from p2ptrain.dashboard.canvas import ASCII, UNICODE, box, clean, crop, fit, line_width, spread, to_ansi, to_text
from p2ptrain.dashboard.charts import bars, curve, resample, spans_line
from p2ptrain.dashboard.device import DeviceSample, GpuSample
from p2ptrain.dashboard.figures import age, clock, duration, memory, short_count, size
from p2ptrain.dashboard.scene import Link, ReplayPlace, RunFacts, Scene, Seen, peer_rows, slice_rows
from p2ptrain.dashboard.scene_json import scene_to_json
from p2ptrain.dashboard.screen import arrange, draw
from p2ptrain.dashboard.seat import Seat, observe_record, observe_report
from p2ptrain.dashboard.ui import Prompt, Ui
from p2ptrain.events import (
    CoverageChanged,
    Evaluated,
    Event,
    InnerStepDone,
    PeerLost,
    PeerStarted,
    PeerStopped,
    Record,
    RoundCommitted,
    RoundStage,
    SlicesClaimed,
    StateChanged,
    Traffic,
    UpdateApplied,
    WorkEntrusted,
)
from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version
from p2ptrain.report import SwarmReport

RUN = RunId("3f2a91bc" * 8)
ME, OTHER, THIRD = (PeerId(f"12D3KooWxxxxxxxx{mark * 6}") for mark in "abc")
SIZES = [(80, 24), (120, 36), (240, 70)]
PAGES = ["overview", "slices", "network", "events", "why", "doctor", "help"]
FACTS = RunFacts(name="tiny", run=RUN, rounds=24, inner_steps=4, slices=(COMMON, SliceId("0"), SliceId("1")))


class Story:
    """A seat to which things happen, a second apart unless told otherwise."""

    def __init__(self) -> None:
        self.seat = Seat(mine="peer-a")
        self.now_s = 1000.0
        self.sequence = 0

    def tell(self, event: Event, after_s: float = 0.0) -> "Story":
        self.now_s += after_s
        self.sequence += 1
        self.seat = observe_record(self.seat, "peer-a", Record(sequence=self.sequence, time_s=self.now_s, event=event))
        return self

    def start(self) -> "Story":
        self.tell(PeerStarted(peer=ME, run=RUN, addresses=[]))
        return self.tell(SlicesClaimed(slices=[COMMON, SliceId("0")], reason="asked for"))

    def commit(self, slice_id: str, version: int, owners: list[PeerId], *, contributors: list[PeerId] | None = None):
        return self.tell(
            RoundCommitted(
                slice=SliceId(slice_id),
                version=Version(version),
                epoch=1,
                digest=Digest(f"{version:02x}" * 32),
                members=[],
                contributors=owners if contributors is None else contributors,
                owners=owners,
                tokens=1000,
                seconds=0.4,
            )
        )

    def round(self, number: int, contributors: list[PeerId] | None = None) -> "Story":
        """Four steps in four seconds, then two for averaging."""
        self.tell(StateChanged(state="TRAINING", reason=f"round {number} of 24"))
        for step in range(4):
            self.tell(
                InnerStepDone(
                    round=Version(number - 1), inner_step=step, loss_nats=6.0 - number / 4, tokens=100, seconds=1.0
                ),
                1.0,
            )
        self.tell(StateChanged(state="AVERAGING", reason="slices 0, common"))
        for stage, seconds in (("gathering", 0.0), ("reducing", 0.5), ("voting", 1.0)):
            self.tell(RoundStage(slice=COMMON, version=Version(number), attempt=0, stage=stage, detail=""), seconds)
        self.tell(Traffic(sent_bytes=number * 1_000_000, received_bytes=number * 500_000, sending=""))
        self.now_s += 0.5
        self.commit("common", number, [ME, OTHER], contributors=contributors)
        self.commit("0", number, [ME, OTHER], contributors=contributors)
        self.tell(UpdateApplied(slice=SliceId("1"), version=Version(number), holder=OTHER, size_bytes=1000))
        return self.tell(Evaluated(round=Version(number), loss_nats=6.0 - number / 4))

    def rounds(self, count: int) -> "Story":
        for number in range(1, count + 1):
            self.round(number)
        return self

    def scene(self, **changes) -> Scene:
        return Scene(now_s=self.now_s, seat=self.seat, facts=FACTS, link=Link(word="live"), **changes)


PLAIN = Ui()


def text_of(scene: Scene, ui: Ui = PLAIN, width: int = 120, height: int = 36, glyphs=UNICODE) -> str:
    return "\n".join(to_text(line) for line in draw(scene, ui, width, height, glyphs))


def busy_scene() -> Scene:
    story = Story().start().rounds(8)
    story.tell(PeerLost(peer=OTHER, slice=COMMON, reason="its link\x1b[2J is broken\n"))
    gpu = GpuSample(name="RTX", busy_percent=97.0, memory_bytes=6 << 30, memory_total_bytes=24 << 30, power_w=180.0)
    sample = DeviceSample(cpu_percent=45.0, memory_bytes=2 << 30, memory_total_bytes=16 << 30, gpus=[gpu])
    return story.scene(device=sample)


@pytest.mark.parametrize(("width", "height"), [*SIZES, (81, 25), (110, 30), (170, 30), (79, 24), (40, 10)])
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_every_line_fills_the_terminal_exactly(width: int, height: int, page, glyphs) -> None:
    for scene in (busy_scene(), Scene(now_s=1.0, seat=Seat()), Scene(now_s=1.0, seat=Seat(mine="peer-a"))):
        lines = draw(scene, Ui(page=page), width, height, glyphs)
        assert [line_width(line) for line in lines] == [width] * height
        if glyphs is ASCII:
            assert all(text.isascii() for line in lines for text, _ in line)


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (80, 60), (109, 31), (120, 36), (169, 200), (170, 30), (240, 70)]
)
@pytest.mark.parametrize("num_slices", [2, 9, 65])
def test_panels_fill_the_space_between_header_and_footer(width: int, height: int, num_slices: int) -> None:
    for page in PAGES:
        for column in arrange(width, height, Ui(page=page), num_slices):
            assert sum(row.height for row in column) == height - 3
            assert all(row.height >= 3 for row in column)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_overview_says_what_matters_at_each_size(width: int, height: int) -> None:
    shown = text_of(busy_scene(), width=width, height=height)
    for words in ("tiny", "3f2a91bc", "AVERAGING", "common v8", "4.000", "last round 6.0 s", "train 4.0", "peer-a"):
        assert words in shown, words
    assert "97 %" in shown
    assert re.search(r"40(\.0)? %", shown)


def test_text_of_others_moves_no_cursor() -> None:
    shown = "".join(to_ansi(line, colour=False) for line in draw(busy_scene(), Ui(page="events"), 120, 36, UNICODE))
    assert "\x1b[2J" not in shown
    assert set(re.findall(r"\x1b\[([0-9;]*)m", shown)) <= {"0", "1", "2", "7", "1;7"}  # NO_COLOR leaves weight alone


def test_share_counts_our_tokens_in_committed_rounds_only() -> None:
    story = Story().start().round(1).round(2, contributors=[OTHER]).round(3)
    # 400 of 1000 in round 1; round 2 was without us, so its 400 wait and count in round 3.
    assert story.seat.rounds_contributed == 2
    assert story.seat.rounds_missed == 1
    assert story.seat.share() == pytest.approx((400 + 800) / 2000)


def test_a_round_to_which_a_delegate_brought_our_work_counts_and_no_other_round_of_it_does() -> None:
    def brought(version: int) -> WorkEntrusted:
        return WorkEntrusted(slice=COMMON, version=Version(version), delegate=OTHER, tokens=400)

    story = Story().start().tell(brought(1)).round(1, contributors=[OTHER]).round(2, contributors=[OTHER])
    assert (story.seat.rounds_contributed, story.seat.rounds_missed) == (1, 1)
    assert story.seat.share() == pytest.approx(400 / 1000)
    story.tell(brought(3)).round(3, contributors=[THIRD])
    assert (story.seat.rounds_contributed, story.seat.rounds_missed) == (1, 2), "the delegate was left out itself"


def test_a_past_that_is_read_after_the_others_answered_counts_as_it_would_have_before() -> None:
    in_order, late = Story().start().rounds(3), Story()
    late.seat = observe_report(late.seat, report(version=3), 1100.0)
    late.start().rounds(3)
    assert late.seat.rounds_contributed == in_order.seat.rounds_contributed == 3
    assert late.seat.share() == in_order.seat.share()
    assert late.seat.last_round() == in_order.seat.last_round()
    assert late.seat.moved == in_order.seat.moved


def test_next_commit_is_expected_after_the_median_of_the_last_gaps() -> None:
    story = Story().start().rounds(2)
    assert story.seat.next_commit_in_s(story.now_s) is None
    story.round(3)
    assert story.seat.next_commit_in_s(story.now_s + 2.0) == pytest.approx(4.0)
    assert "4.0 s later than usual" in text_of(replace(story.scene(), now_s=story.now_s + 10.0))


def test_timeline_says_where_the_round_went() -> None:
    scene = Story().start().rounds(3).scene()
    assert "train 4.0" in text_of(scene)
    report = scene_to_json(scene)["network"]["last_round_s"]
    assert report == {"train": 4.0, "gather": 0.5, "send": 1.0, "agree": 0.5, "fetch": 0.0}


def test_uptime_survives_a_restart_and_a_kill() -> None:
    story = Story().start().rounds(1)  # 6 s
    story.tell(PeerStopped(reason="asked to"))
    story.now_s += 100
    story.start().rounds(1)  # 6 s, then killed: nothing is written
    story.now_s += 100
    story.start()
    assert story.seat.running_s(story.now_s + 3) == pytest.approx(15.0)


def test_slice_below_quorum_has_an_exclamation_mark_and_words() -> None:
    story = Story().start()
    story.commit("common", 1, [ME, OTHER, THIRD])
    for number in range(2, 6):
        story.commit("common", number, [ME, OTHER, THIRD], contributors=[ME])
    row = slice_rows(story.scene())[0]
    assert (row.num_online, row.is_below_quorum) == (1, True)
    shown = text_of(story.scene())
    assert "! 1 of 3 online" in shown
    assert "! 1 below quorum" in shown
    assert "1 below quorum" in text_of(story.scene(), glyphs=ASCII)


def test_slice_below_the_quorum_of_the_manifest_is_loud_although_its_only_owner_is_there() -> None:
    story = Story().start()
    story.commit("0", 1, [ME])
    assert not slice_rows(story.scene())[1].is_below_quorum
    lacking = CoverageChanged(
        slice=SliceId("0"), owners=1, replicas=2, is_covered=False, verdict="NOT COVERED: 1 of 2 owners that it needs"
    )
    story.tell(lacking)
    assert slice_rows(story.scene())[1].is_below_quorum
    assert "! 1 below quorum" in text_of(story.scene())
    story.tell(replace(lacking, owners=2, is_covered=True, verdict="ok"))
    assert not slice_rows(story.scene())[1].is_below_quorum


def test_sixty_four_slices_fit_as_a_map_of_cells() -> None:
    facts = replace(FACTS, slices=(COMMON, *(SliceId(str(i)) for i in range(64))))
    scene = replace(Story().start().rounds(2).scene(), facts=facts)
    small, large = text_of(scene, width=80, height=24), text_of(scene, Ui(page="slices"), width=240, height=70)
    assert "more: press s" in small
    assert re.search(r"\b63\b", large)


def report(version: int = 9, silent: bool = False) -> SwarmReport:
    peers = [
        {
            "peer": peer,
            "slices": ["common", "1"],
            "state": "TRAINING",
            "reason": "round 10 of 24",
            "sent_bytes": 5_000_000,
            "received_bytes": 1,
            "tokens": 12_345,
            "validation_loss": 3.25,
            "software": "0.1.0",
            "later": "unknown fields are passed over",
        }
        for peer in ([OTHER] if silent else [OTHER, THIRD])
    ]
    slices = [
        {
            "id": slice_id,
            "version": version,
            "epoch": 1,
            "owners": [OTHER, THIRD],
            "digests": {OTHER: "ab" * 32},
            "digests_version": version,
            "tokens": 99_000,
            "loss": None,
        }
        for slice_id in ("common", "0", "1")
    ]
    return SwarmReport.from_json(
        {"run": RUN, "slices": slices, "peers": peers, "silent": [THIRD] if silent else [], "more": 1}
    )


def test_observer_without_a_seat_sees_slices_peers_and_who_is_silent() -> None:
    seat = observe_report(Seat(), report(), 1000.0)
    seat = observe_report(seat, report(version=10, silent=True), 1004.0)
    scene = Scene(now_s=1010.0, seat=seat, facts=FACTS, link=Link(word="live"))
    shown = text_of(scene)
    assert "watching 1 peers, 1 silent" in shown
    assert "does not answer" in shown
    assert "! 1 of 2 online" in shown
    assert "3.250" in shown
    assert [row.age_s for row in slice_rows(scene)] == [6.0, 6.0, 6.0]
    assert "takes no part" in shown


def test_peers_are_sorted_by_any_column_and_the_heading_says_so() -> None:
    seat = observe_report(Story().start().rounds(2).seat, report(), 1020.0)
    scene = Scene(now_s=1020.0, seat=seat, facts=FACTS)
    assert [row.is_mine for row in peer_rows(scene)] == [True, False, False]
    by_tokens = [row.tokens for row in peer_rows(scene, "tokens")]
    assert by_tokens == [12_345, 12_345, 800]
    assert [row.tokens for row in peer_rows(scene, "tokens", is_reversed=True)] == by_tokens[::-1]
    assert "tokens↓" in text_of(scene, Ui(sort="tokens"))
    assert "tokensv" in text_of(scene, Ui(sort="tokens"), glyphs=ASCII)


def test_events_are_filtered_by_words_and_scrolled() -> None:
    scene = busy_scene()
    shown = text_of(scene, Ui(page="events", words="lost link"))
    assert "lost" in shown
    assert "committed" not in shown
    assert "no event has the words" in text_of(scene, Ui(page="events", words="xyzzy"))
    assert "claims slices" in text_of(scene, Ui(page="events", scroll=1000), height=24)
    assert "claims slices" not in text_of(scene, Ui(page="events", with_routine=True), height=24)


def test_footer_shows_the_question_the_notice_or_the_keys() -> None:
    scene = busy_scene()
    assert "pause" in text_of(scene).splitlines()[-1]
    assert "2h" in text_of(scene, Ui(prompt=Prompt(kind="pause", text="2h"))).splitlines()[-1]
    assert "done" in text_of(scene, Ui(notice="done")).splitlines()[-1]
    assert "pause" not in text_of(scene, Ui(is_readonly=True)).splitlines()[-1]
    place = ReplayPlace(begin_s=1000.0, end_s=1100.0, now_s=1050.0, speed=0.0)
    assert "0:50" in text_of(replace(scene, place=place)).splitlines()[-1]


def test_lost_link_is_said_in_the_header_with_the_remedy() -> None:
    scene = replace(busy_scene(), link=Link(word="ended", detail="no peer is running; start it with p2ptrain peer"))
    assert "✗ no peer is running; start it with p2ptrain peer" in text_of(scene).splitlines()[1]


def test_why_page_has_the_reason_the_time_and_the_trouble() -> None:
    shown = text_of(busy_scene(), Ui(page="why"))
    assert re.search(r"training +━+.* 67 %", shown)
    assert "✗ lost" in shown
    assert "because" in text_of(replace(busy_scene(), seen=Seen(why="because it rains")), Ui(page="why"))


def test_what_is_not_measured_is_said_and_never_shown_as_zero() -> None:
    scene = Story().start().scene(device=DeviceSample(no_gpu_reason="not measured: no NVIDIA driver"))
    shown = text_of(scene)
    assert "gpu not measured: no NVIDIA driver" in shown
    assert "reach not measured" in shown
    assert "share   not measured" in shown
    assert "cpu" not in shown


def test_lines_are_fitted_by_cells_not_by_characters() -> None:
    assert to_text(fit([("日本語", "")], 5, "…")) == "日本…"
    assert line_width(fit([("日本語", "")], 4, "…")) == 4
    assert crop("abc", 2, "…") == "a…"
    assert line_width(spread([("left" * 10, "")], [("right", "")], 20)) == 20
    assert [line_width(line) for line in box([("t" * 50, "")], [], 10, 3, UNICODE)] == [10, 10, 10]
    assert clean("a\x1b[31mb\u202ec") == "a [31mb c"


def test_curve_goes_from_the_first_value_to_the_last() -> None:
    lines = curve([4.0, 1.0], width=4, rows=2, low=1.0, high=4.0)
    assert len(lines) == 2
    assert lines[0][0] != " "
    assert lines[1][-1] != " "
    assert lines[0][-1] == " "
    assert resample([1.0, 3.0], 3) == [1.0, 2.0, 3.0]
    assert resample([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert bars([0.0, 1.0], width=2, low=0.0, high=1.0, glyphs=UNICODE) == "▁█"


def test_a_stage_too_short_for_a_cell_is_still_seen() -> None:
    line = spans_line([(0.0, 9.99, "#", ""), (9.99, 10.0, "!", "x")], start=0.0, end=10.0, width=10)
    assert to_text(line) == "#########!"


def test_figures_are_short() -> None:
    assert [short_count(n) for n in (7, 1234, 1_234_567, 99_960_000)] == ["7", "1.23 k", "1.23 M", "100 M"]
    assert [duration(s) for s in (8.24, 59.6, 125, 7800, 360_000)] == [
        "8.2 s",
        "1 min",
        "2 min 5 s",
        "2 h 10 min",
        "4 d 4 h",
    ]
    assert [age(s) for s in (5, 65, 7300, 90_000)] == ["5s", "1m", "2h", "1d"]
    assert [clock(s) for s in (65, 3665)] == ["1:05", "1:01:05"]
    assert (size(1_500_000), memory(6 << 30)) == ("1.50 MB", "6.00 GiB")
