"""Who is in the run and what they own: signed claims in the DHT that expire.

All claims of a run lie under one DHT key, one subkey a peer. Every node checks every record before it stores or
believes it: signed by the peer whose subkey it has, about that peer, with the expiry that was signed, and not far in
the future.
"""

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from google.protobuf.message import DecodeError

from p2ptrain import clock
from p2ptrain.errors import BadRecord
from p2ptrain.identity.keys import Identity
from p2ptrain.identity.signing import Signed, sign, verify
from p2ptrain.ids import COMMON, PeerId, RunId, SliceId
from p2ptrain.swarm.coverage import Member
from p2ptrain.swarm.guests import is_guest_list
from p2ptrain.swarm.twins import Twins
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import DirectoryRecord, record_key
from p2ptrain.wire.messages import PROTOCOL
from p2ptrain.wire.reach import Way
from p2ptrain.wire.v1 import peer_pb2 as pb

MAX_RECORD_BYTES = 8192
"""hivemind's records travel in messages with many others; a claim has a few hundred bytes."""
MAX_LEASE_S = 600.0
"""Claims further in the future are refused, so that nobody can fill the DHT with records that never expire."""
_CONTEXT = "claim"
_WAYS: dict[str, Way] = {"direct": "direct", "mapped": "mapped", "relayed": "relayed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What a peer can give, as it measured it; 0 where it has not."""

    max_slices: int = 1
    """Numbered slices that it can train at once."""
    tokens_per_s: float = 0.0
    uplink_mbps: float = 0.0
    """The fastest second of sending so far: a floor of what the line can do."""
    downlink_mbps: float = 0.0
    """The same for receiving."""
    way: Way | None = None
    """How others can call it; None is not measured."""

    def with_step(self, tokens_per_s: float) -> "Capacity":
        """After an inner step at this speed: a moving average over about ten steps."""
        before = self.tokens_per_s or tokens_per_s
        return replace(self, tokens_per_s=0.9 * before + 0.1 * tokens_per_s)

    def with_transfer(self, sent_bytes: int, received_bytes: int, seconds: float) -> "Capacity":
        """After this much went through in about a second."""
        return replace(
            self,
            uplink_mbps=max(self.uplink_mbps, 8e-6 * sent_bytes / seconds),
            downlink_mbps=max(self.downlink_mbps, 8e-6 * received_bytes / seconds),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What one peer says it owns; valid until ``expires_s`` (wall time)."""

    run: RunId
    peer: PeerId
    ready: tuple[SliceId, ...] = ()
    """Slices whose state the peer holds."""
    joining: tuple[SliceId, ...] = ()
    """Slices whose state it is fetching."""
    leaving: tuple[SliceId, ...] = ()
    """Of ``ready``, those that it gives up when it is done with a move."""
    capacity: Capacity = Capacity()
    is_fixed: bool = False
    """A person chose the slices."""
    changed_s: float = 0.0
    """Wall time of its last change of slices."""
    is_away: bool = False
    """Paused by its volunteer: it votes and follows, contributes nothing, and may soon give its slices up."""
    expires_s: float
    instance: int = 0
    """Of the process that publishes it; 0 is not known."""
    invite: str = ""
    """What the run's authority gave the peer, if the run asks for that."""
    halvings: int = 0
    """How often the peer takes the swarm to be halved by the lot, see ``listing``."""
    draw: int = 0
    """In which the lot drew it, if it did."""
    is_withdrawn: bool = False
    """Nothing of it counts any more: the peer has left, or is not listed any longer."""

    @property
    def slices(self) -> frozenset[SliceId]:
        """All that the peer owns or is about to; empty while it has not decided."""
        return frozenset(self.ready) | frozenset(self.joining)

    def member(self) -> Member:
        """The claim as the plan of coverage sees it."""
        return Member(
            peer=self.peer,
            ready=_numbered(self.ready),
            joining=_numbered(self.joining),
            leaving=_numbered(self.leaving),
            max_slices=self.capacity.max_slices,
            tokens_per_s=self.capacity.tokens_per_s,
            is_fixed=self.is_fixed or self.is_away,
            changed_s=self.changed_s,
        )


class Directory(Protocol):
    """Where claims are published and found."""

    async def publish(self, claim: Claim) -> bool:
        """Replace this peer's claim; True when somebody took the record, see ``Libp2pNode.store``."""

    async def claims(self, *, elsewhere: bool = False) -> Mapping[PeerId, Claim]:
        """The live claims of the run.

        Args:
            elsewhere: only as other nodes keep them. Then our own claim among them proves that others see us, and
                that the rest is not missing because nobody answered.
        """


class DhtDirectory:
    """The claims of one run in the DHT.

    Args:
        node: our way into it.
        identity: whose claim is published.
        run: the run.
        on_twin: told each time that another process is seen to renew a claim under our own id.
    """

    def __init__(
        self, node: Libp2pNode, identity: Identity, run: RunId, on_twin: Callable[[], None] = lambda: None
    ) -> None:
        self._node = node
        self._identity = identity
        self._run = run
        self._on_twin = on_twin
        self._instance = secrets.randbits(63)
        self._twins = Twins(self._instance)

    async def publish(self, claim: Claim) -> bool:
        """Replace this peer's claim; True when somebody took the record, see ``Libp2pNode.store``."""
        self._twins.published(claim.expires_s)
        value = _encode(self._identity, replace(claim, instance=self._instance))
        return await self._node.store(
            _record_name(self._run), subkey=claim.peer, value=value, expires_s=claim.expires_s
        )

    async def claims(self, *, elsewhere: bool = False) -> Mapping[PeerId, Claim]:
        """The live claims of the run, see ``Directory``."""
        find = self._node.find_elsewhere if elsewhere else self._node.find
        found = await find(_record_name(self._run))
        claims = [_decode(value) for value in found.values()]
        for claim in claims:
            if claim.peer == self._identity.peer_id and self._twins.is_alive(claim.instance, claim.expires_s):
                self._on_twin()
        return {claim.peer: claim for claim in claims if claim.expires_s > clock.wall_s()}


def is_valid_record(record: DirectoryRecord) -> bool:
    """The check that every node of the DHT applies to every record, of whatever run."""
    if len(record.value) > MAX_RECORD_BYTES or record.expires_s > clock.wall_s() + MAX_LEASE_S:
        return False
    if is_guest_list(record):
        return True
    try:
        claim = _decode(record.value)
    except BadRecord:
        return False
    return (
        claim.peer == record.subkey
        and claim.expires_s == record.expires_s
        and record_key(_record_name(claim.run)) == record.key
    )


def _record_name(run: RunId) -> str:
    return f"p2ptrain/{PROTOCOL}/{run}/claims"


def _encode(identity: Identity, claim: Claim) -> bytes:
    body = pb.Claim(
        run=claim.run,
        peer=claim.peer,
        ready=claim.ready,
        joining=claim.joining,
        protocol=PROTOCOL,
        expires_s=claim.expires_s,
        leaving=claim.leaving,
        capacity=pb.Capacity(
            max_slices=claim.capacity.max_slices,
            tokens_per_s=claim.capacity.tokens_per_s,
            uplink_mbps=claim.capacity.uplink_mbps,
            downlink_mbps=claim.capacity.downlink_mbps,
            way=claim.capacity.way or "",
        ),
        fixed=claim.is_fixed,
        changed_s=claim.changed_s,
        invite=claim.invite,
        instance=claim.instance,
        away=claim.is_away,
        halvings=claim.halvings,
        draw=claim.draw,
        withdrawn=claim.is_withdrawn,
    )
    signed = sign(identity, _CONTEXT, body.SerializeToString(deterministic=True))
    return pb.Signed(body=signed.body, signer=signed.signer, signature=signed.signature).SerializeToString()


def _decode(value: bytes) -> Claim:
    """The claim in a record.

    Raises:
        BadRecord: it does not decode, or its signature is not that of the peer it is about.
    """
    try:
        envelope = pb.Signed.FromString(value)
        body = pb.Claim.FromString(envelope.body)
    except DecodeError as error:
        raise BadRecord("a claim that does not decode") from error
    signed = Signed(body=envelope.body, signer=PeerId(envelope.signer), signature=envelope.signature)
    verify(signed, _CONTEXT)
    if body.peer != signed.signer:
        raise BadRecord(f"a claim about {body.peer!a} signed by {signed.signer!a}")
    return Claim(
        run=RunId(body.run),
        peer=PeerId(body.peer),
        ready=tuple(map(SliceId, body.ready)),
        joining=tuple(map(SliceId, body.joining)),
        leaving=tuple(map(SliceId, body.leaving)),
        capacity=Capacity(
            max_slices=max(1, body.capacity.max_slices),
            tokens_per_s=_measured(body.capacity.tokens_per_s),
            uplink_mbps=_measured(body.capacity.uplink_mbps),
            downlink_mbps=_measured(body.capacity.downlink_mbps),
            way=_WAYS.get(body.capacity.way),
        ),
        is_fixed=body.fixed,
        is_away=body.away,
        changed_s=_measured(body.changed_s),
        expires_s=body.expires_s,
        invite=body.invite,
        instance=body.instance,
        halvings=body.halvings,
        draw=body.draw,
        is_withdrawn=body.withdrawn,
    )


def _measured(value: float) -> float:
    """A stranger's number, or 0 for what cannot be one: NaN would make sorting, and so the plan, differ by order."""
    return value if math.isfinite(value) and value > 0 else 0.0


def _numbered(slices: tuple[SliceId, ...]) -> frozenset[SliceId]:
    return frozenset(s for s in slices if s != COMMON)
