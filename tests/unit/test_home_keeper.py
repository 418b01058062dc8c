"""What must be on disk before a peer says it."""

import asyncio
import threading
from pathlib import Path

import pytest

from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import EngineConfig, LimitsConfig
from p2ptrain.events import EventBus
from p2ptrain.ids import COMMON, PeerId, RunId, SliceId, Version
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node import home_keeper
from p2ptrain.node.home import Home
from p2ptrain.node.home_keeper import HomeKeeper
from p2ptrain.swarm.round_commands import Promise
from p2ptrain.wire.messages import Ballot

PROMISE = Promise(Version(1), Ballot(1, 0, (PeerId("me"),)))


async def test_promises_of_a_slice_are_written_one_after_the_other_and_no_other_slice_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = parse_run(preset_text("nano"), source="nano")
    plan = SlicePlan.of(run.model, run.slicing)
    home = Home(Path("nowhere"), run, RunId("run"))
    keepers = [
        HomeKeeper(home, plan, EngineConfig(), LimitsConfig(), frozenset({COMMON}), {}, EventBus(sinks=[]))
        for _ in "ab"
    ]
    for keeper in keepers:
        keeper.begin()
    writing, begun, goes_on = [], threading.Semaphore(0), threading.Event()

    def save_promise(home: object, slice_id: SliceId, promise: Promise) -> None:
        writing.append(slice_id)
        begun.release()
        assert goes_on.wait(20)
        writing.remove(slice_id)

    monkeypatch.setattr(home_keeper, "save_promise", save_promise)
    # After a pause a peer has another keeper of the same home.
    by = [(keepers[0], COMMON), (keepers[1], COMMON), (keepers[0], SliceId("0"))]
    saving = [asyncio.to_thread(keeper.save_promise, slice_id, PROMISE) for keeper, slice_id in by]
    saved = asyncio.gather(*saving)
    for _ in range(2):
        assert await asyncio.to_thread(begun.acquire, timeout=20)
    assert sorted(writing) == ["0", COMMON]
    assert not await asyncio.to_thread(begun.acquire, timeout=0.05)
    goes_on.set()
    await saved
    assert not writing
