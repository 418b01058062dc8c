"""The bootstrap node's status page, over real HTTP on loopback."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from p2ptrain import clock
from p2ptrain.errors import NetworkSetupError
from p2ptrain.node.run_watch import NodeStatus
from p2ptrain.node.status_server import start_status_server

EVIL = "</script><script>alert(1)</script>"


def status(**changes: Any) -> dict[str, Any]:
    peer = {
        "peer": "12D3KooWabcdef",
        "slices": ["0"],
        "state": EVIL,
        "reason": EVIL,
        "sent_bytes": 1,
        "received_bytes": 2,
        "tokens": 3,
        "validation_loss": None,
        "software": "0.1.0",
        "answered_s_ago": 1.0,
    }
    one = {
        "id": "0",
        "version": 3,
        "epoch": 1,
        "owners": ["12D3KooWabcdef"],
        "replicas_wanted": 2,
        "agrees": True,
        "digest": "abc",
        "tokens": 30,
        "loss": None,
        "commit_age_s": 2.0,
        "is_stalled": False,
    }
    run = {"id": "r" * 64, "name": "test", "rounds": 9, "slices": 1, "parameters": 100}
    return {**NodeStatus("me", [], None).snapshot(), "run": run, "slices": [one], "peers": [peer], **changes}


class Served:
    """The page and what it shows now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = status()

    async def get(self, path: str) -> tuple[int, dict[str, str], str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, dict(answer.headers), await answer.text()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    page = Served("")
    runner, page.url = await start_status_server("127.0.0.1", 0, lambda: page.status)
    yield page
    await runner.cleanup()


async def test_text_from_peers_cannot_become_a_script(served: Served) -> None:
    _, headers, html = await served.get("")
    assert "<script>alert" not in html
    embedded = re.search(r'<script id="status" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1])["peers"][0]["state"] == EVIL, "and nothing of it is lost"
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]


async def test_the_page_names_nothing_outside_itself_and_nothing_by_absolute_path(served: Served) -> None:
    _, _, html = await served.get("")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?:https?:|/)""", html)
    assert re.findall(r'fetch\("([^"]+)"', html) == ["status.json"]


async def test_metrics_parse_and_words_of_strangers_are_no_labels(served: Served) -> None:
    _, _, text = await served.get("metrics")
    samples = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}
    assert samples["p2ptrain_slice_version", "0"] == 3
    assert samples["p2ptrain_slice_owners", "0"] == 1
    assert samples["p2ptrain_slice_commit_age_seconds", "0"] == 2.0
    assert samples["p2ptrain_peers", "other"] == 1
    assert EVIL not in text


async def test_a_node_that_watches_no_run_has_a_page_too(served: Served) -> None:
    served.status = NodeStatus("me", ["/ip4/127.0.0.1/tcp/1/p2p/me"], None).snapshot()
    assert [(await served.get(path))[0] for path in ("", "status.json", "metrics", "healthz")] == [200] * 4


async def test_a_node_whose_dht_is_silent_is_unhealthy(served: Served) -> None:
    assert (await served.get("healthz"))[0] == 200
    served.status = status(healthy=False)
    assert (await served.get("healthz"))[0] == 503


async def test_a_port_that_is_taken_is_named(served: Served) -> None:
    port = int(served.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(NetworkSetupError, match=f"127.0.0.1:{port}"):
        await start_status_server("127.0.0.1", port, status)


async def test_what_the_operator_must_do_is_on_the_page_in_the_data_and_in_the_metrics() -> None:
    status = NodeStatus("me", [], None)
    runner, url = await start_status_server("127.0.0.1", 0, status.snapshot)
    try:
        async with aiohttp.ClientSession() as session:
            assert 'problem{kind="twin"} 0.0' in await read(session, url + "metrics")
            status.problems.report("twin", "another process runs as me", clock.monotonic_s())
            assert 'problem{kind="twin"} 1.0' in await read(session, url + "metrics")
            assert "another process runs as me" in await read(session, url)
            assert "another process runs as me" in await read(session, url + "status.json")
    finally:
        await runner.cleanup()


async def read(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as answer:
        return await answer.text()
