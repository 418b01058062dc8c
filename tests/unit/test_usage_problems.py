"""What people get to read when a command line is wrong: one sentence, with what would be right."""

import pytest

from p2ptrain.cli import main as cli


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("staus", "there is no command staus; did you mean p2ptrain status?"),
        ("enroll", "there is no command enroll; did you mean p2ptrain control enroll?"),
        ("xyzzy", "there is no command xyzzy; choose from bench, bootstrap, "),
        ("run nwe", "run has no command nwe; did you mean p2ptrain run new?"),
        ("--versoin", "there is no option --versoin; did you mean --version?"),
        ("peer --hom x", "peer has no option --hom; did you mean --home?"),
        ("status --xyzzy", "status has no option --xyzzy; see p2ptrain status --help"),
        ("peer --debug", "it stands before the command: p2ptrain --debug peer ..."),
        ("config --hom x", "config has no option --hom; did you mean --home?"),
        ("peer --port", "--port needs a value after it"),
        ("peer --port 99999", "peer --port 99999 is out of range; choose 0 to 65535"),
        ("peer --port=x", "peer --port x is not a whole number; choose 0 to 65535"),
        ("config --upload-mbps fast", "config --upload-mbps fast is not a number; choose 0 or more"),
        ("bench step -n 0", "bench step -n 0 is out of range; choose 1 or more"),
        ("peer", "peer needs --run (The run's manifest); for an example: p2ptrain peer --help"),
        ("run show", "run show needs MANIFEST"),
        ("status extra", "status has no use for extra"),
        ("doctor --device cuad", "--device cuad is no device; choose cpu, cuda, cuda:1"),
        ("dash --home .", "this is none; add --plain for lines, --once or --json"),
        ("run new tiyn --out x.toml", "did you mean tiny?"),
        ("bench memory --model foo", "choose from step, 150m, 1.3b, 7b"),
        ("bootstrap --status foo", "--status foo is not HOST:PORT; choose for example 127.0.0.1:8080"),
        ("bootstrap --status ::1:80", "is not HOST:PORT"),
        ("bootstrap --status 127.0.0.1:x", "x is not a port; choose 0 to 65535"),
        ("completion tcsh", "choose from bash, zsh, fish"),
        ("pause --for 2x --home .", "--home .: no peer is running there; start one with: p2ptrain peer"),
        ("status", "which peer? Add --home DIR of one on this machine"),
    ],
)
def test_wrong_command_line_is_answered_in_a_sentence(capsys: pytest.CaptureFixture[str], line: str, says: str) -> None:
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("p2ptrain: ")
    assert says in said
    assert said.count("\n") == 1


def test_wrong_value_is_named_with_the_variable_that_it_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PTRAIN_PEER_PORT", "x")
    assert cli.main(["peer", "--run", "t.toml", "--home", "h"]) == 2
    assert "peer --port x (from P2PTRAIN_PEER_PORT) is not a whole number" in capsys.readouterr().err


def test_a_group_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run"]) == 2
    assert "Usage: p2ptrain run" in capsys.readouterr().out


def test_a_bug_is_a_sentence_and_the_traceback_is_in_a_file(
    tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("seven\neight")

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("p2ptrain.control.address.target_of_home", broken)
    assert cli.main(["status", "--home", "h"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("p2ptrain: something that should not happen: ZeroDivisionError: seven; ")
    assert "Traceback" not in said
    assert "Traceback" in (tmp_path / "p2ptrain" / "crash.txt").read_text()
    with pytest.raises(ZeroDivisionError):
        cli.main(["--debug", "status", "--home", "h"])
