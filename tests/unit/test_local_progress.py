"""What training remembers beside the agreed state, across a restart."""

from pathlib import Path

import numpy as np
import pytest
import torch

from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_text
from p2ptrain.data.corpus import Corpus
from p2ptrain.ids import COMMON, PeerId, RunId, SliceId, Version
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node import atomic_file
from p2ptrain.node.local_progress import LocalProgress, SavedResidual, is_due, load_progress, save_progress
from p2ptrain.node.trainer_messages import Memory
from p2ptrain.training.inner_loop import InnerLoop

RUN = RunId("r" * 64)


def progress(inner: InnerLoop) -> LocalProgress:
    memory = Memory.of(inner)
    return LocalProgress(
        run=RUN,
        owned=memory.owned,
        precision="float32",
        round=memory.round,
        inner_step=memory.inner_step,
        moments=memory.moments,
        residuals={COMMON: SavedResidual(version=Version(3), values=np.arange(5, dtype=np.float32))},
    )


@pytest.fixture
def inner() -> InnerLoop:
    return new_loop()


def new_loop() -> InnerLoop:
    run = parse_run(preset_text("nano"), source="nano")
    plan = SlicePlan.of(run.model, run.slicing)
    text = np.frombuffer(bytes(range(256)) * 20, np.uint8)
    corpus = Corpus(train=text, validation=text, fingerprint="")
    owned = frozenset([COMMON, SliceId("0")])
    return InnerLoop(run, plan, owned, initial_values(run, plan), corpus, PeerId("p"))


def test_training_goes_on_after_a_restart_with_the_bits_it_would_have_had(tmp_path: Path, inner: InnerLoop) -> None:
    path = tmp_path / "progress.safetensors"
    for _ in range(3):
        inner.step(Version(2))
    save_progress(path, progress(inner))
    values = {s: inner.local_values(s) for s in inner.plan.slice_ids}
    inner.step(Version(2))

    saved = load_progress(path, RUN)
    assert saved is not None
    again = new_loop()
    for slice_id, value in values.items():
        again.replace(slice_id, value)
    again.round, again.inner_step = saved.round, saved.inner_step
    again.restore_optimizer({name: torch.from_numpy(value) for name, value in saved.moments.items()})
    again.step(Version(2))
    assert again.inner_step == 4, "the fourth step's data, not the first's again"
    for slice_id in again.plan.slice_ids:
        np.testing.assert_array_equal(again.local_values(slice_id), inner.local_values(slice_id))
    assert saved.residuals[COMMON].version == 3
    np.testing.assert_array_equal(saved.residuals[COMMON].values, np.arange(5, dtype=np.float32))


def test_damaged_progress_is_dropped_whatever_byte_it_is(tmp_path: Path, inner: InnerLoop) -> None:
    path = tmp_path / "progress.safetensors"
    inner.step(Version(0))
    save_progress(path, progress(inner))
    whole = path.read_bytes()
    for place in [*range(0, len(whole), len(whole) // 60), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert load_progress(path, RUN) is None, place
    for length in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        assert load_progress(path, RUN) is None, length
    path.write_bytes(whole)
    assert load_progress(path, RUN) is not None
    assert load_progress(path, RunId("s" * 64)) is None
    assert load_progress(tmp_path / "none", RUN) is None


def test_progress_is_not_synced_because_it_may_be_lost(
    tmp_path: Path, inner: InnerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise AssertionError("fsync")

    monkeypatch.setattr(atomic_file.os, "fsync", fail)
    save_progress(tmp_path / "progress.safetensors", progress(inner))


def test_writing_progress_takes_at_most_a_twentieth_of_the_time() -> None:
    assert is_due(10.0, 0.0, 0.0)
    assert not is_due(19.9, 0.0, 1.0)
    assert is_due(20.0, 0.0, 1.0)
