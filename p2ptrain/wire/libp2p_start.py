"""How a libp2p node comes up, and what its daemon and its DHT go by: whom to meet, what to store, whom to answer.

hivemind's DHT runs in our own event loop (``DHTNode``), not in its forked process: the forked one outlives a killed
parent and hangs on records over 64 KiB; docs/decisions/0002 has the measurements.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hivemind.dht import DHTNode, node, traverse
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure, P2PDaemonError, P2PHandlerError
from hivemind.utils import MSGPackSerializer
from hivemind.utils.multiaddr import Multiaddr

from p2ptrain import clock
from p2ptrain.config.schema import ReachWish, RelayLimits
from p2ptrain.errors import BadMessage, NetworkSetupError, PeerUnreachable, WireError
from p2ptrain.ids import PeerId
from p2ptrain.wire import callback
from p2ptrain.wire.daemon_options import daemon_environment, daemon_options, tcp_address
from p2ptrain.wire.doorkeeper import Doorkeeper
from p2ptrain.wire.hivemind_repairs import closes_its_sockets, repair, repair_search, shut_down
from p2ptrain.wire.port_mapping import map_port
from p2ptrain.wire.reach import Reach, Sighting, Way, first_guess, judged
from p2ptrain.wire.record_room import RecordRoom
from p2ptrain.wire.this_machine import hosts, is_loopback, own_ips

CALL_FAILED = (P2PDaemonError, P2PHandlerError, ControlFailure, OSError, EOFError, TimeoutError)
_START_TIMEOUT_S = 60.0
"""For p2pd to listen; it takes a third of a second, but was seen to need more than hivemind's 15 s at a load of 20."""
_BOOTSTRAP_TIMEOUT_S = 30.0
"""A relayed first contact took up to 3 s in the lab; ten times that is somebody who is not there."""
_ASK_BOOTSTRAPS_AGAIN_S = 0.5
_NEIGHBOURS_WITHIN_S = 3.0
"""For the first look at the DHT; those that answer later are met later."""
_MAX_FOUND = 256
"""Names whose records we looked up and keep: a peer looks up three."""
_MAX_CACHED_BYTES = 8 * 1024**2
"""Of records that others ask us to keep beside those that we are responsible for."""
_RECORD_BYTES = 8192
"""Of the directory's calls, so many bytes count as one call: checking a record's signature takes 0.2 ms."""


@dataclass(frozen=True, slots=True)
class DirectoryRecord:
    """One entry of the DHT: ``key`` is what all peers look up, ``subkey`` the one who wrote it."""

    key: bytes
    subkey: str
    value: bytes
    expires_s: float
    """Wall time."""


repair_search(traverse, node)

RecordCheck = Callable[[DirectoryRecord], bool]
"""Decides whether a record may be stored here, or believed when somebody returns it."""


def record_key(name: str) -> bytes:
    """What the DHT files ``name`` under; a record check sees this instead of the name."""
    return bytes(DHTID.generate(source=name).to_bytes())


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """How a node appears in the network."""

    identity: Path
    """libp2p private key file."""
    peer: PeerId
    host: str
    port: int
    bootstraps: Sequence[str]
    """Multiaddresses ending in ``/p2p/<peer id>``; with none this node is the first one."""
    known_addresses: Sequence[str] = ()
    """Where other peers were once: tried when no bootstrap answers."""
    check_record: RecordCheck
    launcher: Sequence[str]
    """Goes before the daemon's command line, so that the daemon cannot outlive this process."""
    sockets: Path
    """For the daemon's Unix sockets, made and removed by the node; below /tmp if its path is too long for them."""
    serves_dht: bool = True
    """False: reads the DHT without keeping records for others (observers)."""
    reach: ReachWish = "direct"
    """``auto`` asks the bootstraps to call back, and takes a place at their relays if they cannot."""
    map_port: bool = False
    """Ask the router to pass the port on."""
    announce: Sequence[str] = ()
    """Announced instead of what the machine has."""
    also_listen: Sequence[str] = ()
    """Multiaddresses beside ``host`` and ``port``."""
    relay: RelayLimits | None = None
    """To carry connections for peers that nobody can dial."""
    door: Doorkeeper = field(default_factory=Doorkeeper)
    """Who is listened to."""
    calls_back: bool = False
    """Tell those that ask where their calls come from, and whether they can be called there."""


