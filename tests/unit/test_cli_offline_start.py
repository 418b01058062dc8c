"""Starting: what the machine must have, how fast help comes, and how errors look."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import p2ptrain.__main__ as entry
from p2ptrain import __version__
from p2ptrain.cli import main as cli
from p2ptrain.errors import P2PTrainError, StorageError, UsageError

GOOD = {"python": (3, 11, 7), "system": "Linux", "machine": "x86_64", "torch": "2.13.0+cpu", "hivemind": "1.1.12"}


def p2ptrain(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "p2ptrain", *arguments], capture_output=True, text=True, timeout=50, check=False
    )


def test_machine_with_everything_lacks_nothing():
    assert entry.unmet_requirement(**GOOD) is None
    assert entry.unmet_requirement(**GOOD | {"python": (3, 12, 0), "torch": "2.5.0"}) is None


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ({"python": (3, 10, 12)}, "needs Python 3.11 or 3.12, and this is 3.10.12"),
        ({"python": (2, 7, 18)}, "needs Python 3.11 or 3.12, and this is 2.7.18"),
        ({"python": (3, 13, 0)}, "needs Python 3.11 or 3.12, and this is 3.13.0"),
        ({"system": "Darwin", "machine": "arm64"}, "needs Linux on x86-64"),
        ({"machine": "aarch64"}, "this is Linux on aarch64"),
        ({"torch": None}, "needs torch, which is not installed; in p2ptrain's folder run: pip install"),
        ({"torch": "2.4.1"}, "needs torch 2.5 or newer, and this is 2.4.1"),
        ({"torch": "1.13.0a0+git"}, "needs torch 2.5 or newer"),
        ({"hivemind": None}, "needs hivemind, which is not installed"),
    ],
)
def test_what_the_machine_lacks_is_one_sentence(lacking, sentence):
    found = entry.unmet_requirement(**GOOD | lacking)
    assert sentence in found
    assert "\n" not in found


def test_lacking_machine_ends_with_status_2_before_anything_is_imported(monkeypatch, capsys):
    monkeypatch.setattr(entry, "_installed", lambda package: None)
    monkeypatch.setitem(sys.modules, "p2ptrain.cli.main", None)  # importing it would now fail
    assert entry.main() == 2
    assert capsys.readouterr().err.startswith("p2ptrain needs torch, which is not installed")


@pytest.mark.parametrize("name", ["__main__.py", "__init__.py"])
def test_files_that_an_old_python_reads_have_no_new_syntax(name: str):
    source = (Path(entry.__file__).parent / name).read_text()
    tree = ast.parse(source, feature_version=(3, 4))
    assert not any(isinstance(node, ast.JoinedStr | ast.AnnAssign) for node in ast.walk(tree))


def test_help_is_there_at_once_and_without_torch_or_hivemind():
    code = """
import sys, time
sys.argv = ["p2ptrain", "--help"]
from p2ptrain.__main__ import main
status = main()
print(status, round(time.process_time(), 3), *sorted({"torch", "hivemind", "numpy"} & set(sys.modules)))
"""
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        status, took, *heavy = done.stdout.splitlines()[-1].split()
        assert status == "0"
        assert heavy == []
        seconds.append(float(took))
    # Processor time from the interpreter's start on, the best of three: what else the machine does is not our fault.
    assert min(seconds) < 0.4


def test_a_peer_trains_without_torchs_compiler():
    code = """
import sys
import p2ptrain.cli.peer_commands, p2ptrain.node.service, p2ptrain.training.choose
from tests.unit.test_training_inner_loop import loop
trained = loop()
trained.step(0)
trained.validation_loss(2)
print(*sorted({"torch", "torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch"]  # the others take every start 0.9 s of a processor and 70 MB


def test_version_names_all_that_matters_for_a_bug_report():
    began = time.perf_counter()
    done = p2ptrain("--version")
    assert time.perf_counter() - began < 5
    assert done.returncode == 0
    assert done.stdout.startswith(f"p2ptrain {__version__}, Python 3.")
    assert ", torch 2." in done.stdout
    assert ", hivemind 1." in done.stdout


def test_every_command_has_help_with_an_example(capsys):
    def visit(command, path):
        if getattr(command, "commands", None):
            for name, inner in command.commands.items():
                visit(inner, [*path, name])
            return
        assert "Example: p2ptrain " + " ".join(path) in (command.help or ""), path
        assert all(p.help for p in command.params if p.name != "help"), path

    from typer.main import get_command

    visit(get_command(cli.app), [])


@pytest.mark.parametrize(
    ("error", "status"), [(UsageError("no such thing"), 2), (StorageError("full"), 1), (P2PTrainError("odd"), 1)]
)
def test_error_is_one_line_and_a_status(monkeypatch, capsys, error, status):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main([]) == status
    assert capsys.readouterr().err == f"p2ptrain: {error}\n"


def test_output_that_takes_nothing_more_is_no_crash():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "p2ptrain", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("p2ptrain: no space is left on the disk, or where the output goes")
    assert "should not happen" not in done.stderr


def test_usage_error_shows_its_origin_only_with_debug(tmp_path: Path):
    plain = p2ptrain("run", "show", str(tmp_path))
    assert plain.returncode == 2
    assert plain.stderr == f"p2ptrain: {tmp_path} is a directory; name the manifest in it, a file like tiny.toml\n"
    debug = p2ptrain("--debug", "run", "show", str(tmp_path))
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
    assert "read_manifest" in debug.stderr


def test_unknown_command_ends_with_status_2():
    done = p2ptrain("trian")
    assert done.returncode == 2
    assert "there is no command trian; choose from bench, " in done.stderr
