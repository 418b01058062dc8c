"""Whom this volunteer does not work with: a text file in the home that can be edited, and passed on to others.

One peer a line: its id, until when, and why. The file is read again when it has changed, so a running peer obeys within
seconds. It binds nobody else; what binds everybody is the guest list of the run's authority.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from p2ptrain import clock
from p2ptrain.errors import ConfigError
from p2ptrain.identity.keys import public_key
from p2ptrain.ids import PeerId, short
from p2ptrain.node.atomic_file import replace_file
from p2ptrain.swarm.directory import Claim, Directory

FILE = "banned_peers.txt"
MAX_BANS = 4096
_MAX_BYTES = 1 << 20
_LOOK_EVERY_S = 2.0
_FOREVER = "forever"
_HEAD = "# One peer a line: id, until when (UTC, or forever), why. `p2ptrain peers` writes this file; so may you.\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ban:
    """One line of the list."""

    peer: PeerId
    until_s: float
    """Wall time; infinite for ever."""
    reason: str


def read_bans(text: str, source: str) -> dict[PeerId, Ban]:
    """The bans in a list, by peer.

    Args:
        text: of the list.
        source: its name, for messages.

    Raises:
        ConfigError: every line that is none, one a line.
    """
    bans: dict[PeerId, Ban] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split(maxsplit=2)
        if not words or words[0].startswith("#"):
            continue
        until_s = _time(words[1] if len(words) > 1 else _FOREVER)
        if public_key(PeerId(words[0])) is None:
            problems.append(f"{source}:{number}: {words[0]!a} is not a peer id, 12D3KooW...")
        elif until_s is None:
            problems.append(f"{source}:{number}: {words[1]!a} is no time; write 2026-12-24T18:00Z, or forever")
        else:
            reason = "".join(c for c in (words[2] if len(words) > 2 else "") if c.isprintable())
            bans[PeerId(words[0])] = Ban(peer=PeerId(words[0]), until_s=until_s, reason=reason)
    if len(bans) > MAX_BANS:
        problems.append(f"{source}: {len(bans)} peers; {MAX_BANS} are the most")
    if problems:
        raise ConfigError("\n".join(problems))
    return bans


def write_bans(path: Path, bans: Mapping[PeerId, Ban]) -> None:
    """Replace the file.

    Raises:
        StorageError: the disk takes nothing.
    """
    lines = [f"{ban.peer} {said_time(ban.until_s)} {ban.reason}".rstrip() for _, ban in sorted(bans.items())]
    data = (_HEAD + "".join(f"{line}\n" for line in lines)).encode()
    replace_file(path, [data], len(data))


def load_bans(path: Path) -> dict[PeerId, Ban]:
    """Those of a file that need not exist.

    Raises:
        ConfigError: it cannot be read, or a line is wrong.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return read_bans(file.read(_MAX_BYTES), str(path))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; repair it, or remove it to ban nobody") from error


def said_time(until_s: float) -> str:
    """A time as the list has it."""
    return _FOREVER if until_s == float("inf") else time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(until_s))


def _time(word: str) -> float | None:
    if word == _FOREVER:
        return float("inf")
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class BanList:
    """The list of a running peer; a broken file leaves what was known, and is complained about once.

    Args:
        path: of the file.
        on_problem: told what is wrong with it.
    """

    def __init__(self, path: Path, on_problem: Callable[[str], None]) -> None:
        self._path = path
        self._on_problem = on_problem
        self._bans = load_bans(path)
        self._seen = self._state()
        self._looked_s = clock.monotonic_s()

    def verdict(self, peer: PeerId) -> str:
        """Why a peer is banned at the moment; empty if it is not."""
        self._look()
        ban = self._bans.get(peer)
        if ban is None or ban.until_s <= clock.wall_s():
            return ""
        return f"this volunteer has banned {short(peer)}, until {said_time(ban.until_s)}: {ban.reason or 'no reason'}"

    def is_banned(self, peer: PeerId) -> bool:
        """Whether a peer is banned at the moment."""
        return bool(self.verdict(peer))

    def _look(self) -> None:
        now_s = clock.monotonic_s()
        if now_s < self._looked_s + _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._bans = load_bans(self._path)
        except ConfigError as error:
            self._on_problem(f"the ban list stays as it was: {error}")

    def _state(self) -> tuple[float, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime, status.st_size


class UnbannedDirectory:
    """A directory without the peers that this volunteer has banned.

    Args:
        inner: all that may take part.
        bans: of this volunteer.
        on_refused: told of each banned peer that shows up, once.
    """

    def __init__(self, inner: Directory, bans: BanList, on_refused: Callable[[PeerId, str], None]) -> None:
        self._inner = inner
        self._bans = bans
        self._on_refused = on_refused
        self._told: set[PeerId] = set()

    async def publish(self, claim: Claim) -> bool:
        """Replace this peer's claim; False when nobody took the record."""
        return await self._inner.publish(claim)

    async def claims(self, *, elsewhere: bool = False) -> Mapping[PeerId, Claim]:
        """The live claims of the peers that are not banned."""
        claims = await self._inner.claims(elsewhere=elsewhere)
        reasons = {peer: reason for peer in claims if (reason := self._bans.verdict(peer))}
        for peer in reasons.keys() - self._told:
            self._on_refused(peer, reasons[peer])
        self._told = set(reasons)
        return {peer: claim for peer, claim in claims.items() if peer not in reasons}
