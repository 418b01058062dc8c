"""The images as people use them: built, started by compose, killed, cut off, stopped. Run by ``make test-docker``."""

import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker_engine import docker, docker_engine, local_torch_wheels
from tests.support.live_swarm import eventually

ROOT = Path(__file__).parents[2]
STATUS_PORT = 18765
COMPOSE = ["compose", "-f", str(ROOT / "docker/compose.yaml"), "-p", "p2ptrain-test"]
PEERS = ("peer-a", "peer-b", "peer-c")

pytestmark = [
    pytest.mark.swarm,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("P2PTRAIN_TEST_DOCKER" not in os.environ, reason="builds images; run it with: make test-docker"),
]


def compose(*arguments: str, timeout_s: float = 300.0) -> str:
    return docker(*COMPOSE, *arguments, timeout_s=timeout_s)


def status() -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{STATUS_PORT}/status.json", timeout=60) as answer:
        return dict(json.load(answer))


def versions() -> dict[str, int]:
    return {one["id"]: one["version"] for one in status()["slices"]}


def container(service: str) -> str:
    return compose("ps", "-a", "-q", service).strip()


def inspect(service: str, path: str) -> str:
    return docker("inspect", "-f", path, container(service)).strip()


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The compose file's swarm, healthy."""
    folder = tmp_path_factory.mktemp("docker")
    os.environ |= {"P2PTRAIN_STATUS_PORT": str(STATUS_PORT), "P2PTRAIN_PRESET": "nano"}
    copied = []
    with docker_engine(folder):
        if wheels := local_torch_wheels():
            os.environ["TORCH_INDEX"] = ""
            for wheel in wheels:
                target = ROOT / "docker/wheels" / wheel.name
                if not target.exists():
                    copied.append(target)
                    shutil.copy(wheel, target)
        try:
            compose("build", timeout_s=1200)
            compose("up", "--detach", "--wait", timeout_s=600)
            yield
        finally:
            (folder / "compose.log").write_text(compose("logs", "--tail", "200"))
            compose("down", "--volumes", "--timeout", "10")
            for target in copied:
                target.unlink()


def test_three_peers_with_one_url_train_together(swarm: None) -> None:
    seen = eventually(lambda: len((s := status())["peers"]) == 3 and s, within_s=300, what="three peers are seen")
    assert {peer["state"] for peer in seen["peers"]} <= {"JOINING", "TRAINING", "AVERAGING"}
    before = versions()
    eventually(lambda: all(v > before[s] + 2 for s, v in versions().items()), within_s=300, what="every slice moves on")


def test_a_peers_dashboard_can_be_looked_at_inside_its_container(swarm: None) -> None:
    def shown() -> bool:
        seen = docker("exec", container("peer-a"), "p2ptrain", "dash", "--once", "--size", "100x36")
        return "common" in seen and any(state in seen for state in ("TRAINING", "AVERAGING"))

    eventually(shown, within_s=300, what="the dashboard shows a peer at work, and its slices")


def test_images_and_starts_are_what_the_readme_says(swarm: None, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        name: int(docker("image", "inspect", "-f", "{{.Size}}", f"p2ptrain:{name}")) for name in ("cpu", "bootstrap")
    }
    started_s = time.monotonic()
    docker("restart", container("bootstrap"))
    eventually(answers, within_s=300, what="the page is there again")
    page_s = time.monotonic() - started_s
    with capsys.disabled():
        said = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sizes.items())
        sys.stdout.write(f"\n{said}; a bootstrap node is restarted in {page_s:.1f} s\n")
    assert max(sizes.values()) < 1.9e9


def answers() -> bool:
    try:
        status()
    except OSError:
        return False
    return True


def test_the_containers_can_do_nothing_that_they_need_not(swarm: None) -> None:
    for service in ("bootstrap", *PEERS):
        assert inspect(service, "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}") == "true [ALL]"
        assert docker("exec", container(service), "id", "-u").strip() == "10001"

        def is_healthy(service: str = service) -> bool:  # one of them has just been restarted
            return inspect(service, "{{.State.Health.Status}}") == "healthy"

        eventually(is_healthy, within_s=300, what=f"{service} is healthy")


def test_an_image_brings_no_key_and_nothing_of_the_checkout_but_the_program(swarm: None) -> None:
    look = "ls -A /data; find / -xdev '(' -name '*.key' -o -name .git -o -name 'test_*.py' -path '*p2ptrain/tests*' ')'"
    found = docker("run", "--rm", "--user", "0", "--entrypoint", "sh", "p2ptrain:cpu", "-c", look)
    assert found.strip() == ""


def test_a_killed_peer_is_restarted_with_its_identity_and_the_others_go_on(swarm: None) -> None:
    victim = next(peer for peer in status()["peers"] if "0" in peer["slices"])["peer"]
    name = next(s for s in PEERS if victim in compose("logs", "--no-log-prefix", s))
    docker("kill", "--signal", "KILL", container(name))
    before = versions()["common"]
    eventually(lambda: versions()["common"] > before + 3, within_s=300, what="the others go on")
    docker("start", container(name))
    eventually(
        lambda: any(p["peer"] == victim and p["answered_s_ago"] < 6 for p in status()["peers"]),
        within_s=300,
        what="it is back with the same identity",
    )


def test_a_peer_that_was_cut_off_comes_back(swarm: None) -> None:
    docker("network", "disconnect", "p2ptrain-test_default", container("peer-b"))
    before = versions()["common"]
    eventually(lambda: versions()["common"] > before + 3, within_s=300, what="the others go on")
    docker("network", "connect", "--alias", "peer-b", "p2ptrain-test_default", container("peer-b"))
    eventually(
        lambda: len([p for p in status()["peers"] if p["answered_s_ago"] < 6]) == 3,
        within_s=300,
        what="all three answer",
    )


def test_sigterm_ends_a_peer_within_the_stop_timeout_and_nothing_is_lost(
    swarm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = versions()["common"]
    started_s = time.monotonic()
    docker("stop", "--time", "30", container("peer-c"))
    stop_s = time.monotonic() - started_s
    assert inspect("peer-c", "{{.State.ExitCode}}") == "0", "137 if it had to be killed"
    assert "stopped: asked to" in docker("logs", "--tail", "3", container("peer-c"))
    started_s = time.monotonic()
    docker("start", container("peer-c"))

    def is_training() -> bool:
        since = docker("logs", container("peer-c")).rpartition("stopped: asked to")[2]
        return "resumed from disk" in since and "TRAINING" in since

    eventually(is_training, within_s=300, what="it goes on from its disk")
    with capsys.disabled():
        start_s = time.monotonic() - started_s
        sys.stdout.write(f"\na peer is stopped in {stop_s:.1f} s and trains {start_s:.1f} s after its start\n")
    eventually(lambda: versions()["common"] > before + 3, within_s=300, what="training goes on")