def check_addresses(bootstraps: Sequence[str]) -> None:
    """Return if all of them have the form of a bootstrap's address.

    Raises:
        NetworkSetupError: naming the first that has not.
    """
    for text in bootstraps:
        parsed_address(text)


def check_announced(addresses: Sequence[str]) -> None:
    """Return if all of them are multiaddresses that can be announced or listened at.

    Raises:
        NetworkSetupError: naming the first that is not.
    """
    for text in addresses:
        try:
            is_bare = text.startswith("/") and "p2p" not in Multiaddr(text)
        except Exception:  # noqa: BLE001 - hivemind's parser raises many types
            is_bare = False
        if not is_bare:
            raise NetworkSetupError(
                f"{text!r} is not an address to listen at or to announce; it looks like /ip4/203.0.113.7/tcp/31337,"
                " /dns4/boot.example.org/tcp/31337 or /ip4/0.0.0.0/udp/31337/quic-v1, without /p2p/..."
            )


@dataclass(frozen=True, slots=True)
class Running:
    """What has come up."""

    p2p: P2P
    dht: DHTNode
    reach: Reach
    room: RecordRoom


async def join_as_reachable(options: NodeOptions, sockets: Path) -> Running:
    """Join in the way that is likeliest to be right, have the bootstraps look, and join in another way if it was not.

    Raises:
        NetworkSetupError: see ``join_by_any``.
    """
    if options.reach != "auto" or is_alone(options):
        way: Way = "relayed" if options.reach == "relayed" else "direct"
        return await join_by_any(options, sockets, Reach(way=way, nat="unknown", reason=_unmeasured(options)))
    if options.map_port:
        await map_port(options.port)
    ips = own_ips()
    guess = first_guess(ips, hosts(options.bootstraps))
    running = await join_by_any(options, sockets, Reach(way=guess, nat="unknown", reason="not asked yet"))
    found = judged(ips, options.port, await sightings(running.p2p, options), guess)
    if found.way == guess:
        return replace(running, reach=found)
    await shut_down(running.dht, running.p2p)
    return await join_by_any(options, sockets, found)


async def sightings(p2p: P2P, options: NodeOptions) -> list[Sighting]:
    """What those bootstraps that answer see of us."""

    async def ask(address: str) -> Sighting | None:
        by = PeerId(address.rpartition("/p2p/")[2])
        try:
            async with asyncio.timeout(callback.ASK_TIMEOUT_S):
                reader, writer = await stream_to(p2p, hivemind_id(by), callback.CALL_BACK)
                try:
                    return await callback.ask(by, options.port, reader, writer)
                finally:
                    writer.close()
        except (*CALL_FAILED, WireError):
            return None

    answers = await asyncio.gather(*map(ask, options.bootstraps))
    return [answer for answer in answers if answer is not None]


async def join_by_any(options: NodeOptions, sockets: Path, reach: Reach) -> Running:
    """Start the daemon and join by the bootstraps, or else by somebody whom we once knew.

    Raises:
        NetworkSetupError: nobody answers, or the daemon does not start.
    """
    bootstraps = [parsed_address(text) for text in options.bootstraps]
    known = []
    for text in options.known_addresses:
        with contextlib.suppress(NetworkSetupError):
            known.append(parsed_address(text))
    ways: list[Sequence[Multiaddr]] = [way for way in (bootstraps, known) if way]
    if not bootstraps:
        ways.append([])
    failure: NetworkSetupError | None = None
    for way in ways:
        try:
            return await _join(options, sockets, reach, way)
        except NetworkSetupError as error:
            failure = failure or error
    assert failure is not None
    raise failure


