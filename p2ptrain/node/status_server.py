"""A bootstrap node's status page: read-only, over HTTP, for operators and the curious.

``/`` is one self-contained page, ``/status.json`` what it draws, ``/metrics`` the same for Prometheus, ``/healthz`` for
supervisors. All links are relative, so it works under any path behind a reverse proxy. It says nothing that a peer of
the run could not ask for itself, and takes no input.
"""

import base64
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from p2ptrain.errors import NetworkSetupError
from p2ptrain.events import STATES
from p2ptrain.node.problems import PROBLEMS

_DATA = "__STATUS__"
"""Where the page has the status at the time it was asked for, so that it shows something at once."""

LOAD = {
    "connected_peers": "Peers that are connected.",
    "cut_peers": "Peers hung up on since the start, because too many came from one address.",
    "records": "Records kept in the directory for others.",
    "record_bytes": "What they take.",
    "refused_records": "Records refused since the start, because there was no room.",
    "refused_calls": "Calls not heard since the start, because their sender called too often or sent what does not"
    " verify.",
}
"""What each figure of a node's load is."""

Snapshot = Callable[[], dict[str, Any]]
"""The status as JSON values, now."""


async def start_status_server(host: str, port: int, snapshot: Snapshot) -> tuple[web.AppRunner, str]:
    """Serve until the runner's ``cleanup``.

    Args:
        host: address to listen on; 127.0.0.1 unless a firewall or a proxy stands before it.
        port: TCP port; 0 takes any free one.
        snapshot: called for each request.

    Returns:
        The running server, and its URL.

    Raises:
        NetworkSetupError: the address is taken or not ours.
    """
    app = web.Application(client_max_size=1024)
    app.router.add_get("/", functools.partial(_page, snapshot))
    app.router.add_get("/status.json", functools.partial(_json, snapshot))
    app.router.add_get("/metrics", functools.partial(_metrics, snapshot))
    app.router.add_get("/healthz", functools.partial(_health, snapshot))
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise NetworkSetupError(
            f"the status page cannot listen on {host}:{port}: {error.strerror}; choose another --status HOST:PORT"
        ) from error
    bound = runner.addresses[0]
    return runner, f"http://{bound[0]}:{bound[1]}/"


async def _page(snapshot: Snapshot, request: web.Request) -> web.Response:
    html, policy = _template()
    # "<" escaped: text that peers choose must not end the script element.
    status = json.dumps(snapshot(), separators=(",", ":")).replace("<", "\\u003c")
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    return web.Response(text=html.replace(_DATA, status), content_type="text/html", headers=headers)


async def _json(snapshot: Snapshot, request: web.Request) -> web.Response:
    return web.json_response(snapshot(), headers={"Cache-Control": "no-store", "Access-Control-Allow-Origin": "*"})


async def _metrics(snapshot: Snapshot, request: web.Request) -> web.Response:
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot()))
    return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"})


async def _health(snapshot: Snapshot, request: web.Request) -> web.Response:
    healthy = bool(snapshot()["healthy"])
    return web.Response(text="ok\n" if healthy else "the DHT does not answer\n", status=200 if healthy else 503)


@functools.cache
def _template() -> tuple[str, str]:
    """The page, and a policy under which nothing but its own script and style runs."""
    html = files("p2ptrain.node").joinpath("status_page.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert script
    assert style
    allowed = {"script-src": script[1], "style-src": style[1]}
    sources = "; ".join(f"{kind} 'sha256-{_sha256(text)}'" for kind, text in allowed.items())
    return html, f"default-src 'none'; {sources}; connect-src 'self'; img-src data:; frame-ancestors *; base-uri 'none'"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Collector:
    """The status as Prometheus metrics; what is not known is left out."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("p2ptrain_bootstrap_uptime_seconds", "Time since the node started.", [((), status["uptime_s"])])
        yield _gauge("p2ptrain_bootstrap_healthy", "1 if the DHT answers.", [((), int(status["healthy"]))])
        for key, value in status["load"].items():
            yield _gauge(f"p2ptrain_bootstrap_{key}", LOAD[key], [((), value)])
        problems = [((kind,), int(kind in status["problems"])) for kind in PROBLEMS]
        yield _gauge("p2ptrain_bootstrap_problem", "1 if the operator must do something.", problems, ("kind",))
        if relay := status.get("relay"):
            yield _gauge("p2ptrain_relay_circuits", "Connections carried for peers now.", [((), relay["circuits"])])
            carried = [((), relay["carried_bytes"])]
            yield _gauge("p2ptrain_relay_carried_bytes", "Carried since the node started.", carried)
            refused = [((), relay["refused"])]
            yield _gauge("p2ptrain_relay_refused", "Requests refused since the node started.", refused)
        if status["run"] is None:
            return
        per_slice = {
            "version": "Outer steps that the slice has committed.",
            "epoch": "Times that the owners went on without a majority of them.",
            "tokens": "Tokens in the slice since the start of the run.",
            "commit_age_s": "Time since the slice last moved.",
        }
        for key, text in per_slice.items():
            name = f"p2ptrain_slice_{key.removesuffix('_s')}{'_seconds' if key.endswith('_s') else ''}"
            yield _gauge(name, text, [((s["id"],), s[key]) for s in status["slices"]], ("slice",))
        owners = [((s["id"],), len(s["owners"])) for s in status["slices"]]
        yield _gauge("p2ptrain_slice_owners", "Owners of the slice that answer.", owners, ("slice",))
        loss = [((s["id"],), s["loss"]) for s in status["slices"] if s["loss"] is not None]
        yield _gauge("p2ptrain_slice_loss_nats", "Mean training loss of the last commit.", loss, ("slice",))
        states = Counter(peer["state"] if peer["state"] in STATES else "other" for peer in status["peers"])
        # Others are counted together: a stranger could say a thousand words, each a metric of its own.
        peers = [((state,), states[state]) for state in (*STATES, "other")]
        yield _gauge("p2ptrain_peers", "Peers that answer, by what they do.", peers, ("state",))


def _gauge(
    name: str, text: str, values: "Sequence[tuple[tuple[str, ...], float]]", labels: tuple[str, ...] = ()
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family
