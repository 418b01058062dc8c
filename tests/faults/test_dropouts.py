"""Peers that are killed or frozen in the middle of a round cost the others one deadline, never a bit."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from p2ptrain.events import (
    Evaluated,
    Event,
    PeerStarted,
    RoundCommitted,
    RoundStage,
    RoundVoid,
    SliceTakenOver,
    StateFetched,
    UpdateApplied,
)
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, is_running

pytestmark = pytest.mark.faults

LEASE_S = 5.0
"""Of the preset: how long a silent owner keeps its place."""


def open_stage(peer: LivePeer) -> tuple[str, int, str] | None:
    """Slice, version and stage of a round that the peer is in the middle of."""
    open_rounds: dict[str, tuple[str, int, str]] = {}
    for event in peer.events(Event):
        match event:
            case RoundStage(slice=slice_id, version=version, stage=stage):
                open_rounds[slice_id] = (slice_id, version, stage)
            case RoundCommitted(slice=slice_id) | RoundVoid(slice=slice_id):
                open_rounds.pop(slice_id, None)
    return next(iter(open_rounds.values()), None)


def kill_in_the_middle_of(
    stage: str, victim: LivePeer, is_wanted: Callable[[int], bool] = lambda version: True
) -> tuple[str, int]:
    """SIGKILL the victim while a round of a wanted version is in ``stage``; returns that slice and version."""

    def is_there(now: tuple[str, int, str] | None) -> bool:
        return now is not None and now[2] == stage and is_wanted(now[1])

    def frozen_in_stage() -> tuple[str, int, str] | None:
        victim.check()
        now = open_stage(victim)
        if not is_there(now):
            return None
        # Journals are read a moment late: freeze first, then see whether it still stands there.
        victim.freeze()
        now = open_stage(victim)
        if is_there(now):
            return now
        victim.child.send(signal.SIGCONT)
        return None

    slice_id, version, _ = eventually(frozen_in_stage, what=f"{victim.name} is caught while {stage}")
    daemons = victim.daemons()
    assert daemons
    victim.child.kill()
    eventually(lambda: not any(map(is_running, daemons)), what="its libp2p daemon dies with it")
    return slice_id, version


@pytest.mark.parametrize("stage", ["gathering", "reducing", "voting"])
def test_survivors_commit_after_a_peer_is_killed_while(stage: str, tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        peers = {name: swarm.start_peer(name, slices) for name, slices in (("a", "0"), ("b", "0"), ("c", "1"))}
        for peer in peers.values():
            peer.wait_for_version("common", 4)
        victim_id = peers["b"].id
        kill_in_the_middle_of(stage, peers["b"])
        survivor = peers["a"]
        for slice_id in ("0", "common"):
            before = survivor.reached(slice_id)
            survivor.wait_for_version(slice_id, before + 2)
        assert victim_id not in survivor.committed("0")[-1].owners
        swarm.assert_same_digests()

        # Both slices have one owner now, and its id decides which one a newcomer takes.
        replacement = swarm.start_peer("b2")
        owners = {"0": survivor, "1": peers["c"]}

        def has_contributed() -> bool:
            return any(replacement.id in e.contributors for s, owner in owners.items() for e in owner.committed(s))

        eventually(has_contributed, what="the replacement takes a slice and contributes")
        swarm.assert_same_digests()


@pytest.mark.parametrize("frozen_s", [1.0, 3 * LEASE_S], ids=["shorter than the lease", "longer than the lease"])
def test_frozen_peer_comes_back_without_a_fork(frozen_s: float, tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        stays, freezes = swarm.start_peer("stays", "0"), swarm.start_peer("freezes", "0")
        for peer in (stays, freezes):
            peer.wait_for_version("0", 4)
        freezes.freeze()
        version = stays.reached("0")
        if frozen_s > LEASE_S:
            stays.wait_for_version("0", version + 3)
        else:
            time.sleep(frozen_s)  # the length of the freeze is what is tested
        freezes.child.send(signal.SIGCONT)
        both = {stays.id, freezes.id}
        thawed_at = stays.reached("0")

        def average_together_again() -> bool:
            stays.check()
            freezes.check()
            return any(e.version > thawed_at + 1 and set(e.contributors) == both for e in stays.committed("0"))

        eventually(average_together_again, what=f"both contribute again\n{freezes.log()}")
        swarm.assert_same_digests()


def has_received(peer: LivePeer, slice_id: str, *, after: int) -> bool:
    """Whether a peer that does not own a slice got a version of it after this one, by an update or whole."""
    got = [*peer.events(UpdateApplied), *peer.events(StateFetched)]
    return any(event.slice == slice_id and event.version > after for event in got)


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_all_owners_of_a_slice_die_and_a_newcomer_takes_it_over(moment: str, tmp_path: Path) -> None:
    # At once is while the claim of the dead one stands. Later takes long enough, too: who sees no claim of the one that
    # stays, or has no answer of it for some leases, founds the slice anew, and a busy machine may stop it for seconds.
    with LiveSwarm(tmp_path, lease_s=20 if moment == "at once" else 15) as swarm:
        lost, stays = swarm.start_peer("lost", "0"), swarm.start_peer("stays", "1")
        lost.wait_for_version("0", 4)
        # An owner that is gone before anybody else has joined takes its slice with it.
        stays.wait_for_version("common", 1)
        eventually(lambda: has_received(stays, "0", after=0), what=f"the other peer has the slice\n{stays.log()}")
        lost.child.kill()
        if moment == "later":
            stays.wait_for_version("common", stays.reached("common") + 3)
            swarm.assert_same_digests()
        reached = eventually(lambda: swarm.slice_report("0")["version"], what="the other peer says what it has")
        heir = swarm.start_peer("heir", "0")
        heir.wait_for_version("0", reached + 2)
        taken = heir.events(SliceTakenOver)[0].version
        assert reached - 1 <= taken <= reached, "from the published weights, not from the beginning"
        eventually(lambda: has_received(stays, "0", after=reached), what="the other peer receives the slice again")
        untrained = max(event.loss_nats for peer in (lost, stays) for event in peer.events(Evaluated)[:1])

        def has_learned() -> bool:
            return any(event.loss_nats < untrained - 0.5 for event in stays.events(Evaluated)[-1:])

        eventually(has_learned, what="the loss goes on falling")


def test_running_swarm_does_not_notice_that_the_bootstrap_died(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        a, b = swarm.start_peer("a", "0"), swarm.start_peer("b", "0")
        for peer in (a, b):
            peer.wait_for_version("0", 3)
        epoch = a.committed("0")[-1].epoch  # a second one, if they saw each other in the middle of the very first round
        swarm.children[0].kill()
        died_at = a.reached("0")
        time.sleep(2 * LEASE_S)  # claims that nobody could renew would have expired by now

        def still_together() -> bool:
            return any(event.version > died_at + 5 and len(event.contributors) == 2 for event in a.committed("0")[-3:])

        eventually(still_together, what="a and b average on")
        assert a.committed("0")[-1].epoch == epoch
        swarm.assert_same_digests()


def test_what_was_voted_for_can_be_fetched_after_its_round_was_void(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, slices=1) as swarm:
        stays, returns = swarm.start_peer("stays", "0"), swarm.start_peer("returns", "0")
        for peer in (stays, returns):  # both have used the bootstrap node, and know each other
            peer.wait_for_version("0", 3)
        address = stays.events(PeerStarted)[0].addresses[0]
        swarm.children[0].kill()  # whoever hears nobody waits long before it goes on alone (decision 0013)
        # The one that stays is the proposer: it votes for what it proposes, and the other's vote never comes.
        turn = sorted([stays.id, returns.id]).index(stays.id)
        slice_id, version = kill_in_the_middle_of("reducing", returns, lambda version: version % 2 == turn)

        def is_settled() -> bool:
            committed = any(event.version >= version for event in stays.committed(slice_id))
            return committed or any(e.slice == slice_id and e.version >= version for e in stays.events(RoundVoid))

        eventually(is_settled, what=f"the other gives v{version} of slice {slice_id} up\n{stays.log()}")
        again = swarm.start_peer("again", "0", "--bootstrap", address, home=returns.home)
        again.wait_for_version(slice_id, version + 3)
        swarm.assert_same_digests()


def test_a_peer_whose_libp2p_daemon_dies_says_so_and_ends(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        peer = swarm.start_peer("a", "0,1")
        peer.wait_for_version("common", 2)
        os.kill(peer.daemons()[-1], signal.SIGKILL)
        eventually(lambda: peer.child.exit_status() is not None, what=lambda: f"it ends\n{peer.log()}")
        assert peer.child.exit_status() == 1, peer.log()
        assert "daemon p2pd ended with status -9" in peer.log().splitlines()[-1]
        assert "never" not in "".join(peer.child.last_lines(9)), "asyncio complains of nothing"
