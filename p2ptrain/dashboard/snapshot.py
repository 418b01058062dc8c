"""The swarm at one moment as its peers report it: what ``p2ptrain swarm --json`` prints, with types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceReport:
    """A slice as its owners report it."""

    slice: SliceId
    version: Version
    epoch: int
    owners: tuple[PeerId, ...]
    digests: Mapping[PeerId, Digest]
    """Of the owners that answered, at the newest version that all of them have."""
    tokens: int
    loss_nats: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerReport:
    """A peer as it reports itself."""

    peer: PeerId
    slices: tuple[SliceId, ...]
    state: str
    reason: str
    sent_bytes: int
    received_bytes: int
    tokens: int
    validation_nats: float | None
    software: str
    reach: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmSnapshot:
    """All that answered."""

    run: RunId
    slices: Mapping[SliceId, SliceReport]
    peers: Mapping[PeerId, PeerReport]
    silent: tuple[PeerId, ...] = ()
    """Peers with a claim that did not answer."""

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "SwarmSnapshot":
        """What ``SwarmReport.to_json`` wrote; keys that a later version adds are passed over.

        Raises:
            KeyError: a key is missing.
            TypeError, ValueError: a value has another type.
        """
        slices = [_slice_report(one) for one in _objects(body["slices"])]
        peers = [_peer_report(one) for one in _objects(body["peers"])]
        return cls(
            run=RunId(str(body["run"])),
            slices={one.slice: one for one in slices},
            peers={one.peer: one for one in peers},
            silent=tuple(PeerId(str(peer)) for peer in body["silent"]),
        )

    def mean_validation_nats(self) -> float | None:
        """Over the peers that measured it; None when nobody did."""
        measured = [one.validation_nats for one in self.peers.values() if one.validation_nats is not None]
        return sum(measured) / len(measured) if measured else None


def _objects(value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise TypeError("not a list of objects")
    return value


def _slice_report(body: Mapping[str, Any]) -> SliceReport:
    return SliceReport(
        slice=SliceId(str(body["id"])),
        version=Version(int(body["version"])),
        epoch=int(body["epoch"]),
        owners=tuple(PeerId(str(peer)) for peer in body["owners"]),
        digests={PeerId(str(peer)): Digest(str(digest)) for peer, digest in body["digests"].items()},
        tokens=int(body["tokens"]),
        loss_nats=_number(body["loss"]),
    )


def _peer_report(body: Mapping[str, Any]) -> PeerReport:
    return PeerReport(
        peer=PeerId(str(body["peer"])),
        slices=tuple(SliceId(str(one)) for one in body["slices"]),
        state=str(body["state"]),
        reason=str(body["reason"]),
        sent_bytes=int(body["sent_bytes"]),
        received_bytes=int(body["received_bytes"]),
        tokens=int(body["tokens"]),
        validation_nats=_number(body["validation_loss"]),
        software=str(body["software"]),
        reach=str(body.get("reach", "")),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
