"""Bad input to every command: status 2, what is wrong and what would be right in one sentence, and no traceback."""

from pathlib import Path

import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest

ADDRESS = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWAXkmV83p8CnNiht3G2rriH1CYMgpxo8hXmuXruipXQ7N"
pytestmark = pytest.mark.timeout(240)  # some of them import torch or hivemind
PEER = f"peer --run nano.toml --home new --bootstrap {ADDRESS}"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "nano.toml"
    write_manifest("nano", path, ManifestChanges())
    return path


@pytest.fixture(autouse=True)
def _folder(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nano.toml").write_text(manifest.read_text())
    Path("broken.toml").write_text("rounds = [")
    Path("secret").write_text("{}")
    Path("secret").chmod(0o644)
    Path("home").mkdir()
    Path("home/control.sock").write_text("no socket")
    Path("full").mkdir()
    Path("full/something").touch()
    Path("profile.toml").write_text("[limits]\nuplod_mbps = 3\n")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("frobnicate", "choose from bench"),
        ("stauts", "did you mean p2ptrain status?"),
        ("peer", "peer needs --run"),
        (f"{PEER} --prot 3", "did you mean --port?"),
        (f"{PEER} --port 99999", "choose 0 to 65535"),
        (f"{PEER} --threads -1", "choose 0 or more"),
        (f"{PEER} --threads 5000", "up to 1024"),
        (f"{PEER} --upload-mbps 1e300", "up to 1000000"),
        (f"{PEER} --memory lots", "write for example 8GiB"),
        (f"{PEER} --metrics 9464", "127.0.0.1:9464"),
        (f"{PEER} --control-listen 0.0.0.0", "0.0.0.0:7443"),
        (f"{PEER} --log xml", "choose from human, json, auto"),
        (f"{PEER} --profile absent.toml", "peers/ has some to copy"),
        (
            f"{PEER} --profile profile.toml",
            "profile.toml: limits.uplod_mbps is not a known key; did you mean upload_mbps?",
        ),
        ("peer --run absent.toml --home new", "create it with: p2ptrain run new"),
        ("peer --run broken.toml --home new", "not valid TOML"),
        ("peer --run nano.toml --home new", "add --bootstrap ADDRESS"),
        ("config --profile profile.toml", "did you mean upload_mbps?"),
        ("status", "Add --home DIR"),
        ("status --home absent", "start one with: p2ptrain peer"),
        ("status --home home", "is not a socket; remove it"),
        ("status --control secret", "run: chmod 600 secret"),
        ("status --control 192.0.2.1:7443", "p2ptrain control enroll"),
        ("why --home absent", "start one with"),
        ("pause --home absent --for 2h", "start one with"),
        ("resume --home absent", "start one with"),
        ("finish --home absent", "start one with"),
        ("leave --home absent", "start one with"),
        ("limits --home absent", "start one with"),
        ("limits upload_mbps --home absent", "is not KEY=VALUE"),
        ("health --home absent", "start one with"),
        ("control enroll --home new --address 192.0.2.1 --out x", "choose HOST:PORT"),
        ("control enroll --home /proc/1/x --address 192.0.2.1:1 --out x", "choose another --home"),
        ("dash --home absent", "is no folder"),
        ("dash --home home --size 0x0 --once", "from 40x10 up"),
        ("doctor --device gpu", "choose cpu, cuda"),
        ("swarm --run nano.toml", "add --bootstrap ADDRESS"),
        ("swarm --run nano.toml --every -1", "choose 0 or more"),
        ("run new nosuch --out x.toml", "choose from nano, small, tiny"),
        ("run new nano --out nano.toml", "is not overwritten"),
        ("run show absent.toml", "create it with"),
        ("run show .", "is a directory"),
        ("bench memory --model 99z", "choose from step"),
        ("bench fit --model 1.3b --memory abc", "write for example 8GiB"),
        ("bench step --slices a", "write for example 1,4,8"),
        ("bench step --device tpu", "choose auto, cpu, cuda"),
        ("bench fit --device tpu --memory 8GiB", "choose auto, cpu, cuda"),
        ("lab quality --slices 1,x", "with commas between; each is a whole number of at least 1"),
        ("lab quality --preset nosuch", "choose from nano, small, tiny"),
        ("lab quality --out absent/lab", "make it first"),
        ("lab chaos --peers 1", "choose 2 or more"),
        ("lab chaos --run absent.toml", "create it with"),
        ("lab chaos --out full", "is not an empty folder"),
        ("lab soak --preset nosuch", "choose from nano, small, tiny"),
        ("lab soak --out full", "is not an empty folder"),
        ("lab soak --out /proc/x", "choose another folder"),
        ("lab codec --rounds 0", "choose 1 or more"),
        ("export --home absent --out m", "name the folder that you gave to: p2ptrain peer --home"),
        ("generate --home absent", "name the folder that you gave to: p2ptrain peer --home"),
        ("bootstrap --port 99999", "choose 0 to 65535"),
        ("identity --home /proc/1/x", "choose another folder"),
        ("completion tcsh", "choose from bash, zsh, fish"),
        ("--vresion", "did you mean --version?"),
    ],
)
def test_is_refused_with_what_would_be_right(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err + said.out
    assert not Path("new").exists(), "nothing was begun"
