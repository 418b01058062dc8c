"""Measuring the upload: another node is sent bytes that mean nothing, and throws them away.

Whoever serves this keeps nothing and answers with a number, so a call costs it what any call that it refuses costs it:
there is nothing to gain by it for an attacker. Calls are counted at the door like all others.
"""

import os
from collections.abc import Sequence

from p2ptrain import clock
from p2ptrain.errors import PeerUnreachable
from p2ptrain.ids import PeerId
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.v1 import probe_pb2 as pb

UPLOAD = "upload"
_SIZES = (1 << 18, 1 << 21)
"""Bytes: the second only where the first is gone too quickly to say much."""
_LONG_ENOUGH_S = 0.3
_TIMEOUT_S = 15.0
"""The first size at 140 kbit/s."""


async def serve_upload(node: Libp2pNode) -> None:
    """Take others' bytes and say how many they were."""

    async def answer(_sender: PeerId, request: pb.UploadRequest) -> pb.UploadReply:
        return pb.UploadReply(received_bytes=len(request.ballast))

    await node.serve(UPLOAD, pb.UploadRequest, answer)


async def measure_upload(node: Libp2pNode, peers: Sequence[PeerId]) -> tuple[float, int] | None:
    """Mbit/s to the first of ``peers`` that takes bytes, and how many it was sent; None if nobody does."""
    for peer in peers:
        try:
            trip_s = await _seconds(node, peer, b"")
            for size in _SIZES:
                taken_s = max(await _seconds(node, peer, os.urandom(size)) - trip_s, 1e-6)
                if taken_s >= _LONG_ENOUGH_S or size == _SIZES[-1]:
                    return size * 8e-6 / taken_s, size
        except PeerUnreachable:
            continue
    return None


async def _seconds(node: Libp2pNode, peer: PeerId, ballast: bytes) -> float:
    started_s = clock.monotonic_s()
    reply = await node.call(peer, UPLOAD, pb.UploadRequest(ballast=ballast), pb.UploadReply, timeout_s=_TIMEOUT_S)
    if reply.received_bytes != len(ballast):
        raise PeerUnreachable(f"{peer} took {reply.received_bytes} of {len(ballast)} bytes")
    return clock.monotonic_s() - started_s
