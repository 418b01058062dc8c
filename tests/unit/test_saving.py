"""Writing to a disk that fails for a while."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from p2ptrain.errors import StorageError
from p2ptrain.events import DiskRecovered, DiskTrouble, Event, EventBus
from p2ptrain.node import atomic_file
from p2ptrain.node.atomic_file import remove_unfinished, replace_file
from p2ptrain.node.saving import Saving, retry_after_s


def fail() -> None:
    raise StorageError("disk is read-only")


async def test_trouble_is_told_once_and_its_end_too() -> None:
    events: list[Event] = []
    saving = Saving(EventBus(sinks=[lambda record: events.append(record.event)]))
    assert not await saving.attempt(fail)
    assert not await saving.attempt(fail)
    with pytest.raises(StorageError):
        saving.must(fail)
    assert (saving.failures, saving.trouble) == (3, "disk is read-only")
    assert await saving.attempt(lambda: None)
    assert (saving.failures, saving.trouble) == (0, "")
    assert [type(event) for event in events] == [DiskTrouble, DiskRecovered]


async def test_smaller_files_are_no_sign_that_a_checkpoint_finds_room() -> None:
    """A promise of 64 bytes fits where seven megabytes do not, and what would be promised could not be kept."""
    events: list[Event] = []
    saving, written = Saving(EventBus(sinks=[lambda record: events.append(record.event)])), list[str]()
    assert not await saving.attempt(fail, is_checkpoint=True)
    assert await saving.attempt(lambda: written.append("address book"))
    with pytest.raises(StorageError, match="disk is read-only"):
        saving.must(lambda: written.append("promise"))
    assert (saving.trouble, written) == ("disk is read-only", ["address book"])
    assert await saving.attempt(lambda: None, is_checkpoint=True)
    saving.must(lambda: written.append("promise"))
    assert (saving.trouble, written) == ("", ["address book", "promise"])
    assert [type(event) for event in events] == [DiskTrouble, DiskRecovered]


async def test_write_that_goes_on_after_its_task_was_cancelled_is_waited_for() -> None:
    saving = Saving(EventBus())
    began, go_on, order = threading.Event(), threading.Event(), []

    def slow() -> None:
        began.set()
        go_on.wait(5)
        order.append("first")

    first = asyncio.create_task(saving.attempt(slow))
    await asyncio.to_thread(began.wait, 5)
    first.cancel()
    second = asyncio.create_task(saving.attempt(lambda: order.append("second")))
    await asyncio.sleep(0.01)
    go_on.set()
    await second
    assert order == ["first", "second"]


def test_pauses_between_attempts_double_up_to_half_a_minute() -> None:
    assert [retry_after_s(n) for n in (1, 2, 3, 6, 100)] == [1.0, 2.0, 4.0, 30.0, 30.0]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace", "fsync folder"])
def test_any_step_of_writing_may_fail_and_the_old_file_stays(
    step: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, [b"old"], size_bytes=3)
    real_fsync, synced = os.fsync, []

    def broken(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    def fsync_second_fails(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            broken()
        real_fsync(descriptor)

    with monkeypatch.context() as patched:
        if step == "write":
            patched.setattr(atomic_file, "_write", broken)
        elif step == "fsync folder":
            patched.setattr(atomic_file.os, "fsync", fsync_second_fails)
        else:
            patched.setattr(atomic_file.os, step, broken)
        with pytest.raises(StorageError, match="could not be saved"):
            replace_file(path, [b"new"], size_bytes=3)
    remove_unfinished(path)
    # Once the rename is done the new file is there, whole; only its place in the folder may not survive a power cut.
    assert path.read_bytes() == (b"new" if step == "fsync folder" else b"old")
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
