"""Two nodes exchange a blob over each kind of address that can be listened at and announced."""

import os
import socket
from pathlib import Path

import pytest

from p2ptrain.identity.keys import load_or_create
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.swarm.directory import is_valid_record
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import NodeOptions
from tests.support.live_swarm import PATIENCE_S

pytestmark = pytest.mark.swarm


def free_port(kind: int, host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def has_ipv6(name: str = "::1") -> bool:
    """Whether this machine has IPv6, and knows its loopback address by this name."""
    try:
        free_port(socket.SOCK_STREAM, "::1")
        return bool(socket.getaddrinfo(name, None, socket.AF_INET6))
    except OSError:
        return False


async def start(folder: Path, name: str, host: str, bootstraps: list[str], listen: list[str]) -> Libp2pNode:
    key = folder / f"{name}.key"
    return await Libp2pNode.start(
        NodeOptions(
            identity=key,
            peer=load_or_create(key).peer_id,
            host=host,
            port=0,
            bootstraps=bootstraps,
            check_record=is_valid_record,
            launcher=die_with_parent_prefix(),
            sockets=folder / f"{name}.sockets",
            also_listen=listen,
        )
    )


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("tcp6", marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")),
        "quic",
        "websocket",
        "dns4",
        pytest.param("dns6", marks=pytest.mark.skipif(not has_ipv6("localhost"), reason="localhost is not ::1 here")),
    ],
)
async def test_a_blob_arrives_over(way: str, tmp_path: Path) -> None:
    host = "::1" if way in ("tcp6", "dns6") else "127.0.0.1"
    own = {
        "quic": lambda: f"/ip4/127.0.0.1/udp/{free_port(socket.SOCK_DGRAM, host)}/quic-v1",
        "websocket": lambda: f"/ip4/127.0.0.1/tcp/{free_port(socket.SOCK_STREAM, host)}/ws",
    }
    listen = [own[way]()] if way in own else []
    holder = await start(tmp_path, "holder", host, [], listen)
    try:
        named = listen[0] if listen else holder.addresses[0].partition("/p2p/")[0]
        if way.startswith("dns"):
            named = named.replace(f"/ip{way[-1]}/{host}/", f"/{way}/localhost/")
        asker = await start(tmp_path, "asker", host, [f"{named}/p2p/{holder.peer}"], [])
        try:
            blobs, asked = BlobExchange(holder, lambda peer, _: None), BlobExchange(asker, lambda peer, _: None)
            await blobs.start()
            data = os.urandom(3_000_000)
            received, _ = await asked.fetch(
                blobs.store.hold("test", data), [holder.peer], silence_timeout_s=PATIENCE_S, what="data"
            )
            assert bytes(received) == data
            (used,) = {str(a) for info in await asker._p2p._client.list_peers() for a in info.addrs}
            expected = {"tcp6": "/ip6/::1/tcp/", "dns6": "/ip6/::1/tcp/", "quic": "/quic-v1", "websocket": "/ws"}
            assert expected.get(way, "/ip4/127.0.0.1/tcp/") in used
        finally:
            await asker.stop()
    finally:
        await holder.stop()
