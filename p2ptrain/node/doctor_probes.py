"""What the doctor measures on this machine. Probes measure and decide nothing; ``doctor`` judges.

Imports torch only in the probes that compute.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from p2ptrain import clock
from p2ptrain.config.schema import InnerConfig, ModelConfig, OuterConfig, RunConfig, SlicingConfig
from p2ptrain.errors import ControlError, DoesNotFit, IdentityError, NonFiniteUpdate, UsageError
from p2ptrain.events import Record, TwinSeen
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.node.doctor import (
    DiskFacts,
    Finding,
    IdentityFacts,
    MemoryFacts,
    StepFacts,
    judge_clock_is_set,
    judge_disk,
    judge_step,
    judge_versions,
)
from p2ptrain.wire.reach import is_relayed

KNOWN_LOSSES = (5.576097, 5.444674, 5.522793)
"""Of the tiny step's inner steps, in nats; measured on a CPU with and without AVX2, which agree to 1e-6."""
_STEP_RUN = RunConfig(
    name="doctor",
    seed=20260101,
    rounds=1,
    model=ModelConfig(layers=2, width=32, heads=4, kv_heads=2, mlp_hidden=64, context=32),
    slicing=SlicingConfig(slices=2),
    inner=InnerConfig(steps=3, batch=2, lr=3e-3),
    outer=OuterConfig(lr=0.5, momentum=0.5),
)
_STEP_TEXT_BYTES = 4096
_WRITTEN_BYTES = 16 << 20
_BYTES_AN_OWNED_ELEMENT = 10
"""In a checkpoint: anchor and momentum in float32, published weights in 16 bits."""
_JOURNAL_END_BYTES = 1 << 20
_TWIN_IS_NEWS_S = 180.0
"""A peer repeats once a minute that it has a twin."""
_PACKAGES = ("p2ptrain", "torch", "hivemind", "protobuf", "numpy")


def measure_disk(home: Path, run: RunConfig | None, *, writes: bool) -> DiskFacts:
    """Room and speed of the disk that a home is or would be on.

    Args:
        home: may not exist yet.
        run: what will be trained, if known.
        writes: try how fast it is; takes a tenth of a second on a good disk.
    """
    folder = home.absolute()
    while not folder.is_dir():
        folder = folder.parent
    try:
        free_bytes = shutil.disk_usage(folder).free
        write_mbps = _write_speed(folder) if writes and free_bytes > 2 * _WRITTEN_BYTES else None
    except OSError as error:
        return DiskFacts(
            free_bytes=0, needed_bytes=None, write_mbps=None, error=f"{folder} cannot be written: {error.strerror}"
        )
    return DiskFacts(free_bytes=free_bytes, needed_bytes=_checkpoints_bytes(run), write_mbps=write_mbps)


