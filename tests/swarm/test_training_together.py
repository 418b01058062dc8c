"""Peers that start together, join late or run on other processors train one model."""

import hashlib
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2ptrain.events import Evaluated, SlicesClaimed, StateFetched, UpdateApplied
from p2ptrain.node import checkpoint
from tests.support.live_swarm import (
    PATIENCE_S,
    LiveSwarm,
    eventually,
    is_running,
    p2ptrain,
    stop_gently,
)

pytestmark = pytest.mark.swarm


def test_four_peers_spread_over_the_slices_and_agree_on_every_bit(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, lease_s=15) as swarm:
        peers = [swarm.start_peer(name) for name in "abcd"]
        for peer in peers:
            peer.wait_for_version("common", 8)
        # Two who chose the same slice in the same moment part again; who is late once is no owner for a version.
        report = eventually(lambda: _spread(swarm.report()), what="two owners for each slice, who all answer")
        for one in report["slices"]:
            assert len(set(one["digests"].values())) == 1, one
        untrained_nats = math.log(256)
        eventually(
            lambda: any(event.loss_nats < 0.95 * untrained_nats for event in peers[0].events(Evaluated)),
            what="the loss falls",
        )

        daemons = [pid for peer in peers for pid in peer.daemons()]
        assert len(daemons) == 4
        assert set(stop_gently(peers).values()) == {0}
        assert not any(map(is_running, daemons))
        assert not [line for peer in peers for line in peer.log().splitlines() if "_refresh_stale" in line]
        swarm.assert_same_digests()
        _assert_published_weights_are_the_same_for_all(tmp_path, "abcd")
        _assert_model_can_be_used(tmp_path / "a", tmp_path / "model")


def _spread(report: dict[str, Any]) -> dict[str, Any] | None:
    """The report if everybody owns the common part and one slice, each slice has two owners, and all told digests."""
    owners = {one["id"]: one["owners"] for one in report["slices"]}
    is_spread = (
        {slice_id: len(ids) for slice_id, ids in owners.items()} == {"common": 4, "0": 2, "1": 2}
        and sorted(owners["0"] + owners["1"]) == sorted(owners["common"])
        and all(sorted(one["digests"]) == one["owners"] for one in report["slices"])
    )
    return report if is_spread else None


def _assert_published_weights_are_the_same_for_all(folder: Path, names: str) -> None:
    seen: dict[tuple[str, int], set[str]] = {}
    for name in names:
        saved = checkpoint.load(folder / name / "checkpoint.safetensors")
        assert saved is not None
        assert set(saved.owned) < set(saved.published)
        for slice_id, published in saved.published.items():
            digest = hashlib.sha256(published.weights.tobytes()).hexdigest()
            seen.setdefault((slice_id, published.version), set()).add(digest)
            if slice_id in saved.owned:
                anchor = saved.owned[slice_id].anchor
                values = (published.weights.astype(np.uint32) << 16).view(np.float32)
                # bf16 keeps 8 bits, and int8 blocks a 254th of the block's largest change.
                assert np.abs(values - anchor).max() < 2**-8 * np.abs(anchor).max() + 1e-3
    assert all(len(digests) == 1 for digests in seen.values()), seen


def _assert_model_can_be_used(home: Path, out: Path) -> None:
    text = subprocess.run(
        p2ptrain("generate", "--home", str(home), "--prompt", "def ", "--tokens", "30", "--seed", "1"),
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert len(text.stdout) >= 30
    subprocess.run(p2ptrain("export", "--home", str(home), "--out", str(out)), check=True, timeout=PATIENCE_S)
    assert (out / "model.safetensors").stat().st_size > 26_784 * 4


def test_late_peer_fetches_verified_state_and_contributes(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, lease_s=30) as swarm:
        first = swarm.start_peer("first", "0")
        first.wait_for_version("0", 12)
        late = swarm.start_peer("late", "0")
        eventually(
            lambda: any(late.id in event.contributors for event in first.committed("0")),
            what="the late peer contributes to slice 0",
        )
        # Whole, or by the rounds that it missed if the owner had gone on before its state was through.
        fetched = {event.slice for event in late.events(StateFetched) if event.part in ("anchor", "replay")}
        assert fetched == {"common", "0"}
        joined = eventually(lambda: late.committed("0"), what="the late peer votes, too")[0].version
        late.wait_for_version("0", joined + 3)
        swarm.assert_same_digests()


def test_newcomer_can_follow_a_lone_peer_that_commits_more_than_its_line_carries(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, lease_s=30) as swarm:
        lone = swarm.start_peer("lone", "all", "--upload-mbps", "0.5")  # 27 kB a round, some ten rounds a second
        lone.wait_for_version("common", 12)
        late = swarm.start_peer("late", "0")
        eventually(
            lambda: any(late.id in event.contributors for event in lone.committed("0")),
            what="the late peer contributes to slice 0",
        )


def test_peer_chooses_the_slice_without_an_owner(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, lease_s=30) as swarm:
        swarm.start_peer("a", "0").wait_for_version("0", 2)
        other = swarm.start_peer("b")
        claimed = eventually(lambda: other.events(SlicesClaimed), what="b claims")
        assert claimed[0].slices == ["common", "1"]
        eventually(
            lambda: any(event.slice == "0" for event in other.events(UpdateApplied)),
            what="b receives updates of the slice that it does not own",
        )


def test_owners_on_processors_with_and_without_fused_instructions_hold_the_same_bits(tmp_path: Path) -> None:
    plain = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4"}
    with LiveSwarm(tmp_path, lease_s=30) as swarm:
        old = swarm.start_peer("old", "0", environment=plain)
        new = swarm.start_peer("new", "0", environment={"ATEN_CPU_CAPABILITY": "avx2"})
        old.wait_for_version("0", 10)
        new.wait_for_version("0", 10)
        eventually(
            lambda: sum(len(event.contributors) == 2 for event in new.committed("0")) >= 5,
            what="five versions to which both contributed",
        )
        swarm.assert_same_digests()


def test_peers_of_other_settings_never_meet(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other_run = LiveSwarm(tmp_path / "other", rounds=999).manifest
    with LiveSwarm(tmp_path, lease_s=30) as swarm:
        ours = swarm.start_peer("ours", "0")
        theirs = swarm.start_peer("theirs", "0", manifest=other_run)
        ours.wait_for_version("common", 3)
        theirs.wait_for_version("common", 3)
        owners = eventually(lambda: swarm.slice_report("common")["owners"], what="our peer answers")
        assert owners == [ours.id]
        assert all(event.contributors == [theirs.id] for event in theirs.committed("common"))


def test_single_peer_owning_everything_trains_alone_and_completes_the_run(tmp_path: Path) -> None:
    with LiveSwarm(tmp_path, lease_s=30, slices=1, rounds=5) as swarm:
        alone = swarm.start_peer("alone", "all")
        eventually(lambda: alone.state() == "COMPLETE", what="the run is complete")
        assert [event.version for event in alone.committed("0")] == [1, 2, 3, 4, 5]
