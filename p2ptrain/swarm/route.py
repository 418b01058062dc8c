"""How to reach a newer version with the fewest bytes: by the rounds that were missed, or by the state itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from p2ptrain.swarm.state import owned_blob_bytes
from p2ptrain.wire.messages import Certificate


@dataclass(frozen=True, slots=True)
class Route:
    """The two ways to the newest certificate of an unbroken chain, in bytes."""

    replay_bytes: int
    """Of every missed round: its averages for an owner, its update for everybody else."""
    whole_bytes: int
    """Published weights, and for an owner anchor and momentum."""

    @property
    def is_replay(self) -> bool:
        """Whether to replay: on a tie, too, since who replays can pass the rounds on."""
        return self.replay_bytes <= self.whole_bytes


def route(missed: Sequence[Certificate], numel: int, *, is_owner: bool) -> Route:
    """Bytes of both ways.

    Args:
        missed: certificates from the version after ours on, without a gap.
        numel: parameters of the slice.
        is_owner: whether the owners' state is wanted.
    """
    values = [certificate.value for certificate in missed]
    if is_owner:
        replay = sum(result.average.size_bytes for value in values for result in value.results)
    else:
        replay = sum(value.update.size_bytes for value in values)
    return Route(replay_bytes=replay, whole_bytes=2 * numel + (owned_blob_bytes(numel) if is_owner else 0))
