"""The model as a peer has it on disk: for generating text, exporting and evaluating, without a swarm."""

from p2ptrain.data.tokenizer import Tokenizer, check_tokenizer_file, load_tokenizer
from p2ptrain.errors import DataError, HomeError
from p2ptrain.ids import SliceId
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.node.home import Home
from p2ptrain.node.rounds_on_disk import replay_rounds
from p2ptrain.node.saved_state import load_replicas
from p2ptrain.swarm.context import Replica
from p2ptrain.wire.codec import Float32, bf16_to_float32

_TRIES = 5
"""To read what a running peer does not replace meanwhile; what was read otherwise is some rounds older."""


def load_trained(home: Home) -> Transformer:
    """The model with the peer's last committed weights: its own slices' anchors, and others' published weights.

    Raises:
        HomeError: the checkpoint is missing, corrupt or of another run, or lacks a slice.
    """
    plan = SlicePlan.of(home.run.model, home.run.slicing)
    newest = _newest(home, plan)
    model = Transformer(home.run.model, plan, owned=frozenset())
    model.load({slice_id: _values(newest[slice_id]) for slice_id in plan.slice_ids})
    return model


def _newest(home: Home, plan: SlicePlan, tries: int = _TRIES) -> dict[SliceId, Replica]:
    written = _written_ns(home)
    found = replay_rounds(home, plan, _checkpoint(home, plan))
    # While we read, its peer may have written the next one and dropped the rounds that led there.
    return found if _written_ns(home) == written or tries == 1 else _newest(home, plan, tries - 1)


def _written_ns(home: Home) -> int:
    return home.checkpoint_path.stat().st_mtime_ns if home.checkpoint_path.exists() else 0


def _checkpoint(home: Home, plan: SlicePlan) -> dict[SliceId, Replica]:
    saved = load_replicas(home, refetch=False)
    if not home.checkpoint_path.exists():
        raise HomeError(f"home {home.path} has no checkpoint yet; wait until its peer has saved one")
    for slice_id in plan.slice_ids:
        found = saved.get(slice_id)
        if found is None or found.published.bits.size != plan.numel(slice_id):
            what = (
                f"has {found.published.bits.size} elements instead of {plan.numel(slice_id)} for" if found else "lacks"
            )
            raise HomeError(
                f"{home.checkpoint_path} {what} slice {slice_id}; let the peer run until it has fetched all slices"
            )
    return saved


def load_own_tokenizer(home: Home) -> Tokenizer:
    """The tokenizer of the home's run.

    Raises:
        DataError: the home's copy is missing or was changed.
    """
    if not home.run.data.tokenizer:
        return load_tokenizer(home.run, b"")
    file = home.tokenizer_file()
    if not file:
        raise DataError(f"{home.tokenizer_path} is missing; start the peer again, which fetches it")
    check_tokenizer_file(home.run.data, file, origin=str(home.tokenizer_path))
    return load_tokenizer(home.run, file)


def _values(replica: Replica) -> Float32:
    return replica.owned.anchor if replica.owned else bf16_to_float32(replica.published.bits)