async def _join(options: NodeOptions, sockets: Path, reach: Reach, by: Sequence[Multiaddr]) -> Running:
    arguments, flags = daemon_options(
        reach,
        listen=[tcp_address(options.host, options.port), *options.also_listen],
        own_ips=own_ips(),
        port=options.port,
        announce=options.announce,
        relays=options.bootstraps,
        is_alone=is_alone(options),
    )
    environment = [f"{name}={value}" for name, value in daemon_environment(reach).items()]
    daemon: Any = type(
        "_Daemon",
        (_Daemon,),
        {
            "launcher": [*options.launcher, "env", *environment],
            "flags": flags,
            "door": options.door,
            "_UNIX_SOCKET_PREFIX": f"/unix{sockets}/",
        },
    )
    async with contextlib.AsyncExitStack() as undo:
        try:
            p2p = await daemon.create(
                initial_peers=by,
                identity_path=str(options.identity),
                check_if_identity_free=False,  # it would start a second daemon, with NAT mapping on
                nat_port_map=False,
                startup_timeout=_START_TIMEOUT_S,
                **arguments,
            )
        except P2PDaemonError as error:
            raise NetworkSetupError(_start_failure(options, str(error))) from error
        undo.push_async_callback(p2p.shutdown)
        repair(p2p._client.control)
        try:
            async with asyncio.timeout(_BOOTSTRAP_TIMEOUT_S):
                dht = await DHTNode.create(
                    p2p=p2p,
                    record_validator=_Validator(options.check_record),
                    client_mode=not options.serves_dht,
                    backoff_rate=1.0,  # whoever was silent is asked again after 5 s, not after ever longer
                )
                await _meet(dht, by)
        except TimeoutError as error:
            raise NetworkSetupError(_no_bootstrap(options, "none answered a ping")) from error
        room = RecordRoom()
        storage, cache = _Storage(room), _Storage(RecordRoom(max_bytes=_MAX_CACHED_BYTES), keeps_found=True)
        storage.take_over(dht.protocol.storage)
        dht.protocol.storage, dht.protocol.cache = storage, cache
        undo.pop_all()
    return Running(p2p, dht, reach, room)


async def _meet(dht: DHTNode, by: Sequence[Multiaddr]) -> None:
    """Get to know one of these nodes at least, and through them our neighbours in the DHT; asks until one answers.

    hivemind's own way asks once, for 3 s, and what a node on a busy machine misses then would end the process.
    """
    peers = [PeerID.from_base58(address["p2p"]) for address in by]
    while peers:
        pings = [dht.protocol.call_ping(peer, validate=True) for peer in peers]
        if any(isinstance(found, DHTID) for found in await asyncio.gather(*pings, return_exceptions=True)):
            looking = asyncio.create_task(dht.find_nearest_nodes([dht.node_id]))
            await asyncio.wait([looking], timeout=_NEIGHBOURS_WITHIN_S)
            return
        await asyncio.sleep(_ASK_BOOTSTRAPS_AGAIN_S)


