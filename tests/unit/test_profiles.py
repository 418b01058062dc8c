"""Settings from flags, variables, a profile and defaults; and the profiles in ``peers/``."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from p2ptrain.cli import main as cli

ROOT = Path(__file__).parents[2]
KINDS = ("home-gpu", "cloud-gpu", "cpu")


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[str, str]]:
    """Name to origin and value, as ``p2ptrain config --explain`` prints them."""
    capsys.readouterr()
    assert cli.main(["config", "--explain", *arguments]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    return {name: (origin, value[0] if value else "") for name, origin, *value in rows}


def test_flags_come_before_variables_before_the_profile_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "peer.toml"
    profile.write_text('port = 1\nmax_slices = 2\nslices = "0"\nthreads = 5\n[limits]\nupload_mbps = 1\nniceness = 3\n')
    monkeypatch.setenv("P2PTRAIN_PEER_PORT", "2")
    monkeypatch.setenv("P2PTRAIN_PEER_MAX_SLICES", "3")
    found = explained(capsys, "--profile", str(profile), "--port", "4", "--upload-mbps", "7")
    assert found["port"] == ("flag", "4")
    assert found["max_slices"] == ("variable", "3")
    assert found["slices"] == ("profile", "0")
    assert found["limits.upload_mbps"] == ("flag", "7.0")
    assert found["limits.niceness"] == ("profile", "3")
    assert found["limits.download_mbps"] == ("default", "0.0")
    assert found["limits.threads"] == ("profile", "5")


def test_a_secret_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "--invite", "p2ptrain-invite-abc")["invite"] == ("flag", "(hidden)")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_slicez = 2", "max_slicez is not an option of p2ptrain peer; did you mean max_slices?"),
        ("= 2", "not valid TOML"),
        ("limits = 3", "write a [limits] section"),
        ("[limits]\nupload_mpbs = 3", "upload_mpbs is not a known key; did you mean upload_mbps?"),
        ("[limits]\nniceness = 33", "niceness = 33"),
    ],
)
def test_a_wrong_profile_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    profile, home = tmp_path / "peer.toml", tmp_path / "home"
    profile.write_text(text)
    assert cli.main(["peer", "--profile", str(profile), "--run", str(tmp_path / "no.toml"), "--home", str(home)]) == 2
    assert problem in capsys.readouterr().err
    assert not home.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_ready_made_profile_is_understood_and_explains_every_line(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = ROOT / "peers" / kind / "peer.toml"
    found = explained(capsys, "--profile", str(profile))
    assert sum(origin == "profile" for origin, _ in found.values()) >= 5
    lines = [line for line in profile.read_text().splitlines() if "=" in line and not line.startswith("#")]
    assert [line for line in lines if "#" not in line and not line.startswith('device = "cpu"')] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_runnable_and_takes_options_on_top(kind: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "peers" / kind, "--run", str(tmp_path / "absent.toml"), "--home", str(tmp_path / "h")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "absent.toml does not exist" in done.stderr


@pytest.mark.parametrize("kind", [*KINDS, "bootstrap"])
def test_a_folders_compose_file_confines_its_service(kind: str) -> None:
    path = ROOT / "peers" / kind / "compose.yaml"
    (service,) = yaml.safe_load(path.read_text())["services"].values()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert (path.parent / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert list(path.parent.glob("*.service"))


@pytest.mark.parametrize("unit", sorted((ROOT / "peers").glob("*/*.service")), ids=lambda path: path.parent.name)
def test_systemd_understands_the_unit(unit: Path, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/p2ptrain/bin/p2ptrain", "/bin/true"))
    done = subprocess.run([verify, "verify", copy], capture_output=True, text=True, check=False)
    assert "Unknown" not in done.stderr, done.stderr
