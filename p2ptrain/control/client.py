"""A client of the control interface, for commands (blocking) and screens (asyncio)."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from p2ptrain.control.address import Target
from p2ptrain.control.enrolment import SERVER_NAME
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.control.v1.control_pb2_grpc import ControlStub
from p2ptrain.errors import ControlError, ControlUsageError, NoPeerRunning, UsageError

CALL_TIMEOUT_S = 60.0
"""For an answer from a peer on this machine: one that hangs. Its event loop is not blocked for longer than a second or
two, but on a machine with too much to do it may not get its turn for long."""
MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's own default, on both sides."""

_Reply = TypeVar("_Reply")

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),  # the peer is on this machine or named by the user
    ("grpc.use_local_subchannel_pool", 1),  # else a new client waits as long as an older one that failed has to
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a screen should see a restarted peer at once
]


def open_channel(target: Target) -> Any:
    """A blocking gRPC channel to a peer; nothing is dialled until it is used."""
    if target.enrolment is None:
        return grpc.insecure_channel(target.uri, options=_options(target))
    return grpc.secure_channel(target.uri, _credentials(target), options=_options(target))


def open_aio_channel(target: Target) -> Any:
    """A channel for use inside asyncio."""
    if target.enrolment is None:
        return grpc.aio.insecure_channel(target.uri, options=_options(target))
    return grpc.aio.secure_channel(target.uri, _credentials(target), options=_options(target))


def explain(error: grpc.RpcError, target: Target) -> ControlError | UsageError:
    """What a failed call means, with the remedy."""
    code, details = error.code(), error.details() or ""
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE):
        return ControlUsageError(details or "the peer cannot make sense of this")
    if code is grpc.StatusCode.UNAVAILABLE:
        if target.enrolment is not None:
            return NoPeerRunning(
                f"{target.uri} cannot be reached, or does not accept this enrolment ({details[:200]}); is the peer"
                " running with --control-listen, and enrolled since its certificates were made?"
            )
        return NoPeerRunning(f"no peer answers at {target.uri}; start one with: {target.start_hint}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ControlError(f"the peer at {target.uri} did not answer in time; look at its log, it may be stuck")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ControlError(
            f"the running peer is of a version that cannot do this; restart it with this one: {details}"
        )
    return ControlError(details or f"the peer answered {code.name}")


class ControlClient:
    """Commands to one peer; use it in a ``with`` block.

    Every call raises:
        NoPeerRunning: nothing answers.
        ControlUsageError: the peer refused what makes no sense, with its sentence.
        ControlError: the peer cannot do that now, or did not answer in time.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._channel = open_channel(target)
        self._stub: Any = ControlStub(self._channel)  # type: ignore[no-untyped-call]  # generated without types

    def status(self) -> pb.StatusReply:
        """What the peer is doing."""
        return self._call(pb.StatusReply, "Status", pb.StatusRequest())

    def watch(self, request: pb.WatchRequest) -> Iterator[pb.EventRecord]:
        """Events, as they come."""
        try:
            yield from self._stub.Watch(request)
        except grpc.RpcError as error:
            raise explain(error, self.target) from error

    def pause(self, duration_s: float | None = None, reason: str = "") -> pb.ActionReply:
        """Stop training at once."""
        return self._call(pb.ActionReply, "Pause", pb.PauseRequest(duration_s=duration_s, reason=reason))

    def resume(self) -> pb.ActionReply:
        """Go on."""
        return self._call(pb.ActionReply, "Resume", pb.ResumeRequest())

    def finish(self, duration_s: float | None = None) -> pb.ActionReply:
        """Complete the round, then pause."""
        return self._call(pb.ActionReply, "Finish", pb.FinishRequest(duration_s=duration_s))

    def leave(self, *, finish_first: bool = False) -> pb.ActionReply:
        """End the peer."""
        return self._call(pb.ActionReply, "Leave", pb.LeaveRequest(finish_first=finish_first))

    def limits(self) -> pb.LimitsReply:
        """The limits in force, and where each comes from."""
        return self._call(pb.LimitsReply, "GetLimits", pb.GetLimitsRequest())

    def set_limits(self, changes: dict[str, str], duration_s: float | None = None) -> pb.LimitsReply:
        """Change limits; values as TOML writes them, "" restores the profile's."""
        return self._call(pb.LimitsReply, "SetLimits", pb.SetLimitsRequest(changes=changes, duration_s=duration_s))

    def why(self) -> pb.WhyReply:
        """One sentence."""
        return self._call(pb.WhyReply, "Why", pb.WhyRequest())

    def doctor(self, *, quick: bool) -> pb.DoctorReply:
        """The peer's own examination."""
        return self._call(pb.DoctorReply, "Doctor", pb.DoctorRequest(quick=quick), timeout_s=300.0)

    def swarm(self, timeout_s: float = 5.0) -> pb.SwarmReply:
        """All peers, asked now."""
        request = pb.SwarmRequest(timeout_s=timeout_s)
        return self._call(pb.SwarmReply, "Swarm", request, timeout_s=timeout_s + CALL_TIMEOUT_S)

    def _call(self, kind: type[_Reply], method: str, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> _Reply:
        try:
            reply = getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise explain(error, self.target) from error
        assert isinstance(reply, kind)
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _credentials(target: Target) -> Any:
    assert target.enrolment is not None
    return grpc.ssl_channel_credentials(
        root_certificates=target.enrolment.authority_pem.encode(),
        private_key=target.enrolment.key_pem.encode(),
        certificate_chain=target.enrolment.certificate_pem.encode(),
    )


def _options(target: Target) -> list[tuple[str, Any]]:
    if target.enrolment is None:
        return CHANNEL_OPTIONS
    return [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME)]
