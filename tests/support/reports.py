"""Looks at a swarm, made up."""

from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version
from p2ptrain.report import PeerReport, SliceReport, SwarmReport


def peer(name: PeerId, *slices: str) -> PeerReport:
    """A peer that trains and owns these slices beside the common part."""
    return PeerReport(
        peer=name,
        slices=tuple(map(SliceId, (COMMON, *slices))),
        state="TRAINING",
        reason="round 1 of 9",
        sent_bytes=1,
        received_bytes=2,
        tokens=3,
        validation_loss_nats=None,
        software="0.1.0",
        reach="direct",
    )


def slice_view(
    slice_id: str, version: int, loss: float | None = 2.0, epoch: int = 1, digests: str = "x"
) -> SliceReport:
    """A slice with one owner for each letter of ``digests``."""
    return SliceReport(
        slice=SliceId(slice_id),
        version=Version(version),
        epoch=epoch,
        owners=(),
        digests={PeerId(str(i)): Digest(d) for i, d in enumerate(digests)},
        digests_version=Version(version),
        tokens=10 * version,
        loss_nats=loss,
    )


def report(version: int, *peers: PeerReport, silent: tuple[PeerId, ...] = (), **changes: object) -> SwarmReport:
    """The common part and slice 0 at a version; ``changes`` as for ``slice_view``."""
    slices = tuple(slice_view(slice_id, version, **changes) for slice_id in (COMMON, "0"))  # type: ignore[arg-type]
    return SwarmReport.of(RunId("r"), slices, peers, silent)
