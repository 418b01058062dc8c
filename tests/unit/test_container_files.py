"""Container files are sound, without an engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from p2ptrain import __version__

ROOT = Path(__file__).parents[2]
COMPOSE_FILES = [ROOT / "docker/compose.yaml", *sorted((ROOT / "peers").glob("*/compose.yaml"))]


def test_hadolint_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed; the dev extra brings it")
    done = subprocess.run(
        [linter, "-c", ROOT / ".hadolint.yaml", ROOT / "docker/Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_compose_file_confines_every_service_of_ours() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    assert {"bootstrap", "peer-a", "peer-b", "peer-c", "manifest"} <= set(services)
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_images_say_what_they_are() -> None:
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    assert re.findall(r'image\.version="(.*?)"', dockerfile) == [__version__] * 2
    for base, stage in (("PYTHON_IMAGE", "cpu"), ("CUDA_IMAGE", "cuda")):
        (default,) = re.findall(rf"^ARG {base}=(.*)$", dockerfile, re.MULTILINE)
        part = dockerfile.split(f" AS {stage}\n")[1].split("\nFROM ")[0]
        (labelled,) = re.findall(r'image\.base\.name="(.*?)"', part)
        assert labelled.endswith(f"/{default}")


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.parent.name)
def test_compose_accepts_its_file(path: Path) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "-f", path, "config", "--quiet"]
    environment = {**os.environ, "RUN": "https://run.example.org", "RUN_FILE": "./run.toml"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
