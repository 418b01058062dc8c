"""What a round message must look like to be of this slice at all, before anything of it is kept.

A member of the group may be hostile too: without these checks it could make the others hold averages of parts that do
not exist, named by crowds that do not exist either. Pure.
"""

from collections.abc import Collection

from p2ptrain.errors import BadMessage
from p2ptrain.wire.messages import (
    Committed,
    Contribution,
    Offer,
    PartResult,
    Plan,
    Propose,
    Ready,
    RoundMessage,
    Value,
)


def check_plausible(message: RoundMessage, num_parts: int, max_owners: int) -> None:
    """Return if the message's parts and names fit a slice of ``num_parts`` parts and a group of ``max_owners``.

    Guests contribute beside the message's members, but together they are no more than a group may have.

    Raises:
        BadMessage: naming what does not fit.
    """
    members = message.ballot.members
    most = max(len(members), max_owners)
    match message.body:
        case Ready(contribution, accepted):
            if contribution:
                _check_contributions([contribution], most, num_parts)
            if accepted:
                _check_value(accepted.value, num_parts)
        case Offer(contribution) if contribution:
            _check_contributions([contribution], most, num_parts)
        case Plan(_, contributions, reducers, checkers):
            _check_contributions(contributions, most, num_parts)
            if len(reducers) != num_parts or len(checkers) not in (0, num_parts):
                raise BadMessage(f"a plan of {len(reducers)}, {len(checkers)} parts for a slice of {num_parts}")
        case PartResult(part, _, contributors):
            if part >= num_parts or not 0 < len(set(contributors)) == len(contributors) <= most:
                raise BadMessage(f"an average of part {part} of {num_parts}, from {len(contributors)} contributors")
        case Propose(value):
            _check_value(value, num_parts)
        case Committed(certificate):
            _check_value(certificate.value, num_parts)


def _check_contributions(contributions: Collection[Contribution], most: int, num_parts: int) -> None:
    for contribution in contributions:
        if len(contribution.parts) != num_parts:
            raise BadMessage(f"a contribution of {len(contribution.parts)} parts for a slice of {num_parts}")
    names = {contribution.peer for contribution in contributions}
    if not len(names) == len(contributions) <= most:
        raise BadMessage(f"{len(contributions)} contributions of {len(names)} peers, where {most} may contribute")


def _check_value(value: Value, num_parts: int) -> None:
    if len(value.results) != num_parts:
        raise BadMessage(f"a value of {len(value.results)} parts for a slice of {num_parts}")
