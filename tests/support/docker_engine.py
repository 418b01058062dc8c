"""A Docker engine for tests: the one that runs, else a private one; and a Python base image, pulled or made here.

A machine without a registry cannot pull ``python:3.11-slim-bookworm``. There a stand-in is made from Debian's packages,
with this machine's certificates, so that the project's own Dockerfile builds unchanged.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

BASE_IMAGE = "python:3.11-slim-bookworm"
_PULL_TIMEOUT_S = 300.0
_STAND_IN = """\
FROM p2ptrain-test-debian
COPY certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-pip \\
 && rm -rf /var/lib/apt/lists/* /usr/lib/python3.11/EXTERNALLY-MANAGED \\
 && ln -s /usr/bin/python3 /usr/local/bin/python3
COPY certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
"""


def docker(*arguments: str, timeout_s: float = 120.0, check: bool = True) -> str:
    """What ``docker`` prints; fails the test with its complaint."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, (
        f"docker {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


@contextlib.contextmanager
def docker_engine(folder: Path) -> Iterator[None]:
    """An engine that answers, with ``BASE_IMAGE``; skips the test with the reason where that is impossible."""
    _need(shutil.which("docker") is not None, "no docker command")
    _need(_runs("docker", "compose", "version"), "docker has no compose plugin")
    with contextlib.ExitStack() as undo:
        if not _runs("docker", "info"):
            undo.enter_context(_private_engine(folder))
        _need_base_image(folder)
        yield


@contextlib.contextmanager
def _private_engine(folder: Path) -> Iterator[None]:
    _need(os.geteuid() == 0 and shutil.which("dockerd") is not None, "no engine runs, and none can be started here")
    host = f"unix://{folder}/docker.sock"
    roots = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/dockerd.pid"]
    before = os.environ.get("DOCKER_HOST")
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd", *roots, "-H", host], stdout=log, stderr=log, start_new_session=True)
    os.environ["DOCKER_HOST"] = host
    try:
        deadline_s = time.monotonic() + 30
        while not _runs("docker", "info"):
            _need(daemon.poll() is None and time.monotonic() < deadline_s, f"dockerd: {_end(folder / 'dockerd.log')}")
            time.sleep(0.2)
        yield
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before
        shutil.rmtree(folder / "data", ignore_errors=True)  # gigabytes of images


def _need_base_image(folder: Path) -> None:
    if _runs("docker", "image", "inspect", BASE_IMAGE) or _runs("docker", "pull", "-q", BASE_IMAGE):
        return
    _need(os.geteuid() == 0 and shutil.which("debootstrap") is not None, f"{BASE_IMAGE} can be neither pulled nor made")
    root = folder / "rootfs"
    mirror = subprocess.run(["apt-cache", "policy"], capture_output=True, text=True, check=True).stdout
    archive = next(word for word in mirror.split() if word.startswith("http") and word.rstrip("/").endswith("debian"))
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root), archive],
        check=True,
        capture_output=True,
    )
    with subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE) as tar:
        import_it = ["docker", "import", "-", "p2ptrain-test-debian"]
        subprocess.run(import_it, stdin=tar.stdout, check=True, capture_output=True)
    assert tar.returncode == 0
    shutil.rmtree(root)
    context = folder / "stand-in"
    context.mkdir()
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context / "certificates.crt")
    (context / "Dockerfile").write_text(_STAND_IN)
    docker("build", "-q", "-t", BASE_IMAGE, str(context), timeout_s=600)


def _runs(*command: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PULL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _need(is_so: bool, otherwise: str) -> None:
    if not is_so:
        pytest.skip(otherwise)


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-300:]


def local_torch_wheels(names: Sequence[str] = ("torch-",)) -> list[Path]:
    """Wheels of torch that pip would find on this machine, so that a build need not download them."""
    found = subprocess.run(["pip", "config", "get", "global.find-links"], capture_output=True, text=True, check=False)
    folders = [Path(word) for word in found.stdout.split() if Path(word).is_dir()]
    return [wheel for folder in folders for wheel in folder.glob("*.whl") if wheel.name.startswith(tuple(names))]
