"""The last rounds of every slice on disk, so that a peer that restarts can pass on rounds and not only states.

One file a version, ``rounds/<slice>.<version>.bin``: the length of the certificate (8 bytes, little endian), the
certificate, and the blobs that it names as far as the peer has them: averages in the order of parts, then the update.
Whatever a crash leaves is checked against the certificate's hashes, and a damaged file is of no use. Those that came
after the checkpoint (``node/rounds_since.py``) are synced, and a peer that starts computes its newest state with them.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2ptrain.config.schema import RunConfig
from p2ptrain.errors import BadMessage, BadRecord, HomeError, StorageError
from p2ptrain.ids import Digest, SliceId, Version
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.atomic_file import replace_file
from p2ptrain.node.home import Home
from p2ptrain.swarm.certificates import check_certificate
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.history import PastRound
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.swarm.replay import follower_step, owner_step
from p2ptrain.training.outer_step import outer_rule
from p2ptrain.wire.blob_store import OnDisk
from p2ptrain.wire.messages import BlobRef, Certificate

_LENGTH_BYTES = 8
_NAME = re.compile(r"(?P<slice>[a-z0-9.]+)\.(?P<version>\d{1,12})\.bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundFile:
    """A file of this folder."""

    path: Path
    slice: SliceId
    version: Version


def round_files(home: Home) -> list[RoundFile]:
    """All rounds on disk, oldest version first."""
    found = []
    for path in home.rounds_path.glob("*.bin"):
        if match := _NAME.fullmatch(path.name):
            version = Version(int(match["version"]))
            found.append(RoundFile(path=path, slice=SliceId(match["slice"]), version=version))
    return sorted(found, key=lambda file: (file.version, file.slice))


def save_rounds(
    home: Home,
    rounds: Mapping[SliceId, Sequence[PastRound]],
    *,
    unwritten: Callable[[SliceId], Collection[Version]] = lambda _: (),
    is_synced: bool = False,
) -> list[tuple[SliceId, Digest, OnDisk]]:
    """Write what is newer than the newest file of its slice.

    What lies between, and is gone, was dropped for want of room, and is not written again.

    Args:
        home: the peer's folder.
        rounds: of each slice, those that its history has, oldest first.
        unwritten: versions of a slice to write in any case: a file of that name is of another branch, or poorer.
        is_synced: a power cut may not take away what is written now.

    Returns:
        By slice and hash of the value where the blobs of what was written now lie, one after the other.

    Raises:
        StorageError: the disk is full or failing.
    """
    try:
        home.rounds_path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{home.rounds_path} cannot be made: {error.strerror}; check the disk") from error
    on_disk, written = round_files(home), []
    for slice_id, past in rounds.items():
        newest = max((file.version for file in on_disk if file.slice == slice_id), default=0)
        for one in past:
            value = one.certificate.value
            # Without blobs it is on disk as it should be: only what has left memory for its file has none.
            if value.version > newest or (one.blobs and value.version in unwritten(slice_id)):
                written.append((slice_id, value.value_hash, _write(home, slice_id, one, is_synced=is_synced)))
    return written


def drop_rounds(home: Home, is_kept: Callable[[SliceId, Version], bool]) -> None:
    """Remove files as far as the disk lets us."""
    for file in round_files(home):
        if not is_kept(file.slice, file.version):
            with contextlib.suppress(OSError):
                file.path.unlink()


def replay_rounds(
    home: Home, plan: SlicePlan, replicas: Mapping[SliceId, Replica], *, refetch: bool = False
) -> dict[SliceId, Replica]:
    """The replicas as far as the rounds on disk lead on from them.

    Args:
        home: the peer's folder.
        plan: how its run's model is cut.
        replicas: what its checkpoint holds.
        refetch: take what the disk does not give back for damaged, instead of refusing to start.

    Raises:
        HomeError: the disk does not give a file back.
    """
    newest = dict(replicas)
    for file in round_files(home):
        replica = newest.get(file.slice)
        if replica is None or file.version != replica.published.version + 1:
            continue
        try:
            one = _read(file.path)
        except OSError as error:
            if refetch:
                continue
            raise HomeError(
                f"{file.path} cannot be read: {error.strerror}; check the disk, or go on from the version before it,"
                " and fetch what follows from others, with: p2ptrain peer --refetch"
            ) from error
        if one is not None:
            # A round that does not fit is of a branch that was left: what comes after it does not fit either.
            with contextlib.suppress(BadMessage, BadRecord):
                check_certificate(one.certificate, home.run_id, [file.slice], home.run.slicing.quorum)
                newest[file.slice] = _moved(home.run, plan.numel(file.slice), replica, one)
    return newest


def load_rounds(home: Home, replicas: Mapping[SliceId, Replica]) -> dict[SliceId, list[PastRound]]:
    """By slice the unbroken chain of rounds that led to the version of our replica, oldest first; else nothing.

    As many as a history takes. Files that are damaged, or belong to another branch or a later version, stay until the
    next checkpoint is written.
    """
    for unfinished in home.rounds_path.glob(".*"):  # by a crash
        with contextlib.suppress(OSError):
            unfinished.unlink()
    chains: dict[SliceId, list[PastRound]] = {}
    for file in reversed(round_files(home)):
        chain = chains.setdefault(file.slice, [])
        if len(chain) == home.run.exchange.history:
            continue
        wanted = chain[0].certificate.value.previous if chain else _newest_hash(replicas.get(file.slice))
        with contextlib.suppress(OSError):  # others have it, too
            if (one := _read(file.path)) is not None and one.certificate.value.value_hash == wanted:
                chain.insert(0, one)
    return {slice_id: chain for slice_id, chain in chains.items() if chain}


def _moved(run: RunConfig, numel: int, replica: Replica, one: PastRound) -> Replica:
    """The replica one version further.

    Raises:
        BadMessage: the round does not follow it, or lacks blobs.
    """
    value, codec = one.certificate.value, run.exchange.codec
    if value.previous != _newest_hash(replica) or not one.blobs:
        raise BadMessage(f"slice {value.slice} v{value.version} does not follow v{replica.published.version}")
    if replica.owned is None:
        return Replica(one.certificate, follower_step(replica, value, one.blobs[-1], codec), None)
    bounds = part_bounds(numel, run.exchange.part_elements)
    rule = outer_rule(run.outer, run.rounds, value.slice)
    try:
        staged = owner_step(replica, value, one.blobs[:-1], bounds, codec, rule)
    except BadMessage:  # the slice was taken over from its published weights, and the owners went on from there
        from_published = replace(replica, owned=replica.published.taken_over())
        staged = owner_step(from_published, value, one.blobs[:-1], bounds, codec, rule)
    return Replica(one.certificate, staged.published, staged.owned)


def _newest_hash(replica: Replica | None) -> str | None:
    return replica.certificate.value.value_hash if replica and replica.certificate else None


def _write(home: Home, slice_id: SliceId, one: PastRound, *, is_synced: bool) -> OnDisk:
    certificate, version = one.certificate.encode(), one.certificate.value.version
    chunks = [len(certificate).to_bytes(_LENGTH_BYTES, "little"), certificate, *one.blobs]
    path = home.rounds_path / f"{slice_id}.{version}.bin"
    offset, size_bytes = _LENGTH_BYTES + len(certificate), sum(map(len, one.blobs))
    replace_file(path, chunks, size_bytes=offset + size_bytes, is_synced=is_synced)
    return OnDisk(path, offset, size_bytes)


def _read(path: Path) -> PastRound | None:
    """The round in a file; None if it is damaged, or was dropped meanwhile.

    Raises:
        OSError: the disk does not give it back.
    """
    try:
        view = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    try:
        length = int.from_bytes(view[:_LENGTH_BYTES], "little")
        certificate = Certificate.decode(bytes(view[_LENGTH_BYTES:][:length]))
        value = certificate.value
        blobs = _split(view[_LENGTH_BYTES:][length:], [r.average for r in value.results], value.update)
    except BadMessage:
        return None
    return PastRound(certificate, blobs, OnDisk(path, _LENGTH_BYTES + length, sum(map(len, blobs))))


def _split(rest: memoryview, averages: Iterable[BlobRef], update: BlobRef) -> list[memoryview]:
    """The blobs that follow a certificate: all, the update alone, or none.

    Raises:
        BadMessage: they are not those that the certificate names.
    """
    if not rest:
        return []
    refs = [update] if len(rest) == update.size_bytes else [*averages, update]
    blobs = []
    for ref in refs:
        blob, rest = rest[: ref.size_bytes], rest[ref.size_bytes :]
        if BlobRef.of(blob) != ref:
            raise BadMessage("a blob is not the one that its certificate names")
        blobs.append(blob)
    if rest:
        raise BadMessage(f"{len(rest)} bytes too many")
    return blobs
