"""One certified version further, from what its certificate names: what comes out must have the certified digests. Pure.

An owner computes the outer step from the averages; everybody else adds the update to the published weights.
"""

from collections.abc import Sequence

from p2ptrain.config.schema import Codec
from p2ptrain.errors import BadMessage
from p2ptrain.swarm.context import Replica
from p2ptrain.swarm.state import OuterRule, PublishedState, StagedState, outer_step
from p2ptrain.wire.messages import Value


def owner_step(
    replica: Replica,
    value: Value,
    averages: Sequence[bytes | memoryview],
    bounds: Sequence[tuple[int, int]],
    codec: Codec,
    rule: OuterRule,
) -> StagedState:
    """The owners' state of the next version.

    Args:
        replica: with the owners' state of the version before.
        value: of the next one's certificate.
        averages: per part its encoded average.
        bounds: per part its first and last + 1 element.
        codec: the run's encoding.
        rule: the run's outer optimizer.

    Raises:
        BadMessage: other digests than certified come out.
    """
    assert replica.owned is not None
    staged = outer_step(replica.owned, replica.published, averages, bounds, codec, rule)
    _check(staged.owned.digest == value.digest, value)
    _check(staged.published.digest == value.published_digest, value)
    return staged


def follower_step(replica: Replica, value: Value, update: bytes | memoryview, codec: Codec) -> PublishedState:
    """The published weights of the next version.

    Args:
        replica: at the version before.
        value: of the next one's certificate.
        update: encoded.
        codec: the run's encoding.

    Raises:
        BadMessage: another digest than certified comes out.
    """
    published = replica.published.moved(update, codec)
    _check(published.digest == value.published_digest, value)
    return published


def _check(is_certified: bool, value: Value) -> None:
    if not is_certified:
        raise BadMessage(f"slice {value.slice} v{value.version} comes out with other digests than certified")