async def stream_to(p2p: P2P, peer: Any, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a stream to hivemind's id ``peer``; the caller closes it."""
    with closes_its_sockets() as opened:
        _, reader, writer = await p2p.call_binary_stream_handler(peer, name)
        opened.clear()
    return reader, writer


def _unmeasured(options: NodeOptions) -> str:
    return "everybody is on this machine" if is_alone(options) else "as configured"


def is_alone(options: NodeOptions) -> bool:
    """Whether nobody outside this machine is concerned."""
    if options.calls_back and not is_loopback(options.host):
        return False
    return all(map(is_loopback, hosts(options.bootstraps)))


class _Daemon(P2P):  # type: ignore[misc]  # hivemind has no type information
    """hivemind's handle of p2pd, with a launcher before the daemon's command line and more flags behind it."""

    launcher: Sequence[str] = ()
    flags: Sequence[str] = ()
    door: Doorkeeper

    async def _add_protobuf_unary_handler(
        self, handle_name: str, handler: Any, input_protobuf_type: Any, balanced: bool = False
    ) -> None:
        """Hivemind's DHT answers whoever asks; here the doorkeeper has a say, as for calls of ours."""

        async def admitted(request: Any, context: Any) -> Any:
            cost = 1 + request.ByteSize() / _RECORD_BYTES
            if not self.door.admits_call(PeerId(context.remote_id.to_base58()), cost=cost):
                raise BadMessage("you are not listened to for a while: too many calls, or too many bad ones")
            return await handler(request, context)

        await super()._add_protobuf_unary_handler(handle_name, admitted, input_protobuf_type, balanced)

    @classmethod
    def _make_process_args(cls, *args: Any, **kwargs: Any) -> list[str]:
        return [*cls.launcher, *P2P._make_process_args(*args, **kwargs), *cls.flags]


class _Storage(DHTLocalStorage):  # type: ignore[misc]  # hivemind has no type information
    """hivemind's storage of records, which would take any number of them.

    Args:
        room: for records that others bring.
        keeps_found: keep what we looked up ourselves, too, of so many names as ``maxsize``.
    """

    def __init__(self, room: RecordRoom, *, keeps_found: bool = False) -> None:
        super().__init__(maxsize=_MAX_FOUND if keeps_found else None)
        self._room = room
        self._keeps_found = keeps_found

    def store_subkey(self, key: Any, subkey: Any, value: bytes, expiration_time: float) -> bool:
        if not self._room.take(key.to_bytes(), str(subkey), len(value), expiration_time, clock.wall_s()):
            return False
        return bool(super().store_subkey(key, subkey, value, expiration_time))

    def store(self, key: Any, value: Any, expiration_time: float, subkey: Any = None) -> bool:
        if subkey is not None:
            return self.store_subkey(key, subkey, value, expiration_time)
        is_found = self._keeps_found and isinstance(value, DictionaryDHTValue)
        return is_found and bool(super().store(key, value, expiration_time))

    def take_over(self, before: DHTLocalStorage) -> None:
        """Keep what another storage has."""
        for key, item in before.items():
            if isinstance(item.value, DictionaryDHTValue):
                for subkey, record in item.value.items():
                    self.store_subkey(key, subkey, record.value, record.expiration_time)


class _Validator(RecordValidatorBase):  # type: ignore[misc]  # hivemind has no type information
    """Applies our check to what the DHT is asked to store and to what it is told."""

    def __init__(self, check: RecordCheck) -> None:
        self._check = check

    def validate(self, record: DHTRecord) -> bool:
        try:
            value = MSGPackSerializer.loads(record.value)
            subkey = MSGPackSerializer.loads(record.subkey)
        except Exception:  # noqa: BLE001 - msgpack raises many types for what strangers send; none of it is a record
            return False
        if not isinstance(value, bytes) or not isinstance(subkey, str):
            return False
        return self._check(DirectoryRecord(record.key, subkey, value, record.expiration_time))


def hivemind_id(peer: PeerId) -> Any:
    """The id in hivemind's form.

    Raises:
        PeerUnreachable: it is none; others may write anything into a message that names peers.
    """
    try:
        return PeerID.from_base58(peer)
    except ValueError as error:
        raise PeerUnreachable(f"{peer!a} is not a peer id: {error}") from error


def parsed_address(text: str) -> Multiaddr:
    """A peer's address with its id.

    Raises:
        NetworkSetupError: it is none.
    """
    try:
        address = Multiaddr(text)
        PeerID.from_base58(address["p2p"])
    except Exception as error:  # hivemind's parser raises many types, KeyError and StringParseError among them
        raise NetworkSetupError(
            f"bootstrap address {text!r} is not complete; it looks like /ip4/203.0.113.7/tcp/31337/p2p/12D3Koo...,"
            " as `p2ptrain bootstrap` prints it"
        ) from error
    return address


def _start_failure(options: NodeOptions, detail: str) -> str:
    if "bootstrap peers" in detail:
        return _no_bootstrap(options, "none could be dialled")
    return f"libp2p did not start on {options.host} port {options.port}: {detail}"


def _no_bootstrap(options: NodeOptions, detail: str) -> str:
    return (
        f"no bootstrap answers: tried {', '.join(options.bootstraps)} ({detail}). Is `p2ptrain bootstrap` running"
        " there, is its address complete, and is this machine's clock right within 3 s?"
    )
