"""The control interface of a running peer: a gRPC server in its event loop.

It listens on a Unix socket that only the peer's user can open and, when asked to, on a TCP port where both sides prove
themselves with certificates (``control/enrolment.py``). Nothing listens in the clear. What is asked goes to the
``Seat``, which alone decides; this module translates.
"""

import asyncio
import contextlib
import functools
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from p2ptrain.control.address import require_private, short_folder, socket_path
from p2ptrain.control.client import MAX_MESSAGE_BYTES
from p2ptrain.control.enrolment import ServerCertificates
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.control.v1.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from p2ptrain.errors import ControlUsageError, NetworkSetupError, P2PTrainError, UsageError
from p2ptrain.node.event_log import EventLog, first_sequence

SERVICE = "p2ptrain.control.v1.Control"
_MAX_CALLS = 64
"""At once; a screen needs two."""
_GRACE_S = 0.5
"""For calls under way when the peer ends; watchers are told by the end of their streams."""
_MAX_DURATION_S = 366 * 86400.0
_MAX_REASON = 200
_Reply = TypeVar("_Reply")


class Subject(Protocol):
    """What the server commands and asks: the volunteer's seat at the peer."""

    def status(self) -> pb.StatusReply:
        """What the peer is doing."""

    def pausing(self) -> pb.Pausing:
        """What holds it back."""

    def pause(self, duration_s: float | None, reason: str) -> str:
        """Stop training at once; returns a sentence."""

    def resume(self) -> str:
        """Go on; returns a sentence."""

    def finish(self, duration_s: float | None) -> str:
        """Complete the round, then pause; returns a sentence."""

    def leave(self, *, finish_first: bool) -> str:
        """End the process; returns a sentence."""

    def limits(self) -> pb.LimitsReply:
        """Limits in force."""

    def set_limits(self, changes: dict[str, str], duration_s: float | None) -> pb.LimitsReply:
        """Change limits.

        Raises:
            ConfigError: a key or value is wrong; nothing was changed.
        """

    def why(self) -> pb.WhyReply:
        """One sentence."""

    async def doctor(self, *, quick: bool) -> pb.DoctorReply:
        """Examine machine and network."""

    async def swarm(self, timeout_s: float) -> pb.SwarmReply:
        """Ask all peers."""


