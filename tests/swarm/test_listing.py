"""More peers than the directory shows, in real processes: others bring their work, and they come back."""

from pathlib import Path

import pytest

from p2ptrain.events import ListingChanged, RoundCommitted, StateChanged, StateFetched, WorkEntrusted
from p2ptrain.ids import COMMON
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently

pytestmark = pytest.mark.swarm
PEERS, LISTED = 6, 3
STEPS = 60
"""A second, so that who follows needs no whole states."""
MORE_VERSIONS = 3


def test_who_is_not_listed_follows_every_version_and_contributes_when_it_is_listed_again(tmp_path: Path) -> None:
    swarm = LiveSwarm(tmp_path, lease_s=3, slices=1)
    swarm.change_manifest("[exchange]\n", f"[exchange]\nmax_listed = {LISTED}\nmax_owners = 3\n")
    swarm.change_manifest("steps = 4", f"steps = {STEPS}")
    with swarm:
        peers = [swarm.start_peer(f"p{number}") for number in range(PEERS)]
        eventually(lambda: _unlisted(peers), what=lambda: f"somebody is not listed\n{peers[0].log()}")
        eventually(lambda: len(swarm.report()["peers"]) < PEERS, what="a claim is withdrawn")
        eventually(
            lambda: any(_followed(peer) >= MORE_VERSIONS for peer in peers),
            what=lambda: f"one of them follows: {[*map(_followed, peers)]}\n{peers[0].log()}",
        )
        eventually(lambda: _back(peers), what=lambda: f"somebody is listed again\n{peers[0].log()}")
        # Whoever it is may not be listed any more a moment later, and drawn for no group meanwhile.
        eventually(
            lambda: _contributes_again(peers),
            what=lambda: f"one of {[peer.name for peer in _back(peers)]} contributes again\n{peers[0].log()}",
        )
        eventually(
            lambda: _brought_unlisted(peers),
            what=lambda: f"the work of one that is not listed is in versions\n{peers[0].log()}",
        )
        for peer in peers:
            peer.check()
            assert not any(event.state == "ISOLATED" for event in peer.events(StateChanged)), peer.log()
        assert set(stop_gently(peers).values()) == {0}
        swarm.assert_same_digests()


def _unlisted(peers: list[LivePeer]) -> list[LivePeer]:
    last = {peer.name: peer.events(ListingChanged)[-1:] for peer in peers}
    return [peer for peer in peers if last[peer.name] and not last[peer.name][0].is_listed]


def _followed(peer: LivePeer) -> int:
    """The most versions of the common part that it fetched between a moment in which it was listed and the next."""
    most = count = 0
    is_listed = True
    for record in peer.records():
        if isinstance(record.event, ListingChanged):
            is_listed, count = record.event.is_listed, 0
        elif isinstance(record.event, StateFetched) and record.event.slice == COMMON and not is_listed:
            count += 1
            most = max(most, count)
    return most


def _brought_unlisted(peers: list[LivePeer]) -> bool:
    """Whether a delegate brought one's work to a committed version of the common part while it was not listed."""
    committed = {event.version for peer in peers for event in peer.committed(COMMON)}
    for peer in peers:
        is_listed = True
        for event in (record.event for record in peer.records()):
            if isinstance(event, ListingChanged):
                is_listed = event.is_listed
            is_brought = isinstance(event, WorkEntrusted) and event.slice == COMMON and event.version in committed
            if is_brought and not is_listed:
                return True
    return False


def _back(peers: list[LivePeer]) -> dict[LivePeer, float]:
    """Who was listed again, and when first: a peer says that it is listed only after it was not."""
    first: dict[LivePeer, float] = {}
    for peer in peers:
        peer.check()
        for record in peer.records():
            if isinstance(record.event, ListingChanged) and record.event.is_listed:
                first.setdefault(peer, record.time_s)
    return first


def _contributes_again(peers: list[LivePeer]) -> bool:
    """Whether what one of them did since is in a version that anybody committed."""
    since_s = {peer.id: at_s for peer, at_s in _back(peers).items()}
    commits = [(r.time_s, r.event) for peer in peers for r in peer.records() if isinstance(r.event, RoundCommitted)]
    return any(since_s.get(one, at_s) < at_s for at_s, event in commits for one in event.contributors)
