"""What a newcomer accepts as a run's tokenizer; that it comes at all is tested with real nodes in tests/swarm."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from p2ptrain.config.schema import DataConfig
from p2ptrain.data.tokenizer import hash_of
from p2ptrain.errors import NetworkSetupError, PeerUnreachable
from p2ptrain.ids import PeerId
from p2ptrain.node import manifest_exchange
from p2ptrain.node.manifest_exchange import fetch_tokenizer, serve_tokenizer
from p2ptrain.wire.v1 import peer_pb2 as pb

FILE = bytes(range(256)) * 10_000
"""Three pages."""
DATA = DataConfig(tokenizer="t.json", tokenizer_hash=str(hash_of(FILE)))

Answer = Callable[[PeerId, pb.TokenizerRequest], Awaitable[pb.TokenizerReply]]


class Nodes:
    """Nodes by their ids, without a network between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Answer] = {}
        self.calls: list[str] = []

        @contextlib.asynccontextmanager
        async def passing_node(*_: object) -> AsyncIterator[tuple["Nodes", None]]:
            yield self, None

        monkeypatch.setattr(manifest_exchange, "passing_node", passing_node)

    def add(self, name: str, file: bytes) -> None:
        """An honest node that has ``file``."""

        async def serve(_name: str, _request_type: type, answer: Answer) -> None:
            self.answers[name] = answer

        asyncio.run(serve_tokenizer(SimpleNamespace(serve=serve), file))  # type: ignore[arg-type]

    def add_liar(self, name: str, reply: pb.TokenizerReply) -> None:
        """A node that always answers this."""

        async def answer(_peer: PeerId, _request: pb.TokenizerRequest) -> pb.TokenizerReply:
            return reply

        self.answers[name] = answer

    async def call(self, peer: PeerId, _name: str, request: Any, _reply_type: type, *, timeout_s: float) -> Any:
        self.calls.append(peer)
        if peer not in self.answers:
            raise PeerUnreachable(f"{peer} is not there")
        return await self.answers[peer](PeerId("newcomer"), request)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(monkeypatch)


def fetched(*names: str) -> bytes:
    return asyncio.run(fetch_tokenizer(DATA, [f"/ip4/127.0.0.1/tcp/1/p2p/{name}" for name in names]))


def test_a_file_of_several_pages_comes_whole(nodes: Nodes) -> None:
    nodes.add("a", FILE)
    assert fetched("a") == FILE
    assert nodes.calls == ["a"] * 3


def test_whoever_has_the_right_one_is_taken(nodes: Nodes) -> None:
    nodes.add("without", b"")
    nodes.add("wrong", FILE[:-1] + b"!")
    nodes.add("right", FILE)
    assert fetched("absent", "without", "wrong", "wrong", "right", "absent") == FILE
    assert nodes.calls == ["absent", "without", *["wrong"] * 3, *["right"] * 3]


def test_if_nobody_has_it_each_failure_is_told(nodes: Nodes) -> None:
    nodes.add("without", b"")
    nodes.add("wrong", b"other")
    with pytest.raises(NetworkSetupError) as failure:
        fetched("absent", "without", "wrong")
    for part in ("absent is not there", "has no tokenizer", "spoil the model", "put t.json beside the manifest"):
        assert part in str(failure.value)


@pytest.mark.parametrize(
    "reply",
    [
        pb.TokenizerReply(size_bytes=1 << 40, data=b"x" * (1 << 20)),
        pb.TokenizerReply(size_bytes=len(FILE), data=b"x"),
        pb.TokenizerReply(size_bytes=10, data=b"x" * 11),
        pb.TokenizerReply(size_bytes=len(FILE), data=b""),
        pb.TokenizerReply(size_bytes=0, data=b"x"),
        pb.TokenizerReply(),
    ],
)
def test_who_would_never_come_to_an_end_is_left_at_once(nodes: Nodes, reply: pb.TokenizerReply) -> None:
    nodes.add_liar("liar", reply)
    with pytest.raises(NetworkSetupError, match="has no tokenizer to hand on"):
        fetched("liar")
    assert len(nodes.calls) == 1


def test_who_takes_for_ever_is_left_for_the_next(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_peer: PeerId, _request: pb.TokenizerRequest) -> pb.TokenizerReply:
        return await asyncio.Future()

    monkeypatch.setattr(manifest_exchange, "_WHOLE_FILE_S", 0.05)
    nodes.answers["slow"] = never
    with pytest.raises(NetworkSetupError, match="slow took more than"):
        fetched("slow")
    nodes.add("quick", FILE)
    assert fetched("slow", "quick") == FILE


def test_a_size_that_changes_on_the_way_ends_it(nodes: Nodes) -> None:
    nodes.add_liar("liar", pb.TokenizerReply(size_bytes=(1 << 20) + 5, data=b"x" * (1 << 20)))
    with pytest.raises(NetworkSetupError, match="has no tokenizer"):
        fetched("liar")
    assert len(nodes.calls) == 2
