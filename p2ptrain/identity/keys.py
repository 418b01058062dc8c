"""A peer's Ed25519 key: on disk in libp2p's form, and in its peer id.

The file is libp2p's ``PrivateKey`` protobuf, so that the transport authenticates with the very key that signs records.
The id is base58 of the multihash "identity" of the ``PublicKey`` protobuf, so a signature can be checked with nothing
but the id of who signed.

Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

import contextlib
import errno
import os
import secrets
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2ptrain.errors import IdentityError
from p2ptrain.ids import PeerId

SIGNATURE_BYTES = 64

_FILE_HEADER = bytes.fromhex("08011240")
"""Protobuf: key_type (field 1) = Ed25519, data (field 2) of 64 bytes: the seed, then the public key."""
_FILE_BYTES = len(_FILE_HEADER) + 64
_RSA_HEADER = bytes.fromhex("080012")
_ID_HEADER = bytes.fromhex("002408011220")
"""Multihash code 0 (identity), 36 bytes; protobuf: key_type = Ed25519, data of 32 bytes."""
_ID_BYTES = len(_ID_HEADER) + 32
_ID_CHARACTERS = 52
"""Length in base58 of every id with this header."""

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and the peer id that goes with it."""

    peer_id: PeerId
    _key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Self:
        """A new identity that is on no disk."""
        return cls.from_seed(secrets.token_bytes(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The identity of a 32-byte Ed25519 seed."""
        key = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(_peer_id(key.public_key().public_bytes_raw()), key)

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature [64] of ``message``; records go through ``signing.sign``, which says what is meant."""
        return self._key.sign(message)

    def seed(self) -> bytes:
        """The 32 secret bytes that ``from_seed`` takes."""
        return self._key.private_bytes_raw()

    def file_bytes(self) -> bytes:
        """The key as libp2p keeps it on disk, 68 bytes."""
        return _FILE_HEADER + self._key.private_bytes_raw() + self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


def load_or_create(path: Path) -> Identity:
    """The identity in the file ``path``, which is made, readable by its owner only, when there is none.

    Raises:
        IdentityError: the file is not an Ed25519 key, is damaged, can be read by others, or cannot be made.
    """
    with contextlib.suppress(FileNotFoundError):
        return load(path)
    _create(path, Identity.generate())
    # Read back even when just written: had another process been faster, its key is the one that counts.
    return load(path)


def store(path: Path, identity: Identity) -> None:
    """Put a key that exists already into the file ``path``, readable by its owner only, in place of what is there.

    Raises:
        IdentityError: the file cannot be made.
    """
    _create(path, identity, replaces=True)


def load(path: Path) -> Identity:
    """The identity in the file ``path``.

    Raises:
        FileNotFoundError: there is no such file.
        IdentityError: the file is not an Ed25519 key, is damaged, or can be read by others.
    """
    try:
        # Non-blocking, or opening a named pipe would wait for its writer; no effect on plain files.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IdentityError(f"key {path} cannot be read: {error.strerror}; check its owner and permissions") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IdentityError(f"key {path} is not a file; name another path")
        if status.st_mode & 0o077:
            raise IdentityError(
                f"key {path} can be read or changed by other users (mode {stat.S_IMODE(status.st_mode):04o});"
                f" if you trust them, run: chmod 600 {shlex.quote(str(path))} - otherwise remove it, and a new identity"
                " will be made"
            )
        raw = os.read(descriptor, _FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    return _decode(raw, status.st_size, path)


def verify(peer_id: PeerId, message: bytes, signature: bytes) -> bool:
    """Whether ``peer_id`` signed ``message``; False for whatever is not an Ed25519 peer id or not a signature."""
    public = public_key(peer_id)
    if public is None or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_key(peer_id: PeerId) -> bytes | None:
    """The 32-byte Ed25519 public key in a peer id; None when it is no such id."""
    # Length first: the id may come from a stranger, and decoding takes quadratic time.
    if len(peer_id) != _ID_CHARACTERS:
        return None
    raw = _base58_decode(peer_id)
    if raw is None or len(raw) != _ID_BYTES or not raw.startswith(_ID_HEADER):
        return None
    return raw[len(_ID_HEADER) :]


def _create(path: Path, identity: Identity, *, replaces: bool = False) -> None:
    """Write the key beside ``path`` and put it into place, so that ``path`` never names half a key."""
    beside = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(identity.file_bytes())
                file.flush()
                os.fsync(descriptor)
            if replaces:
                beside.replace(path)
            else:
                # A link, unlike a rename, never replaces a key that another process made in the meantime.
                with contextlib.suppress(FileExistsError):
                    os.link(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        room = "make room on the disk" if error.errno == errno.ENOSPC else "check that the folder exists and is yours"
        raise IdentityError(f"key {path} cannot be made: {error.strerror}; {room}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decode(raw: bytes, size_bytes: int, path: Path) -> Identity:
    remedy = "restore it from a backup, or move it away and a new identity will be made"
    if raw.startswith(_RSA_HEADER):
        raise IdentityError(f"key {path} is an RSA key, and p2ptrain needs Ed25519; {remedy}")
    if not raw.startswith(_FILE_HEADER[: len(raw)]):
        raise IdentityError(f"key {path} is not a libp2p Ed25519 key; {remedy}")
    if len(raw) != _FILE_BYTES:
        raise IdentityError(f"key {path} has {size_bytes} bytes instead of {_FILE_BYTES}; {remedy}")
    identity = Identity.from_seed(raw[len(_FILE_HEADER) : len(_FILE_HEADER) + 32])
    if identity.file_bytes() != raw:
        raise IdentityError(f"key {path} is damaged: its public half does not belong to its private half; {remedy}")
    return identity


def _peer_id(public: bytes) -> PeerId:
    return PeerId(_base58_encode(_ID_HEADER + public))


def _base58_encode(raw: bytes) -> str:
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    number = int.from_bytes(raw)
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return "1" * zeros + "".join(reversed(digits))


def _base58_decode(text: str) -> bytes | None:
    """None when a character is not in the alphabet."""
    number = 0
    for character in text:
        digit = _BASE58.find(character)
        if digit < 0:
            return None
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)
