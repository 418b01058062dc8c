"""The control interface over real sockets: who may command a peer, what is answered, and what clients are told."""

import asyncio
import socket

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from p2ptrain.control.address import Target, socket_path, target_of_address, target_of_home
from p2ptrain.control.client import ControlClient
from p2ptrain.control.enrolment import Authority, Enrolment
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.control.v1.control_pb2_grpc import ControlStub
from p2ptrain.errors import ControlError, ControlUsageError, NoPeerRunning
from p2ptrain.node.control_server import _Servicer
from tests.support.fake_seat import happen, serving

pytestmark = pytest.mark.filterwarnings("ignore:.*event loop.*:DeprecationWarning")


async def ask(home, call):
    """What ``call`` gets from a blocking client of the peer in ``home``."""

    def work():
        with ControlClient(target_of_home(home)) as client:
            return call(client)

    return await asyncio.to_thread(work)


async def test_a_peer_obeys_over_its_socket(tmp_path) -> None:
    async with serving(tmp_path) as (seat, _, _):
        status = await ask(tmp_path, lambda client: client.status())
        assert (status.state, status.loss_nats) == ("TRAINING", 0.0)
        assert status.HasField("loss_nats"), "0 was measured"
        assert not status.HasField("tokens_per_s"), "and this was not"
        await ask(tmp_path, lambda client: client.pause(7200, "a game"))
        await ask(tmp_path, lambda client: client.finish())
        await ask(tmp_path, lambda client: client.resume())
        await ask(tmp_path, lambda client: client.leave(finish_first=True))
        await ask(tmp_path, lambda client: client.set_limits({"niceness": "5"}, 60))
        assert seat.asked == [
            ("pause", 7200, "a game"),
            ("finish", None),
            ("resume",),
            ("leave", True),
            ("limits", {"niceness": "5"}, 60),
        ]


async def test_refusals_are_sentences(tmp_path) -> None:
    async with serving(tmp_path):
        with pytest.raises(ControlUsageError, match=r"nonsense is not a known key"):
            await ask(tmp_path, lambda client: client.set_limits({"nonsense": "1"}))
        with pytest.raises(ControlError, match="cannot examine itself"):
            await ask(tmp_path, lambda client: client.doctor(quick=True))
        with pytest.raises(ControlUsageError, match=r"duration_s = 0\.5 is out of range"):
            await ask(tmp_path, lambda client: client.pause(0.5))


async def test_only_the_user_may_open_the_socket(tmp_path) -> None:
    async with serving(tmp_path):
        path = socket_path(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o666)
        with pytest.raises(ControlUsageError, match="chmod 600"):
            target_of_home(tmp_path)


async def test_without_a_peer_the_way_to_start_one_is_told(tmp_path) -> None:
    with pytest.raises(NoPeerRunning, match="start one with: p2ptrain peer"):
        target_of_home(tmp_path)
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(socket_path(tmp_path)))
    left_behind.close()  # as after a kill: the file stays, and nobody listens
    socket_path(tmp_path).chmod(0o600)
    with pytest.raises(NoPeerRunning, match="start one with: p2ptrain peer"):
        await ask(tmp_path, lambda client: client.status())
    async with serving(tmp_path):
        assert (await ask(tmp_path, lambda client: client.status())).state == "TRAINING"
    assert not socket_path(tmp_path).exists()


async def test_a_home_with_a_long_path_has_its_socket_elsewhere(tmp_path) -> None:
    home = tmp_path / ("long" * 30)
    assert len(str(socket_path(home))) < 108
    async with serving(home):
        assert socket_path(home).parent.stat().st_mode & 0o077 == 0
        assert (await ask(home, lambda client: client.status())).state == "TRAINING"


async def test_a_client_that_reconnects_misses_nothing(tmp_path) -> None:
    async with serving(tmp_path) as (_, events, _):
        happen(events, 20)

        def watch(after, count):
            def call(client):
                stream = client.watch(pb.WatchRequest(after_sequence=after))
                return [next(stream).sequence for _ in range(count)]

            return call

        assert await ask(tmp_path, watch(0, 5)) == [1, 2, 3, 4, 5]
        later = asyncio.create_task(ask(tmp_path, watch(5, 25)))
        await asyncio.sleep(0)
        happen(events, 10)
        assert await later == list(range(6, 31))
        records = await ask(tmp_path, lambda c: list(c.watch(pb.WatchRequest(after_sequence=28, stop_at_present=True))))
        assert [(r.kind, r.line) for r in records] == [
            ("StateChanged", "TRAINING: event 29"),
            ("StateChanged", "TRAINING: event 30"),
        ]
        with pytest.raises(ControlUsageError, match="newest event is 30"):
            await ask(tmp_path, lambda client: list(client.watch(pb.WatchRequest(after_sequence=99))))


