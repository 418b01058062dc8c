"""The key that opened a run, and what it may say: this is the run, this peer is invited, these are banned.

A run needs no authority; without one everybody may join and nobody can be sent away by decree. With one, the manifest
names its key. It signs the run, hands out invitations that are bound to a peer's key and expire, and keeps a guest
list whose newest serial number counts. It takes no part in training, and may be offline whenever it has nothing to say.

It may also ask peers to own certain slices until a day. Such orders are part of the guest list, so that one serial
number says which of the authority's words is the last; a peer whose volunteer chose slices does not follow them.

A key that was stolen or is to be retired names its successor in the guest list; from then on only the successor's
words count, invitations by the former key included.
"""

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from p2ptrain.errors import BadRecord
from p2ptrain.identity.keys import SIGNATURE_BYTES, Identity
from p2ptrain.identity.signing import Signed, sign, verify
from p2ptrain.ids import PeerId, RunId, SliceId, short

Admission = Literal["open", "invite", "allowlist"]

MAX_GUEST_LIST_BYTES = 8000
"""The list travels as one directory record; that is some 100 names. Runs with more guests invite them instead."""
MAX_HANDOVERS = 16

_RUN, _INVITE, _GUESTS, _HANDOVER, _DNS_LIST = "run", "invite", "guest list", "handover", "DNS list"
_DNS_NODE = "dnsaddr="
"""By the convention of https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md."""
_DNS_SIGNATURE = "p2ptrain-signature="
_MAX_DNS_SIGNATURES = 16
"""That are tried; whoever answers a question about a name may say anything."""
_TOKEN = "p2ptrain-invite-"  # noqa: S105 - what every invitation begins with


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a peer may take part, and why not, as a sentence for that peer."""

    admitted: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Invite:
    """One peer may take part in one run until it expires."""

    run: RunId
    peer: PeerId
    expires_s: float
    """Wall time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Slices that a peer is asked to own, for a time."""

    slices: tuple[SliceId, ...]
    until_s: float
    """Wall time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestList:
    """Who is let in by name, who is sent away, who is asked to own what, and who decides that."""

    run: RunId
    serial: int
    """The highest counts."""
    allowed: frozenset[PeerId] = frozenset()
    banned: frozenset[PeerId] = frozenset()
    orders: Mapping[PeerId, Order] = field(default_factory=dict)
    handovers: tuple[Signed, ...] = ()
    """From the manifest's authority to whoever signed this list, each signed by the one before."""


def sign_run(authority: Identity, run: RunId, bootstraps: Sequence[str] = ()) -> str:
    """The manifest's ``signature``: base64 of the authority's signature over the run id and the listed nodes."""
    return base64.b64encode(sign(authority, _RUN, _with_nodes(run, bootstraps)).signature).decode()


def check_run(run: RunId, authority: PeerId, signature: str, bootstraps: Sequence[str] = ()) -> None:
    """Return if the authority signed this run with this list of bootstrap nodes.

    Raises:
        BadRecord: it did not.
    """
    _check(authority, signature, _with_nodes(run, bootstraps), _RUN)


def write_dns_list(authority: Identity, run: RunId, bootstraps: Sequence[str]) -> list[str]:
    """The TXT records of a list of bootstrap nodes in DNS, in any order; the last one is signed."""
    statement = _with_nodes(run, sorted(bootstraps))
    signature = base64.b64encode(sign(authority, _DNS_LIST, statement).signature).decode()
    return [*(_DNS_NODE + address for address in bootstraps), _DNS_SIGNATURE + signature]


def read_dns_list(authority: PeerId, run: RunId, texts: Sequence[str]) -> tuple[str, ...]:
    """The nodes that TXT records list, if the authority of this run signed them; what else is there is not looked at.

    Several runs can share a name if they list the same nodes: each has a signature of its own there.

    Raises:
        BadRecord: nothing is listed, or the authority did not sign exactly these nodes for this run.
    """
    nodes = sorted(text.removeprefix(_DNS_NODE) for text in texts if text.startswith(_DNS_NODE))
    signatures = [text.removeprefix(_DNS_SIGNATURE) for text in texts if text.startswith(_DNS_SIGNATURE)]
    if not nodes:
        raise BadRecord(f"no TXT record there begins with {_DNS_NODE}")
    for signature in signatures[:_MAX_DNS_SIGNATURES]:
        with contextlib.suppress(BadRecord):
            _check(authority, signature, _with_nodes(run, nodes), _DNS_LIST)
            return tuple(nodes)
    raise BadRecord("the run's authority did not sign the nodes that are listed there")


