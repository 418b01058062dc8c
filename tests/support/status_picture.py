"""Pictures of a bootstrap node's status page, by a headless chromium, under a path behind a reverse proxy.

    python -m tests.support.status_picture http://127.0.0.1:8080/ docs        docs/status.png, and status-*.png

The first argument is a running node's page, or a file with its ``status.json``. The README shows ``status.png``; the
others are the phone's width and the dark colours, to be looked at.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from p2ptrain.node.status_server import start_status_server

PATH = "/some/path/"
LOOKS = {
    "status": (1180, 1090, "light"),
    "status-dark": (1180, 1090, "dark"),
    "status-phone": (390, 1700, "light"),
    "status-phone-dark": (390, 1700, "dark"),
}
"""Width and height in CSS pixels, and colours."""
_SCHEMES = {"dark": 0, "light": 1}


def status_of(source: str) -> dict[str, Any]:
    """What a node shows, now or when the file was made."""
    if source.startswith("http"):
        with urllib.request.urlopen(source.rstrip("/") + "/status.json", timeout=15) as answer:
            return dict(json.load(answer))
    return dict(json.loads(Path(source).read_text()))


async def start_proxy(behind: str) -> tuple[web.AppRunner, int]:
    """A reverse proxy that shows another server under ``PATH``, and a page as wide as a phone's that contains it."""

    async def forward(request: web.Request) -> web.Response:
        target = behind + request.match_info["rest"]
        async with aiohttp.ClientSession() as session, session.get(target) as answer:
            kept = {
                k: v for k, v in answer.headers.items() if k.startswith(("Content-Sec", "X-Content", "Content-Type"))
            }
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)

    async def frame(request: web.Request) -> web.Response:
        width, height = request.query["width"], request.query["height"]
        page = f'<body style="margin:0"><iframe src="{PATH}" width="{width}" height="{height}" style="border:0">'
        return web.Response(text=page, content_type="text/html")

    app = web.Application()
    app.router.add_get(PATH + "{rest:.*}", forward)
    app.router.add_get("/frame", frame)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]


def photograph(chromium: str, url: str, file: Path, width: int, height: int, scheme: str) -> None:
    """One picture."""
    with tempfile.TemporaryDirectory() as profile:
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        subprocess.run(
            [chromium, *quiet, "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             f"--user-data-dir={profile}", f"--window-size={width},{height}", "--virtual-time-budget=7000",
             f"--blink-settings=preferredColorScheme={_SCHEMES[scheme]}", f"--screenshot={file}", url],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


async def main(source: str, folder: Path) -> None:
    """All pictures of one status."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium here; install it, for example with: apt install chromium")
    status = await asyncio.to_thread(status_of, source)
    server, url = await start_status_server("127.0.0.1", 0, lambda: status)
    proxy, port = await start_proxy(url)
    try:
        for name, (width, height, scheme) in LOOKS.items():
            page = f"http://127.0.0.1:{port}/frame?width={width}&height={height}"
            wide = max(width, 500)  # chromium's windows are not narrower
            await asyncio.to_thread(photograph, chromium, page, folder / f"{name}.png", wide, height, scheme)
    finally:
        await proxy.cleanup()
        await server.cleanup()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
