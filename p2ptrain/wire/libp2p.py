"""A libp2p node with messages, streams and a DHT; with ``libp2p_start`` all that knows hivemind.

Its ``DecentralizedAverager`` is not used; docs/decisions/0001 has the measurements.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import P2P, PeerID
from hivemind.utils import MSGPackSerializer
from hivemind.utils.multiaddr import Multiaddr

from p2ptrain import clock
from p2ptrain.config.schema import RelayLimits
from p2ptrain.errors import BadMessage, DialledTooSoon, NetworkSetupError, NodeDied, PeerUnreachable, WireError
from p2ptrain.ids import PeerId, short
from p2ptrain.wire import callback, punch
from p2ptrain.wire.crowd import Connection
from p2ptrain.wire.daemon_options import tcp_address
from p2ptrain.wire.hivemind_repairs import closes_its_sockets, control_tasks, shut_down
from p2ptrain.wire.kept_streams import KeptStreams
from p2ptrain.wire.libp2p_start import (
    CALL_FAILED,
    NodeOptions,
    Running,
    check_addresses,
    hivemind_id,
    is_alone,
    join_as_reachable,
    join_by_any,
    parsed_address,
    sightings,
    stream_to,
)
from p2ptrain.wire.port_mapping import RENEW_S, map_port
from p2ptrain.wire.rate_limit import RateLimit, UplinkMeter
from p2ptrain.wire.reach import Reach, Sighting, is_relayed, judged, planned_relayed_mbps
from p2ptrain.wire.relay import HOP, STOP, Relay, take_place
from p2ptrain.wire.this_machine import check_can_listen, free_port, hosts, own_ips

_WATCH_EVERY_S = 1.0
_PLACES_EVERY_S = 5.0
_PLACE_TIMEOUT_S = 4.0
"""A relay that is lost is known, and another one used, within twice these."""
_PUNCH_TIMEOUT_S = 10.0
"""To arrange it over a relay, and to call: three times what it took over slow lines."""
_MAX_SOCKET_FOLDER_BYTES = 107 - len("/p2pclient-0123456789a.sock")
"""The path of a Unix socket has at most 107 bytes, unix(7)."""
_CALLER_CLOSES_WITHIN_S = 60.0
"""How long a stream is kept for a caller that has been sent everything: the drain of a slow link's buffers."""

_DIAL_BACKOFF = "dial backoff"
"""In p2pd's words (go-libp2p's ErrDialBackoff)."""
_KEEPERS = 5
"""Nodes that a record is stored at: hivemind's ``num_replicas``."""
_DIRECTORY_TIMEOUT_S = 60.0
"""hivemind looks up in a task that nobody watches: if that failed, whoever waits for what it finds would wait for ever,
and a peer that looks at the directory no more is soon alone. A node that does not answer costs it 3 s."""

_MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""hivemind's own limit for what it sends; whoever sends more does not use it."""

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)
_Found = TypeVar("_Found")


@dataclass(slots=True)
class Traffic:
    """Payload bytes since the node started; libp2p's own overhead is not counted."""

    sent_bytes: int = 0
    received_bytes: int = 0
    recent: Counter[PeerId] = field(default_factory=Counter)
    """Bytes of blobs sent to each peer since somebody last asked."""

    def drain_recent(self) -> dict[PeerId, int]:
        """What went to whom since the last call, most first."""
        recent = dict(self.recent.most_common())
        self.recent.clear()
        return recent


