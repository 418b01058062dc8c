"""A real Prometheus reads a real peer; and what the peer prints for programs."""

import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.events import MetricsServed
from tests.support.live_swarm import PATIENCE_S, LivePeer, LiveSwarm, eventually

pytestmark = pytest.mark.swarm


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePeer]:
    with LiveSwarm(tmp_path_factory.mktemp("metrics")) as swarm:
        alone = swarm.start_peer("peer-a", "all", environment={"P2PTRAIN_PEER_METRICS": "127.0.0.1:0"})
        alone.wait_for_version("common", 1)
        yield alone


def metrics_of(peer: LivePeer) -> str:
    return peer.events(MetricsServed)[-1].url


def test_promtool_has_nothing_to_say_about_a_running_peer(peer: LivePeer) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    with urllib.request.urlopen(metrics_of(peer), timeout=PATIENCE_S) as answer:
        text = answer.read()
    assert b"process_resident_memory_bytes" in text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_prometheus_reads_a_peer(peer: LivePeer, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed; Debian has it in the package prometheus")
    target = urllib.parse.urlsplit(metrics_of(peer)).netloc
    config = tmp_path / "prometheus.yml"
    job = {"job_name": "peer", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config.write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML

    def start() -> tuple[int, "subprocess.Popen[bytes]"]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [prometheus, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        return port, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    port, running = start()
    try:

        def value(query: str) -> float:
            nonlocal port, running
            if running.poll() is not None:  # somebody else has taken the port meanwhile
                port, running = start()
            url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                    results = json.load(answer)["data"]["result"]
            except OSError:  # it is starting
                return 0.0
            return float(results[0]["value"][1]) if results else 0.0

        eventually(lambda: value("up") == 1, what="Prometheus has read the peer")
        # Each once more if need be: on a busy machine a reading can miss its second.
        for query in ("p2ptrain_peer_tokens_total", "p2ptrain_peer_slice_version", "process_resident_memory_bytes"):
            eventually(lambda query=query: value(query) > 0, what=f"{query} is read")
        info = f'p2ptrain_peer_info{{peer="{peer.id}"}}'
        eventually(lambda: value(info) == 1, what=f"{info} is read")
        grows = "rate(p2ptrain_peer_tokens_total[10s])"
        eventually(lambda: value(grows) > 0, what="tokens rise between two readings")
    finally:
        running.terminate()
        running.wait(timeout=PATIENCE_S)


def test_without_a_terminal_each_printed_line_is_an_object(peer: LivePeer) -> None:
    whole_lines, _, _ = peer.child.log.read_text().rpartition("\n")  # the last one may be half written
    lines = [json.loads(line) for line in whole_lines.splitlines()]
    assert {"PeerStarted", "ControlListening", "RoundCommitted"} <= {line.get("kind") for line in lines}
    assert all(line["time"].endswith("Z") and line["line"] for line in lines)
