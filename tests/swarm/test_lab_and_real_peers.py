"""The lab computes what real peers agree on: the same run in one process has the digests that they committed."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from p2ptrain.config.load import load_run
from p2ptrain.data.corpus import load_corpus
from p2ptrain.events import ComputeUsed, Event, InnerStepDone, PeerStarted, RoundVoid, UpdateApplied
from p2ptrain.ids import COMMON, PeerId, SliceId, fragment_index, fragments_of
from p2ptrain.node import checkpoint
from p2ptrain.node.virtual_swarm import VirtualSwarm
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually, stop_gently

pytestmark = pytest.mark.swarm

INNER_STEPS = 400
"""Two seconds or more: a peer that is ready first is still in its first round when the other one is ready, too."""
ATTEMPTS = 4
"""Where the second peer starts much later, the first trains a round alone, and there is nothing to compare."""


@pytest.mark.parametrize(("rounds", "fragments"), [(2, 1), (2, 2)])
def test_the_lab_has_the_digests_of_a_real_swarm_version_by_version(
    tmp_path: Path, rounds: int, fragments: int
) -> None:
    folder, peers = _trained_together(tmp_path, {"a": "all", "b": "all"}, rounds, fragments)
    lab = _lab(folder, {peer.name: {SliceId("0"), SliceId("1")} for peer in peers}, peers)
    compared = 0
    for number in range(rounds * fragments):
        with _one_thread():
            lab.train_turn(_steps(peers, number))
        version, turn = number // fragments + 1, number % fragments
        for peer in peers:
            for slice_id in (s for s in lab.plan.slice_ids if fragment_index(s) == turn):
                (commit,) = (event for event in peer.committed(slice_id) if event.version == version)
                assert commit.digest == lab.digest(slice_id), f"{peer.name}: slice {slice_id} v{version}"
                compared += 1
    assert compared == rounds * fragments * 2 * 3
    for peer in peers:
        saved = checkpoint.load(peer.home / "checkpoint.safetensors")
        assert saved is not None
        for slice_id, published in saved.published.items():
            digest = hashlib.sha256(published.weights.tobytes()).hexdigest()
            assert digest == lab.published_digest(slice_id)


def test_a_virtual_peer_without_a_slice_computes_with_it_as_a_real_one_does(tmp_path: Path) -> None:
    folder, peers = _trained_together(tmp_path, {"a": "0", "b": "1"}, rounds=1)
    owned = {"a": {SliceId("0")}, "b": {SliceId("1")}}
    lab = _lab(folder, owned, peers)
    with _one_thread():
        lab.train_turn(_steps(peers, 0))
    # Who is done first commits its slice, and the other goes on with that: the lab knows no such moments.
    undisturbed = [peer for peer in peers if not _was_updated_while_training(peer)]
    assert undisturbed
    for peer in undisturbed:
        (slice_id,) = owned[peer.name]
        (commit,) = peer.committed(slice_id)
        assert commit.digest == lab.digest(slice_id)


def _real_run(folder: Path, owned: Mapping[str, str], rounds: int, fragments: int) -> list[LivePeer]:
    swarm = LiveSwarm(folder, lease_s=60, rounds=rounds, inner_steps=INNER_STEPS * fragments)
    for limit in ("gather_timeout_s = 6", "reduce_timeout_s = 4", "vote_timeout_s = 3"):
        swarm.change_manifest(limit, f"{limit}0")
    swarm.change_manifest("[slicing]\n", f"[slicing]\nfragments = {fragments}\namplification = 2.0\n")
    for line in ("last_lr = 0.8", "cooldown = 0.5", "common_lr_ratio = 1.5", "nesterov = false"):
        swarm.change_manifest("[outer]\n", f"[outer]\n{line}\n")
    with swarm:
        peers = [swarm.start_peer(name, slices) for name, slices in owned.items()]

        def complete() -> bool:
            for peer in peers:
                peer.check()
            return all(peer.state() == "COMPLETE" for peer in peers)

        eventually(complete, what="both peers complete the run")
        stop_gently(peers)
    return peers


def _trained_together(
    tmp_path: Path, owned: Mapping[str, str], rounds: int, fragments: int = 1
) -> tuple[Path, list[LivePeer]]:
    """A run in which both were there from the first round, and every round was committed with what they had done."""
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        peers = _real_run(folder, owned, rounds, fragments)
        common = [p.committed(piece) for p in peers for piece in fragments_of(COMMON, fragments)]
        everything = [(version, 2) for version in range(1, rounds + 1)]
        is_whole = all([(e.version, len(e.contributors)) for e in found] == everything for found in common)
        if is_whole and not any(p.events(RoundVoid) for p in peers):
            return folder, peers
    pytest.fail(f"in {ATTEMPTS} attempts the peers never started within one round of each other")


def _id(peer: LivePeer) -> PeerId:
    """Also of a peer that has ended."""
    return peer.events(PeerStarted)[-1].peer


def _steps(peers: list[LivePeer], number: int) -> dict[PeerId, int]:
    """Of a turn from 0: fewer than the manifest's where a peer was told to end it, because the other one was done."""
    steps = {}
    for peer in peers:
        ends = [at for at, record in enumerate(peer.records()) if isinstance(record.event, ComputeUsed)]
        turn = peer.records()[[0, *ends][number] : ends[number]]
        steps[_id(peer)] = sum(isinstance(record.event, InnerStepDone) for record in turn)
    assert max(steps.values()) == INNER_STEPS
    return steps


def _was_updated_while_training(peer: LivePeer) -> bool:
    kinds = [type(event) for event in peer.events(Event) if isinstance(event, InnerStepDone | UpdateApplied)]
    return kinds != sorted(kinds, key=lambda kind: kind is UpdateApplied)


def _lab(folder: Path, owned: Mapping[str, set[SliceId]], peers: list[LivePeer]) -> VirtualSwarm:
    run = load_run(folder / "run.toml")
    holders = {_id(peer): frozenset({COMMON} | owned[peer.name]) for peer in peers}
    return VirtualSwarm(run, load_corpus(run, base=folder), holders)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As the peers were started: another number of threads sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
