"""However a peer or its daemon ends, nothing goes on behind it and nobody waits for ever."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2ptrain.errors import NodeDied
from p2ptrain.node.bridge import Bridge
from p2ptrain.node.peer import Peer
from p2ptrain.node.standing import Standing
from p2ptrain.swarm.beside import begin_beside
from p2ptrain.wire import libp2p
from p2ptrain.wire.libp2p import Libp2pNode


class TrainerThatCounts:
    """Knows whether it runs."""

    def __init__(self) -> None:
        self.is_running = False

    def start(self) -> None:
        self.is_running = True

    async def stop(self) -> None:
        self.is_running = False


def training_peer() -> Peer:
    peer = Peer.__new__(Peer)
    peer._beside = set()
    peer._bridge = cast(Bridge, SimpleNamespace(trainer=TrainerThatCounts(), complete_if_done=lambda: None))
    peer._standing = cast(Standing, SimpleNamespace(enter=lambda state, reason: None))
    return peer


async def test_training_has_ended_when_something_beside_it_fails() -> None:
    peer = training_peer()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise NodeDied("p2pd has ended")

    with pytest.raises(ExceptionGroup):
        await peer._train_until(asyncio.Event(), fail())
    assert not cast(TrainerThatCounts, peer._bridge.trainer).is_running


@pytest.mark.filterwarnings("error")
async def test_a_message_that_comes_while_everything_ends_begins_nothing() -> None:
    async def follow() -> None:
        raise AssertionError

    async with asyncio.TaskGroup() as group:
        pass
    assert begin_beside(group, follow()) is None
    gc.collect()  # a coroutine that nobody closed would say so here


async def test_what_was_begun_beside_training_ends_with_it() -> None:
    peer, stop = training_peer(), asyncio.Event()
    begun = asyncio.Event()

    async def begin_another() -> None:
        peer._spawn(go_on())
        await go_on()

    async def go_on() -> None:
        begun.set()
        await asyncio.Event().wait()

    training = asyncio.create_task(peer._train_until(stop, begin_another()))
    await begun.wait()
    stop.set()
    await asyncio.wait_for(training, 60)
    assert not cast(TrainerThatCounts, peer._bridge.trainer).is_running


async def test_a_lookup_that_hivemind_never_ends_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(libp2p, "_DIRECTORY_TIMEOUT_S", 0.01)
    node = Libp2pNode.__new__(Libp2pNode)
    table = SimpleNamespace(uid_to_peer_id={"somebody": "there"})
    node._dht = SimpleNamespace(get=never, store=never, protocol=SimpleNamespace(routing_table=table))
    assert await node.find("claims") == {}
    assert not await node.store("claims", subkey="me", value=b"", expires_s=0.0)


@pytest.mark.parametrize("broken", ["_read_task", "_write_task"])
async def test_a_connection_to_the_daemon_of_which_one_half_has_ended_ends_the_peer(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(libp2p, "_WATCH_EVERY_S", 0.0)
    loop = asyncio.get_running_loop()
    halves = {"_read_task": loop.create_future(), "_write_task": loop.create_future()}
    halves[broken].set_result(None)
    node = Libp2pNode.__new__(Libp2pNode)
    node._is_changing = False
    client = SimpleNamespace(control=SimpleNamespace(**halves))
    node._p2p = SimpleNamespace(_child=SimpleNamespace(returncode=None), _client=client)
    with pytest.raises(NodeDied, match="broke"):
        await asyncio.wait_for(node.watch(), 10)
