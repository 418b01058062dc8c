"""What cannot work is refused at the start: one clear sentence with the remedy, status 2, nothing overwritten."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from p2ptrain.identity.keys import Identity
from tests.support.live_swarm import PATIENCE_S, LiveSwarm, p2ptrain, stop_gently

pytestmark = pytest.mark.swarm
NOBODY = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.from_seed(bytes(32)).peer_id}"


def refused(*arguments: str, num_problems: int = 1) -> str:
    """What the command says when it ends with status 2: a line for each problem."""
    done = subprocess.run(p2ptrain(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("p2ptrain: "), lines
    assert len(lines) <= num_problems, lines
    return done.stderr


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> "LiveSwarm":
    """A swarm whose only peer has committed something and stopped."""
    with LiveSwarm(tmp_path_factory.mktemp("swarm"), rounds=20) as live:
        peer = live.start_peer("peer", "0")
        peer.wait_for_version("common", 3)
        assert stop_gently([peer]) == {"peer": 0}
        yield live


def start(swarm: LiveSwarm, home: Path, **changes: str) -> list[str]:
    options = {"run": str(swarm.manifest), "bootstrap": swarm.address, "home": str(home)} | changes
    return ["peer", *(part for name, value in options.items() for part in (f"--{name}", value))]


def test_bootstrap_address_that_nobody_listens_on(swarm: LiveSwarm, tmp_path: Path) -> None:
    said = refused(*start(swarm, tmp_path / "home", bootstrap=NOBODY))
    assert "no bootstrap answers" in said
    assert "127.0.0.1/tcp/9" in said
    assert "p2ptrain bootstrap" in said


def test_disk_limit_that_the_last_committed_state_does_not_fit(swarm: LiveSwarm, tmp_path: Path) -> None:
    profile = tmp_path / "peer.toml"
    profile.write_text("[limits]\ndisk_gb = 0.0001\n")
    said = refused(*start(swarm, tmp_path / "home", profile=str(profile)))
    assert "limits.disk_gb = 0.0001 is too small" in said
    assert "needs 0.00" in said


def test_bootstrap_address_that_is_incomplete(swarm: LiveSwarm, tmp_path: Path) -> None:
    said = refused(*start(swarm, tmp_path / "home", bootstrap="/ip4/127.0.0.1/tcp/31337"))
    assert "is not complete" in said
    assert not (tmp_path / "home").exists()


def test_port_in_use(swarm: LiveSwarm, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(*start(swarm, tmp_path / "home", port=str(port)))
        assert f"port {port}" in said
        assert "choose another --port" in said
        said = refused("bootstrap", "--home", str(tmp_path / "bootstrap"), "--port", str(port))
        assert f"port {port}" in said


def test_slice_that_the_run_does_not_have(swarm: LiveSwarm, tmp_path: Path) -> None:
    said = refused(*start(swarm, tmp_path / "home", slices="7"))
    assert "no slice '7'" in said
    assert "0, 1" in said
    assert not (tmp_path / "home").exists()


def test_manifest_with_a_wrong_key_a_wrong_type_and_an_impossible_slicing(swarm: LiveSwarm, tmp_path: Path) -> None:
    manifest = tmp_path / "run.toml"
    text = swarm.manifest.read_text()
    for old, new, expected in [
        ("slices = 2", "slcies = 2", "slicing.slcies"),
        ("slices = 2", 'slices = "two"', "slicing.slices"),
        ("slices = 2", "slices = 7", "7"),
        ("fingerprint = ", "fingerprint = 'aa'  #", "fingerprint"),
    ]:
        assert old in text
        manifest.write_text(text.replace(old, new, 1))
        assert expected in refused(*start(swarm, tmp_path / "home", run=str(manifest)), num_problems=2)
        assert not (tmp_path / "home").exists()


def test_home_of_another_run(swarm: LiveSwarm, tmp_path: Path) -> None:
    manifest = tmp_path / "run.toml"
    manifest.write_text(swarm.manifest.read_text().replace("rounds = 20", "rounds = 21", 1))
    home = swarm.folder / "peer"
    before = snapshot(home)
    said = refused(*start(swarm, home, run=str(manifest)))
    assert "belongs to run" in said
    assert "another --home" in said
    assert snapshot(home) == before


def test_corrupt_checkpoint_is_refused_and_fetched_anew_when_asked(swarm: LiveSwarm, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(swarm.folder / "peer", home)
    checkpoint = home / "checkpoint.safetensors"
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    before = snapshot(home)
    said = refused(*start(swarm, home))
    assert "checkpoint.safetensors" in said
    assert "--refetch" in said
    assert snapshot(home) == before

    again = swarm.start_peer("again", "0", "--refetch", home=home)
    again.wait_for_version("common", 1)
    assert (home / "checkpoint.corrupt-1").read_bytes() == bytes(data)
    stop_gently([again])


def test_home_that_another_peer_is_using(swarm: LiveSwarm) -> None:
    using = swarm.start_peer("peer", "0")
    assert using.id
    said = refused(*start(swarm, using.home))
    assert f"in use by process {using.child.pid}" in said
    stop_gently([using])


def test_python_that_is_too_old(tmp_path: Path) -> None:
    old = next((path for name in ("python3.10", "python3.9", "python3.8") if (path := shutil.which(name))), None)
    if old is None:
        pytest.skip("no older Python on this machine")
    package_folder = Path(__file__).parents[2]
    done = subprocess.run(
        [old, "-m", "p2ptrain", "demo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package_folder)},
        check=False,
    )
    if "pyenv" in done.stderr:
        pytest.skip("the older Python is a pyenv shim without a version behind it")
    assert done.returncode == 2
    assert "3.11" in done.stderr
    assert "Traceback" not in done.stderr
