"""A control server whose subject only remembers what it was asked, for tests of the interface itself."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from p2ptrain.control.enrolment import ServerCertificates
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.errors import ConfigError, ControlError
from p2ptrain.events import EventBus, StateChanged
from p2ptrain.node.control_server import ControlServer
from p2ptrain.node.event_log import EventLog
from p2ptrain.node.journal import Journal


class FakeSeat:
    """Obeys everything and does nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def status(self) -> pb.StatusReply:
        return pb.StatusReply(state="TRAINING", reason="round 1 of 2", loss_nats=0.0)

    def pausing(self) -> pb.Pausing:
        return pb.Pausing(is_paused=bool(self.asked))

    def pause(self, duration_s: float | None, reason: str) -> str:
        self.asked.append(("pause", duration_s, reason))
        return "paused"

    def resume(self) -> str:
        self.asked.append(("resume",))
        return "going on"

    def finish(self, duration_s: float | None) -> str:
        self.asked.append(("finish", duration_s))
        return "finishing"

    def leave(self, *, finish_first: bool) -> str:
        self.asked.append(("leave", finish_first))
        return "leaving"

    def limits(self) -> pb.LimitsReply:
        return pb.LimitsReply(limits=[pb.Limit(key="niceness", value="0", origin="default")], is_allowed=True)

    def set_limits(self, changes: dict[str, str], duration_s: float | None) -> pb.LimitsReply:
        if "nonsense" in changes:
            raise ConfigError("limits.nonsense is not a known key")
        self.asked.append(("limits", changes, duration_s))
        return self.limits()

    def why(self) -> pb.WhyReply:
        return pb.WhyReply(sentence="TRAINING: round 1 of 2", state="TRAINING", is_contributing=True)

    async def doctor(self, *, quick: bool) -> pb.DoctorReply:
        raise ControlError("this peer cannot examine itself")

    async def swarm(self, timeout_s: float) -> pb.SwarmReply:
        return pb.SwarmReply(run="abc")


@contextlib.asynccontextmanager
async def serving(
    home: Path, listen: str = "", certificates: ServerCertificates | None = None
) -> AsyncIterator[tuple[FakeSeat, EventBus, list[str]]]:
    """A control server in ``home``: its subject, its events, and its addresses."""
    home.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a test
    with Journal(home / "events.jsonl") as journal:
        log = EventLog(journal.path, journal.last_sequence)
        events = EventBus(sinks=[journal, log], last_sequence=journal.last_sequence)
        seat = FakeSeat()
        server = ControlServer(home, seat, log, listen, certificates)
        addresses = await server.start()
        try:
            yield seat, events, addresses
        finally:
            await server.stop()


def happen(events: EventBus, count: int) -> None:
    """So many events."""
    for _ in range(count):
        events.emit(StateChanged(state="TRAINING", reason=f"event {events.last_sequence + 1}"))
