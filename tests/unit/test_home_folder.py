"""A peer's home: one run, one process, nothing written before all is well."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2ptrain.config.load import parse_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.errors import ConfigError, HomeError, StorageError
from p2ptrain.ids import RunId
from p2ptrain.node import atomic_file
from p2ptrain.node.home import FolderLock, Home

NANO = preset_text("nano")
NANO_ID = run_id(parse_run(NANO, "nano"))
OTHER = NANO.replace("seed = 1", "seed = 2")
OTHER_ID = run_id(parse_run(OTHER, "other"))


@contextmanager
def process_using(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``home`` until it is killed."""
    code = "import sys, pathlib; from p2ptrain.node.home import FolderLock as F; "
    code += "lock = F.acquire(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in folder.iterdir()}


def test_new_home_is_private_and_keeps_a_copy_of_the_manifest(tmp_path: Path):
    with Home.open(tmp_path / "home", NANO, NANO_ID) as home:
        assert home.manifest_path.read_text() == NANO
        assert home.run.name == "nano"
        assert home.run_id == NANO_ID
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_folder_that_exists_with_a_log_in_it_becomes_a_home(tmp_path: Path):
    (tmp_path / "log.txt").write_text("starting\n")
    with Home.open(tmp_path, NANO, NANO_ID):
        pass
    assert (tmp_path / "log.txt").read_text() == "starting\n"


def test_home_opens_again_for_its_run_even_if_the_manifest_is_formatted_otherwise(tmp_path: Path):
    for text in (NANO, NANO + "# a thought\n"):
        with Home.open(tmp_path / "home", text, NANO_ID) as home:
            assert home.manifest_path.read_text() == text


def test_home_of_another_run_is_refused_with_both_ids_and_left_as_it_was(tmp_path: Path):
    with Home.open(tmp_path / "home", NANO, NANO_ID):
        pass
    before = contents(tmp_path / "home")
    with pytest.raises(HomeError, match=f"belongs to run {NANO_ID[:8]}.*of run {OTHER_ID[:8]}; choose another --home"):
        Home.open(tmp_path / "home", OTHER, OTHER_ID)
    assert contents(tmp_path / "home") == before


def test_refusal_does_not_write_to_a_folder_that_was_never_used(tmp_path: Path):
    (tmp_path / "manifest.toml").write_text(NANO)
    with pytest.raises(HomeError):
        Home.open(tmp_path, OTHER, OTHER_ID)
    assert contents(tmp_path) == {"manifest.toml": NANO.encode()}


def test_wrong_manifest_makes_no_folder(tmp_path: Path):
    with pytest.raises(ConfigError):
        Home.open(tmp_path / "home", "seed = 1", RunId("0" * 64))
    assert not (tmp_path / "home").exists()


def test_home_in_use_is_refused_with_the_process_that_uses_it(tmp_path: Path):
    with process_using(tmp_path / "home") as process:
        with pytest.raises(HomeError, match=f"in use by process {process.pid}; stop that process"):
            Home.open(tmp_path / "home", NANO, NANO_ID)
        assert list(contents(tmp_path / "home")) == ["lock"]


def test_killed_process_gives_its_home_up(tmp_path: Path):
    with process_using(tmp_path / "home") as process:
        process.kill()
        process.wait()
        with Home.open(tmp_path / "home", NANO, NANO_ID):
            assert (tmp_path / "home" / "lock").read_text() == f"{os.getpid()}\n"


def test_closed_home_can_be_opened_by_the_same_process(tmp_path: Path):
    home = Home.open(tmp_path / "home", NANO, NANO_ID)
    with pytest.raises(HomeError, match=f"in use by process {os.getpid()}"):
        Home.open(tmp_path / "home", NANO, NANO_ID)
    home.close()
    home.close()
    Home.open(tmp_path / "home", NANO, NANO_ID).close()


def test_failed_opening_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(atomic_file, "_write", full)
        with pytest.raises(StorageError, match=r"manifest\.toml could not be saved: No space left"):
            Home.open(tmp_path / "home", NANO, NANO_ID)
    Home.open(tmp_path / "home", NANO, NANO_ID).close()


def test_lock_goes_even_when_a_child_process_inherited_it(tmp_path: Path):
    lock = FolderLock.acquire(tmp_path)
    inherited = os.dup(lock._descriptor or 0)
    lock.release()
    FolderLock.acquire(tmp_path).release()
    os.close(inherited)


def test_opening_removes_what_a_crash_left_half_written(tmp_path: Path):
    Home.open(tmp_path, NANO, NANO_ID).close()
    for name in ("manifest.toml", "checkpoint.safetensors"):
        (tmp_path / f".{name}.unfinished").write_bytes(b"half")
    Home.open(tmp_path, NANO, NANO_ID).close()
    assert sorted(contents(tmp_path)) == ["lock", "manifest.toml"]


def test_home_that_cannot_be_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="file is a file; choose a folder"):
        Home.open(tmp_path / "file", NANO, NANO_ID)
    with pytest.raises(HomeError, match="cannot be used: Not a directory; choose another --home"):
        Home.open(tmp_path / "file" / "home", NANO, NANO_ID)


def test_damaged_copy_of_the_manifest_is_named(tmp_path: Path):
    Home.open(tmp_path, NANO, NANO_ID).close()
    (tmp_path / "manifest.toml").write_text("seed = ")
    with pytest.raises(HomeError, match=r"damaged copy of its manifest.*not valid TOML.*Copy the run's manifest"):
        Home.open(tmp_path, NANO, NANO_ID)


def test_inspecting_works_while_a_peer_uses_the_home(tmp_path: Path):
    Home.open(tmp_path, NANO, NANO_ID).close()
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    with process_using(tmp_path):
        before = contents(tmp_path)
        home = Home.inspect(tmp_path)
        assert (home.run_id, home.run.seed) == (NANO_ID, 1)
        assert contents(tmp_path) == before


def test_inspecting_says_what_is_missing(tmp_path: Path):
    with pytest.raises(HomeError, match="does not exist; name the folder"):
        Home.inspect(tmp_path / "none")
    with pytest.raises(HomeError, match=r"is no peer's home: it has no manifest\.toml"):
        Home.inspect(tmp_path)
    Home.open(tmp_path, NANO, NANO_ID).close()
    with pytest.raises(HomeError, match="no checkpoint yet; its peer saves the first one after a committed round"):
        Home.inspect(tmp_path)


def test_a_home_keeps_the_runs_tokenizer_and_mends_it(tmp_path: Path):
    with Home.open(tmp_path, NANO, NANO_ID) as home:
        assert home.tokenizer_file() == b""
    with Home.open(tmp_path, NANO, NANO_ID, b"tokens") as home:
        assert home.tokenizer_file() == b"tokens"
    (tmp_path / "tokenizer.json").write_bytes(b"half")
    with Home.open(tmp_path, NANO, NANO_ID, b"tokens") as home:
        assert home.tokenizer_file() == b"tokens"
    with Home.open(tmp_path, NANO, NANO_ID) as home:
        assert home.tokenizer_file() == b"tokens"
