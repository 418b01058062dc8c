"""How long a round of a peer that owns slices alone has to be, so that newcomers can follow. Pure.

Where several own a slice, a round lasts as long as its owners take to send each other what it changes. Nothing holds a
lone owner back: it may commit more bytes a second than its line carries, and whoever fetches its state is further
behind with every round, for ever.
"""

from collections.abc import Mapping

from p2ptrain.ids import PeerId, SliceId, slice_of
from p2ptrain.swarm.directory import Claim

_HEADROOM = 2.0
"""Half of the line is for the updates of new rounds, the other half for catching up with those before."""


def newcomers_need_s(
    me: PeerId, claims: Mapping[PeerId, Claim], update_bytes: Mapping[SliceId, int], uplink_mbps: float, most_s: float
) -> tuple[int, float]:
    """How many newcomers wait for slices that only we have, and seconds from one cut-off to the next one for them.

    Args:
        me: this peer.
        claims: the live ones, ours included.
        update_bytes: what everybody fetches of each slice or fragment after the round.
        uplink_mbps: of our line; 0 is not known, and nothing has been sent that could have been slow.
        most_s: no more than this.
    """
    others = [claim for peer, claim in claims.items() if peer != me]
    shared = {slice_id for claim in others for slice_id in claim.ready}
    ours = frozenset(claims[me].ready) - shared if me in claims else frozenset()
    newcomers = [claim for claim in others if not claim.ready and ours & frozenset(claim.joining)]
    if not newcomers or not uplink_mbps:
        return len(newcomers), 0.0
    megabits = 8e-6 * sum(size for one, size in update_bytes.items() if slice_of(one) in ours) * len(newcomers)
    return len(newcomers), min(_HEADROOM * megabits / uplink_mbps, most_s)
