"""Measuring the line: bytes that mean nothing go to another node, which throws them away, or come from it.

Whoever takes bytes keeps nothing and answers with a number, so a call costs it what any call that it refuses costs it:
there is nothing to gain by it for an attacker. Giving bytes away costs an uplink, so only bootstrap nodes do, and in
all no more than a ration. Calls are counted at the door like all others.
"""

import os
from collections.abc import Awaitable, Callable, Sequence

from p2ptrain import clock
from p2ptrain.errors import PeerUnreachable
from p2ptrain.ids import PeerId
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.v1 import probe_pb2 as pb

UPLOAD = "upload"
DOWNLOAD = "download"
_SIZES = (1 << 18, 1 << 21)
"""Bytes: the second only where the first is gone too quickly to say much."""
_LONG_ENOUGH_S = 0.3
_TIMEOUT_S = 15.0
"""The first size at 140 kbit/s."""
_RATION_BYTES = 24 << 20
_RATION_S = 60.0
"""A dozen volunteers a minute may ask; more than 3 Mbit/s of a bootstrap's uplink do not go away in this manner."""


class Ration:
    """So many bytes a minute for all who ask, together."""

    def __init__(self) -> None:
        self._begun_s = -_RATION_S
        self._left = 0

    def take(self, wanted_bytes: int, now_s: float) -> int:
        """``wanted_bytes`` if so many are left, else 0."""
        if now_s - self._begun_s >= _RATION_S:
            self._begun_s, self._left = now_s, _RATION_BYTES
        if wanted_bytes > min(self._left, _SIZES[-1]):
            return 0
        self._left -= wanted_bytes
        return wanted_bytes


async def serve_upload(node: Libp2pNode) -> None:
    """Take others' bytes and say how many they were."""

    async def answer(_sender: PeerId, request: pb.UploadRequest) -> pb.UploadReply:
        return pb.UploadReply(received_bytes=len(request.ballast))

    await node.serve(UPLOAD, pb.UploadRequest, answer)


async def serve_download(node: Libp2pNode) -> None:
    """Give others bytes, as long as the ration lasts."""
    ration = Ration()

    async def answer(_sender: PeerId, request: pb.DownloadRequest) -> pb.DownloadReply:
        return pb.DownloadReply(ballast=os.urandom(ration.take(request.wanted_bytes, clock.monotonic_s())))

    await node.serve(DOWNLOAD, pb.DownloadRequest, answer)


async def measure_upload(node: Libp2pNode, peers: Sequence[PeerId]) -> tuple[float, int] | None:
    """Mbit/s to the first of ``peers`` that takes bytes, and how many it was sent; None if nobody does."""

    async def send(peer: PeerId, size: int) -> int:
        request = pb.UploadRequest(ballast=os.urandom(size))
        return (await node.call(peer, UPLOAD, request, pb.UploadReply, timeout_s=_TIMEOUT_S)).received_bytes

    return await _measure(send, peers)


async def measure_download(node: Libp2pNode, peers: Sequence[PeerId]) -> tuple[float, int] | None:
    """Mbit/s from the first of ``peers`` that gives bytes, and how many; None if nobody does."""

    async def fetch(peer: PeerId, size: int) -> int:
        request = pb.DownloadRequest(wanted_bytes=size)
        return len((await node.call(peer, DOWNLOAD, request, pb.DownloadReply, timeout_s=_TIMEOUT_S)).ballast)

    return await _measure(fetch, peers)


async def _measure(
    transfer: Callable[[PeerId, int], Awaitable[int]], peers: Sequence[PeerId]
) -> tuple[float, int] | None:
    """What a transfer of enough bytes takes beyond one of none."""

    async def seconds(peer: PeerId, size: int) -> float:
        started_s = clock.monotonic_s()
        if (done := await transfer(peer, size)) != size:
            raise PeerUnreachable(f"{peer} did {done} of {size} bytes")
        return clock.monotonic_s() - started_s

    for peer in peers:
        try:
            trip_s = await seconds(peer, 0)
            for size in _SIZES:
                taken_s = max(await seconds(peer, size) - trip_s, 1e-6)
                if taken_s >= _LONG_ENOUGH_S or size == _SIZES[-1]:
                    return size * 8e-6 / taken_s, size
        except PeerUnreachable:
            continue
    return None
