"""Shells complete p2ptrain's commands and options."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from p2ptrain.cli import main as cli


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Path:
    """The completion script of a shell; beside it a program named p2ptrain."""
    assert cli.main(["completion", request.param]) == 0
    path = tmp_path / f"p2ptrain.{request.param}"
    path.write_text(capsys.readouterr().out)
    program = tmp_path / "p2ptrain"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m p2ptrain "$@"\n')
    program.chmod(0o755)
    return path


LINES = pytest.mark.parametrize(
    ("line", "found"),
    [
        ("p2ptrain sta", {"status"}),
        ("p2ptrain lab co", {"codec"}),
        ("p2ptrain peer --up", {"--upload-mbps"}),
    ],
)


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@LINES
def test_bash_completes(script: Path, line: str, found: set[str]) -> None:
    words = line.split()
    typed = (
        f"PATH={script.parent}:$PATH; source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1};"
        ' _p2ptrain_completion p2ptrain; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) == found


@pytest.mark.parametrize("script", ["fish"], indirect=True)
@LINES
def test_fish_completes(script: Path, line: str, found: set[str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    typed = f'set PATH {script.parent} $PATH; source {script}; complete -C "{line}"'
    variables = {**os.environ, "HOME": str(script.parent)}
    done = subprocess.run(["fish", "-c", typed], capture_output=True, text=True, check=True, timeout=60, env=variables)
    assert {answer.split("\t")[0] for answer in done.stdout.splitlines() if answer} == found


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_completes(script: Path) -> None:
    """As a person uses it: an interactive shell on a terminal, and the Tab key."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    controller, terminal = pty.openpty()
    variables = {**os.environ, "TERM": "dumb", "PS1": "", "HOME": str(script.parent)}
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=terminal, stdout=terminal, stderr=terminal, env=variables, start_new_session=True
    )
    os.close(terminal)
    try:
        setup = f"PATH={script.parent}:$PATH; autoload -U compinit; compinit -D -u; source {script}; echo rea''dy\n"
        os.write(controller, setup.encode())
        _read_until(controller, b"ready")
        for line, found in (("p2ptrain sta", "status "), ("p2ptrain peer --up", "--upload-mbps ")):
            os.write(controller, f"{line}\t".encode())
            _read_until(controller, found.encode())
            os.write(controller, b"\x15")  # Ctrl-U: away with the line
    finally:
        shell.kill()
        shell.wait(timeout=30)
        os.close(controller)


def _read_until(controller: int, wanted: bytes) -> None:
    """What the terminal shows, until it has shown this; pytest's timeout is the only limit."""
    seen = b""
    while wanted not in seen:
        seen += os.read(controller, 65536)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == 2
    assert "choose from bash, zsh, fish" in capsys.readouterr().err
