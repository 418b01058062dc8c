"""Serving a peer's metrics to Prometheus over HTTP.

It takes no input. Who reads it learns when the volunteer is there: listen on loopback, or behind a firewall.
"""

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from p2ptrain.errors import NetworkSetupError


async def start_metrics_server(host: str, port: int, registry: CollectorRegistry) -> tuple[web.AppRunner, str]:
    """Serve ``/metrics`` until the runner's ``cleanup``.

    Args:
        host: address to listen on.
        port: TCP port; 0 takes any free one.
        registry: what is served, collected anew for each request.

    Returns:
        The running server, and its URL.

    Raises:
        NetworkSetupError: the address is taken or not ours.
    """

    async def answer(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise NetworkSetupError(
            f"--metrics {host}:{port}: cannot listen there: {error.strerror}; choose another HOST:PORT, for example"
            " 127.0.0.1:0 for any free port"
        ) from error
    bound = runner.addresses[0]
    return runner, f"http://{bound[0]}:{bound[1]}/metrics"
