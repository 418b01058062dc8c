"""Certificates by which a volunteer's other machine may command a peer over TCP, and the peer proves that it is itself.

``p2ptrain control enroll`` makes a small certificate authority in the peer's home and signs two certificates: the
peer's own, and one for each client. Both sides then demand the other's (mutual TLS). All that the client needs is in
one file, the enrolment: whoever has it can command the peer. Deleting the authority's folder makes all of them void.
"""

import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2ptrain.errors import ControlUsageError

SERVER_NAME = "peer.p2ptrain.internal"
"""In every peer's certificate. Clients check this name instead of an address, which home routers change."""
_VALID_DAYS = 3650
_FORM = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolment:
    """What one client needs to command one peer over TCP."""

    address: str
    """``host:port``."""
    name: str
    """Who the client is, for the peer's records."""
    authority_pem: str
    certificate_pem: str
    key_pem: str

    @classmethod
    def read(cls, path: Path) -> "Enrolment":
        """The enrolment in a file.

        Raises:
            ControlUsageError: it cannot be read, others can read it, or it is something else.
        """
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ControlUsageError(f"{path} cannot be read as an enrolment: {error}") from error
        if mode & 0o077:
            raise ControlUsageError(f"{path} has mode {mode & 0o777:o} and holds a private key; run: chmod 600 {path}")
        try:
            body = json.loads(text)
            if body["form"] != _FORM:
                raise ControlUsageError(f"{path} is an enrolment of form {body['form']}, and this reads form {_FORM}")
            return cls(**{key: str(body[key]) for key in cls.__slots__})
        except (ValueError, KeyError, TypeError) as error:
            raise ControlUsageError(
                f"{path} is neither a control socket nor an enrolment; make one with: p2ptrain control enroll"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file, readable by its owner alone.

        Raises:
            ControlUsageError: it exists already, or cannot be written.
        """
        body = {"form": _FORM} | {key: getattr(self, key) for key in self.__slots__}
        write_private(path, json.dumps(body, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class ServerCertificates:
    """What a peer shows its clients, and by what it knows them; PEM."""

    authority: bytes
    certificate: bytes
    key: bytes


class Authority:
    """A peer's certificate authority, in a folder of its home.

    Args:
        folder: made, with new keys, by ``open_or_create``.
    """

    def __init__(self, folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._folder = folder
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, folder: Path) -> "Authority | None":
        """The authority in ``folder``; None when there is none yet.

        Raises:
            ControlUsageError: its files are damaged.
        """
        try:
            key_pem, pem = (folder / "authority.key").read_bytes(), (folder / "authority.pem").read_bytes()
        except FileNotFoundError:
            return None
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            certificate = x509.load_pem_x509_certificate(pem)
        except ValueError as error:
            raise ControlUsageError(f"{folder} holds damaged certificates; delete it and enroll again") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ControlUsageError(f"{folder} holds a key of another kind; delete the folder and enroll again")
        return cls(folder, key, certificate)

    @classmethod
    def open_or_create(cls, folder: Path) -> "Authority":
        """The authority in ``folder``, made when there is none.

        Raises:
            ControlUsageError: the files are damaged or cannot be written.
        """
        if existing := cls.open(folder):
            return existing
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ControlUsageError(f"{folder} cannot be made: {error.strerror}; choose another --home") from error
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2ptrain control authority")])
        certificate = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(folder / "authority.key", _key_pem(key))
        write_private(folder / "authority.pem", _pem(certificate))
        return cls(folder, key, certificate)

    def server(self) -> ServerCertificates:
        """A fresh certificate for the peer; its key is in memory only."""
        certificate, key = self._issue("p2ptrain peer", [SERVER_NAME], ExtendedKeyUsageOID.SERVER_AUTH)
        return ServerCertificates(_pem(self._certificate).encode(), certificate.encode(), key.encode())

    def enrol(self, name: str, address: str) -> Enrolment:
        """A client's certificate, with all else that the client needs."""
        certificate, key = self._issue(name, [], ExtendedKeyUsageOID.CLIENT_AUTH)
        return Enrolment(
            address=address,
            name=name,
            authority_pem=_pem(self._certificate),
            certificate_pem=certificate,
            key_pem=key,
        )

    def _issue(self, name: str, hosts: Sequence[str], purpose: x509.ObjectIdentifier) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256())), _key_pem(key)


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner can read.

    Raises:
        ControlUsageError: it exists already, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ControlUsageError(f"{path} exists already and is not overwritten; choose another name") from error
    except OSError as error:
        raise ControlUsageError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clients' clocks may be behind
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