async def test_watchers_end_when_the_peer_does(tmp_path, monkeypatch) -> None:
    order = []
    gone, stop = _Servicer.watchers_gone, type(grpc.aio.server()).stop

    async def watched_gone(self, timeout_s):
        before = len(self._watching)
        await gone(self, timeout_s)
        order.append((before, len(self._watching)))

    async def watched_stop(self, grace):
        order.append("farewell")
        await stop(self, grace)

    monkeypatch.setattr(_Servicer, "watchers_gone", watched_gone)
    monkeypatch.setattr(type(grpc.aio.server()), "stop", watched_stop)
    async with serving(tmp_path) as (_, events, _):
        happen(events, 1)
        loop, seen = asyncio.get_running_loop(), asyncio.Semaphore(0)

        def watch_all(client: ControlClient) -> list[int]:
            numbers = []
            for record in client.watch(pb.WatchRequest()):
                numbers.append(record.sequence)
                loop.call_soon_threadsafe(seen.release)
            return numbers

        watching = [asyncio.create_task(ask(tmp_path, watch_all)) for _ in range(4)]
        for _ in watching:
            await asyncio.wait_for(seen.acquire(), 30)
    assert await asyncio.wait_for(asyncio.gather(*watching), 30) == [[1]] * 4
    assert order == [(4, 0), "farewell"], "a farewell before the end of their streams would break some of them"


async def test_unknown_fields_and_calls_of_later_versions_are_tolerated(tmp_path) -> None:
    async with serving(tmp_path) as (seat, _, _):

        def call(client):
            unary = client._channel.unary_unary
            paused = unary("/p2ptrain.control.v1.Control/Pause")(
                pb.PauseRequest().SerializeToString() + b"\xba\x3e\x02hi"
            )
            with pytest.raises(grpc.RpcError) as caught:
                unary("/p2ptrain.control.v1.Control/Fly")(b"")
            return pb.ActionReply.FromString(paused).sentence, caught.value.code()

        assert await ask(tmp_path, call) == ("paused", grpc.StatusCode.UNIMPLEMENTED)
        assert seat.asked == [("pause", None, "")]


async def test_health_and_reflection_let_standard_tools_work(tmp_path) -> None:
    async with serving(tmp_path):

        def call(client):
            health = health_pb2_grpc.HealthStub(client._channel)
            request = health_pb2.HealthCheckRequest(service="p2ptrain.control.v1.Control")
            reflection = reflection_pb2_grpc.ServerReflectionStub(client._channel)
            asked = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="p2ptrain.control.v1.Control"),
            ]
            services, files = reflection.ServerReflectionInfo(iter(asked))
            return health.Check(request, timeout=5).status, services, files

        status, services, files = await ask(tmp_path, call)
        assert status == health_pb2.HealthCheckResponse.SERVING
        assert "p2ptrain.control.v1.Control" in {s.name for s in services.list_services_response.service}
        # A client that knows nothing but what reflection says can build a request.
        pool = descriptor_pool.DescriptorPool()
        for data in files.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        found = pool.FindMessageTypeByName("p2ptrain.control.v1.PauseRequest")
        assert message_factory.GetMessageClass(found)(duration_s=1).duration_s == 1


async def test_over_tcp_both_sides_prove_themselves(tmp_path) -> None:
    home = tmp_path / "home"
    authority = Authority.open_or_create(home / "control-tls")
    async with serving(home, "127.0.0.1:0", authority.server()) as (_, _, addresses):
        address = addresses[1]
        Authority.open_or_create(home / "control-tls").enrol("laptop", address).write(tmp_path / "laptop.enrolment")

        def status(target):
            with ControlClient(target) as client:
                return client.status().state

        target = target_of_address(str(tmp_path / "laptop.enrolment"))
        assert await asyncio.to_thread(status, target) == "TRAINING"

        stranger = Authority.open_or_create(tmp_path / "other").enrol("stranger", address)
        mixed = Enrolment(
            address=address,
            name="stranger",
            authority_pem=target.enrolment.authority_pem,
            certificate_pem=stranger.certificate_pem,
            key_pem=stranger.key_pem,
        )
        for enrolment in (stranger, mixed):
            with pytest.raises(NoPeerRunning, match="does not accept this enrolment"):
                await asyncio.to_thread(status, Target(uri=address, enrolment=enrolment))

        def in_the_clear():
            with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
                ControlStub(channel).Status(pb.StatusRequest(), timeout=3)

        await asyncio.to_thread(in_the_clear)


def test_enrolments_are_kept_secret_and_never_overwritten(tmp_path) -> None:
    path = tmp_path / "laptop.enrolment"
    Authority.open_or_create(tmp_path / "ca").enrol("laptop", "127.0.0.1:7443").write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ControlUsageError, match="exists already"):
        Authority.open_or_create(tmp_path / "ca").enrol("laptop", "127.0.0.1:7443").write(path)
    path.chmod(0o644)
    with pytest.raises(ControlUsageError, match="chmod 600"):
        target_of_address(str(path))
    with pytest.raises(ControlUsageError, match="control enroll"):
        target_of_address("192.168.1.5:7443")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(ControlUsageError, match="neither a control socket nor an enrolment"):
        target_of_address(str(tmp_path / "text"))


async def test_health_is_an_exit_status(tmp_path, capsys) -> None:
    from p2ptrain.cli import main as cli

    async with serving(tmp_path):
        assert await asyncio.to_thread(cli.main, ["health", "--home", str(tmp_path)]) == 0
        assert capsys.readouterr().out == "serving\n"
    assert await asyncio.to_thread(cli.main, ["health", "--home", str(tmp_path)]) != 0
    assert "start one with" in capsys.readouterr().err