def _write_speed(folder: Path) -> float:
    """Megabytes a second to a file that is gone afterwards."""
    data = os.urandom(1 << 20)
    descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    try:
        started_s = clock.monotonic_s()
        for _ in range(_WRITTEN_BYTES // len(data)):
            os.write(descriptor, data)
        os.fsync(descriptor)
        return _WRITTEN_BYTES / 1e6 / max(clock.monotonic_s() - started_s, 1e-6)
    finally:
        os.close(descriptor)


def _checkpoints_bytes(run: RunConfig | None) -> int | None:
    """Of the old and the new checkpoint together, at worst: a peer that owns everything."""
    if run is None:
        return None
    from p2ptrain.model.slicing import SlicePlan

    plan = SlicePlan.of(run.model, run.slicing)
    return 2 * _BYTES_AN_OWNED_ELEMENT * sum(plan.numel(slice_id) for slice_id in plan.slice_ids)


def measure_step(device: str) -> StepFacts:
    """Train a tiny model for three steps on made-up text, in float32, and note its losses."""
    import numpy as np

    from p2ptrain.config.schema import EngineConfig
    from p2ptrain.data.corpus import Corpus
    from p2ptrain.model.initial_weights import initial_values
    from p2ptrain.model.slicing import SlicePlan
    from p2ptrain.training.inner_loop import InnerLoop

    # Made of integers alone, so that every machine has the same bytes.
    text = ((np.arange(_STEP_TEXT_BYTES, dtype=np.uint64) * 2654435761 >> 13) % 61 + 32).astype(np.uint8)
    corpus = Corpus(train=text, validation=text, fingerprint=Digest("0" * 64))
    plan = SlicePlan.of(_STEP_RUN.model, _STEP_RUN.slicing)
    started_s = clock.monotonic_s()
    try:
        loop = InnerLoop(
            _STEP_RUN,
            plan,
            frozenset({COMMON, SliceId("0")}),
            initial_values(_STEP_RUN, plan),
            corpus,
            PeerId("doctor"),
            engine=EngineConfig(device=device),
        )
        losses = [loop.step(Version(0)).loss_nats for _ in range(_STEP_RUN.inner.steps)]
    except (RuntimeError, AssertionError, NonFiniteUpdate) as error:
        # torch raises either of the first two for a device that is not there or does not answer.
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return StepFacts(device=device, losses=(), seconds=clock.monotonic_s() - started_s, error=said)
    return StepFacts(device=device, losses=losses, seconds=clock.monotonic_s() - started_s)


def measure_memory(run: RunConfig, device: str) -> MemoryFacts:
    """Whether one slice of the run fits the device, by counting; takes seconds for large models."""
    from p2ptrain.config.schema import EngineConfig
    from p2ptrain.training.device import device_memory_bytes
    from p2ptrain.training.fit import fit

    free_bytes = device_memory_bytes(device)
    try:
        found = fit(
            run.model,
            run.slicing,
            batch=run.inner.batch,
            budget_bytes=free_bytes,
            engine=EngineConfig(device=device),
        )
    except DoesNotFit as error:
        return MemoryFacts(device=device, free_bytes=free_bytes, needed_bytes=None, reason=str(error))
    return MemoryFacts(device=device, free_bytes=free_bytes, needed_bytes=found.predicted_bytes, reason=found.reason)


def installed_versions() -> dict[str, str]:
    """Of p2ptrain and what it depends on most, by their metadata: importing them takes seconds."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def version_conflicts() -> list[str]:
    """What p2ptrain requires and does not have, each as a sentence."""
    from packaging.requirements import InvalidRequirement, Requirement

    conflicts = []
    for text in metadata.requires("p2ptrain") or []:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            conflicts.append(f"{wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            conflicts.append(f"{wanted.name} {version} is outside {wanted.specifier}")
    return conflicts


def measure_identity(home: Path) -> IdentityFacts:
    """Whose key the home has, and which process uses it; makes no key."""
    from p2ptrain.identity.keys import load_or_create

    path = home / "identity.key"
    if not path.exists():
        return IdentityFacts(peer=None, holder=None, answers_elsewhere=None)
    try:
        peer = load_or_create(path).peer_id
    except (IdentityError, OSError) as error:
        return IdentityFacts(peer=None, holder=None, answers_elsewhere=None, error=str(error))
    return IdentityFacts(
        peer=peer,
        holder=lock_holder(home),
        answers_elsewhere=None,
        has_twin=_has_seen_twin(home / "events.jsonl", clock.wall_s()),
    )


def _has_seen_twin(journal: Path, now_s: float) -> bool:
    """Whether the peer said so in the last minutes."""
    with contextlib.suppress(OSError), journal.open("rb") as file:
        file.seek(max(0, journal.stat().st_size - _JOURNAL_END_BYTES))
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = Record.from_json(line.decode())
                if record and isinstance(record.event, TwinSeen) and now_s - record.time_s < _TWIN_IS_NEWS_S:
                    return True
    return False


def listening_port(home: Path) -> int | None:
    """TCP port of the peer that runs in ``home``, as it says itself; None when none does."""
    from p2ptrain.control.address import target_of_home
    from p2ptrain.control.client import ControlClient

    try:
        with ControlClient(target_of_home(home)) as client:
            return tcp_port(client.status().network.addresses)
    except (UsageError, ControlError):
        return None


def tcp_port(addresses: Iterable[str]) -> int | None:
    """Of the first multiaddress that has one and leads through no relay."""
    for address in addresses:
        parts = address.split("/")
        if len(parts) > 4 and parts[3] == "tcp" and parts[4].isdecimal() and not is_relayed(address):
            return int(parts[4])
    return None


def lock_holder(home: Path) -> int | None:
    """The process that has a home in use; None when none has."""
    try:
        descriptor = os.open(home / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(ValueError):
            return int(os.pread(descriptor, 32, 0).decode(errors="replace").strip())
        return None
    finally:
        os.close(descriptor)
    return None


def short_examination(home: Path, run: RunConfig, device: str) -> list[Finding]:
    """What can be checked in a tenth of a second without a network; a peer does so when it starts.

    The training step is left to accelerators here: their drivers break far more often than processors do.
    """
    findings = [
        judge_clock_is_set(clock.wall_s()),
        judge_disk(measure_disk(home, run, writes=False)),
        judge_versions(installed_versions(), version_conflicts(), {}),
    ]
    if device != "cpu":
        findings.append(judge_step(measure_step(device), KNOWN_LOSSES))
    return findings
