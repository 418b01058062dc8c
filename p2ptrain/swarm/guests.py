"""The authority's guest list in the directory, and a directory that shows only who may take part by it.

The list is one record under a key of its own. It outlives the authority's presence because every peer that has it puts
it back; its serial number, not its expiry, says which list counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from p2ptrain import clock
from p2ptrain.errors import BadRecord
from p2ptrain.identity.authority import Door, read_guests
from p2ptrain.ids import PeerId, RunId
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import DirectoryRecord, record_key
from p2ptrain.wire.messages import PROTOCOL

if TYPE_CHECKING:
    from p2ptrain.swarm.directory import Claim, Directory

GUESTS_LEASE_S = 600.0
_RENEWED_LEASE_S = 540.0
"""Shorter, since the DHT keeps what expires last: a list renewed by who has not heard of a newer one yet must lose."""
_RENEW_EVERY_S = 150.0
_LOOK_EVERY_S = 10.0


class GuestRecords(Protocol):
    """Where guest lists are kept: the DHT."""

    async def publish(self, run: RunId, signer: PeerId, packed: bytes, lease_s: float = GUESTS_LEASE_S) -> bool:
        """Keep the list for so long; False when nobody took it."""

    async def find(self, run: RunId) -> list[bytes]:
        """All lists that somebody keeps; whether their signers have a say is not checked."""


class DhtGuestRecords:
    """Guest lists in the DHT."""

    def __init__(self, node: Libp2pNode) -> None:
        self._node = node

    async def publish(self, run: RunId, signer: PeerId, packed: bytes, lease_s: float = GUESTS_LEASE_S) -> bool:
        """Keep the list for so long; False when nobody took it."""
        expires_s = clock.wall_s() + lease_s
        return await self._node.store(_record_name(run), subkey=signer, value=packed, expires_s=expires_s)

    async def find(self, run: RunId) -> list[bytes]:
        """All lists that somebody keeps; whether their signers have a say is not checked."""
        return list((await self._node.find(_record_name(run))).values())


def is_guest_list(record: DirectoryRecord) -> bool:
    """The check that every node of the DHT applies to a record: a list, by whose subkey it has, under its run's key.

    Whether the signer has a say in the run only those know who have its manifest; they check again.
    """
    try:
        guests, signer = read_guests(record.value)
    except BadRecord:
        return False
    return signer == record.subkey and record_key(_record_name(guests.run)) == record.key


class GuardedDirectory:
    """A directory of whom the door admits; keeps the guest list up to date on the way.

    Args:
        inner: all claims.
        records: guest lists.
        door: the run's rule, which learns of newer lists here.
        run: the run.
        invite: this peer's own invitation, shown in its claims.
        on_refused: told once of each peer that is not admitted, and the reason.
        on_news: told when a newer guest list counts, with its bytes, to be kept on disk.
    """

    def __init__(
        self,
        inner: "Directory",
        records: GuestRecords,
        door: Door,
        run: RunId,
        *,
        invite: str = "",
        on_refused: Callable[[PeerId, str], None],
        on_news: Callable[[bytes], None],
    ) -> None:
        self._inner = inner
        self._records = records
        self._door = door
        self._run = run
        self._invite = invite
        self._on_refused = on_refused
        self._on_news = on_news
        self._refused: dict[PeerId, str] = {}
        self._looked_s = float("-inf")
        self._renewed_s = float("-inf")

    async def publish(self, claim: "Claim") -> bool:
        """Replace this peer's claim; False when nobody took the record."""
        return await self._inner.publish(replace(claim, invite=self._invite))

    async def claims(self, *, elsewhere: bool = False) -> "Mapping[PeerId, Claim]":
        """The live claims of the peers that may take part."""
        if self._door.authority:
            await self._keep_guests()
        claims = await self._inner.claims(elsewhere=elsewhere)
        verdicts = {peer: self._door.verdict(peer, claim.invite, clock.wall_s()) for peer, claim in claims.items()}
        refused = {peer: verdict.reason for peer, verdict in verdicts.items() if not verdict.admitted}
        for peer, reason in refused.items():
            if self._refused.get(peer) != reason:
                self._on_refused(peer, reason)
        self._refused = refused
        return {peer: claim for peer, claim in claims.items() if peer not in refused}

    async def _keep_guests(self) -> None:
        now_s = clock.monotonic_s()
        if now_s < self._looked_s + _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for packed in await self._records.find(self._run):
            try:
                is_news = self._door.learn(packed)
            except BadRecord:
                continue  # anybody may put lists there; only the authority's count
            if is_news:
                self._on_news(packed)
        if self._door.packed and now_s > self._renewed_s + _RENEW_EVERY_S:
            self._renewed_s = now_s
            authority, packed = PeerId(self._door.authority), self._door.packed
            await self._records.publish(self._run, authority, packed, _RENEWED_LEASE_S)


def _record_name(run: RunId) -> str:
    return f"p2ptrain/{PROTOCOL}/{run}/guests"
