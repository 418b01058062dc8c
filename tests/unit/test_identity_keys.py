"""Keys: on disk safely, in libp2p's form, and in the peer id."""

import importlib.util
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from p2ptrain.errors import IdentityError
from p2ptrain.identity.keys import Identity, load, load_or_create, public_key, verify
from p2ptrain.ids import PeerId

SEED = bytes(range(32))


def written(path: Path, raw: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(raw)
    path.chmod(mode)
    return path


def test_first_use_makes_a_key_that_later_uses_find(tmp_path: Path):
    first = load_or_create(tmp_path / "identity.key")
    assert load_or_create(tmp_path / "identity.key").peer_id == first.peer_id
    assert load_or_create(tmp_path / "other.key").peer_id != first.peer_id


def test_key_file_has_libp2p_s_form(tmp_path: Path):
    identity = load_or_create(tmp_path / "identity.key")
    raw = (tmp_path / "identity.key").read_bytes()
    assert raw[:4] == bytes.fromhex("08011240")
    assert len(raw) == 68
    assert raw[36:] == public_key(identity.peer_id)


def test_peer_id_is_that_of_the_libp2p_specification():
    # https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md, Ed25519 test vector.
    raw = bytes.fromhex(
        "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    identity = Identity.from_seed(raw[4:36])
    assert identity.file_bytes() == raw
    assert identity.peer_id.startswith("12D3KooW")
    assert public_key(identity.peer_id) == raw[36:]


def test_network_daemon_reads_the_key_and_announces_the_same_id(tmp_path: Path):
    package = importlib.util.find_spec("hivemind")
    assert package is not None
    assert package.origin is not None
    daemon = Path(package.origin).parent / "hivemind_cli" / "p2pd"
    identity = load_or_create(tmp_path / "identity.key")
    arguments = [
        f"-listen=/unix{tmp_path}/p2pd.sock",
        "-hostAddrs=/ip4/127.0.0.1/tcp/0",
        f"-id={tmp_path}/identity.key",
    ]
    with subprocess.Popen([str(daemon), *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        announced = next(line for line in process.stdout if line.startswith("Peer ID:"))
        process.kill()
    assert announced.split() == ["Peer", "ID:", identity.peer_id]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_key_is_private_whatever_the_umask(tmp_path: Path, umask: int):
    previous = os.umask(umask)
    try:
        load_or_create(tmp_path / "identity.key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) & 0o077 == 0


def test_key_is_never_readable_by_others_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    modes = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        modes.extend(stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    previous = os.umask(0)
    try:
        load_or_create(tmp_path / "identity.key")
    finally:
        os.umask(previous)
    assert modes
    assert set(modes) == {0o600}


def test_crash_before_the_key_is_whole_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crash(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(IdentityError, match="No space left on device; make room on the disk"):
        load_or_create(tmp_path / "identity.key")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_make_the_key_at_once_agree_on_one(tmp_path: Path):
    barrier = threading.Barrier(8)
    made = []

    def make() -> None:
        barrier.wait()
        made.append(load_or_create(tmp_path / "identity.key").peer_id)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert [found.name for found in tmp_path.iterdir()] == ["identity.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_key_that_others_can_reach_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int):
    path = written(tmp_path / "identity.key", Identity.from_seed(SEED).file_bytes(), mode)
    with pytest.raises(IdentityError, match=rf"mode {mode:04o}.*chmod 600 {path}"):
        load_or_create(path)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 35, 67])
def test_truncated_key_is_refused(tmp_path: Path, length: int):
    path = written(tmp_path / "identity.key", Identity.from_seed(SEED).file_bytes()[:length])
    with pytest.raises(IdentityError, match=f"has {length} bytes instead of 68"):
        load_or_create(path)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (bytes.fromhex("080012a609") + bytes(1190), "is an RSA key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n" * 2, "is not a libp2p Ed25519 key"),
        (bytes(68), "is not a libp2p Ed25519 key"),
        (Identity.from_seed(SEED).file_bytes() + b"\0", "has 69 bytes instead of 68"),
        (Identity.from_seed(SEED).file_bytes()[:-1] + b"\0", "its public half does not belong"),
        (bytes.fromhex("08011240") + bytes(32) + Identity.from_seed(SEED).file_bytes()[36:], "its public half"),
    ],
    ids=["rsa", "openssh", "zeros", "too long", "public half", "private half"],
)
def test_file_that_is_no_sound_key_is_refused_and_left_alone(tmp_path: Path, raw: bytes, reason: str):
    path = written(tmp_path / "identity.key", raw)
    with pytest.raises(IdentityError, match=f"{reason}.*move it away and a new identity will be made"):
        load_or_create(path)
    assert path.read_bytes() == raw


def test_folder_pipe_and_missing_folder_are_refused_at_once(tmp_path: Path):
    with pytest.raises(IdentityError, match="is not a file"):
        load_or_create(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(IdentityError, match="is not a file"):
        load_or_create(tmp_path / "pipe")
    with pytest.raises(IdentityError, match="check that the folder exists"):
        load_or_create(tmp_path / "none" / "identity.key")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.key")


def test_signature_is_checked_with_nothing_but_the_peer_id():
    identity, other = Identity.generate(), Identity.generate()
    signature = identity.sign(b"round 3")
    assert verify(identity.peer_id, b"round 3", signature)
    assert not verify(identity.peer_id, b"round 4", signature)
    assert not verify(other.peer_id, b"round 3", signature)
    for position in (0, 31, 32, 63):
        flipped = bytearray(signature)
        flipped[position] ^= 1
        assert not verify(identity.peer_id, b"round 3", bytes(flipped))


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(65), bytes(64)])
def test_bytes_that_are_no_signature_do_not_verify(signature: bytes):
    assert not verify(Identity.from_seed(SEED).peer_id, b"", signature)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3KooW",
        "x" * 52,
        "0" * 52,
        "1" * 52,
        "z" * 52,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "z" * 10**6,
    ],
    ids=["empty", "cut", "x", "not in the alphabet", "zeros", "too large", "rsa", "huge"],
)
def test_text_that_is_no_ed25519_peer_id_verifies_nothing(text: str):
    assert public_key(PeerId(text)) is None
    assert not verify(PeerId(text), b"", bytes(64))


def test_altered_peer_id_is_another_key_or_none():
    identity = Identity.from_seed(SEED)
    for position in range(len(identity.peer_id)):
        letter = "A" if identity.peer_id[position] != "A" else "B"
        altered = PeerId(identity.peer_id[:position] + letter + identity.peer_id[position + 1 :])
        assert public_key(altered) != public_key(identity.peer_id)


def test_identity_does_not_print_its_private_key():
    identity = Identity.from_seed(SEED)
    assert str(identity) == f"Identity({identity.peer_id})"
