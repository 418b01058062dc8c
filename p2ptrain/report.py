"""A swarm at one moment, as its peers report it: what ``p2ptrain swarm --json`` prints, and whoever shows it reads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version, counts_rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceReport:
    """A slice, or where there are fragments one of them, as its owners report it."""

    slice: SliceId
    version: Version
    """The newest that any owner holds."""
    epoch: int
    owners: tuple[PeerId, ...]
    """Who decides the next version, by the newest certificate."""
    digests: Mapping[PeerId, Digest]
    """What each owner that answered computed at the newest version that all of them have reached."""
    digests_version: Version
    """That version."""
    tokens: int
    loss_nats: float | None
    """None: not measured."""
    verdict: str = ""
    """How its owners stand against the run's target: ``ok`` or in words; empty where nobody judged."""

    @property
    def agrees(self) -> bool:
        """Whether all owners that answered hold the same bits."""
        return len(set(self.digests.values())) <= 1


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
    validation_loss_nats: float | None
    """None: not measured."""
    software: str
    reach: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmReport:
    """A run at one moment."""

    run: RunId
    slices: Mapping[SliceId, SliceReport]
    """In their order."""
    peers: Mapping[PeerId, PeerReport]
    """Those that answered."""
    silent: tuple[PeerId, ...]
    """Peers with a claim that did not answer."""
    num_peers: int = 0
    """That take part, estimated where the directory does not list all of them; 0: not known."""

    @classmethod
    def of(
        cls,
        run: RunId,
        slices: Iterable[SliceReport],
        peers: Iterable[PeerReport],
        silent: Iterable[PeerId],
        num_peers: int = 0,
    ) -> Self:
        """What was heard, by name."""
        return cls(
            run=run,
            slices={one.slice: one for one in slices},
            peers={one.peer: one for one in peers},
            silent=tuple(silent),
            num_peers=num_peers,
        )

    @property
    def rounds(self) -> SliceReport | None:
        """The slice whose version is the run's round."""
        return next((one for one in self.slices.values() if counts_rounds(one.slice)), None)

    @property
    def mean_validation_loss_nats(self) -> float | None:
        """Over the peers that measured it; None when nobody did."""
        measured = [one.validation_loss_nats for one in self.peers.values() if one.validation_loss_nats is not None]
        return sum(measured) / len(measured) if measured else None

    def to_json(self) -> dict[str, Any]:
        """For programs; what is not measured is null."""
        return {
            "run": self.run,
            "slices": [
                {
                    "id": s.slice,
                    "version": s.version,
                    "epoch": s.epoch,
                    "owners": list(s.owners),
                    "digests": dict(s.digests),
                    "digests_version": s.digests_version,
                    "tokens": s.tokens,
                    "loss": s.loss_nats,
                    "verdict": s.verdict,
                }
                for s in self.slices.values()
            ],
            "peers": [
                {
                    "peer": p.peer,
                    "slices": list(p.slices),
                    "state": p.state,
                    "reason": p.reason,
                    "sent_bytes": p.sent_bytes,
                    "received_bytes": p.received_bytes,
                    "tokens": p.tokens,
                    "validation_loss": p.validation_loss_nats,
                    "software": p.software,
                    "reach": p.reach,
                }
                for p in self.peers.values()
            ],
            "silent": list(self.silent),
            "num_peers": self.num_peers,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """What ``to_json`` wrote; keys that a later version adds are passed over.

        Raises:
            KeyError: a key is missing.
            TypeError, ValueError: a value has another type.
        """
        return cls.of(
            RunId(str(body["run"])),
            [_slice_report(one) for one in _objects(body["slices"])],
            [_peer_report(one) for one in _objects(body["peers"])],
            [PeerId(str(peer)) for peer in body["silent"]],
            int(body.get("num_peers", 0)),
        )


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
        digests_version=Version(int(body["digests_version"])),
        tokens=int(body["tokens"]),
        loss_nats=_number(body["loss"]),
        verdict=str(body.get("verdict", "")),
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
        validation_loss_nats=_number(body["validation_loss"]),
        software=str(body["software"]),
        reach=str(body.get("reach", "")),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
