"""The checkpoint file: what goes in comes out, and no damaged byte goes unnoticed."""

import dataclasses
import hashlib
import json
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from p2ptrain.errors import HomeError
from p2ptrain.ids import COMMON, RunId, SliceId, Version
from p2ptrain.node import checkpoint, sealed_file
from p2ptrain.node.checkpoint import Checkpoint, OwnedTensors, PublishedTensors

RUN = RunId("ab" * 32)


def example(seed: int = 0, numel: int = 40) -> Checkpoint:
    random_numbers = np.random.default_rng(seed)

    def owned(version: int) -> OwnedTensors:
        return OwnedTensors(
            version=Version(version),
            anchor=random_numbers.standard_normal(numel, dtype=np.float32),
            momentum=random_numbers.standard_normal(numel, dtype=np.float32),
            certificate=random_numbers.bytes(30),
        )

    def published(version: int) -> PublishedTensors:
        return PublishedTensors(
            version=Version(version),
            weights=random_numbers.integers(0, 2**16, numel + 1, dtype=np.uint16),
            certificate=b"",
        )

    return Checkpoint(
        run=RUN,
        owned={SliceId("10"): owned(12), COMMON: owned(13)},
        published={SliceId("2"): published(11), SliceId("10"): published(12)},
    )


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """Equal in every bit; arrays as bytes, because bf16 patterns include NaN."""

    def plain(c: Checkpoint) -> object:
        states = [(kind, i, s) for kind, part in (("o", c.owned), ("p", c.published)) for i, s in part.items()]
        return c.run, {
            (kind, slice_id, f.name): value.tobytes()
            if isinstance(value := getattr(state, f.name), np.ndarray)
            else value
            for kind, slice_id, state in states
            for f in dataclasses.fields(state)
        }

    return plain(a) == plain(b)


