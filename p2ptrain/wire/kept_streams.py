"""Streams that have done their work and are kept for the next blob from the same peer.

Opening one costs the two daemons and the two peers 2 ms of CPU together, as much as sending 300 KB (2 cores, loopback,
200 blobs): a round's parts are of that size.
"""

import asyncio
from collections import deque
from typing import TypeAlias

from p2ptrain.ids import PeerId

_KEPT_S = 10.0
"""Shorter than the other end waits for a request, longer than what lies between the stages of a round."""
_MAX_KEPT = 8
"""Of one name to one peer, which counts them among those that it allows us."""

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class KeptStreams:
    """Idle streams of one node; for one event loop."""

    def __init__(self) -> None:
        self._idle: dict[tuple[PeerId, str], deque[tuple[Stream, asyncio.TimerHandle]]] = {}

    def take(self, peer: PeerId, name: str) -> Stream | None:
        """The stream that was used last, which is nobody else's any more; None if none is left or all have ended."""
        while kept := self._idle.get((peer, name)):
            (reader, writer), expiry = kept.pop()
            expiry.cancel()
            if not kept:
                del self._idle[peer, name]
            if not reader.at_eof() and reader.exception() is None:
                return reader, writer
            writer.close()
        return None

    def keep(self, peer: PeerId, name: str, stream: Stream) -> None:
        """Keep a stream on which everything has been answered, for a while."""
        kept = self._idle.setdefault((peer, name), deque())
        if len(kept) == _MAX_KEPT:
            self._close_oldest(peer, name)
        expiry = asyncio.get_running_loop().call_later(_KEPT_S, self._close_oldest, peer, name)
        kept.append((stream, expiry))

    def close(self, peer: PeerId | None = None) -> None:
        """Close those to one peer, whose link is suspicious, or all."""
        for key in [key for key in self._idle if peer in (None, key[0])]:
            while self._idle.get(key):
                self._close_oldest(*key)

    def _close_oldest(self, peer: PeerId, name: str) -> None:
        kept = self._idle[peer, name]
        (_, writer), expiry = kept.popleft()
        expiry.cancel()
        writer.close()
        if not kept:
            del self._idle[peer, name]
