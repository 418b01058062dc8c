"""What people type for a running peer, and what its answers become on the screen."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from p2ptrain.control.address import Target
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.control.v1.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from p2ptrain.dashboard.app import Dashboard
from p2ptrain.dashboard.attach import ControlLink, typed_duration_s, typed_limits
from p2ptrain.dashboard.canvas import UNICODE, to_text
from p2ptrain.dashboard.sources import ControlSource
from p2ptrain.dashboard.ui import Ui
from p2ptrain.errors import NoPeerRunning, UsageError
from p2ptrain.events import PeerStarted, Record, StateChanged
from p2ptrain.ids import PeerId, RunId

ME = PeerId("12D3KooWxxxxxxxxaaaaaa")
STORY = [
    Record(sequence=1, time_s=1000.0, event=PeerStarted(peer=ME, run=RunId("ab" * 32), addresses=[])),
    Record(sequence=2, time_s=1001.0, event=StateChanged(state="TRAINING", reason="round 1 of 24")),
    Record(sequence=3, time_s=1002.0, event=StateChanged(state="AVERAGING", reason="slice 0")),
]


def test_durations_as_people_type_them() -> None:
    assert [typed_duration_s(text) for text in ("2h", "30m", "1h30m", "45", "90 s", "")] == [
        7200,
        1800,
        5400,
        2700,
        90,
        None,
    ]
    for text in ("soon", "2h later", "-1h", "h"):
        with pytest.raises(UsageError, match="2h, 30m"):
            typed_duration_s(text)


def test_limits_as_people_type_them() -> None:
    keys = ("upload_mbps", "download_mbps")
    assert typed_limits("5 20", keys) == {"upload_mbps": "5.0", "download_mbps": "20.0"}
    assert typed_limits("- 20", keys) == {"download_mbps": "20.0"}
    assert typed_limits("0", keys) == {"upload_mbps": "0.0"}
    assert typed_limits("", keys) == {}
    for text in ("fast", "1 2 3", "-5"):
        with pytest.raises(UsageError, match="write 5 20"):
            typed_limits(text, keys)


class FakePeer(ControlServicer):
    """A peer's answers without a peer; asked through a real socket."""

    def __init__(self) -> None:
        self.status = pb.StatusReply(run_name="tiny", rounds=24, inner_steps=4, state="AVERAGING")
        self.status.slices.extend([pb.Slice(slice="common"), pb.Slice(slice="0"), pb.Slice(slice="1")])
        self.watched_after: list[int] = []
        self.paused_for: list[float] = []

    async def Status(self, request, context) -> pb.StatusReply:
        return self.status

    async def GetLimits(self, request, context) -> pb.LimitsReply:
        return pb.LimitsReply(limits=[pb.Limit(key="upload_mbps", value="5.0")])

    async def Why(self, request, context) -> pb.WhyReply:
        return pb.WhyReply(sentence="because it rains")

    async def Swarm(self, request, context) -> pb.SwarmReply:
        return pb.SwarmReply(run="ab" * 32, peers=[pb.SwarmPeer(peer=ME, state="AVERAGING", tokens=7)])

    async def Pause(self, request, context) -> pb.ActionReply:
        self.paused_for.append(request.duration_s)
        self.status.state = "PAUSED"
        self.status.pausing.is_paused = True
        self.status.pausing.reason = "you paused it"
        return pb.ActionReply(sentence="paused for two hours")

    async def Watch(self, request, context) -> AsyncIterator[pb.EventRecord]:
        self.watched_after.append(request.after_sequence)
        for record in STORY[request.after_sequence :][:2]:
            yield pb.EventRecord(sequence=record.sequence, json=record.to_json())
        # Ends here, as when the peer is restarted; the client comes again for the rest.


async def test_peer_elsewhere_is_watched_without_a_gap_obeys_and_is_missed_when_it_is_gone(tmp_path: Path) -> None:
    socket = tmp_path / "control.sock"
    peer, server = FakePeer(), grpc.aio.server()
    add_ControlServicer_to_server(peer, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    link = ControlLink(lambda: Target(uri=f"unix:{socket}"))
    dashboard = Dashboard(ControlSource(link), link.act, None, Ui())
    running = asyncio.create_task(ControlSource(link).run(dashboard.inbox))

    def top() -> list[str]:
        return [to_text(line) for line in dashboard.lines(120, 36, UNICODE)]

    try:
        await until(lambda: "tiny" in top()[0] and "AVERAGING" in top()[1])
        assert peer.watched_after[:2] == [0, 2]
        assert dashboard.recording.latest.swarm.peers["peer"].missing_records == 0
        assert "cap 5 Mbit/s" in "\n".join(top())
        dashboard.press(["p", "2", "h", "enter"])
        await until(lambda: "paused for two hours" in top()[-1])
        assert peer.paused_for == [7200.0]
        await until(lambda: "‖ PAUSED you paused it" in top()[1])
        dashboard.press(["w"])
        assert "because it rains" in "\n".join(top())
        await server.stop(None)
        await until(lambda: "not connected" in top()[0])
        dashboard.press(["P", "enter"])
        await until(lambda: "no peer answers" in top()[-1])
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(None)


async def until(condition, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the dashboard is asked, not told
            await asyncio.sleep(0.02)


async def test_link_to_a_peer_that_is_not_there_says_how_to_start_one() -> None:
    def nobody() -> Target:
        raise NoPeerRunning("no peer is running there; start one with: p2ptrain peer")

    link = ControlLink(nobody)
    dashboard = Dashboard(ControlSource(link), link.act, None, Ui())
    running = asyncio.create_task(ControlSource(link).run(dashboard.inbox))
    try:
        await until(lambda: dashboard.link.word == "lost")
        assert "start one with" in to_text(dashboard.lines(120, 36, UNICODE)[1])
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
