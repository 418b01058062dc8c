"""A bare libp2p connection (TCP, Noise XX, yamux) that does nothing but stay: a thousand p2pd would not fit here."""

import asyncio
import hashlib
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2ptrain.identity.keys import Identity, public_key

PING, ACK = 1 << 1, 1 << 1
"""Of yamux: a frame's type, and a flag."""


class Noise:
    """The initiator's side of Noise_XX_25519_ChaChaPoly_SHA256, as libp2p uses it (noiseprotocol.org, revision 34)."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._static, self._ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._h = self._ck = b"Noise_XX_25519_ChaChaPoly_SHA256"
        self._key, self._count = b"", 0
        self._mix_hash(b"")

    def first(self) -> bytes:
        """The first message of the handshake."""
        ours = self._ephemeral.public_key().public_bytes_raw()
        self._mix_hash(ours)
        self._mix_hash(b"")
        return ours

    def third(self, second: bytes) -> bytes:
        """What answers the other side's message."""
        theirs, sealed_static, payload = second[:32], second[32:80], second[80:]
        self._mix_hash(theirs)
        ephemeral = X25519PublicKey.from_public_bytes(theirs)
        self._mix_key(self._ephemeral.exchange(ephemeral))
        static = X25519PublicKey.from_public_bytes(self._open(sealed_static))
        self._mix_key(self._ephemeral.exchange(static))
        self._open(payload)
        ours = self._static.public_key().public_bytes_raw()
        sealed = self._seal(ours)
        self._mix_key(self._static.exchange(ephemeral))
        public = bytes.fromhex("08011220") + (public_key(self._identity.peer_id) or b"")
        signature = self._identity.sign(b"noise-libp2p-static-key:" + ours)
        return sealed + self._seal(b"\x0a" + bytes([len(public)]) + public + b"\x12" + bytes([64]) + signature)

    def split(self) -> tuple[bytes, bytes]:
        """Keys for sending and receiving."""
        return self._hkdf(b"")

    def _hkdf(self, secret: bytes) -> tuple[bytes, bytes]:
        out = HKDF(algorithm=SHA256(), length=64, salt=self._ck, info=b"").derive(secret)
        return out[:32], out[32:]

    def _mix_hash(self, data: bytes) -> None:
        self._h = hashlib.sha256(self._h + data).digest()

    def _mix_key(self, secret: bytes) -> None:
        self._ck, self._key = self._hkdf(secret)
        self._count = 0

    def _nonce(self) -> bytes:
        self._count += 1
        return bytes(4) + struct.pack("<Q", self._count - 1)

    def _seal(self, data: bytes) -> bytes:
        sealed = ChaCha20Poly1305(self._key).encrypt(self._nonce(), data, self._h)
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        data = ChaCha20Poly1305(self._key).decrypt(self._nonce(), sealed, self._h)
        self._mix_hash(sealed)
        return data


class BareConnection:
    """One libp2p connection that does nothing but stay."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._send = self._receive = ChaCha20Poly1305(bytes(32))
        self._sent = self._received = 0
        self._buffer = b""

    @classmethod
    async def open(cls, host: str, port: int) -> "BareConnection":
        """Connect under a key of its own."""
        self = cls(*await asyncio.open_connection(host, port))
        await self._select(b"/noise\n", self._writer.write, self._reader.readexactly)
        noise = Noise(Identity.generate())
        self._frame(noise.first())
        self._frame(noise.third(await self._unframe()))
        sending, receiving = noise.split()
        self._send, self._receive = ChaCha20Poly1305(sending), ChaCha20Poly1305(receiving)
        await self._select(b"/yamux/1.0.0\n", self._write, self._read)
        return self

    async def stay(self) -> None:
        """Answer pings until the other end closes, which raises IncompleteReadError or a ConnectionError."""
        while True:
            _, kind, flags, _, length = struct.unpack("!BBHII", await self._read(12))
            if kind == PING and not flags & ACK:
                self._write(struct.pack("!BBHII", 0, PING, ACK, 0, length))
            elif kind == 0:
                await self._read(length)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    @staticmethod
    async def _select(protocol: bytes, write: Any, read: Any) -> None:
        for word in (b"/multistream/1.0.0\n", protocol):
            write(bytes([len(word)]) + word)
        for word in (b"/multistream/1.0.0\n", protocol):
            (length,) = await read(1)
            answer = await read(length)
            assert answer == word, answer

    def _frame(self, data: bytes) -> None:
        self._writer.write(struct.pack("!H", len(data)) + data)

    async def _unframe(self) -> bytes:
        (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        return await self._reader.readexactly(length)

    def _write(self, data: bytes) -> None:
        self._frame(self._send.encrypt(bytes(4) + struct.pack("<Q", self._sent), data, b""))
        self._sent += 1

    async def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            sealed = await self._unframe()
            self._buffer += self._receive.decrypt(bytes(4) + struct.pack("<Q", self._received), sealed, b"")
            self._received += 1
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
