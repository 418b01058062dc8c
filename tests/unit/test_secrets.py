"""No secret is printed: keys, invitations and passphrases, in what commands say and in pages and metrics."""

import base64
import json
from pathlib import Path

import aiohttp
import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.identity_command import PASSPHRASE
from p2ptrain.config.schema import NetworkConfig
from p2ptrain.identity import backup
from p2ptrain.identity.keys import load, load_or_create
from p2ptrain.node.run_watch import NodeStatus
from p2ptrain.node.status_server import start_status_server
from tests.support.secrets import found_in, secrets_of_key

TOKEN = "p2ptrain-invite-" + "s3cr3t" * 20
WORDS = "correct horse battery staple"


def key_secrets(path: Path) -> dict[str, bytes]:
    return {f"{path.name} ({len(raw)} bytes)": raw for raw in secrets_of_key(path)}


def test_every_form_of_a_secret_is_recognised(tmp_path: Path) -> None:
    load_or_create(tmp_path / "k")
    seed, whole = secrets_of_key(tmp_path / "k")
    leaks = [
        seed,
        seed.hex().encode(),
        whole.hex().upper().encode(),
        repr(seed).encode(),
        json.dumps(list(whole)).encode(),
    ]
    for leak in leaks:
        assert found_in({"log": b"before " + leak + b" after"}, {"seed": seed}), leak
    for pad in range(4):
        assert found_in({"log": base64.b64encode(b"x" * pad + whole)}, {"seed": seed}), pad
    assert found_in({"log": load(tmp_path / "k").peer_id.encode()}, {"seed": seed, "key": whole}) == []


def test_config_explain_hides_the_invitation_wherever_it_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    explain = ["config", "--explain", "--run", "tiny.toml", "--home", str(tmp_path / "h")]
    assert cli.main([*explain, "--invite", TOKEN]) == 0
    by_flag = capsys.readouterr()
    monkeypatch.setenv("P2PTRAIN_INVITE", TOKEN)
    assert cli.main(explain) == 0
    by_variable = capsys.readouterr()
    for said in (by_flag, by_variable):
        assert "(hidden)" in said.out
        assert found_in({"stdout": said.out.encode(), "stderr": said.err.encode()}, {"token": TOKEN.encode()}) == []


def test_identity_commands_print_neither_key_nor_passphrase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(backup, "_SCRYPT_N", 16)
    monkeypatch.setenv(PASSPHRASE, WORDS)
    home, copy = str(tmp_path / "home"), str(tmp_path / "copy")
    for command in (
        ["identity", "--home", home],
        ["identity", "backup", copy, "--home", home],
        ["identity", "restore", copy, "--home", str(tmp_path / "other")],
        ["identity", "restore", home, "--home", str(tmp_path / "third")],
    ):
        cli.main(command)
    monkeypatch.setenv(PASSPHRASE, WORDS + "!")
    assert cli.main(["identity", "restore", copy, "--home", str(tmp_path / "fourth")]) == 2
    said = capsys.readouterr()
    places = {"stdout": said.out.encode(), "stderr": said.err.encode(), "copy": Path(copy).read_bytes()}
    assert found_in(places, {"words": WORDS.encode(), **key_secrets(tmp_path / "home" / "identity.key")}) == []
    identity = load(tmp_path / "home" / "identity.key")
    reprs = {"repr": f"{identity!r} {identity}".encode(), "config": repr(NetworkConfig()).encode()}
    assert found_in(reprs, key_secrets(tmp_path / "home" / "identity.key")) == []


async def test_a_status_page_shows_no_key(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path / "identity.key")
    runner, url = await start_status_server("127.0.0.1", 0, NodeStatus(identity.peer_id, [], None).snapshot)
    try:
        places = {}
        async with aiohttp.ClientSession() as session:
            for page in ("", "status.json", "metrics", "healthz"):
                async with session.get(url + page) as answer:
                    places[page or "/"] = await answer.read()
    finally:
        await runner.cleanup()
    assert identity.peer_id.encode() in places["/"]
    assert found_in(places, key_secrets(tmp_path / "identity.key")) == []
