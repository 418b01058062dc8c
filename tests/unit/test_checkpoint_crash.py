"""Saving when the process is killed or the disk is full: the old checkpoint or the new one, never half of one."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from p2ptrain.errors import P2PTrainError, StorageError
from p2ptrain.ids import COMMON, RunId, Version
from p2ptrain.node import atomic_file, checkpoint
from p2ptrain.node.checkpoint import Checkpoint, OwnedTensors

KILLS = 60
"""Writers that are killed; about half of them leave an unfinished file. Once tried with 1500: all loads were whole."""

# Forks from a process without threads, because starting Python for each kill would take seconds.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from p2ptrain.ids import COMMON, RunId, Version
from p2ptrain.node import checkpoint
from p2ptrain.node.atomic_file import remove_unfinished
from p2ptrain.node.checkpoint import Checkpoint, OwnedTensors

path, kills = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(0)

def state(version):
    values = np.full(300_000, version, np.float32)
    return Checkpoint(run=RunId("r"), owned={
        COMMON: OwnedTensors(version=Version(version), anchor=values, momentum=-values, certificate=b"")})

checkpoint.save(path, state(0))
last, unfinished = 0, 0
for _ in range(kills):
    writer = os.fork()
    if writer == 0:
        for version in range(last + 1, last + 1_000_000):
            checkpoint.save(path, state(version))
    time.sleep(chance.uniform(0.001, 0.02))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    unfinished += path.with_name("." + path.name + ".unfinished").exists()
    remove_unfinished(path)
    found = checkpoint.load(path).owned[COMMON]
    assert found.version >= last, (found.version, last)
    assert (found.anchor == found.version).all() and (found.momentum == -found.anchor).all()
    last = found.version
assert [f.name for f in path.parent.iterdir()] == [path.name]
print(last, unfinished)
"""


def state(version: int, numel: int) -> Checkpoint:
    values = np.full(numel, version, np.float32)
    owned = OwnedTensors(version=Version(version), anchor=values, momentum=values, certificate=b"")
    return Checkpoint(run=RunId("r"), owned={COMMON: owned})


def saved_version(path: Path) -> int:
    found = checkpoint.load(path)
    assert found is not None
    return found.owned[COMMON].version


def test_killed_writer_leaves_the_old_checkpoint_or_the_new_one(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path), str(KILLS)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    saves, unfinished = map(int, done.stdout.split())
    # Otherwise the kills came too early or too late to prove anything.
    assert saves > 0
    assert unfinished > KILLS // 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_the_old_checkpoint_and_says_how_much_is_needed(small_disk: Path):
    path = small_disk / "checkpoint.safetensors"
    checkpoint.save(path, state(1, numel=60_000))
    with pytest.raises(StorageError) as caught:
        checkpoint.save(path, state(2, numel=80_000))
    assert not isinstance(caught.value, OSError)
    message = str(caught.value)
    needed = int(message.split(" bytes are needed")[0].split()[-1])
    assert 640_000 < needed < 641_000
    assert "No space left on device" in message
    assert "last saved state is intact" in message
    assert saved_version(path) == 1
    assert [found.name for found in small_disk.iterdir()] == ["checkpoint.safetensors"]
    checkpoint.save(path, state(3, numel=50_000))
    assert saved_version(path) == 3


def test_file_size_limit_leaves_the_old_checkpoint(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, state(1, numel=1_000))
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from p2ptrain.errors import StorageError
from p2ptrain.ids import COMMON, RunId, Version
from p2ptrain.node import checkpoint
values = np.full(100_000, 2, np.float32)
state = checkpoint.OwnedTensors(version=Version(2), anchor=values, momentum=values, certificate=b"")
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    checkpoint.save(Path(sys.argv[1]), checkpoint.Checkpoint(run=RunId("r"), owned={COMMON: state}))
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert saved_version(path) == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failing_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, state(1, numel=10))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(atomic_file.os, step, fail)
        with pytest.raises(P2PTrainError, match=r"Input/output error.*check the disk"):
            checkpoint.save(path, state(2, numel=10))
    assert saved_version(path) == 1


def test_new_file_is_on_disk_before_it_takes_the_old_one_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    fsync, replace = atomic_file.os.fsync, atomic_file.os.replace
    monkeypatch.setattr(atomic_file.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(atomic_file.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    checkpoint.save(tmp_path / "checkpoint.safetensors", state(1, numel=10))
    assert calls == ["fsync", "replace", "fsync"]
