"""``p2ptrain identity backup`` and ``restore``: a key survives its machine, under a passphrase."""

import os
import stat
from pathlib import Path

import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.identity_command import PASSPHRASE
from p2ptrain.errors import IdentityError
from p2ptrain.identity import backup
from p2ptrain.identity.backup import read_backup, write_backup
from p2ptrain.identity.keys import Identity, load
from p2ptrain.node.home import FolderLock

WORDS = "correct horse battery"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_SCRYPT_N", 1 << 4)
    monkeypatch.setenv(PASSPHRASE, WORDS)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert cli.main(["identity", "--home", str(tmp_path / "home")]) == 0
    return tmp_path / "home"


def test_backup_and_passphrase_are_the_identity_again() -> None:
    identity = Identity.generate()
    text = write_backup(identity, WORDS)
    assert read_backup(text, WORDS).file_bytes() == identity.file_bytes()
    assert read_backup(text.replace("\n", "\r\n"), WORDS).peer_id == identity.peer_id, "mailed by way of Windows"
    assert text.split("\n")[1] == identity.peer_id, "whose it is can be read"
    for secret in (identity.seed(), identity.file_bytes()):
        assert secret.hex() not in text
    assert write_backup(identity, WORDS) != text, "no two have the same salt"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.replace("backup 1", "backup 2"), "no backup"),
        (lambda t: "", "no backup"),
        (lambda t: "\n".join(t.split("\n")[:2]), "no backup"),
        (lambda t: t.replace(t.split("\n")[1], Identity.generate().peer_id), "was changed"),
        (lambda t: t[:-2] + "\n", "damaged"),
        (lambda t: t[:-9] + "\n", "another length"),
        (lambda t: t[:-30] + ("A" if t[-30] != "A" else "B") + t[-29:], "was changed"),
    ],
)
def test_a_damaged_backup_gives_nothing(change, says: str) -> None:
    text = change(write_backup(Identity.from_seed(bytes(32)), WORDS))
    with pytest.raises(IdentityError, match=says):
        read_backup(text, WORDS)


def test_another_passphrase_gives_nothing_and_a_short_one_is_refused() -> None:
    with pytest.raises(IdentityError, match="passphrase is another one"):
        read_backup(write_backup(Identity.generate(), WORDS), WORDS + "!")
    with pytest.raises(IdentityError, match="can be guessed"):
        write_backup(Identity.generate(), "password")


def test_a_lost_key_comes_back_and_nobody_else_can_read_it(home: Path, tmp_path: Path, capsys) -> None:
    before = (home / "identity.key").read_bytes()
    copy = tmp_path / "copy"
    assert cli.main(["identity", "backup", str(copy), "--home", str(home)]) == 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert cli.main(["identity", "backup", str(copy), "--home", str(home)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere"
    assert cli.main(["identity", "restore", str(copy), "--home", str(elsewhere)]) == 0
    assert (elsewhere / "identity.key").read_bytes() == before
    assert stat.S_IMODE((elsewhere / "identity.key").stat().st_mode) == 0o600
    assert sorted(os.listdir(elsewhere)) == ["identity.key", "lock"]


def test_a_damaged_key_is_replaced_by_its_backup(home: Path, tmp_path: Path) -> None:
    assert cli.main(["identity", "backup", str(tmp_path / "copy"), "--home", str(home)]) == 0
    good = (home / "identity.key").read_bytes()
    (home / "identity.key").write_bytes(good[:-1] + b"x")
    assert cli.main(["identity", "restore", str(tmp_path / "copy"), "--home", str(home)]) == 0
    assert (home / "identity.key").read_bytes() == good


def test_another_identity_is_overwritten_only_when_that_is_said(home: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "copy"
    assert cli.main(["identity", "backup", str(copy), "--home", str(home)]) == 0
    assert cli.main(["identity", "restore", str(copy), "--home", str(home)]) == 0
    assert "already" in capsys.readouterr().out
    assert cli.main(["identity", "--home", str(tmp_path / "other")]) == 0
    other = load(tmp_path / "other" / "identity.key").peer_id
    restore = ["identity", "restore", str(copy), "--home", str(tmp_path / "other")]
    assert cli.main(restore) == 2
    assert f"has another identity, {other}" in capsys.readouterr().err
    assert load(tmp_path / "other" / "identity.key").peer_id == other
    assert cli.main([*restore, "--replace"]) == 0
    assert load(tmp_path / "other" / "identity.key").peer_id == load(home / "identity.key").peer_id


def test_the_identity_of_a_running_process_is_not_exchanged(home: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "copy"
    assert cli.main(["identity", "backup", str(copy), "--home", str(home)]) == 0
    with FolderLock.acquire(home):
        assert cli.main(["identity", "restore", str(copy), "--home", str(home), "--replace"]) == 2
    assert "in use by process" in capsys.readouterr().err


def test_what_is_missing_is_said_in_a_sentence(home: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    assert cli.main(["identity"]) == 2
    assert cli.main(["identity", "backup", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("Add --home DIR") == 2
    assert cli.main(["identity", "backup", str(tmp_path / "x"), "--home", str(tmp_path)]) == 2
    assert "has no identity.key" in capsys.readouterr().err
    assert cli.main(["identity", "restore", str(tmp_path / "none"), "--home", str(home)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    monkeypatch.delenv(PASSPHRASE)
    assert cli.main(["identity", "backup", str(tmp_path / "x"), "--home", str(home)]) == 2
    assert f"set ${PASSPHRASE}" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
