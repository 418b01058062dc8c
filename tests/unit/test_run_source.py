"""Where ``--run`` finds a manifest."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.cli.run_source import addresses_of, read_run
from p2ptrain.config.presets import preset_text
from p2ptrain.errors import ConfigError, NetworkSetupError

ADDRESS = "/ip4/172.18.0.2/tcp/31337/p2p/12D3KooWRkaYWFiRHaiwWnzYd5FE5EKf2KWCV3gy5vZCfufrMYbB"


@pytest.mark.parametrize(
    ("url", "first"),
    [
        ("https://run.example.org/p2ptrain/", ADDRESS.replace("ip4/172.18.0.2", "dns/run.example.org")),
        ("http://203.0.113.7:8080", ADDRESS.replace("172.18.0.2", "203.0.113.7")),
        ("http://[2001:db8::7]:8080", ADDRESS.replace("ip4/172.18.0.2", "ip6/2001:db8::7")),
    ],
)
def test_a_node_is_looked_for_under_its_pages_host_name_first(url: str, first: str) -> None:
    assert addresses_of({"addresses": [ADDRESS]}, url) == (first, ADDRESS)


@pytest.mark.parametrize("status", [None, [], {}, {"addresses": 7}, {"addresses": ["hello", None]}])
def test_another_page_is_named_and_refused(status: object) -> None:
    with pytest.raises(NetworkSetupError, match="http://x is no status page"):
        addresses_of(status, "http://x")


@pytest.fixture
def elsewhere() -> Iterator[str]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"hello": "world"}) if self.path == "/some/status.json" else "<html>"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_that_is_no_status_page(elsewhere: str) -> None:
    with pytest.raises(NetworkSetupError, match="no status page"):
        read_run(elsewhere + "/some/")
    with pytest.raises(NetworkSetupError, match="gave no status"):
        read_run(elsewhere)


def test_a_url_at_which_nobody_listens() -> None:
    with pytest.raises(NetworkSetupError, match="Connection refused"):
        read_run("http://127.0.0.1:9")


def test_anything_else_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_run(str(tmp_path / "absent.toml"))
    (tmp_path / "run.toml").write_text(preset_text("nano"))
    found = read_run(str(tmp_path / "run.toml"))
    assert (found.text, found.folder, found.bootstraps) == (preset_text("nano"), tmp_path, ())
    assert found.config.name == "nano"
