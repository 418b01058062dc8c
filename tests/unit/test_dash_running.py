"""The dashboard as it runs: keys, scrubbing, following a peer across restarts, and what the command refuses."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2ptrain.cli.main import main
from p2ptrain.dashboard.app import Dashboard, look_of
from p2ptrain.dashboard.canvas import UNICODE, to_text
from p2ptrain.dashboard.follow import JournalTail
from p2ptrain.dashboard.recording import Recording
from p2ptrain.dashboard.seat import Seat, observe_record
from p2ptrain.dashboard.sources import HomeSource, Inbox, ObserverSource, ReplaySource
from p2ptrain.dashboard.terminal import decode_keys
from p2ptrain.dashboard.ui import Command, Prompt, Ui, press
from p2ptrain.errors import P2PTrainError, UsageError
from p2ptrain.events import Evaluated, InnerStepDone, PeerStarted, Record, StateChanged
from p2ptrain.ids import PeerId, RunId, Version
from p2ptrain.node.journal import Journal

ME = PeerId("12D3KooWxxxxxxxxaaaaaa")


def records(count: int, first: int = 1) -> list[Record]:
    """A peer's first ``count`` events, one a second."""
    made = [
        Record(sequence=1, time_s=1000.0, event=PeerStarted(peer=ME, run=RunId("ab" * 32), addresses=[])),
        Record(sequence=2, time_s=1001.0, event=StateChanged(state="TRAINING", reason="round 1 of 24")),
    ]
    for number in range(3, count + 1):
        event = InnerStepDone(
            round=Version(number // 10), inner_step=number % 10, loss_nats=1 / number, tokens=10, seconds=0.5
        )
        evaluated = Evaluated(round=Version(number // 10), loss_nats=1 / number)
        made.append(Record(sequence=number, time_s=999.0 + number, event=event if number % 10 else evaluated))
    return made[first - 1 : count]


def write(path: Path, some: list[Record]) -> None:
    with path.open("a") as file:
        file.writelines(record.to_json() + "\n" for record in some)


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the dashboard is asked, not told
            await asyncio.sleep(0.01)


# Keys.


def test_keys_are_decoded_by_name_and_unknown_sequences_passed_over() -> None:
    typed = "q\x1b[A\x1b[6~\x1b[1;5C\r\x7f?\x1bOHé\x00\x1b"
    assert decode_keys(typed) == ["q", "up", "page-down", "enter", "backspace", "?", "home", "é", "escape"]


def after(keys: list[str], ui: Ui | None = None) -> tuple[Ui, Command | None]:
    ui, command = ui or Ui(), None
    for key in keys:
        ui, command = press(ui, key)
    return ui, command


def test_pages_open_and_close_with_the_same_key_or_escape() -> None:
    assert after(["s"])[0].page == "slices"
    assert after(["s", "s"])[0].page == "overview"
    assert after(["e", "escape"])[0].page == "overview"
    assert after(["d"])[1] == Command(kind="doctor")
    assert after(["w"])[1] == Command(kind="why")


def test_pausing_asks_for_how_long_and_can_be_called_off() -> None:
    assert after(["p", "2", "h", "enter"])[1] == Command(kind="pause", text="2h")
    assert after(["p", "2", "backspace", "enter"])[1] == Command(kind="pause", text="")
    ui, command = after(["p", "2", "escape"])
    assert (ui.prompt, command) == (None, None)
    assert after(["P", "enter"])[1] == Command(kind="finish")
    assert after(["p"], Ui(is_paused=True))[1] == Command(kind="resume")


def test_q_within_an_answer_is_a_letter() -> None:
    ui, command = after(["/", "q"])
    assert (ui.prompt, command) == (Prompt(kind="filter", text="q"), None)
    assert after(["/", "q", "enter"])[0].words == "q"
    assert after(["/", "q", "enter", "escape"])[0].words == ""


def test_readonly_screen_and_the_past_change_nothing() -> None:
    for key in "pPbg":
        for ui, word in ((Ui(is_readonly=True), "--readonly"), (Ui(is_replay=True), "past")):
            pressed, command = press(ui, key)
            assert (command, pressed.prompt) == (None, None)
            assert word in pressed.notice


def test_sort_scroll_and_speed() -> None:
    assert after(["."])[0].sort == "slices"
    assert after([","])[0].sort == "seen"
    assert after(["r"])[0].is_reversed
    assert after(["e", "up", "up", "down"])[0].scroll == 1
    assert after(["s", "down", "up", "up"])[0].scroll == 0
    assert after([" "])[1] == Command(kind="speed", amount=0.0)
    assert after(["+", "+"])[1] == Command(kind="speed", amount=16.0)


# The past.


def test_any_moment_can_be_shown_again() -> None:
    story = [("peer-a", record) for record in records(1500)]
    recording = Recording(Seat(mine="peer-a"))
    recording.append(story)
    for moment_s in (999.0, 1000.0, 1255.0, 1256.5, 1260.0, 1260.0, 1258.0, 1800.0, 1700.0, 9999.0, 1001.0):
        seat = Seat(mine="peer-a")
        for name, record in story:
            if record.time_s <= moment_s:
                seat = observe_record(seat, name, record)
        assert recording.at(moment_s) == seat


def test_a_live_recording_forgets_the_oldest_and_can_still_go_back() -> None:
    recording = Recording(Seat(mine="peer-a"), keep=512)
    for record in records(3000):
        recording.append([("peer-a", record)])
    assert 512 <= len(recording) <= 1024 + 256
    begin_s, end_s = recording.times() or (0.0, 0.0)
    assert end_s == 999.0 + 3000
    whole = Recording(Seat(mine="peer-a"))
    whole.append([("peer-a", record) for record in records(3000)])
    assert recording.at(begin_s + 100) == whole.at(begin_s + 100)


# Following.


def test_tail_reads_what_a_full_journal_got_before_it_was_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail, seen = JournalTail(path), []
    with Journal(path, rotate_bytes=1500) as journal:
        for record in records(40):
            journal(record)
            if record.sequence % 4 == 0:
                seen += [one.sequence for one in tail.new_records()]
    while more := tail.new_records():
        seen += [one.sequence for one in more]
    assert len(list(tmp_path.iterdir())) > 2
    assert seen == list(range(1, 41))


def test_tail_begins_at_a_whole_line_near_the_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, records(100))
    tail = JournalTail(path, last_bytes=1000)
    sequences = [record.sequence for record in tail.new_records()]
    assert 2 <= len(sequences) < 20
    assert sequences[-1] == 100
    assert tail.num_unreadable == 0


async def test_home_is_followed_across_the_peers_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, records(20))
    dashboard = Dashboard(HomeSource(tmp_path), None, None, Ui())
    reading = asyncio.create_task(HomeSource(tmp_path).run(dashboard.inbox))
    try:
        await asyncio.wait_for(dashboard.inbox.caught_up.wait(), 10)
        assert dashboard.link.word == "ended"
        assert "p2ptrain peer" in dashboard.link.detail
        # The next process goes on with the numbers; its id is in the lock.
        (tmp_path / "lock").write_text(f"{os.getpid()}\n")
        write(path, records(30, first=21))
        await until(lambda: dashboard.recording.latest.swarm.peers[tmp_path.name].last_sequence == 30)
        await until(lambda: dashboard.link.word == "live")
        assert dashboard.recording.latest.swarm.peers[tmp_path.name].missing_records == 0
    finally:
        reading.cancel()


async def test_how_much_of_a_long_past_is_read_is_told(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", records(8000))
    source = HomeSource(tmp_path)
    dashboard = Dashboard(source, None, None, Ui())
    reading = asyncio.create_task(source.run(dashboard.inbox))
    try:
        await until(lambda: "reading its past" in dashboard.lines(80, 24, UNICODE)[0][-1][0])
        await until(lambda: dashboard.link.word == "ended")
    finally:
        reading.cancel()


async def test_how_much_of_a_replay_is_read_is_told(tmp_path: Path) -> None:
    paths = [tmp_path / name / "events.jsonl" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write(path, records(3000))
    dashboard = Dashboard(ReplaySource(paths), None, None, Ui())
    told: list[str] = []
    dashboard.inbox.link = lambda link: told.append(link.detail)
    await ReplaySource(paths).run(dashboard.inbox)
    percents = [int(detail.split()[-2]) for detail in told if detail.endswith("%")]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(set(percents)) > 2


async def test_replay_shows_the_end_and_scrubs(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, records(101))
    dashboard = Dashboard(ReplaySource([path]), None, None, Ui())
    await dashboard.settle()
    assert "1:40 of 1:40" in to_text(dashboard.lines(80, 24, UNICODE)[0])
    for _ in range(5):
        dashboard.press(["["])
    assert "1:30 of 1:40" in to_text(dashboard.lines(80, 24, UNICODE)[0])
    dashboard.press(["{"] * 20)
    assert "0:00 of 1:40" in to_text(dashboard.lines(80, 24, UNICODE)[0])
    dashboard.press(["p"])
    assert "past" in to_text(dashboard.lines(80, 24, UNICODE)[-1])


async def test_command_that_fails_is_a_sentence_at_the_bottom(tmp_path: Path) -> None:
    async def fails(command: Command) -> str:
        raise P2PTrainError(f"could not {command.kind}: ask later")

    dashboard = Dashboard(HomeSource(tmp_path), fails, None, Ui())
    dashboard.press(["p", "enter"])
    await until(lambda: bool(dashboard.ui.notice))
    assert "could not pause: ask later" in to_text(dashboard.lines(80, 24, UNICODE)[-1])


# The command.


async def test_an_observer_that_is_slow_to_end_is_waited_for_and_its_status_counts() -> None:
    program = "import os, time; print('p2ptrain: no such run', flush=True); os.close(1); os.close(2)"
    source = ObserverSource([sys.executable, "-I", "-S", "-c", f"{program}; time.sleep(0.2); os._exit(2)"])

    def nothing(*news: object) -> None:
        pass

    inbox = Inbox(records=nothing, report=nothing, link=nothing, facts=nothing, seen=nothing, peer_pid=nothing)
    with pytest.raises(UsageError, match=r"^no such run$"):
        await source.run(inbox)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give one of --home FOLDER"),
        (["--home", "nowhere"], "--home nowhere is no folder"),
        (["--replay", "nothing.jsonl"], "no such file"),
        (["--home", ".", "--replay", "x"], "--home and --replay are two things"),
        (["--home", ".", "--at", "1:00"], "goes with --replay"),
        (["--home", ".", "--page", "xyz"], "choose from overview"),
        (["--home", ".", "--once", "--size", "big"], "like 120x36"),
        (["--home", "."], "add --plain for lines"),
        (["--bootstrap", "nonsense", "--run", "absent.toml", "--once"], "absent.toml does not exist"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_status_2(arguments, sentence, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("P2PTRAIN_HOME", raising=False)
    assert main(["dash", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_in_a_peers_container_the_command_alone_is_about_that_peer(capsys, monkeypatch) -> None:
    monkeypatch.setenv("P2PTRAIN_HOME", "/data/of/the/peer")
    assert main(["dash"]) == 2
    assert "--home /data/of/the/peer is no folder" in capsys.readouterr().err
    assert main(["dash", "--replay", "nothing.jsonl"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_still_picture_needs_neither_torch_nor_hivemind_nor_rich(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", records(50))
    program = (
        "import sys\nfrom p2ptrain.cli.main import main\n"
        f"assert main(['dash', '--home', {str(tmp_path)!r}, '--once', '--size', '80x24']) == 0\n"
        "print([name for name in ('torch', 'hivemind', 'numpy', 'rich.console') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    *picture, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert len(picture) == 24
    assert "not running" in picture[0]


def test_json_plain_and_picture(tmp_path: Path, capsys) -> None:
    path = tmp_path / "events.jsonl"
    write(path, records(50))
    assert main(["dash", "--replay", str(path), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["peer"] == ME
    assert body["contribution"]["tokens"] == 10 * 43
    assert body["network"]["reach"] is None
    assert main(["dash", "--replay", str(path), "--plain"]) == 0
    assert "validation loss 0.020 nats/token after 5 rounds" in capsys.readouterr().out
    picture = tmp_path / "picture.svg"
    assert main(["dash", "--replay", str(path), "--at", "0:30", "--picture", str(picture), "--size", "80x24"]) == 0
    assert "TRAINING" in picture.read_text()
    assert "font-face" not in picture.read_text()


def test_no_color_and_ascii_are_obeyed() -> None:
    assert look_of({"TERM": "xterm"}, "UTF-8") == (True, True)
    assert look_of({"TERM": "xterm", "NO_COLOR": "1"}, "utf-8") == (False, True)
    assert look_of({"TERM": "xterm", "NO_COLOR": ""}, "ANSI_X3.4-1968") == (True, False)
