"""Which of a slice's holders are its owners for the next version, when there are more than a group may have.

Everybody owns the common part, and a popular slice has many replicas. A group's messages grow with its size, so it is
bounded by the manifest's ``exchange.max_owners``, and the lot decides. Those who are not drawn hold the slice's state
all the same, follow its commits, have their work brought along by an owner (swarm/delegation.py) and take their turn.
A bare majority of a group stays from one version to the next, so that those who certainly have the new state can go on
without the newly drawn.

The choice is part of the value that the group signs: nobody has to compute the same one. Where there is no value to say
who the owners are (version 0, or a majority is gone), everybody draws by the same hash from the claims that it sees.
"""

import hashlib
from collections.abc import Collection

from p2ptrain.ids import PeerId


def drawn(holders: Collection[PeerId], *, present: Collection[PeerId], most: int, lot: str) -> tuple[PeerId, ...]:
    """The owners of the next version, sorted.

    Args:
        holders: who has the slice's state and a live claim.
        present: owners of this version that take part in committing it; a majority of the places is theirs.
        most: places, at least 3.
        lot: changes from version to version, and which peers it favours cannot be known before.
    """
    if len(holders) <= most:
        return tuple(sorted(holders))
    order = sorted(holders, key=lambda peer: hashlib.sha256(f"{lot} {peer}".encode()).digest())
    stay = [peer for peer in order if peer in present][: most // 2 + 1]
    join = [peer for peer in order if peer not in stay][: most - len(stay)]
    return tuple(sorted([*stay, *join]))