class Libp2pNode:
    """A running libp2p node; ``start`` makes one, ``stop`` ends it and its daemon."""

    def __init__(self, options: NodeOptions, running: Running, sockets: Path, addresses: list[str]) -> None:
        self.peer = options.peer
        self.bootstraps = list(options.bootstraps)
        self.addresses = addresses
        self.reach = running.reach
        """How others get to us, as measured last."""
        self.relay: Relay | None = None
        self.is_relayed = False
        """Whether some of those that we work with reach us, or are reached, through a relay only."""
        self.places: list[str] = []
        """Of the bootstraps, those at whose relay we can be called."""
        self.heard_s = clock.monotonic_s()
        """When somebody else last called us; monotonic."""
        self.traffic = Traffic()
        self.door = options.door
        self.upload, self.download = RateLimit(), RateLimit()
        self.meter = UplinkMeter()
        self._options = options
        self._p2p = running.p2p
        self._dht = running.dht
        self.room = running.room
        """What is kept of others' records."""
        self._sockets = sockets
        self._handlers: list[Callable[[P2P], Awaitable[None]]] = []
        """What is served, to serve it again after a change of daemons."""
        self._is_changing = False
        self._kept = KeptStreams()
        self._bridges: set[asyncio.Task[None]] = set()
        """Connections through holes that were punched."""

    @classmethod
    async def start(cls, options: NodeOptions) -> "Libp2pNode":
        """Listen, reach a bootstrap and join the DHT.

        Raises:
            NetworkSetupError: the address is taken or not ours, a bootstrap's address is malformed, or none answers.
        """
        check_addresses(options.bootstraps)
        check_can_listen(options.host, options.port)
        if options.port == 0 and options.reach != "direct":
            options = replace(options, port=free_port(options.host))  # the one that was tried is the one we keep
        sockets = options.sockets.absolute()
        if len(os.fsencode(sockets)) > _MAX_SOCKET_FOLDER_BYTES:
            sockets = Path(tempfile.gettempdir()) / f"p2ptrain-{os.getuid()}-{options.peer[-12:]}"
        shutil.rmtree(sockets, ignore_errors=True)
        sockets.mkdir(mode=0o700)
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(shutil.rmtree, sockets, ignore_errors=True)
            running = await join_as_reachable(options, sockets)
            undo.push_async_callback(running.p2p.shutdown)
            addresses = [str(address) for address in await running.p2p.get_visible_maddrs()]
            node = cls(options, running, sockets, addresses)
            if options.relay:
                await node._serve_relay(options.relay)
            if options.calls_back:
                await node._serve_call_back()
            if options.reach == "auto":
                await node._serve_punch()
            await node.take_places()
            undo.pop_all()
        return node

    async def stop(self) -> None:
        """Leave the DHT and end the daemon."""
        for task in self._bridges:
            task.cancel()
        self._kept.close()
        await shut_down(self._dht, self._p2p)
        shutil.rmtree(self._sockets, ignore_errors=True)

    async def watch(self) -> None:
        """Never returns.

        Raises:
            NodeDied: p2pd has ended, or hivemind has lost touch with it.
        """
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            if self._is_changing:
                continue
            child = self._p2p._child
            if child.returncode is not None:
                raise NodeDied(f"libp2p's daemon p2pd ended with status {child.returncode}; start the peer again")
            if any(task.done() for task in control_tasks(self._p2p)):
                raise NodeDied("the connection to libp2p's daemon p2pd broke; start the peer again")

    async def keep_acquaintance(self, peers: Collection[PeerId]) -> None:
        """Ask these peers and the bootstraps for a sign of life once, so that the DHT goes on knowing whom to ask."""
        await asyncio.gather(*map(self.dial, self.bootstraps))
        known = {*peers, *(PeerId(address.rpartition("/p2p/")[2]) for address in self.bootstraps)} - {self.peer}
        await asyncio.gather(*map(self.ping, known))

    async def current_addresses(self) -> list[str]:
        """Where others can dial us now; they change when the machine moves to another network."""
        with contextlib.suppress(*CALL_FAILED, ValueError), closes_its_sockets():
            self.addresses = [str(address) for address in await self._p2p.get_visible_maddrs(latest=True)]
        return self.addresses

    async def dial(self, *addresses: str) -> bool:
        """Connect to the peer whose id all these addresses end in; True if connected. The caller sets the deadline."""
        transports = []
        for address in addresses:
            with contextlib.suppress(NetworkSetupError):  # heard from others, who may say anything
                parsed_address(address)
                transports.append(Multiaddr(address.rpartition("/p2p/")[0]))
        if not transports:
            return False
        try:
            with closes_its_sockets():
                await self._p2p._client.connect(hivemind_id(PeerId(addresses[0].rpartition("/p2p/")[2])), transports)
        except (*CALL_FAILED, PeerUnreachable):
            return False
        return True

    async def hang_up(self, *peers: PeerId) -> None:
        """Close every connection to these peers, or to everybody; the next call dials anew."""
        with contextlib.suppress(*CALL_FAILED, PeerUnreachable), closes_its_sockets():
            named = [hivemind_id(peer) for peer in peers]
            for peer in named or [info.peer_id for info in await self._p2p.list_peers()]:
                await self._p2p._client.disconnect(peer)

    async def paths(self) -> dict[PeerId, bool]:
        """The peers that we are connected to, and whether only by a relay."""
        found: dict[PeerId, bool] = {}
        with contextlib.suppress(*CALL_FAILED), closes_its_sockets():
            for info in await self._p2p._client.list_peers():
                peer, relayed = PeerId(info.peer_id.to_base58()), all(is_relayed(str(a)) for a in info.addrs)
                found[peer] = found.get(peer, True) and relayed
        return found

    async def connections(self) -> list[Connection]:
        """All that are open now; empty if p2pd cannot be asked."""
        with contextlib.suppress(*CALL_FAILED), closes_its_sockets():
            found = [(i.peer_id, str(a)) for i in await self._p2p._client.list_peers() for a in i.addrs]
            named = [(peer, "" if is_relayed(address) else hosts([address])[0]) for peer, address in found]
            return [Connection(PeerId(peer.to_base58()), host) for peer, host in named]
        return []

    @property
    def is_alone(self) -> bool:
        """Whether nobody outside this machine is concerned."""
        return is_alone(self._options)

    async def look_at_reach(self) -> Reach | None:
        """How we can be reached at this moment, by what the bootstraps see; None if nobody can tell."""
        if self._options.reach != "auto" or is_alone(self._options):
            return None
        seen = await sightings(self._p2p, self._options)
        return judged(own_ips(), self._options.port, seen, self.reach.way) if seen else None

    async def seen_by_bootstraps(self, port: int) -> list[Sighting]:
        """What the bootstraps that answer see of this machine, and whether they can call ``port`` on it."""
        return await sightings(self._p2p, replace(self._options, port=port))

    async def change_reach(self, reach: Reach) -> None:
        """Be reached in another way: p2pd starts anew, connections break, and calls that are under way fail.

        Raises:
            NetworkSetupError: p2pd does not come back.
        """
        self._is_changing = True
        self._kept.close()
        try:
            await shut_down(self._dht, self._p2p)
            running = await join_by_any(self._options, self._sockets, reach)
            self._p2p, self._dht, self.reach, self.room = running.p2p, running.dht, reach, running.room
            for serve in self._handlers:
                await serve(self._p2p)
            await self.current_addresses()
            await self.take_places()
        finally:
            self._is_changing = False

    async def keep_places(self) -> None:
        """Never returns. Keeps our places at the bootstraps' relays, so that peers that cannot dial us reach us."""
        mapped_s = clock.monotonic_s()
        while True:
            await self.take_places()
            if self._options.map_port and clock.monotonic_s() - mapped_s > RENEW_S:
                mapped_s = clock.monotonic_s()
                await map_port(self._options.port)
            await asyncio.sleep(_PLACES_EVERY_S)

    async def take_places(self) -> None:
        """Ask each bootstrap for a place now, if we need one."""
        if self.reach.way == "direct" or is_alone(self._options):
            self.places = []
            return
        taken = await asyncio.gather(*map(self._take_place, self.bootstraps))
        self.places = [relay for relay, is_taken in zip(self.bootstraps, taken, strict=True) if is_taken]

    async def _take_place(self, relay: str) -> bool:
        peer = PeerId(relay.rpartition("/p2p/")[2])
        try:
            async with asyncio.timeout(_PLACE_TIMEOUT_S):
                if not await self.dial(relay):
                    return False
                async with self.open_stream(peer, HOP) as (reader, writer):
                    return await take_place(reader, writer)
        except (TimeoutError, EOFError, WireError):
            return False

    async def _serve_relay(self, limits: RelayLimits) -> None:
        async def open_stop(peer: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            try:
                return await stream_to(self._p2p, PeerID(peer), STOP)
            except CALL_FAILED as error:
                raise ConnectionError(f"not connected: {error}") from error

        own = [Multiaddr(address).to_bytes() for address in self.addresses]
        relay = self.relay = Relay(limits, open_stop, own)

        async def on_hop(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            address = str(info.addr).split("/")
            await relay.on_hop(info.peer_id.to_bytes(), address[2] if len(address) > 2 else "", reader, writer)

        await self._keep(lambda p2p: p2p.add_binary_stream_handler(HOP, on_hop))

    async def _serve_call_back(self) -> None:
        async def on_call_back(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await callback.answer(str(info.addr), reader, writer)

        await self._keep(self._stream_handler(callback.CALL_BACK, on_call_back))

    async def punch(self, peer: PeerId) -> bool:
        """Try to get from a relayed connection to a direct one; whether we have one. Breaks the relayed one."""
        own = punch.place_of(self.reach.seen)
        if own is None:
            return False
        try:
            async with asyncio.timeout(_PUNCH_TIMEOUT_S):
                async with self.open_stream(peer, punch.PUNCH) as (reader, writer):
                    theirs = await punch.ask(own, reader, writer)
                if theirs is None:
                    return False
                await self.hang_up(peer)  # p2pd calls nobody to whom it is connected
                await self.dial(f"{tcp_address(*theirs)}/p2p/{peer}")
        except (TimeoutError, EOFError, WireError):
            return False
        return (await self.paths()).get(peer) is False

    async def _serve_punch(self) -> None:
        async def on_punch(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = PeerId(info.peer_id.to_base58())
            if not self.door.admits_call(peer, cost=punch.COST):
                raise BadMessage("too many attempts to punch a hole")
            seen = punch.place_of(self.reach.seen) if len(self._bridges) < punch.MAX_BRIDGES else None
            listening = self._options.host, self._options.port
            begun = await punch.answer(seen, listening, reader, writer, is_relayed=is_relayed(str(info.addr)))
            if begun is not None:
                task = asyncio.create_task(punch.bridge(begun, listening))
                self._bridges.add(task)
                task.add_done_callback(self._bridges.discard)
            await writer.drain()

        await self._keep(self._stream_handler(punch.PUNCH, on_punch))

    async def _keep(self, serve: Callable[[P2P], Awaitable[None]]) -> None:
        self._handlers.append(serve)
        await serve(self._p2p)

    async def ping(self, peer: PeerId) -> bool:
        """Whether a peer's DHT answers; if so the DHT knows it from now on, else it forgets it."""
        try:
            named = hivemind_id(peer)
        except PeerUnreachable:
            return False
        return await self._dht.protocol.call_ping(named) is not None

    async def is_there(self, address: str, timeout_s: float = 4.0) -> bool:
        """Whether the node at an address answers; puts it back into the DHT's table if so."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.dial(address) and await self.ping(PeerId(address.rpartition("/p2p/")[2]))
        except TimeoutError:
            return False

    async def serve(
        self, name: str, request_type: type[_Request], handler: Callable[[PeerId, _Request], Awaitable[Message]]
    ) -> None:
        """Answer calls of ``name``; the peer id that the handler gets is authenticated by libp2p."""

        async def handle(data: bytes, sender: Any) -> bytes:
            peer = PeerId(sender.to_base58())
            self.heard_s = clock.monotonic_s()
            if not self.door.admits_call(peer):
                raise BadMessage("you are not listened to for a while: too many calls, or too many bad ones")
            self._count_received(len(data))  # what was turned away must not use up what our cap lets through
            try:
                request = _parse(request_type, data)
            except BadMessage as error:
                self.door.accuse(peer, f"its call of {name}: {error}")
                raise
            reply: bytes = (await handler(peer, request)).SerializeToString()
            self._count_sent(len(reply))
            return reply

        # Below hivemind's own wrapper, which hides who sent what cannot be parsed.
        await self._keep(lambda p2p: p2p._client.add_unary_handler(name, handle))

    @property
    def uplink_mbps(self) -> float:
        """What others may plan with: the cap, or less where less was measured; 0 while nothing is known."""
        caps = [mbps for mbps in (self.upload.mbps or 0.0, self.meter.mbps) if mbps > 0]
        if self.is_relayed:
            caps = [planned_relayed_mbps(min(caps, default=0.0))]
        return float(f"{min(caps, default=0.0):.2g}")

    @property
    def downlink_mbps(self) -> float:
        """What others may plan with: the cap, 0 without one. What was measured is no bound: nobody had to send more."""
        return self.download.mbps or 0.0

    def _count_sent(self, num_bytes: int) -> None:
        self.traffic.sent_bytes += num_bytes
        self.upload.count(num_bytes)

    def _count_received(self, num_bytes: int) -> None:
        self.traffic.received_bytes += num_bytes
        self.download.count(num_bytes)

    async def call(
        self, peer: PeerId, name: str, request: Message, reply_type: type[_Reply], *, timeout_s: float
    ) -> _Reply:
        """One request and its reply; at most 4 MiB each.

        Raises:
            PeerUnreachable: the peer cannot be dialled, failed to answer, took longer than ``timeout_s``, or sent what
                is no such reply.
        """
        try:
            async with asyncio.timeout(timeout_s):
                self._count_sent(request.ByteSize())
                reply = await self._p2p.call_protobuf_handler(hivemind_id(peer), name, request, reply_type)
        except CALL_FAILED as error:
            raise PeerUnreachable(f"{short(peer)} did not answer {name}: {error or 'no answer in time'}") from error
        except DecodeError as error:
            self.door.accuse(peer, f"its answer to {name} is none")
            raise PeerUnreachable(f"{short(peer)} did not answer {name}, but sent something else") from error
        assert isinstance(reply, reply_type)
        self._count_received(reply.ByteSize())
        return reply

    async def serve_streams(
        self, name: str, handler: Callable[[PeerId, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        """Hand each incoming stream of ``name`` to ``handler``, which may raise what a broken link raises."""

        async def handle(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await handler(PeerId(info.peer_id.to_base58()), reader, writer)

        await self._keep(self._stream_handler(name, handle))

    def _stream_handler(
        self, name: str, handler: Callable[[Any, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> Callable[[P2P], Awaitable[None]]:
        async def handle(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = PeerId(info.peer_id.to_base58())
            if not self.door.opens_stream(peer):
                writer.close()
                return
            try:
                await handler(info, reader, writer)
                # p2pd resets a stream whose serving end closes first, and what was still on its way is lost (seen in
                # 1 of 200 small transfers): so the caller closes, when it has everything.
                async with asyncio.timeout(_CALLER_CLOSES_WITHIN_S):
                    await reader.read(1)
            except (*CALL_FAILED, WireError):
                pass  # the caller sees the stream end, and asks elsewhere
            finally:
                self.door.closes_stream(peer)
                writer.close()

        return lambda p2p: p2p.add_binary_stream_handler(name, handle)

    @contextlib.asynccontextmanager
    async def open_stream(
        self, peer: PeerId, name: str, *, is_kept: bool = False
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A stream to ``peer``. The caller sets the deadline.

        Args:
            peer: whom to call.
            name: of what it serves.
            is_kept: when the block ends, everything that was asked for has been answered, and more may be asked: the
                stream is kept for the next one who wants such a stream, and may be one that was. Otherwise, and if the
                block raises, it is closed.

        Raises:
            PeerUnreachable: the peer cannot be dialled, or the link broke inside the block; ``DialledTooSoon`` if that
                was not even tried.
        """
        try:
            stream = (self._kept.take(peer, name) if is_kept else None) or await stream_to(
                self._p2p, hivemind_id(peer), name
            )
            try:
                yield stream
            except BaseException:
                stream[1].close()
                raise
            if is_kept:
                self._kept.keep(peer, name, stream)
            else:
                stream[1].close()
        except CALL_FAILED as error:
            if isinstance(error, TimeoutError):
                raise
            self._kept.close(peer)
            kind = DialledTooSoon if _DIAL_BACKOFF in str(error) else PeerUnreachable
            raise kind(f"stream {name} to {short(peer)} broke: {error}") from error

    async def store(self, record_name: str, *, subkey: str, value: bytes, expires_s: float) -> bool:
        """Put a record into the DHT; True says that some node took it, not that others can read it.

        False does not say that nobody did: hivemind tells what the last node said that it asked, and that may be one
        that has the record already, known under the DHT ids of its earlier lives, too.
        """
        await self._meet_again()
        storing = self._dht.store(record_name, value, expires_s, subkey=subkey)
        return bool(await _within(_DIRECTORY_TIMEOUT_S, storing))

    async def find(self, record_name: str) -> dict[str, bytes]:
        """The live records under a name, by subkey; only those that passed the record check."""
        await self._meet_again()
        found = await _within(_DIRECTORY_TIMEOUT_S, self._dht.get(record_name, latest=True))
        if found is None or not isinstance(found.value, dict):
            return {}
        return {str(subkey): entry.value for subkey, entry in found.value.items() if isinstance(entry.value, bytes)}

    async def find_elsewhere(self, record_name: str) -> dict[str, bytes]:
        """The same as the nodes have it that keep the name, without what is stored here.

        Nothing found says little: hivemind does not tell a name without records from nodes that did not answer. But
        whoever finds a record of its own here knows that somebody answered, and what else is kept there.
        """
        await self._meet_again()
        key = DHTID.generate(source=record_name)
        nearest = self._dht.find_nearest_nodes([key], k_nearest=_KEEPERS, exclude_self=True)
        keepers = (await _within(_DIRECTORY_TIMEOUT_S, nearest) or {key: {}})[key]
        answers = await asyncio.gather(*(self._dht.protocol.call_find(peer, [key]) for peer in keepers.values()))
        newest: dict[str, tuple[float, bytes]] = {}
        for answer in answers:
            entry, _ = answer[key] if answer else (None, None)
            if entry is None or not isinstance(entry.value, DictionaryDHTValue):
                continue
            for subkey, (packed, expires_s) in entry.value.items():
                value = MSGPackSerializer.loads(packed)
                if isinstance(value, bytes) and expires_s > newest.get(str(subkey), (0.0, b""))[0]:
                    newest[str(subkey)] = expires_s, value
        return {subkey: value for subkey, (_, value) in newest.items()}

    async def _meet_again(self) -> None:
        """Ping the bootstraps if the DHT knows nobody: it drops a node that misses one deadline."""
        if not self._dht.protocol.routing_table.uid_to_peer_id:
            await asyncio.gather(*(self.ping(PeerId(address.rpartition("/p2p/")[2])) for address in self.bootstraps))
            await asyncio.sleep(0)  # those that answered are noted down in a task


async def _within(timeout_s: float, work: Coroutine[Any, Any, _Found]) -> _Found | None:
    """What ``work`` comes to, or None if it does not in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        return None


def _parse(kind: type[_Request], data: bytes) -> _Request:
    if len(data) > _MAX_REQUEST_BYTES:
        raise BadMessage(f"a request of {len(data)} bytes; {_MAX_REQUEST_BYTES} are the most")
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadMessage(f"{len(data)} bytes that are no {kind.DESCRIPTOR.name}") from error
