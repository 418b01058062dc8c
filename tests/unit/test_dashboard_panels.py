"""The screen says the right things, at every size, without colour and without UTF-8."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from p2ptrain.dashboard.panels import ScreenFacts, SwarmScreen, bars, chosen_notes, note_line
from p2ptrain.dashboard.picture import save_picture
from p2ptrain.dashboard.projection import Note, NoteKind, SwarmView, add_note, fold, with_fate
from p2ptrain.events import (
    Evaluated,
    Event,
    InnerStepDone,
    PeerStarted,
    Record,
    RoundCommitted,
    RoundStage,
    SlicesClaimed,
    StateChanged,
    Traffic,
)
from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version

RUN = RunId("3f2a91bc" * 8)
OWNED = {"peer-a": "0", "peer-b": "0", "peer-c": "1", "peer-d": "1"}
IDS = {name: PeerId(f"12D3KooWxxxxxxxx{name[-1] * 6}") for name in OWNED}
SIZES = [(80, 24), (100, 30), (140, 40)]
FACTS = ScreenFacts(
    title="demo: tiny",
    run=RUN,
    rounds=24,
    slices=[COMMON, SliceId("0"), SliceId("1")],
    started_s=1000.0,
    now_s=1072.0,
    limit_s=300.0,
)


def swarm(rounds: int = 8, *, digest_of_d: str = "") -> SwarmView:
    """Four peers after so many rounds, in the middle of the next one."""
    view = SwarmView()

    def tell(name: str, event: Event) -> None:
        nonlocal view
        sequence = view.peers[name].last_sequence + 1 if name in view.peers else 1
        view = fold(view, name, Record(sequence=sequence, time_s=1010.0 + rounds, event=event))

    for name, slice_id in OWNED.items():
        tell(name, PeerStarted(peer=IDS[name], run=RUN, addresses=[]))
        tell(name, SlicesClaimed(slices=[COMMON, SliceId(slice_id)], reason="asked for"))
        tell(name, StateChanged(state="TRAINING", reason="round"))
    for number in range(1, rounds + 1):
        for name, own in OWNED.items():
            for slice_id in (COMMON, SliceId(own)):
                owners = [IDS[peer] for peer in OWNED if slice_id in (COMMON, OWNED[peer])]
                other = name == "peer-d" and slice_id == "1" and digest_of_d
                tell(
                    name,
                    RoundCommitted(
                        slice=slice_id,
                        version=Version(number),
                        epoch=1,
                        digest=Digest((digest_of_d if other else f"{number}{own if slice_id != COMMON else 'c'}") * 32),
                        members=owners,
                        contributors=owners,
                        owners=owners,
                        tokens=100,
                        seconds=0.4,
                    ),
                )
            tell(name, Evaluated(round=Version(number), loss_nats=6.0 - number / 2))
            tell(
                name,
                InnerStepDone(round=Version(number), inner_step=7, loss_nats=2.345, tokens=1024, seconds=0.0625),
            )
            tell(name, Traffic(sent_bytes=number * 1_000_000, received_bytes=0, sending=""))
    return view


def drawn(
    view: SwarmView, width: int, height: int, *, encoding: str = "utf-8", facts: ScreenFacts = FACTS
) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    console = Console(file=file, width=width, height=height, force_terminal=True, no_color=True, color_system=None)
    with console.capture() as capture:
        console.print(SwarmScreen(view, facts))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_screen_fills_no_more_than_the_terminal(width: int, height: int) -> None:
    lines = drawn(swarm(24), width, height)
    assert len(lines) == height - 1
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_screen_tells_who_does_what_at_every_size(width: int, height: int) -> None:
    lines = drawn(swarm(), width, height)
    text = "\n".join(lines)
    assert "demo: tiny" in lines[0]
    assert "1:12 / 5:00" in lines[0]
    assert "round 8 of 24" in lines[1]
    assert "validation loss 5.500 → 2.000 nats/byte" in lines[1]
    assert "common part · v8" in text
    assert "✓ 8c8c8c8c on 4 of 4" in text
    assert "✓ 81818181 on 2 of 2" in text
    row = next(line for line in lines if line.startswith(" peer-c"))
    for cell in ("C 1", "training", "8.07", "2.345", "16,384", "8.0"):
        assert cell in row
    assert "32.0 MB sent" in text


def test_two_digests_are_said_in_words() -> None:
    text = "\n".join(drawn(swarm(digest_of_d="ff"), 100, 30))
    assert "✗ owners differ at v8" in text
    assert "✓ 81818181" not in text


def test_slice_without_owners_says_so() -> None:
    facts = ScreenFacts(
        title="t", run=None, rounds=24, slices=[COMMON, SliceId("0"), SliceId("2")], started_s=0, now_s=0
    )
    text = "\n".join(drawn(swarm(), 100, 30, facts=facts))
    assert "slice 2 · v0" in text
    assert "no owner" in text
    assert "no round committed yet" in text


def test_round_in_progress_is_in_the_slice_and_with_its_peer() -> None:
    view = swarm()
    stage = RoundStage(slice=SliceId("1"), version=Version(9), attempt=1, stage="reducing", detail="")
    traffic = Traffic(sent_bytes=0, received_bytes=0, sending="slice 1 v9 parts")
    for event in (stage, traffic):
        view = fold(view, "peer-c", Record(sequence=10_000, time_s=1.0, event=event))
    text = "\n".join(drawn(view, 100, 30))
    assert "reducing v9" in text
    assert "training, reducing 1" in text
    assert "now peer-c: slice 1 v9 parts" in text


def test_killed_peer_is_marked_in_words_and_its_owner_slot_stays_until_the_next_commit() -> None:
    view = with_fate(swarm(), "peer-d", "killed")
    lines = drawn(view, 100, 30)
    assert "✗ killed" in next(line for line in lines if line.startswith(" peer-d"))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_empty_swarm_can_be_drawn(width: int, height: int) -> None:
    text = "\n".join(drawn(SwarmView(), width, height))
    assert "round 0 of 24" in text
    assert "not measured yet" in text


def test_terminal_without_utf8_gets_ascii_only() -> None:
    text = "\n".join(drawn(with_fate(swarm(), "peer-d", "killed"), 100, 30, encoding="ascii"))
    assert text.isascii()
    assert "ok 81818181 on 2 of 2" in text
    assert "!! killed" in text


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(SwarmScreen(swarm(), FACTS))
    codes = {code for part in capture.get().split("\x1b[")[1:] for code in part.split("m")[0].split(";")}
    assert codes <= {"0", "1", "2", ""}, "bold and dim are no colours"


def note(text: str, kind: NoteKind = "plain") -> Note:
    return Note(time_s=1075.0, name="", text=text, kind=kind)


def test_kill_stays_on_the_screen_while_rounds_go_by() -> None:
    notes = [note("the kill", "trouble"), *(note(f"commit {i}", "routine") for i in range(100))]
    chosen = [one.text for one in chosen_notes(notes, 9)]
    assert chosen == ["the kill", *(f"commit {i}" for i in range(92, 100))]
    many = [*(note(f"special {i}") for i in range(20)), *notes]
    assert [one.text for one in chosen_notes(many, 9)] == [
        *(f"special {i}" for i in range(15, 20)),
        "the kill",
        *(f"commit {i}" for i in range(97, 100)),
    ]


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 1000])
def test_notes_fit_the_rows_and_keep_their_order(rows: int) -> None:
    notes = [note(str(i), "routine" if i % 3 else "plain") for i in range(50)]
    chosen = [int(one.text) for one in chosen_notes(notes, rows)]
    assert len(chosen) == min(rows, 50)
    assert chosen == sorted(chosen)


def test_bars_are_as_high_as_their_values() -> None:
    assert bars([8.0, 4.0, 1.0], rows=1, width_each=1, marks="12345678") == ["841"]
    assert bars([8.0, 4.0, 1.0], rows=2, width_each=2, marks="1234") == ["44    ", "444411"]
    assert bars([], rows=2, width_each=1, marks="1234") == ["", ""]
    assert bars([0.0, 0.0], rows=1, width_each=1, marks="1234") == ["11"]


def test_plain_line_has_time_name_and_text() -> None:
    one = Note(time_s=1075.5, name="peer-a", text="COMPLETE: done")
    assert note_line(one, started_s=1000.0) == "1:15  peer-a: COMPLETE: done"


def test_picture_is_one_file_with_the_screens_text_and_loads_nothing(tmp_path: Path) -> None:
    view = add_note(swarm(), note("killed peer-d with SIGKILL", "trouble"))
    files = [tmp_path / "1.svg", tmp_path / "2.svg"]
    for file in files:
        save_picture(SwarmScreen(view, FACTS), file, "p2ptrain demo")
    text = files[0].read_text().replace("&#160;", " ")
    assert "killed peer-d with SIGKILL" in text
    assert "url(" not in text.replace("url(#", "")
    assert files[0].read_bytes() == files[1].read_bytes()