class ControlServer:
    """Serves one peer's control interface; ``start`` and ``stop``.

    Args:
        home: the peer's folder, in use by this process.
        subject: who is commanded.
        log: the peer's events.
        listen: ``host:port`` for TCP, empty for the Unix socket alone.
        certificates: for TCP.
    """

    def __init__(
        self, home: Path, subject: Subject, log: EventLog, listen: str, certificates: ServerCertificates | None
    ) -> None:
        self._socket = socket_path(home)
        self._journal = home / "events.jsonl"
        self._log = log
        self._listen = listen
        self._certificates = certificates
        self._servicer = _Servicer(subject, log, self._journal)
        self._server: Any = None
        self._health: Any = None

    async def start(self) -> list[str]:
        """Listen; returns the addresses.

        Raises:
            ControlUsageError: the socket cannot be made safely.
            NetworkSetupError: the TCP port is taken.
        """
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        add_ControlServicer_to_server(self._servicer, self._server)  # type: ignore[no-untyped-call]  # generated
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection([SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._bind_socket()
        addresses = [f"unix:{self._socket}"]
        if self._listen:
            addresses.append(self._bind_tcp())
        await self._server.start()
        return addresses

    async def stop(self) -> None:
        """Tell watchers the end, then listen no more."""
        self._log.close()
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            # gRPC's farewell asks for an answer and the connection is closed behind the last stream: a watcher that
            # answered before it had read its stream's end would take it for a broken connection.
            await self._servicer.watchers_gone(_GRACE_S)
            await self._server.stop(_GRACE_S)
        self._socket.unlink(missing_ok=True)

    def _bind_socket(self) -> None:
        path = self._socket
        if path.parent == short_folder():
            require_private(path.parent)
        with contextlib.suppress(FileNotFoundError):
            # We hold the home's lock, so a socket that is there was left behind by a peer that was killed.
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ControlUsageError(f"{path} is in the way of the control socket; remove it")
            path.unlink()
        before = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise ControlUsageError(f"{path}: the control socket cannot be made: {error}") from error
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o600, f"{path} has mode {path.stat().st_mode:o}"

    def _bind_tcp(self) -> str:
        assert self._certificates is not None
        credentials = grpc.ssl_server_credentials(
            [(self._certificates.key, self._certificates.certificate)],
            root_certificates=self._certificates.authority,
            require_client_auth=True,
        )
        try:
            port = self._server.add_secure_port(self._listen, credentials)
        except RuntimeError as error:
            raise NetworkSetupError(
                f"--control-listen {self._listen}: cannot listen there ({error}); choose a free port of this machine"
            ) from error
        return f"{self._listen.rpartition(':')[0]}:{port}"


def _refusals(
    method: Callable[["_Servicer", Any, Any], Awaitable[_Reply]],
) -> Callable[["_Servicer", Any, Any], Awaitable[_Reply]]:
    """Errors raised on purpose become statuses with the error's sentence."""

    @functools.wraps(method)
    async def call(self: "_Servicer", request: Any, context: Any) -> _Reply:
        try:
            return await method(self, request, context)
        except UsageError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except P2PTrainError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        raise AssertionError("abort raises")

    return call


class _Servicer(ControlServicer):
    """The methods of control.proto."""

    def __init__(self, subject: Subject, log: EventLog, journal: Path) -> None:
        self._subject = subject
        self._log = log
        self._journal = journal
        self._watching: set[asyncio.Future[None]] = set()

    async def watchers_gone(self, timeout_s: float) -> None:
        """Wait until every watcher's stream has ended, but no longer than ``timeout_s``."""
        if self._watching:
            await asyncio.wait(self._watching, timeout=timeout_s)

    @_refusals
    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        reply = self._subject.status()
        reply.first_sequence = await asyncio.to_thread(first_sequence, self._journal)
        reply.last_sequence = self._log.last_sequence
        return reply

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.EventRecord]:
        ended = asyncio.get_running_loop().create_future()
        self._watching.add(ended)
        ended.add_done_callback(self._watching.discard)
        context.add_done_callback(lambda _: ended.set_result(None))
        newest = self._log.last_sequence
        after = newest if request.only_new else request.after_sequence
        if after > newest:
            sentence = f"after_sequence = {after}, but the newest event is {newest}: another home? Watch from 0"
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, sentence)
        wanted = frozenset(request.kinds)
        async for entry in self._log.follow(after, stop_at_present=request.stop_at_present):
            if not wanted or entry.kind in wanted:
                yield pb.EventRecord(
                    sequence=entry.sequence, time_s=entry.time_s, kind=entry.kind, line=entry.line, json=entry.json
                )

    @_refusals
    async def Pause(self, request: pb.PauseRequest, context: Any) -> pb.ActionReply:
        duration_s = _duration(request)
        return self._done(self._subject.pause(duration_s, request.reason[:_MAX_REASON]))

    @_refusals
    async def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.ActionReply:
        return self._done(self._subject.resume())

    @_refusals
    async def Finish(self, request: pb.FinishRequest, context: Any) -> pb.ActionReply:
        return self._done(self._subject.finish(_duration(request)))

    @_refusals
    async def Leave(self, request: pb.LeaveRequest, context: Any) -> pb.ActionReply:
        return self._done(self._subject.leave(finish_first=request.finish_first))

    @_refusals
    async def GetLimits(self, request: pb.GetLimitsRequest, context: Any) -> pb.LimitsReply:
        return self._subject.limits()

    @_refusals
    async def SetLimits(self, request: pb.SetLimitsRequest, context: Any) -> pb.LimitsReply:
        return self._subject.set_limits(dict(request.changes), _duration(request))

    @_refusals
    async def Why(self, request: pb.WhyRequest, context: Any) -> pb.WhyReply:
        return self._subject.why()

    @_refusals
    async def Doctor(self, request: pb.DoctorRequest, context: Any) -> pb.DoctorReply:
        return await self._subject.doctor(quick=request.quick)

    @_refusals
    async def Swarm(self, request: pb.SwarmRequest, context: Any) -> pb.SwarmReply:
        timeout_s = request.timeout_s if 0 < request.timeout_s <= 60 else 5.0
        return await self._subject.swarm(timeout_s)

    def _done(self, sentence: str) -> pb.ActionReply:
        return pb.ActionReply(sentence=sentence, pausing=self._subject.pausing())


def _duration(request: Any) -> float | None:
    """The request's duration; None when it has none.

    Raises:
        UsageError: it is not between a second and a year.
    """
    if not request.HasField("duration_s"):
        return None
    duration_s: float = request.duration_s
    if not 1 <= duration_s <= _MAX_DURATION_S:
        raise UsageError(f"duration_s = {duration_s:g} is out of range; choose between 1 and {_MAX_DURATION_S:.0f}")
    return duration_s
