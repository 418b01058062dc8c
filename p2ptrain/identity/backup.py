"""A copy of an identity under a passphrase, as text that can be kept anywhere.

Three lines: what this is, whose it is (so that it can be found again without the passphrase), and in base64 the salt,
the nonce and the seed under ChaCha20-Poly1305 with a key that scrypt makes of the passphrase. The two lines before are
authenticated with it.
"""

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from p2ptrain.errors import IdentityError
from p2ptrain.identity.keys import Identity

MIN_PASSPHRASE_CHARACTERS = 10
"""With a tenth of a second for each guess, ten random letters hold for a million years; a word does not."""
_FIRST_LINE = "p2ptrain identity backup 1"
_SALT_BYTES, _NONCE_BYTES, _SEED_BYTES, _TAG_BYTES = 16, 12, 32, 16
_SCRYPT_N = 1 << 16
"""64 MiB and 0.2 s for each try: what a small rented machine has."""


def write_backup(identity: Identity, passphrase: str) -> str:
    """The backup's text.

    Raises:
        IdentityError: the passphrase is too short to protect anything.
    """
    if len(passphrase) < MIN_PASSPHRASE_CHARACTERS:
        raise IdentityError(
            f"a passphrase of {len(passphrase)} characters can be guessed; choose one of at least"
            f" {MIN_PASSPHRASE_CHARACTERS}, for example four random words"
        )
    head = f"{_FIRST_LINE}\n{identity.peer_id}\n"
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    sealed = ChaCha20Poly1305(_key(passphrase, salt)).encrypt(nonce, identity.seed(), head.encode())
    return head + base64.b64encode(salt + nonce + sealed).decode() + "\n"


def read_backup(text: str, passphrase: str) -> Identity:
    """The identity in a backup.

    Raises:
        IdentityError: this is no backup, it is damaged, or the passphrase is another one.
    """
    lines = text.split("\n")
    if lines[0].strip() != _FIRST_LINE or len(lines) < 3:
        raise IdentityError(f"this is no backup of an identity; one begins with {_FIRST_LINE!r}")
    head = f"{_FIRST_LINE}\n{lines[1].strip()}\n"
    try:
        raw = base64.b64decode(lines[2].strip(), validate=True)
    except (ValueError, binascii.Error) as error:
        raise IdentityError("the backup is damaged: its third line is not base64; take another copy") from error
    if len(raw) != _SALT_BYTES + _NONCE_BYTES + _SEED_BYTES + _TAG_BYTES:
        raise IdentityError("the backup is damaged: its third line has another length; take another copy")
    salt, nonce, sealed = raw[:_SALT_BYTES], raw[_SALT_BYTES:][:_NONCE_BYTES], raw[_SALT_BYTES + _NONCE_BYTES :]
    try:
        seed = ChaCha20Poly1305(_key(passphrase, salt)).decrypt(nonce, sealed, head.encode())
    except InvalidTag as error:
        raise IdentityError("the passphrase is another one, or the backup was changed; nothing was restored") from error
    return Identity.from_seed(seed)


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=8, p=1).derive(passphrase.encode())
