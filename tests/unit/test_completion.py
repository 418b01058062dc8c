"""Shells complete p2ptrain's commands and options."""

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


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("p2ptrain sta", {"status"}),
        ("p2ptrain lab co", {"codec"}),
        ("p2ptrain peer --up", {"--upload-mbps"}),
    ],
)
def test_bash_completes(script: Path, line: str, found: set[str]) -> None:
    words = line.split()
    typed = (
        f"PATH={script.parent}:$PATH; source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1};"
        ' _p2ptrain_completion p2ptrain; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True, timeout=30)
    assert set(done.stdout.split()) == found


@pytest.mark.parametrize("script", ["zsh", "fish"], indirect=True)
def test_script_is_one_that_its_shell_can_read(script: Path) -> None:
    shell = script.suffix[1:]
    assert "_P2PTRAIN_COMPLETE" in script.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(script)], check=True, timeout=30)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == 2
    assert "choose from bash, zsh, fish" in capsys.readouterr().err
