"""Which slices a peer should own: decided from the directory alone, so that all who look see the same.

Peers that have not decided yet appear in the directory with an empty claim. Taking them in the order of their ids and
giving each the thinnest slice makes peers that start together spread out instead of all choosing the same gap.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2ptrain.ids import PeerId, SliceId, slice_order
from p2ptrain.swarm.directory import Claim


@dataclass(frozen=True, slots=True)
class Choice:
    """The slice to claim, and why."""

    slice: SliceId
    reason: str


def choose_slice(me: PeerId, slices: Sequence[SliceId], claims: Mapping[PeerId, Claim]) -> Choice:
    """The numbered slice with the fewest owners once the undecided peers before ``me`` have taken theirs."""
    owners: Counter[SliceId] = Counter(dict.fromkeys(slices, 0))
    owners.update(s for claim in claims.values() if claim.peer != me for s in claim.slices if s in owners)
    before_me = sorted(peer for peer, claim in claims.items() if not claim.slices and peer < me)
    for _ in before_me:
        owners[_thinnest(owners)] += 1
    mine = _thinnest(owners)
    counts = ", ".join(f"slice {s} has {owners[s]}" for s in sorted(slices, key=slice_order))
    return Choice(mine, f"slice {mine} has the fewest owners ({counts})")


def _thinnest(owners: Counter[SliceId]) -> SliceId:
    return min(owners, key=lambda s: (owners[s], slice_order(s)))