def _check(authority: PeerId, signature: str, body: bytes, context: str) -> None:
    try:
        raw = base64.b64decode(signature, validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadRecord("the signature is not base64") from error
    verify(Signed(body=body, signer=authority, signature=raw), context)


def _with_nodes(run: RunId, bootstraps: Sequence[str]) -> bytes:
    return "\n".join([run, *bootstraps]).encode()


def write_invite(authority: Identity, invite: Invite) -> str:
    """The invitation as a word that can be mailed."""
    body = {"run": invite.run, "peer": invite.peer, "expires_s": invite.expires_s}
    return _TOKEN + _pack(sign(authority, _INVITE, _json(body)))


def read_invite(token: str) -> tuple[Invite, PeerId]:
    """An invitation and who signed it.

    Raises:
        BadRecord: it is incomplete, or changed since it was signed.
    """
    if not token.startswith(_TOKEN):
        raise BadRecord(f"an invitation begins with {_TOKEN}")
    signed = _unpack(token.removeprefix(_TOKEN))
    verify(signed, _INVITE)
    body = _fields(signed.body, {"run": str, "peer": str, "expires_s": (int, float)})
    invite = Invite(run=RunId(body["run"]), peer=PeerId(body["peer"]), expires_s=float(body["expires_s"]))
    return invite, signed.signer


def hand_over(authority: Identity, run: RunId, successor: PeerId) -> Signed:
    """From now on ``successor`` decides; goes into the guest lists that it signs."""
    return sign(authority, _HANDOVER, _json({"run": run, "successor": successor}))


def write_guests(authority: Identity, guests: GuestList) -> bytes:
    """The guest list, signed, at most ``MAX_GUEST_LIST_BYTES``.

    Raises:
        BadRecord: it is longer.
    """
    body: dict[str, Any] = {
        "run": guests.run,
        "serial": guests.serial,
        "allowed": sorted(guests.allowed),
        "banned": sorted(guests.banned),
        "handovers": [_pack(handover) for handover in guests.handovers],
    }
    if guests.orders:
        body["orders"] = {p: {"slices": o.slices, "until_s": o.until_s} for p, o in sorted(guests.orders.items())}
    packed = _pack(sign(authority, _GUESTS, _json(body))).encode()
    if len(packed) > MAX_GUEST_LIST_BYTES:
        raise BadRecord(
            f"the guest list has {len(packed)} bytes, and a directory record holds {MAX_GUEST_LIST_BYTES};"
            " remove names that are no longer needed, or let peers in by invitation"
        )
    return packed


def read_guests(packed: bytes) -> tuple[GuestList, PeerId]:
    """A guest list and who signed it; whether that was the run's authority is for ``Door`` to say.

    Raises:
        BadRecord: it is too long, incomplete, or changed since it was signed.
    """
    if len(packed) > MAX_GUEST_LIST_BYTES:
        raise BadRecord(f"a guest list of {len(packed)} bytes")
    signed = _unpack(packed.decode("ascii", errors="replace"))
    verify(signed, _GUESTS)
    body = _fields(signed.body, {"run": str, "serial": int, "allowed": list, "banned": list, "handovers": list})
    handovers = tuple(_unpack(str(handover)) for handover in body["handovers"][: MAX_HANDOVERS + 1])
    guests = GuestList(
        run=RunId(body["run"]),
        serial=body["serial"],
        allowed=frozenset(PeerId(str(peer)) for peer in body["allowed"]),
        banned=frozenset(PeerId(str(peer)) for peer in body["banned"]),
        orders=_orders(body.get("orders", {})),
        handovers=handovers,
    )
    return guests, signed.signer


class Door:
    """Who may take part in a run, by its manifest and the newest guest list.

    Args:
        run: the run.
        authority: the key that its manifest names; empty for none.
        admission: the manifest's rule.
    """

    def __init__(self, run: RunId, authority: PeerId | Literal[""] = "", admission: Admission = "open") -> None:
        self._run = run
        self._first_authority = authority
        self._admission = admission
        self.authority: PeerId | Literal[""] = authority
        """Whose word counts now."""
        self.guests = GuestList(run=run, serial=0)
        self.packed: bytes | None = None
        """The newest guest list as it was signed, to pass on."""

    def learn(self, packed: bytes) -> bool:
        """Take over a guest list if it is newer and by the authority; whether it was.

        Raises:
            BadRecord: it is by somebody else, of another run, or does not verify.
        """
        guests, signer = read_guests(packed)
        if guests.run != self._run:
            raise BadRecord(f"a guest list of run {short(guests.run)}")
        if signer != self._authority_after(guests.handovers):
            raise BadRecord(f"a guest list by {short(signer)}, who has no say in this run")
        # More handovers outrank any serial: a stolen key could sign the highest number there is.
        if (len(guests.handovers), guests.serial) <= (len(self.guests.handovers), self.guests.serial):
            return False
        self.guests, self.authority, self.packed = guests, signer, packed
        return True

    def verdict(self, peer: PeerId, token: str, now_s: float) -> Verdict:
        """Whether ``peer`` may take part at wall time ``now_s``; ``token`` is its invitation, or empty."""
        if peer in self.guests.banned:
            return Verdict(admitted=False, reason="the run's authority has banned this peer")
        if self._admission == "open" or peer in self.guests.allowed or peer == self.authority:
            return Verdict(admitted=True)
        if self._admission == "allowlist":
            return Verdict(
                admitted=False, reason="this run admits whom its authority lists; ask it for: p2ptrain run allow"
            )
        return self._verdict_on_invite(peer, token, now_s)

    def was_admitted(self, peer: PeerId, token: str) -> bool:
        """Whether this peer was ever let in, as far as can be proved: what it signed then may be older than its ban.

        Args:
            peer: whose signature it is.
            token: the invitation that came with it, expired or not; or empty.
        """
        if self._admission == "open" or peer in self.guests.allowed | self.guests.banned | {self.authority}:
            return True
        if self._admission == "allowlist":
            return False
        try:
            invite, signer = read_invite(token)
        except BadRecord:
            return False
        return signer == self.authority and (invite.run, invite.peer) == (self._run, peer)

    def order_for(self, peer: PeerId, now_s: float) -> Order | None:
        """The slices that the authority asks ``peer`` to own at wall time ``now_s``; None when it asks for nothing."""
        order = self.guests.orders.get(peer)
        return order if order is not None and order.until_s > now_s else None

    def _verdict_on_invite(self, peer: PeerId, token: str, now_s: float) -> Verdict:
        if not token:
            return Verdict(admitted=False, reason="this run admits by invitation; ask for: p2ptrain run invite")
        try:
            invite, signer = read_invite(token)
        except BadRecord as error:
            return Verdict(admitted=False, reason=f"the invitation is not usable: {error}")
        if signer != self.authority:
            return Verdict(admitted=False, reason=f"the invitation is by {short(signer)}, who has no say in this run")
        if (invite.run, invite.peer) != (self._run, peer):
            whose = f"peer {short(invite.peer)}" if invite.peer != peer else f"run {short(invite.run)}"
            return Verdict(admitted=False, reason=f"the invitation is for {whose}")
        if now_s > invite.expires_s:
            return Verdict(admitted=False, reason="the invitation has expired; ask for a new one")
        return Verdict(admitted=True)

    def _authority_after(self, handovers: tuple[Signed, ...]) -> str:
        """Who decides after these handovers.

        Raises:
            BadRecord: one is not by whoever decided before it.
        """
        if len(handovers) > MAX_HANDOVERS:
            raise BadRecord("a guest list with too many handovers")
        authority: str = self._first_authority
        for handover in handovers:
            verify(handover, _HANDOVER)
            body = _fields(handover.body, {"run": str, "successor": str})
            if handover.signer != authority or body["run"] != self._run:
                raise BadRecord("a handover by somebody who has no say in this run")
            authority = body["successor"]
        return authority


def _orders(found: object) -> dict[PeerId, Order]:
    """The orders in a guest list.

    Raises:
        BadRecord: they have another form.
    """
    if not isinstance(found, dict):
        raise BadRecord("a guest list whose orders have another form")
    try:
        return {
            PeerId(str(peer)): Order(
                slices=tuple(SliceId(str(one)) for one in order["slices"]), until_s=float(order["until_s"])
            )
            for peer, order in found.items()
        }
    except (TypeError, KeyError, ValueError) as error:
        raise BadRecord("a guest list whose orders have another form") from error


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _fields(body: bytes, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in ``body``, which has these fields of these types.

    Raises:
        BadRecord: it has not.
    """
    try:
        found = json.loads(body)
    except ValueError as error:
        raise BadRecord("a record that is not JSON") from error
    if not isinstance(found, dict) or not all(
        isinstance(found.get(name), kind) and not isinstance(found[name], bool) for name, kind in kinds.items()
    ):
        raise BadRecord(f"a record without {', '.join(kinds)}")
    return found


def _pack(signed: Signed) -> str:
    parts = (signed.body, signed.signer.encode(), signed.signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _unpack(text: str) -> Signed:
    parts = text.split(".")
    if len(parts) != 3:
        raise BadRecord("a signed record is incomplete; copy all of it")
    try:
        body, signer, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
        unpacked = Signed(body=body, signer=PeerId(signer.decode("ascii")), signature=signature)
    except (ValueError, binascii.Error) as error:
        raise BadRecord("a signed record is damaged; copy all of it") from error
    if len(signature) != SIGNATURE_BYTES:
        raise BadRecord("a signed record is incomplete, or something was added to it; copy all of it, and nothing else")
    return unpacked
