"""A swarm finds back together after what home networks and power cuts do to it."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from p2ptrain.events import (
    BranchLost,
    CheckpointSaved,
    Evaluated,
    PeerStarted,
    Reconnected,
    Redialling,
    StateChanged,
    StateFetched,
    StateResumed,
)
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently
from tests.support.network_namespaces import HostNetwork

pytestmark = pytest.mark.faults

BACK_S = 30.0
"""Whoever waits for TCP to notice that his connections are dead takes longer; who does not is back in a third of it."""


def wait_for_newer_round_of(peers: list[LivePeer], slice_id: str = "common") -> None:
    """Until a version that nobody has yet is committed with contributions of all of these peers.

    Its number says nothing: who was alone for a while may have got further than those whose branch is followed.
    """
    everybody = {peer.id for peer in peers}
    before = {(e.version, e.digest) for peer in peers for e in peer.committed(slice_id)}

    def together() -> bool:
        for peer in peers:
            peer.check()
        new = (e for e in peers[0].committed(slice_id) if (e.version, e.digest) not in before)
        return any(everybody <= set(e.contributors) for e in new)

    logs = "\n".join(f"--- {peer.name}\n{peer.log()}" for peer in peers)
    eventually(together, what=f"all contribute to one round of slice {slice_id}\n{logs}")


def states(peer: LivePeer) -> list[str]:
    return [event.state for event in peer.events(StateChanged)]


def address_book(peer: LivePeer) -> set[str]:
    path = peer.home / "known_peers.json"
    return {entry["peer"] for entry in json.loads(path.read_text())} if path.exists() else set()


def test_without_any_bootstrap_newcomers_join_by_a_peer_and_old_ones_by_their_address_book(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        a, b = swarm.start_peer("a", "0"), swarm.start_peer("b", "0")
        wait_for_newer_round_of([a, b])
        eventually(lambda: a.id in address_book(b), what="b writes down where a is")
        swarm.children[0].kill()
        b.child.kill()
        newcomer = swarm.start_peer("newcomer", "0", "--bootstrap", a.events(PeerStarted)[0].addresses[0])
        again = swarm.start_peer("again", "0", home=b.home)  # with the dead bootstrap's address
        wait_for_newer_round_of([a, newcomer, again])
        swarm.assert_same_digests()


def test_two_swarms_of_one_run_become_one_when_a_peer_knows_both(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        other_address = swarm.start_bootstrap("other-bootstrap")
        here = swarm.start_peer("here", "0")
        there = swarm.start_peer("there", "0", "--bootstrap", other_address)
        for peer in (here, there):
            peer.wait_for_version("0", 3)
        knows_both = swarm.start_peer("both", "1", "--bootstrap", swarm.address, "--bootstrap", other_address)
        wait_for_newer_round_of([here, there, knows_both])
        wait_for_newer_round_of([here, there], "0")
        assert len(swarm.digests("0", owners=2)) == 1


def test_whole_swarm_is_switched_off_and_goes_on_from_the_newest_that_is_left(tmp_path: Path) -> None:
    swarm = LiveSwarm(tmp_path)
    # None of them goes on alone while the others, one of whom has more on its disk, are still starting.
    swarm.manifest.write_text(swarm.manifest.read_text().replace("[slicing]\n", "[slicing]\nquorum = 2\n"))
    with swarm:
        peers = [swarm.start_peer(name, "0") for name in ("a", "b", "c")]
        wait_for_newer_round_of(peers)
        for peer in peers:
            eventually(lambda peer=peer: peer.events(CheckpointSaved), what=f"{peer.name} saves")
            assert peer.reached("0")
        for child in swarm.children:
            child.kill()
        committed = {event.version: event.digest for peer in peers for event in peer.committed("0")}
        saved = max(e.versions["0"] for peer in peers[1:] for e in peer.events(CheckpointSaved))
        shutil.rmtree(peers[0].home)
        swarm.address = swarm.start_bootstrap("new-bootstrap")
        again = [swarm.start_peer(f"{name}-again", "0", home=tmp_path / name) for name in ("c", "b")]
        wait_for_newer_round_of(again, "0")
        again.append(swarm.start_peer("a-again", "0", home=tmp_path / "a"))  # it has nothing, and joins them
        wait_for_newer_round_of(again)
        resumed = [event.versions["0"] for peer in again for event in peer.events(StateResumed)]
        assert len(resumed) == 2
        for event in (event for peer in again for event in peer.committed("0")):
            if event.version <= max(resumed):  # voted for before the end, and heard of to be decided only now
                assert event.digest == committed.get(event.version, event.digest), "nothing on a disk is done again"
        assert max(resumed) >= saved, "what was said to be saved is there"
        swarm.peers = {peer.name: peer for peer in again}  # what no disk had yet may be decided differently now
        swarm.assert_same_digests()


def test_minority_that_went_on_alone_is_settled_with_the_rest_and_somebody_says_what_was_lost(tmp_path: Path) -> None:
    swarm = LiveSwarm(tmp_path, slices=1)
    # Long enough that both branches are known back to where they part, however fast this machine is.
    swarm.manifest.write_text(swarm.manifest.read_text().replace("[exchange]\n", "[exchange]\nhistory = 2000\n"))
    with swarm:
        peers = {name: swarm.start_peer(name, "0") for name in ("a", "b", "c")}
        wait_for_newer_round_of(list(peers.values()), "0")
        for name in ("b", "c"):
            peers[name].child.kill()
        went_on = peers["a"].reached("0") + 3
        peers["a"].wait_for_version("0", went_on)
        eventually(  # rounds of milliseconds are quicker than its disk, and only what is there comes back
            lambda: any(e.versions.get("0", 0) >= went_on for e in peers["a"].events(CheckpointSaved)),
            what="it saves what it did alone",
        )
        peers["a"].child.kill()
        rest = [swarm.start_peer(f"{name}-again", "0", home=tmp_path / name) for name in ("b", "c")]
        for _ in range(2):  # the first may be one that all three had voted for, and is on no other branch
            wait_for_newer_round_of(rest, "0")
        ahead = swarm.start_peer("a-again", "0", home=tmp_path / "a")
        wait_for_newer_round_of([*rest, ahead], "0")
        lost = [event for peer in (*rest, ahead) for event in peer.events(BranchLost) if event.slice == "0"]
        assert lost, "whoever gave up its branch says so"
        assert all(event.tokens > 0 for event in lost)
        assert len(swarm.digests("0", owners=3)) == 1


def test_restarted_peer_passes_on_the_rounds_that_another_one_missed(tmp_path: Path) -> None:
    swarm = LiveSwarm(tmp_path, slices=1, inner_steps=400)
    # The one that comes back first commits nothing alone: who has missed many rounds fetches the state instead of them.
    swarm.manifest.write_text(swarm.manifest.read_text().replace("[slicing]\n", "[slicing]\nquorum = 2\n"))
    with swarm:
        stays, other, misses = (swarm.start_peer(name, "0") for name in ("stays", "other", "misses"))
        wait_for_newer_round_of([stays, other, misses], "0")
        eventually(lambda: misses.events(CheckpointSaved), what="it saves")
        assert misses.reached("0")
        misses.child.kill()
        missed_from = misses.reached("0") + 1
        stays.wait_for_version("0", missed_from + 1)
        assert stop_gently([stays, other]) == {"stays": 0, "other": 0}
        stays_again = swarm.start_peer("stays-again", "0", home=stays.home)
        eventually(lambda: "TRAINING" in states(stays_again), what=f"it trains\n{stays_again.log()}")
        again = swarm.start_peer("misses-again", "0", home=misses.home)
        wait_for_newer_round_of([stays_again, again], "0")
        replayed = {e.version for e in again.events(StateFetched) if (e.slice, e.part) == ("0", "replay")}
        assert missed_from in replayed, "one that nobody has who has been up since"
        swarm.assert_same_digests()


def test_cut_off_peer_knows_it_and_is_back_and_halves_find_together(tmp_path: Path) -> None:
    with HostNetwork(4) as network:
        inside = {"meeting": network.inside(1)} | {f"h{n}": network.inside(n) for n in range(1, 5)}
        with LiveSwarm(tmp_path, inside=inside) as swarm:
            swarm.address = swarm.start_bootstrap("meeting", network.address(1))
            peers = [swarm.start_peer(f"h{n}", "0" if n % 2 else "1") for n in range(1, 5)]
            wait_for_newer_round_of(peers)

            # A cable is pulled, for longer than TCP and the DHT remember.
            lonely = peers[3]
            network.pull(4)
            pulled_s = time.monotonic()
            eventually(lambda: "ISOLATED" in states(lonely), what="it knows")
            known_after_s = time.monotonic() - pulled_s
            assert not any("ISOLATED" in states(peer) for peer in peers[:3])
            eventually(lambda: time.monotonic() - pulled_s > 45, what="45 s pass")
            network.plug("together", [4])
            plugged_s = time.monotonic()
            eventually(lambda: lonely.events(Reconnected), what="it is back")
            back_after_s = time.monotonic() - plugged_s
            wait_for_newer_round_of(peers)
            together_after_s = time.monotonic() - plugged_s

            # Two halves; each has an owner of each slice, so both go on.
            network.plug("apart", [3, 4])
            for peer in (peers[0], peers[2]):
                peer.wait_for_version("0", peer.reached("0") + 4)
            network.plug("together", [3, 4])
            healed_s = time.monotonic()
            wait_for_newer_round_of(peers)
            healed_after_s = time.monotonic() - healed_s

            for slice_id in ("0", "1", "common"):
                wait_for_newer_round_of([p for p in peers if p.committed(slice_id)][:1], slice_id)
            evaluated = sorted((e for peer in peers for e in peer.events(Evaluated)), key=lambda event: event.round)
            assert evaluated[-1].loss_nats < evaluated[0].loss_nats
            print(  # noqa: T201 - measured: shown by pytest -s
                f"known {known_after_s:.1f} s, back {back_after_s:.1f} s, averaging {together_after_s:.1f} s,"
                f" halves {healed_after_s:.1f} s"
            )


def missed_by(peer: LivePeer, among: LivePeer, since_version: int) -> int:
    """Rounds after a version that were committed without a peer until it contributed again."""
    later = [event for event in among.committed("common") if event.version > since_version]
    return next(n for n, event in enumerate(later) if peer.id in event.contributors)


def is_soon(back_after_s: float, missed: int) -> bool:
    """Promised are two missed rounds, the one that it was in and the next.

    On a shared machine rounds may take long, or a question and its answer may while rounds are short.
    """
    return missed <= 5 or back_after_s < BACK_S


def test_host_with_another_address_is_back_in_the_round_after_next_and_found_there(tmp_path: Path) -> None:
    with HostNetwork(3) as network:
        inside = {"meeting": network.inside(1)} | {f"h{n}": network.inside(n) for n in range(1, 4)}
        with LiveSwarm(tmp_path, inside=inside, slices=1, inner_steps=300) as swarm:
            swarm.address = swarm.start_bootstrap("meeting", network.address(1))
            peers = [swarm.start_peer(f"h{n}", "0") for n in range(1, 4)]
            wait_for_newer_round_of(peers)
            stays, moves = peers[0], peers[2]
            # The provider gives a host another address.
            version, before = stays.reached("common"), len(moves.events(Redialling))
            network.set_address(3, "10.9.0.33")
            # A round that was under way may still be committed with its contribution: that is not being back.
            eventually(lambda: moves.events(Redialling)[before:], what=f"it notices\n{moves.log()}")
            noticed_s = time.monotonic()
            wait_for_newer_round_of(peers)
            back_after_s, missed = time.monotonic() - noticed_s, missed_by(moves, stays, version)
            print(f"moved: in a commit {back_after_s:.1f} s after it noticed, missed {missed} rounds")  # noqa: T201
            assert moves.events(Redialling)[before].reason != "nobody answers", "it noticed before it was alone"
            assert is_soon(back_after_s, missed)
            book = stays.home / "known_peers.json"
            eventually(lambda: "/ip4/10.9.0.33/" in book.read_text(), what="others have its address")
            swarm.assert_same_digests()


def test_suspended_process_is_back_in_the_round_after_next(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, slices=1, inner_steps=500) as swarm:
        stays, sleeps = swarm.start_peer("stays", "0"), swarm.start_peer("sleeps", "0")
        wait_for_newer_round_of([stays, sleeps], "0")
        # A laptop's lid: the process and its daemon stop together.
        daemons = sleeps.daemons()
        sleeps.freeze()
        for daemon in daemons:
            os.kill(daemon, signal.SIGSTOP)
        stays.wait_for_version("0", stays.reached("0") + 2)
        time.sleep(20.0)  # longer than everything that waits for it
        for daemon in daemons:
            os.kill(daemon, signal.SIGCONT)
        version = stays.reached("common")
        sleeps.child.send(signal.SIGCONT)
        woken_s = time.monotonic()
        wait_for_newer_round_of([stays, sleeps])
        back_after_s, missed = time.monotonic() - woken_s, missed_by(sleeps, stays, version)
        print(f"slept: in a commit {back_after_s:.1f} s after it woke, missed {missed} rounds")  # noqa: T201
        assert is_soon(back_after_s, missed)
        assert "ISOLATED" not in states(sleeps), "it slept, which is no silence of the others"
