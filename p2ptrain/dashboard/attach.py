"""A running peer through its control interface: what its journal does not say, and what keys ask of it.

gRPC is imported when the first picture has been drawn: it takes a tenth of a second.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from p2ptrain.dashboard.scene import Link, RunFacts, Seen
from p2ptrain.dashboard.sources import Inbox
from p2ptrain.dashboard.ui import Command
from p2ptrain.errors import ControlError, NoPeerRunning, UsageError
from p2ptrain.events import Record
from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version, slice_order
from p2ptrain.report import PeerReport, SliceReport, SwarmReport

if TYPE_CHECKING:
    from p2ptrain.control.address import Target

_STATUS_EVERY_S = 1.0
_SWARM_EVERY_S = 5.0
"""At least; each look asks every peer, so a large swarm is looked at less often."""
_SWARM_PAUSE_PER_PEER_S = 0.1
_RETRY_AFTER_S = 1.0
_CALL_TIMEOUT_S = 10.0
_DOCTOR_TIMEOUT_S = 300.0
"""Ten seconds are usual; a busy machine and bootstraps that do not answer take their time."""
_UNITS_S = {"": 60, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class ControlLink:
    """Asks a peer for what its journal does not say, for as long as it runs, and again after each restart.

    Args:
        find: where the peer listens; asked anew after each failure.
    """

    def __init__(self, find: "Callable[[], Target]") -> None:
        self._find = find
        self._stub: Any = None
        """None while nobody answers."""
        self._last_sequence = 0
        """Of the records that ``watch`` has brought."""

    async def run(self, inbox: Inbox, *, tells_link: bool) -> None:
        """Keep the inbox up to date until cancelled.

        Args:
            inbox: what is filled.
            tells_link: report whether the peer answers; else somebody else does.
        """
        while True:
            try:
                async with self._connected():
                    await self._ask_on(inbox, tells_link=tells_link)
            except (UsageError, ControlError) as error:
                inbox.seen(Seen())
                if tells_link:
                    inbox.link(Link(word="lost", detail=str(error)))
                    inbox.caught_up.set()
            await asyncio.sleep(_RETRY_AFTER_S)

    async def watch(self, inbox: Inbox, name: str) -> None:
        """Records from the peer itself, without a gap across its restarts; for peers whose journal is not at hand."""
        while True:
            with contextlib.suppress(UsageError, ControlError):
                async with self._channel() as stub:
                    await self._watch_on(stub, inbox, name)
            await asyncio.sleep(_RETRY_AFTER_S)

    async def _watch_on(self, stub: Any, inbox: Inbox, name: str) -> None:
        import grpc

        from p2ptrain.control.client import explain
        from p2ptrain.control.v1 import control_pb2 as pb

        try:
            async for message in stub.Watch(pb.WatchRequest(after_sequence=self._last_sequence)):
                self._last_sequence = message.sequence
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    record = Record.from_json(message.json)
                    if record is not None:
                        inbox.records([(name, record)])
        except grpc.RpcError as error:
            raise explain(error, self._find()) from error

    @contextlib.asynccontextmanager
    async def _channel(self) -> AsyncIterator[Any]:
        from p2ptrain.control.client import open_aio_channel
        from p2ptrain.control.v1.control_pb2_grpc import ControlStub

        async with open_aio_channel(self._find()) as channel:
            yield ControlStub(channel)  # type: ignore[no-untyped-call]  # generated without types

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        async with self._channel() as stub:
            self._stub = stub
            try:
                yield
            finally:
                self._stub = None

    async def _ask_on(self, inbox: Inbox, *, tells_link: bool) -> None:
        from p2ptrain.control.v1 import control_pb2 as pb

        looking = asyncio.create_task(self._look_at_swarm(inbox))
        try:
            while True:
                status = await self._call("Status", pb.StatusRequest())
                limits = await self._call("GetLimits", pb.GetLimitsRequest())
                why = await self._call("Why", pb.WhyRequest())
                inbox.facts(_facts(status))
                inbox.seen(_seen(status, {one.key: one.value for one in limits.limits}, why.sentence))
                inbox.peer_pid(status.process_id or None)
                if tells_link:
                    inbox.link(Link(word="live"))
                await asyncio.sleep(_STATUS_EVERY_S)
        finally:
            looking.cancel()

    async def _look_at_swarm(self, inbox: Inbox) -> None:
        from p2ptrain.control.v1 import control_pb2 as pb

        while True:
            try:
                report = _report(await self._call("Swarm", pb.SwarmRequest(), timeout_s=2 * _CALL_TIMEOUT_S))
            except (UsageError, ControlError):
                # A peer that is joining cannot ask yet; whether it answers at all, the status shows.
                await asyncio.sleep(_SWARM_EVERY_S)
                continue
            inbox.report(report)
            await asyncio.sleep(max(_SWARM_EVERY_S, _SWARM_PAUSE_PER_PEER_S * len(report.peers)))

    async def _call(self, method: str, request: Any, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        import grpc

        from p2ptrain.control.client import explain

        if self._stub is None:
            raise NoPeerRunning("no peer answers at the moment; the screen goes on trying")
        try:
            return await getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise explain(error, self._find()) from error

    async def examine(self) -> list[dict[str, object]]:
        """What the peer's own doctor finds, of its machine and network; takes some ten seconds.

        Raises:
            NoPeerRunning: nobody answers.
            ControlError: the peer cannot do that now.
        """
        from p2ptrain.control.v1 import control_pb2 as pb

        reply = await self._call("Doctor", pb.DoctorRequest(), timeout_s=_DOCTOR_TIMEOUT_S)
        return [
            {"check": one.check, "verdict": one.verdict, "evidence": one.evidence, "remedy": one.remedy}
            for one in reply.findings
        ]

    async def act(self, command: Command) -> str:
        """Do what a key asked; returns how it went, as a sentence.

        Raises:
            NoPeerRunning: nobody answers.
            ControlError: the peer cannot do that now.
            UsageError: what was typed makes no sense.
        """
        from p2ptrain.control.v1 import control_pb2 as pb

        match command.kind:
            case "pause":
                reply = await self._call("Pause", pb.PauseRequest(duration_s=typed_duration_s(command.text)))
                return str(reply.sentence)
            case "finish":
                reply = await self._call("Finish", pb.FinishRequest(duration_s=typed_duration_s(command.text)))
                return str(reply.sentence)
            case "resume":
                return str((await self._call("Resume", pb.ResumeRequest())).sentence)
            case "bandwidth":
                return await self._set(typed_limits(command.text, ("upload_mbps", "download_mbps")))
            case "gpu":
                return await self._set(typed_limits(command.text, ("gpu_memory_gib", "gpu_power_w")))
        return ""

    async def _set(self, changes: dict[str, str]) -> str:
        from p2ptrain.control.v1 import control_pb2 as pb

        if not changes:
            return "nothing was typed, nothing was changed"
        reply = await self._call("SetLimits", pb.SetLimitsRequest(changes=changes))
        held = {limit.key: limit.value for limit in reply.limits}
        now = "limits now: " + ", ".join(f"{key} = {held.get(key, value)}" for key, value in changes.items())
        return "; ".join([*reply.problems, now])


def typed_duration_s(text: str) -> float | None:
    """Seconds in ``2h``, ``30m``, ``1h30m`` or ``45`` (minutes); None for nothing.

    Raises:
        UsageError: it is no duration.
    """
    if not text:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        raise UsageError(f"{text} is no duration; write 2h, 30m or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def typed_limits(text: str, keys: tuple[str, str]) -> dict[str, str]:
    """Limits from one or two numbers; a dash leaves one as it is.

    Raises:
        UsageError: they are no numbers.
    """
    words = text.replace(",", " ").split()
    if len(words) > len(keys) or not all(word == "-" or re.fullmatch(r"\d+(\.\d+)?", word) for word in words):
        raise UsageError(f"{text} is not one or two numbers; write 5 20, or - 20 to change the second alone")
    return {key: str(float(word)) for key, word in zip(keys, words, strict=False) if word != "-"}


def _facts(status: Any) -> RunFacts:
    slices = sorted((SliceId(one.slice) for one in status.slices), key=slice_order)
    return RunFacts(
        name=status.run_name,
        run=RunId(status.run) if status.run else None,
        rounds=status.rounds or None,
        inner_steps=status.inner_steps or None,
        slices=tuple(slices) or (COMMON,),
    )


def _seen(status: Any, limits: dict[str, str], why: str) -> Seen:
    return Seen(
        can_obey=True,
        why=why or None,
        state=status.state,
        reason=status.pausing.reason or status.reason,
        is_paused=status.pausing.is_paused or status.pausing.is_finishing,
        reach=status.network.reach or None,
        upload_mbps=_number(limits.get("upload_mbps")),
        download_mbps=_number(limits.get("download_mbps")),
        limits=tuple(sorted(limits.items())),
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _report(reply: Any) -> SwarmReport:
    slices = [
        SliceReport(
            slice=SliceId(one.slice),
            version=Version(one.version),
            epoch=one.epoch,
            owners=tuple(map(PeerId, one.owners)),
            digests={PeerId(peer): Digest(digest) for peer, digest in one.digests.items()},
            digests_version=Version(one.digests_version),
            tokens=one.tokens,
            loss_nats=one.loss_nats if one.HasField("loss_nats") else None,
        )
        for one in reply.slices
    ]
    peers = [
        PeerReport(
            peer=PeerId(one.peer),
            slices=tuple(map(SliceId, one.slices)),
            state=one.state,
            reason=one.reason,
            sent_bytes=one.sent_bytes,
            received_bytes=one.received_bytes,
            tokens=one.tokens,
            validation_loss_nats=one.validation_loss_nats if one.HasField("validation_loss_nats") else None,
            software=one.software,
            reach=one.reach,
        )
        for one in reply.peers
    ]
    return SwarmReport.of(RunId(reply.run), slices, peers, map(PeerId, reply.silent))
