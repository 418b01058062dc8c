"""What runs under ``p2ptrain peer``: the volunteer's seat, the control interface, and the peer itself."""

import asyncio
import contextlib
from dataclasses import replace

from p2ptrain.config.schema import LimitsConfig, PeerConfig
from p2ptrain.control.enrolment import Authority, ServerCertificates
from p2ptrain.data.corpus import Corpus
from p2ptrain.errors import ControlUsageError
from p2ptrain.events import ControlListening, EngineChosen, EventBus, MetricsServed
from p2ptrain.node.control_server import ControlServer
from p2ptrain.node.event_log import EventLog
from p2ptrain.node.followed_limits import FollowedLimits
from p2ptrain.node.home import Home
from p2ptrain.node.peer import Peer
from p2ptrain.node.seat import Seat
from p2ptrain.node.vitals import Vitals


async def serve_peer(
    config: PeerConfig,
    home: Home,
    corpus: Corpus,
    events: EventBus,
    stop: asyncio.Event,
    chosen: EngineChosen,
    limits: FollowedLimits,
) -> None:
    """Take part in the run whenever the volunteer's limits allow it, and obey commands, until ``stop`` is set.

    Args:
        config: what the volunteer chose.
        home: the peer's folder, in use by us.
        corpus: the run's text, its fingerprint checked.
        events: told all that happens; its sinks so far come first.
        stop: ends everything.
        chosen: how inner steps will be computed; the first thing that is said.
        limits: those of ``config``, and how they change with the profile.

    Raises:
        ControlUsageError: the control interface cannot be set up safely.
        HomeError, NotAdmitted: see ``Seat.check_home``; nothing was started.
        NetworkSetupError: a port is taken (the metrics', too), or no bootstrap answers.
        StorageError: the disk is full.
    """
    vitals = Vitals()
    log = EventLog(home.journal_path, events.last_sequence)

    def new_peer(in_force: LimitsConfig) -> Peer:
        return Peer(replace(config, limits=in_force), home, corpus, events)

    seat = Seat(config, limits, home, events, vitals, new_peer)
    seat.check_home()
    events.sinks += [log, vitals, seat]
    async with contextlib.AsyncExitStack() as undo:
        if config.metrics is not None:
            await _serve_metrics(config.metrics, events, undo)
        events.emit(chosen)
        server = ControlServer(home.path, seat, log, config.control.listen, _certificates(config, home))
        undo.push_async_callback(server.stop)
        events.emit(ControlListening(addresses=await server.start()))
        await seat.run(stop)


async def _serve_metrics(at: tuple[str, int], events: EventBus, undo: contextlib.AsyncExitStack) -> None:
    # Imported when asked for: most peers serve none.
    from p2ptrain.node.metrics import PeerMetrics
    from p2ptrain.node.metrics_server import start_metrics_server

    metrics = PeerMetrics()
    server, url = await start_metrics_server(*at, metrics.registry)
    undo.push_async_callback(server.cleanup)
    events.sinks.append(metrics)
    events.emit(MetricsServed(url=url))


def _certificates(config: PeerConfig, home: Home) -> ServerCertificates | None:
    if not config.control.listen:
        return None
    authority = Authority.open(home.path / "control-tls")
    if authority is None:
        raise ControlUsageError(
            f"--control-listen {config.control.listen}: nobody is enrolled yet, so nobody could connect; first run:"
            f" p2ptrain control enroll --home {home.path} --address HOST:PORT --out laptop.enrolment"
        )
    return authority.server()
