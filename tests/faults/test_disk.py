"""Peers whose disk fails, and peers that are killed and go on from theirs."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from p2ptrain.config.load import load_run, run_id
from p2ptrain.events import (
    CheckpointSaved,
    DiskRecovered,
    DiskTrouble,
    EndedUnsaved,
    InnerStepDone,
    ProgressRestored,
)
from p2ptrain.ids import COMMON, SliceId
from p2ptrain.node import checkpoint
from p2ptrain.node.local_progress import LocalProgress, load_progress
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently

pytestmark = pytest.mark.faults
_T = TypeVar("_T")


def frozen_with(peer: LivePeer, look: Callable[[], _T | None]) -> _T | None:
    """What is to be seen of a peer that was stopped when it was to be seen; it runs on if it went away meanwhile."""
    if look() is None:
        return None
    peer.freeze()
    if (found := look()) is None:
        peer.child.send(signal.SIGCONT)
    return found


def test_peer_with_a_read_only_disk_trains_on_leaves_the_vote_to_others_and_saves_again(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path) as swarm:
        well = swarm.start_peer("well", "0")
        ill = swarm.start_peer("ill", "0")
        for peer in (well, ill):
            peer.wait_for_version("0", 3)
        # The journal stays open on the mount below and can be written to, or the test could not see what happens.
        home = ill.home
        mounted = subprocess.run(["mount", "--bind", home, home], capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"making a folder read-only needs root: {mounted.stderr.strip()}")
        try:
            read_only = ["mount", "-o", "remount,ro,bind", str(home)]  # refused while the peer is writing there
            eventually(lambda: subprocess.run(read_only, check=False).returncode == 0, what="it becomes read-only")
            eventually(lambda: ill.events(DiskTrouble), what=f"it says so\n{ill.log()}")
            alone_at = well.reached("0")
            steps = len(ill.events(InnerStepDone))
            well.wait_for_version("0", alone_at + 3)
            eventually(lambda: len(ill.events(InnerStepDone)) > steps, what=f"it trains on\n{ill.log()}")
            ill.check()
            saved = len(ill.events(CheckpointSaved))
            subprocess.run(["mount", "-o", "remount,rw,bind", str(home)], check=True)
        finally:
            subprocess.run(["umount", "-l", str(home)], check=True)
        eventually(lambda: ill.events(DiskRecovered), what=f"it recovers\n{ill.log()}")
        eventually(lambda: len(ill.events(CheckpointSaved)) > saved, what="it saves again")
        back_at = well.reached("0")

        def together() -> bool:
            return any(e.version > back_at and len(e.contributors) == 2 for e in well.committed("0"))

        eventually(together, what=f"both contribute again\n{ill.log()}\n{well.log()}")
        swarm.assert_same_digests()


def test_a_lone_peer_that_ends_while_its_disk_takes_nothing_says_so(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, slices=1) as swarm:
        alone = swarm.start_peer("alone", "all")
        alone.wait_for_version("0", 3)
        home = alone.home
        mounted = subprocess.run(["mount", "--bind", home, home], capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"making a folder read-only needs root: {mounted.stderr.strip()}")
        try:
            read_only = ["mount", "-o", "remount,ro,bind", str(home)]
            eventually(lambda: subprocess.run(read_only, check=False).returncode == 0, what="it becomes read-only")
            eventually(lambda: alone.events(DiskTrouble), what=f"it says so\n{alone.log()}")
            assert not alone.events(EndedUnsaved)
            stop_gently([alone])
        finally:
            subprocess.run(["umount", "-l", str(home)], check=True)
        assert len(alone.events(EndedUnsaved)) == 1


def test_killed_peer_goes_on_with_its_moments_where_it_was_in_the_data(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, slices=1) as swarm:
        alone = swarm.start_peer("alone", "all")
        alone.wait_for_version("0", 8)
        run = run_id(load_run(swarm.manifest))

        def saved_in_one_round() -> LocalProgress | None:
            state = checkpoint.load(alone.home / "checkpoint.safetensors", run)
            progress = load_progress(alone.home / "progress.safetensors", run)
            return progress if state and progress and progress.round == state.published[COMMON].version else None

        # Two files, one after the other: if a round is over in between, its state is lost and it comes again.
        saved = eventually(lambda: frozen_with(alone, saved_in_one_round), what="what training remembers is saved")
        alone.child.kill()
        again = swarm.start_peer("again", "all", home=alone.home)
        again.wait_for_version("0", 12)
        restored = again.events(ProgressRestored)
        assert len(restored) == 1
        assert restored[0].has_moments
        first = again.events(InnerStepDone)[0]
        # What was trained after the last save was lost with the process, and comes again; nothing before it does.
        assert (first.round, first.inner_step) == (saved.round, saved.inner_step)


def test_a_lone_owner_that_is_killed_between_two_checkpoints_loses_no_version(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, preset="tiny", slices=1, inner_steps=1, rounds=10_000) as swarm:
        alone = swarm.start_peer("alone", "all")
        run = run_id(load_run(swarm.manifest))

        def lead() -> tuple[int, int] | None:
            """The versions of slice 0 in the checkpoint and in what was said to be saved, if rounds lie between."""
            state = checkpoint.load(alone.home / "checkpoint.safetensors", run)
            saved = max((e.versions[SliceId("0")] for e in alone.events(CheckpointSaved)), default=0)
            version = state.published[SliceId("0")].version if state else saved
            return (version, saved) if saved >= version + 3 else None

        version, saved = eventually(lambda: frozen_with(alone, lead), what="rounds are saved beyond the checkpoint")
        alone.child.kill()
        again = swarm.start_peer("again", "all", home=alone.home)
        again.wait_for_version("0", saved + 3)
        first = again.committed("0")[0]
        assert first.version > saved >= version + 3, "nobody else could have told it what it had decided"
        assert first.version <= saved + 2
        swarm.assert_same_digests()
