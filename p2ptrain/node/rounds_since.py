"""Which rounds on disk lead from the last checkpoint to where the slices are now, so that it need not be written anew.

A checkpoint of a large model is written in seconds, and wears a home computer's disk out in a year or two if it is
written in every round. A round is a tenth of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p2ptrain.ids import Digest, SliceId, Version
from p2ptrain.swarm.catch_up import head_of
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.history import PastRound

_BYTES_PER_S = 1e6
"""What checkpoints write in the long run: 86 GB a day, where home disks are sold for some 300 a day for five years."""


def is_worth_it(now_s: float, last_s: float, size_bytes: int) -> bool:
    """Whether to write so large a file again, if it was written last at ``last_s``."""
    return now_s >= last_s + size_bytes / _BYTES_PER_S


@dataclass(slots=True)
class _Way:
    """From one slice's state in the checkpoint."""

    tip: Digest | None
    """Hash of the value where it ends."""
    state: Digest | None
    """Of the owners' state there; None for what is followed."""
    versions: set[Version] = field(default_factory=set)


class RoundsSince:
    """The way of each slice since the checkpoint; before there was one, none leads anywhere."""

    def __init__(self) -> None:
        self._ways: dict[SliceId, _Way] = {}

    @property
    def versions(self) -> Mapping[SliceId, set[Version]]:
        """Those whose rounds must stay on disk until the next checkpoint is written."""
        return {slice_id: way.versions for slice_id, way in self._ways.items()}

    def begin(self, replicas: Mapping[SliceId, Replica]) -> None:
        """A checkpoint of these is on disk."""
        self._ways = {s: _Way(head_of(r).value_hash, r.owned.digest if r.owned else None) for s, r in replicas.items()}

    def lead_to(self, replicas: Mapping[SliceId, Replica], histories: Mapping[SliceId, Sequence[PastRound]]) -> bool:
        """Whether all of these can be computed from the checkpoint, with the rounds that the histories have now."""
        found = [self._leads_to(slice_id, replica, histories[slice_id]) for slice_id, replica in replicas.items()]
        return all(found)

    def _leads_to(self, slice_id: SliceId, replica: Replica, history: Sequence[PastRound]) -> bool:
        way = self._ways.get(slice_id)
        if way is None:
            return False
        for one in history:
            value = one.certificate.value
            if value.previous == way.tip and len(one.blobs) > (len(value.results) if way.state else 0):
                way.tip, way.state = value.value_hash, value.digest if way.state else None
                way.versions.add(value.version)
        # A slice that was taken over, given up or fetched whole is not what the rounds give.
        if (way.tip, way.state) != (head_of(replica).value_hash, replica.owned.digest if replica.owned else None):
            del self._ways[slice_id]
            return False
        return True
