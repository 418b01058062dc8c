"""A peer's state on disk in the swarm's terms: replicas in the checkpoint, and each slice's last vote beside it."""

from collections.abc import Iterable, Mapping, Sequence

from p2ptrain.errors import BadMessage, HomeError
from p2ptrain.ids import PeerId, SliceId, Version
from p2ptrain.node import checkpoint
from p2ptrain.node.atomic_file import replace_file
from p2ptrain.node.home import Home
from p2ptrain.swarm.address_book import AddressBook
from p2ptrain.swarm.context import Past, Replica
from p2ptrain.swarm.round_commands import Promise
from p2ptrain.swarm.state import OwnedState, PublishedState
from p2ptrain.wire.messages import Accepted, Ballot, BlobRef, Certificate

_LENGTH_BYTES = 8


def save_replicas(home: Home, replicas: Mapping[SliceId, Replica]) -> None:
    """Replace the checkpoint; on disk when this returns.

    Raises:
        StorageError: the disk is full or failing; the old checkpoint is as it was.
    """
    certificates = {s: r.certificate.encode() if r.certificate else b"" for s, r in replicas.items()}
    checkpoint.save(
        home.checkpoint_path,
        checkpoint.Checkpoint(
            run=home.run_id,
            owned={
                s: checkpoint.OwnedTensors(
                    version=r.owned.version,
                    anchor=r.owned.anchor,
                    momentum=r.owned.momentum,
                    certificate=certificates[s],
                )
                for s, r in replicas.items()
                if r.owned
            },
            published={
                s: checkpoint.PublishedTensors(
                    version=r.published.version, weights=r.published.bits, certificate=certificates[s]
                )
                for s, r in replicas.items()
            },
        ),
    )


def load_replicas(home: Home, *, refetch: bool) -> dict[SliceId, Replica]:
    """What the checkpoint holds; empty when there is none.

    Args:
        home: the peer's folder.
        refetch: put a corrupt checkpoint aside instead of refusing to start.

    Raises:
        HomeError: the checkpoint is corrupt.
    """
    try:
        saved = checkpoint.load(home.checkpoint_path, home.run_id)
    except HomeError:
        if not refetch:
            raise
        checkpoint.put_aside(home.checkpoint_path)
        saved = None
    if saved is None:
        return {}
    return {slice_id: _replica(saved, slice_id) for slice_id in saved.published}


def save_known_peers(home: Home, book: AddressBook) -> None:
    """Replace what is known of others' addresses; not synced, because it can be learned anew."""
    data = book.to_json().encode()
    replace_file(home.known_peers_path, [data], size_bytes=len(data), is_synced=False)


def load_known_peers(home: Home, me: PeerId) -> AddressBook:
    """Where other peers were; empty when that was never saved, or the file is damaged."""
    try:
        return AddressBook.from_json(me, home.known_peers_path.read_text(errors="replace"))
    except OSError:
        return AddressBook(me)


def save_accepted(home: Home, slice_id: SliceId, accepted: Accepted, averages: Sequence[bytes | memoryview]) -> None:
    """Remember what we are about to vote for, with the averages that it names; on disk when this returns.

    The file is the length of the value's encoding (8 bytes, little endian), the encoding, and the averages in the
    order of parts.

    Raises:
        StorageError: the disk is full or failing; the earlier vote is as it was.
    """
    value = Certificate(accepted.value, accepted.ballot, ()).encode()
    chunks = [len(value).to_bytes(_LENGTH_BYTES, "little"), value, *averages]
    replace_file(home.accepted_path(slice_id), chunks, size_bytes=sum(map(len, chunks)))


def save_promise(home: Home, slice_id: SliceId, promise: Promise) -> None:
    """Remember which ballot we take part in; on disk when this returns."""
    data = promise.version.to_bytes(8, "little") + promise.ballot.encode()
    replace_file(home.promise_path(slice_id), [data], size_bytes=len(data))


def load_past(home: Home, slices: Iterable[SliceId]) -> dict[SliceId, Past]:
    """What this peer last promised and voted for in the rounds of these slices.

    Raises:
        HomeError: a file is damaged.
    """
    return {slice_id: _load_past(home, slice_id) for slice_id in slices}


def _load_past(home: Home, slice_id: SliceId) -> Past:
    promise: Promise | None = None
    accepted: Accepted | None = None
    averages: tuple[memoryview, ...] = ()
    path = home.promise_path(slice_id)
    try:
        if path.exists():
            data = path.read_bytes()
            promise = Promise(Version(int.from_bytes(data[:8], "little")), Ballot.decode(data[8:]))
        path = home.accepted_path(slice_id)
        if path.exists():
            accepted, averages = _decode_accepted(path.read_bytes())
    except BadMessage as error:
        raise HomeError(
            f"{path} is damaged: {error}. Delete it if this peer has been stopped for longer than a round"
        ) from error
    return Past(promise, accepted, averages)


def _decode_accepted(data: bytes) -> tuple[Accepted, tuple[memoryview, ...]]:
    """A vote and its averages.

    Raises:
        BadMessage: the bytes are not those that were written.
    """
    view = memoryview(data)
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    vote = Certificate.decode(bytes(view[_LENGTH_BYTES:][:length]))
    rest = view[_LENGTH_BYTES:][length:]
    averages = []
    for result in vote.value.results:
        average, rest = rest[: result.average.size_bytes], rest[result.average.size_bytes :]
        if BlobRef.of(average) != result.average:
            raise BadMessage(f"average {result.part} is not the one that was voted for")
        averages.append(average)
    return Accepted(vote.ballot, vote.value), tuple(averages)


def _replica(saved: checkpoint.Checkpoint, slice_id: SliceId) -> Replica:
    published, owned = saved.published[slice_id], saved.owned.get(slice_id)
    return Replica(
        Certificate.decode(published.certificate) if published.certificate else None,
        PublishedState.of(published.version, published.weights),
        OwnedState.of(owned.version, owned.anchor, owned.momentum) if owned else None,
    )