def test_saved_checkpoint_comes_back_bit_for_bit(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, example())
    loaded = checkpoint.load(path, RUN)
    assert loaded is not None
    assert same(loaded, example())
    assert loaded.owned[COMMON].anchor.dtype == np.float32
    assert loaded.published[SliceId("2")].weights.dtype == np.uint16
    loaded.owned[COMMON].anchor[0] = 1  # the peer's own memory, not the file's
    assert [found.name for found in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_fragments_of_one_slice_are_kept_apart(tmp_path: Path):
    saved = example()
    first, second = saved.owned.values()
    (published, _) = saved.published.values()
    ids = [SliceId("common.1"), SliceId("10.0"), SliceId("10.1")]
    fragments = Checkpoint(run=RUN, owned={ids[0]: first, ids[2]: second}, published=dict.fromkeys(ids, published))
    checkpoint.save(tmp_path / "c", fragments)
    loaded = checkpoint.load(tmp_path / "c")
    assert loaded is not None
    assert same(loaded, fragments)


def test_peer_without_any_state_yet_can_save_and_load(tmp_path: Path):
    checkpoint.save(tmp_path / "c", Checkpoint(run=RUN))
    assert checkpoint.load(tmp_path / "c") == Checkpoint(run=RUN)


def test_no_file_is_no_checkpoint(tmp_path: Path):
    assert checkpoint.load(tmp_path / "checkpoint.safetensors") is None


def test_plain_safetensors_library_reads_the_file(tmp_path: Path):
    path, saved = tmp_path / "checkpoint.safetensors", example()
    checkpoint.save(path, saved)
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {
            *(f"owned.{i}.{part}" for i in ("common", "10") for part in ("anchor", "momentum")),
            "published.2",
            "published.10",
        }
        anchor = file.get_tensor("owned.10.anchor")
        assert torch.equal(anchor, torch.from_numpy(saved.owned[SliceId("10")].anchor))
        weights = file.get_tensor("published.2")
        assert weights.dtype == torch.bfloat16
        bits = weights.view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(bits, saved.published[SliceId("2")].weights)
        metadata = file.metadata()
    assert metadata["run"] == RUN
    assert metadata["owned.10.version"] == "12"
    assert metadata["owned.10.anchor.sha256"] == hashlib.sha256(anchor.numpy().tobytes()).hexdigest()


def test_only_its_owner_can_read_a_checkpoint(tmp_path: Path):
    previous = os.umask(0)
    try:
        checkpoint.save(tmp_path / "c", example())
    finally:
        os.umask(previous)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600


def test_flip_of_any_bit_is_noticed(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, example())
    good = path.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(HomeError, match="--refetch"):
            checkpoint.load(path, RUN)
    path.write_bytes(good)
    assert checkpoint.load(path, RUN) is not None


def test_file_cut_off_at_any_byte_or_continued_is_noticed(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, example())
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(HomeError, match="--refetch"):
            checkpoint.load(path, RUN)
    path.write_bytes(good + b"\0")
    with pytest.raises(HomeError, match=f"has {len(good) + 1} bytes instead of {len(good)}"):
        checkpoint.load(path, RUN)


def test_blocks_that_a_disk_zeroed_or_swapped_are_noticed(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, example(numel=5000))
    good = path.read_bytes()
    chance = random.Random(0)
    for _ in range(50):
        first, second = chance.sample(range(0, len(good) - 512, 512), 2)
        for block in (bytes(512), good[second : second + 512]):
            path.write_bytes(good[:first] + block + good[first + 512 :])
            with pytest.raises(HomeError):
                checkpoint.load(path, RUN)


def test_damage_is_told_with_file_tensor_and_remedy(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, example())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    (tmp_path / "checkpoint.corrupt-1").write_bytes(b"")
    with pytest.raises(HomeError) as caught:
        checkpoint.load(path)
    assert str(caught.value) == (
        f"{path} is damaged in tensor published.10, whose SHA-256 is not the recorded one. Start the peer with"
        " --refetch: that puts the file aside as checkpoint.corrupt-2 and fetches the state from the swarm"
    )


def test_checkpoint_of_another_run_is_refused(tmp_path: Path):
    checkpoint.save(tmp_path / "c", example())
    with pytest.raises(HomeError, match="belongs to run abababab, and this is run cdcdcdcd"):
        checkpoint.load(tmp_path / "c", RunId("cd" * 32))


def resealed(raw: bytes, old: str, new: str) -> bytes:
    """The file with a changed header and a seal that fits it, as a later version of p2ptrain might write it."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length].replace(old.encode(), new.encode()))
    del header["__metadata__"]["seal"]
    header["__metadata__"]["seal"] = sealed_file._seal(header)
    encoded = sealed_file._encode_header(header)
    return struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :]


def test_form_of_a_later_version_is_refused_by_name(tmp_path: Path):
    checkpoint.save(tmp_path / "c", example())
    raw = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(resealed(raw, "checkpoint 1", "checkpoint 2"))
    with pytest.raises(HomeError, match="has the form 'p2ptrain checkpoint 2'"):
        checkpoint.load(tmp_path / "c")


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 20) + b'{"__metadata__":null}',
        struct.pack("<Q", 90_000) + b"[" * 90_000,
        b"GIF89a" * 100,
    ],
    ids=["huge header", "no metadata", "list", "null", "deep", "picture"],
)
def test_other_files_are_refused_without_taking_memory(tmp_path: Path, raw: bytes):
    (tmp_path / "c").write_bytes(raw)
    with pytest.raises(HomeError, match="damaged"):
        checkpoint.load(tmp_path / "c")


def test_corrupt_file_put_aside_takes_the_first_free_number(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    for number in (1, 2):
        path.write_bytes(bytes(number))
        assert checkpoint.put_aside(path) == tmp_path / f"checkpoint.corrupt-{number}"
    assert not path.exists()
    assert (tmp_path / "checkpoint.corrupt-2").read_bytes() == bytes(2)
