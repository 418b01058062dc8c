"""Whom a peer tells of a commit: the voters' news goes down one tree for each of them, so nobody uploads to everybody.

Who hears of an update fetches it from who told it, so a peer's place in the tree is its share of the uploads.
"""

import hashlib
import random
from collections.abc import Collection, Sequence

from p2ptrain.ids import Digest, PeerId

FAN_OUT = 2
"""Peers that each one tells: an update is uploaded twice at most by anybody, and has reached 10,000 after 13 hops."""


def whom_to_tell(me: PeerId, peers: Collection[PeerId], voters: Sequence[PeerId], value_hash: Digest) -> list[PeerId]:
    """The peers that ``me`` tells of a commit, once it can pass the update on.

    The others are dealt to the voters by a hash of version and peer, and each voter's share is a tree in the order of
    that hash. Peers that see different claims compute different trees; whom that leaves out asks by itself in seconds.

    Args:
        me: this peer.
        peers: everybody that has a claim.
        voters: whose votes commit the version.
        value_hash: names the version; makes every tree another one, so that nobody is a leaf for ever.
    """
    voters = sorted(voters)
    place = {peer: hashlib.sha256(f"{value_hash}{peer}".encode()).digest() for peer in {*peers, me} - {*voters}}
    root = voters.index(me) if me in voters else place[me][0] % len(voters)
    share = sorted((peer for peer, drawn in place.items() if drawn[0] % len(voters) == root), key=place.__getitem__)
    mine = 0 if me in voters else share.index(me) + 1
    return share[mine * FAN_OUT : (mine + 1) * FAN_OUT]


def some(peers: Sequence[PeerId], count: int) -> list[PeerId]:
    """So many of them at random, or all if they are fewer."""
    return random.sample(peers, min(count, len(peers)))
