"""Where a peer's control interface is: a Unix socket in its home, or a TCP address with a certificate for it.

What people give as ``--control`` is either a socket's path or an enrolment file, which names address and certificates.
"""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.control.enrolment import Enrolment
from p2ptrain.errors import ControlUsageError, NoPeerRunning

_LONGEST_SOCKET_BYTES = 107
"""``sun_path`` of Linux has 108 bytes, one of them for the zero at the end."""
_SOCKET = "control.sock"
_START = "p2ptrain peer --run FILE --bootstrap ADDRESS --home DIR"


@dataclass(frozen=True, slots=True)
class Target:
    """One peer's control interface."""

    uri: str
    """What gRPC dials: ``unix:/path`` or ``host:port``."""
    enrolment: Enrolment | None = None
    """For TCP."""
    start_hint: str = _START
    """The command that would start the peer."""


def socket_path(home: Path) -> Path:
    """The Unix socket of the peer that uses ``home``; the same for everybody who asks.

    In the home folder, or, where its path is too long for a socket, in a folder of this user's below the system's
    temporary directory, under a hash of the home's path.
    """
    in_home = home.absolute().resolve() / _SOCKET
    if len(os.fsencode(in_home)) <= _LONGEST_SOCKET_BYTES:
        return in_home
    name = hashlib.sha256(os.fsencode(in_home)).hexdigest()[:24]
    return short_folder() / f"{name}.sock"


def short_folder() -> Path:
    """Folder for the sockets of homes with long paths; only ours, see ``require_private``."""
    return Path(tempfile.gettempdir()) / f"p2ptrain-{os.getuid()}"


def require_private(folder: Path) -> None:
    """Make ``folder`` if it is missing, and see that nobody else can put a socket there.

    Raises:
        ControlUsageError: it belongs to somebody else or others may write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ControlUsageError(
            f"{folder} is not a folder of yours alone, so the control socket is not put there;"
            " remove it, or choose a --home with a shorter path"
        )


def target_of_home(home: Path) -> Target:
    """The peer that uses ``home``.

    Raises:
        NoPeerRunning: nothing listens there.
        ControlUsageError: others could use the socket, or we may not.
    """
    hint = f"p2ptrain peer --run FILE --bootstrap ADDRESS --home {home}"
    return _target_of_socket(socket_path(home), f"--home {home}", hint)


def target_of_address(address: str) -> Target:
    """What ``--control`` names: a socket (``/path`` or ``unix:/path``) or an enrolment file.

    Raises:
        NoPeerRunning: there is no such socket.
        ControlUsageError: the file is not an enrolment, or a bare ``host:port``, for which no certificate is known.
    """
    path = Path(address.removeprefix("unix:")).expanduser()
    if not path.exists():
        host, _, port = address.rpartition(":")
        if host and port.isdigit() and not address.startswith("unix:"):
            raise ControlUsageError(
                f"--control {address}: a peer is reached over TCP with a certificate only; on its machine run:"
                f" p2ptrain control enroll --home DIR --address {address} --out peer.enrolment, copy that file here and"
                " name it as --control"
            )
        raise NoPeerRunning(f"--control {address}: there is no such socket or enrolment file; is the peer running?")
    if stat.S_ISSOCK(path.stat().st_mode):
        return _target_of_socket(path, f"--control {address}", _START)
    enrolment = Enrolment.read(path)
    return Target(uri=enrolment.address, enrolment=enrolment)


def _target_of_socket(path: Path, what: str, hint: str) -> Target:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise NoPeerRunning(f"{what}: no peer is running there; start one with: {hint}") from error
    except PermissionError as error:
        raise ControlUsageError(
            f"{what}: you may not open {path}; run this as the user who started the peer"
        ) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise ControlUsageError(f"{what}: {path} is not a socket; remove it and start the peer again")
    if found.st_uid != os.getuid() and os.getuid() != 0:
        raise ControlUsageError(f"{what}: {path} belongs to another user; run this as the user who started the peer")
    if found.st_mode & 0o077:
        raise ControlUsageError(
            f"{what}: {path} has mode {found.st_mode & 0o777:o}, so others on this machine could command the peer;"
            f" run: chmod 600 {path}"
        )
    return Target(uri=f"unix:{path}", start_hint=hint)
