"""What a command finds when it begins: its streams, and how the heavy modules are imported."""

import gc
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from p2ptrain.cli.processes import open_standard_streams, quiet_imports


def test_nobody_looks_for_garbage_meanwhile_and_never_again_among_what_was_defined() -> None:
    gc.unfreeze()
    try:
        with quiet_imports():
            assert not gc.isenabled()
            made = [object]
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000
        assert not any(made is one for one in gc.get_objects()), "which are those that garbage is looked for among"
    finally:
        gc.unfreeze()


def test_an_import_that_fails_leaves_nothing_switched_off(recwarn: pytest.WarningsRecorder) -> None:
    def imports() -> None:
        with quiet_imports():
            warnings.warn("of a library about another one", stacklevel=1)
            raise ImportError("of a package that is not there")

    with pytest.raises(ImportError):
        imports()
    gc.unfreeze()
    assert gc.isenabled()
    assert not recwarn.list
    with pytest.warns(UserWarning, match="of ours"):
        warnings.warn("of ours", stacklevel=1)


def test_ctrl_c_waits_until_everything_is_imported() -> None:
    code = """
import signal
from p2ptrain.cli.processes import quiet_imports
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts beside itself ignores it
try:
    with quiet_imports():
        signal.raise_signal(signal.SIGINT)
        print("C++ code that would not bear it")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["C++ code that would not bear it", "interrupted True"]


def test_nothing_is_printed_into_a_file_that_took_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = """
import sys
from p2ptrain.cli.processes import open_standard_streams
open_standard_streams()
with open("journal", "w") as journal:
    print("of ours", flush=True)
    print("of ours", file=sys.stderr, flush=True)
    assert sys.stdin.read() == ""
    assert journal.fileno() > 2
"""
    closed = [sys.executable, "-c", code, "with its streams closed"]
    status = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *closed], cwd=tmp_path, check=False).returncode
    assert status == 0
    assert (tmp_path / "journal").read_text() == ""


def test_open_streams_are_left_alone() -> None:
    before = [os.fstat(number).st_ino for number in range(3)], (sys.stdin, sys.stdout, sys.stderr)
    open_standard_streams()
    assert before == ([os.fstat(number).st_ino for number in range(3)], (sys.stdin, sys.stdout, sys.stderr))
