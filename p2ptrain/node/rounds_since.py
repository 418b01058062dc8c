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

_ROOM = 2
"""Checkpoints that rounds may take the room of."""


def is_worth_it(now_s: float, last_s: float, size_bytes: int) -> bool:
    """Whether to write so large a file again, if it was written last at ``last_s``."""
    return now_s >= last_s + size_bytes / _BYTES_PER_S


@dataclass(slots=True)
class _Way:
    """From one slice's state in the checkpoint."""

    begins: Version
    tip: Digest | None
    """Hash of the value where it ends."""
    state: Digest | None
    """Of the owners' state there; None for what is followed."""
    is_certified: bool
    """Not so for a slice that was taken over: whoever has both states may go on from the other one, unseen."""
    is_broken: bool = False
    size_bytes: int = 0
    """Of the rounds that it goes over."""
    unwritten: set[Version] = field(default_factory=set)


class RoundsSince:
    """The way of each slice since the checkpoint.

    Args:
        replicas: what the checkpoint holds that this peer starts with; the first one of its own has to be written.
    """

    def __init__(self, replicas: Mapping[SliceId, Replica]) -> None:
        self._ways: dict[SliceId, _Way] = {}
        self.begin(replicas)
        for way in self._ways.values():
            way.is_broken = True

    def begin(self, replicas: Mapping[SliceId, Replica]) -> None:
        """A checkpoint of these is on disk."""
        self._ways = {slice_id: _way_from(replica) for slice_id, replica in replicas.items()}

    def lead_to(self, replicas: Mapping[SliceId, Replica], histories: Mapping[SliceId, Sequence[PastRound]]) -> bool:
        """Whether all of these can be computed from the checkpoint, with the rounds that the histories have now."""
        found = [self._leads_to(slice_id, replica, histories[slice_id]) for slice_id, replica in replicas.items()]
        return all(found)

    def takes_much_room(self, checkpoint_bytes: int) -> bool:
        """Whether the rounds are too many beside such a checkpoint: short ones of a large model would fill the disk."""
        return sum(way.size_bytes for way in self._ways.values()) > _ROOM * checkpoint_bytes

    def is_needed(self, slice_id: SliceId, version: Version) -> bool:
        """Whether the round must stay on disk until the next checkpoint is there, also if no way leads over it now."""
        return slice_id in self._ways and version > self._ways[slice_id].begins

    def unwritten(self, slice_id: SliceId) -> set[Version]:
        """Rounds on the way of which no file is known."""
        return self._ways[slice_id].unwritten if slice_id in self._ways else set()

    def written(self) -> None:
        """All rounds are on disk."""
        for way in self._ways.values():
            way.unwritten.clear()

    def _leads_to(self, slice_id: SliceId, replica: Replica, history: Sequence[PastRound]) -> bool:
        way = self._ways.get(slice_id)
        if way is None or way.is_broken:
            return False
        for one in history:
            value = one.certificate.value
            is_whole = len(one.blobs) > (len(value.results) if way.state else 0)
            if value.previous == way.tip and is_whole and way.is_certified:
                way.tip, way.state = value.value_hash, value.digest if way.state else None
                way.size_bytes += sum(map(len, one.blobs))
                way.unwritten.add(value.version)
        # A slice that was taken over, given up or fetched whole is not what the rounds give.
        now = head_of(replica).value_hash, replica.owned.digest if replica.owned else None
        way.is_broken = (way.tip, way.state) != now
        return not way.is_broken


def _way_from(replica: Replica) -> _Way:
    certificate, owned = replica.certificate, replica.owned
    return _Way(
        begins=replica.published.version,
        tip=head_of(replica).value_hash,
        state=owned.digest if owned else None,
        is_certified=not (certificate and owned) or owned.digest == certificate.value.digest,
    )
