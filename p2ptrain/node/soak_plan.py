"""What a soak does to a swarm, second by second, from a seed alone: joins, kills, freezes and cuts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["join", "kill", "freeze", "cut"]

FREEZE_S = 15.0
"""Longer than a lease of the preset, so that the others go on without the frozen peer."""
CUT_S = 35.0
"""Longer than a peer may take to know that it is cut off."""
_QUIET_SHARE = 0.3
"""Of the time, at the end, in which nothing is done to the swarm, so that it can heal; at most ``_QUIET_AT_MOST_S``."""
_QUIET_AT_MOST_S = 90.0
_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Disturbance:
    """One thing that is done."""

    at_s: float
    """Since all peers average."""
    kind: Kind
    peer: int
    """A joining peer has a number of its own."""
    lasts_s: float = 0.0
    """Of a freeze or cut."""


def plan_soak(seed: int, *, peers: int, seconds: float) -> Sequence[Disturbance]:
    """The disturbances in order of time.

    Peer 0 is never touched, so that memory and open files can be compared over the whole time. At least half of the
    peers are well at any time, and before the quiet end as many are started as were killed.

    Args:
        seed: the same seed, peers and seconds give the same plan.
        peers: how many there are at first.
        seconds: the whole length.
    """
    chance = random.Random(seed)  # noqa: S311 - a seed must give the same plan again
    ends_s = seconds - min(_QUIET_SHARE * seconds, _QUIET_AT_MOST_S)
    plan: list[Disturbance] = []
    alive, busy_until, next_peer, now_s = set(range(peers)), dict[int, float](), peers, 0.0
    while (now_s := now_s + chance.uniform(0.5, 1.5) * _EVERY_S) < ends_s:
        well = sorted(peer for peer in alive - {0} if busy_until.get(peer, 0.0) <= now_s)
        can_harm = well and len(well) + 1 > peers // 2
        wanted: Kind = chance.choice(["kill", "freeze", "cut", "join"])
        if wanted == "join" or not can_harm:
            if len(alive) >= peers:
                continue
            plan.append(Disturbance(at_s=now_s, kind="join", peer=next_peer))
            alive.add(next_peer)
            # Until it has started it is of no help to the others.
            busy_until[next_peer] = now_s + 2 * _EVERY_S
            next_peer += 1
            continue
        victim = chance.choice(well)
        lasts_s = {"freeze": FREEZE_S, "cut": CUT_S}.get(wanted, 0.0)
        if now_s + lasts_s > ends_s:
            continue
        plan.append(Disturbance(at_s=now_s, kind=wanted, peer=victim, lasts_s=lasts_s))
        if wanted == "kill":
            alive.remove(victim)
        else:
            busy_until[victim] = now_s + lasts_s
    missing = range(next_peer, next_peer + peers - len(alive))
    return [*plan, *(Disturbance(at_s=ends_s, kind="join", peer=number) for number in missing)]
