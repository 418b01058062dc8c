"""Votes and certificates: proof that a majority of the owners committed a version.

A vote is an Ed25519 signature over the ballot and the value's hash, so it counts in that ballot for that value only.
"""

from collections.abc import Callable, Collection

from p2ptrain.errors import BadRecord
from p2ptrain.identity.keys import Identity
from p2ptrain.identity.signing import Signed, sign, verify
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, short
from p2ptrain.wire.messages import Ballot, Certificate, Value, Vote

_CONTEXT = "vote"


def sign_vote(identity: Identity, ballot: Ballot, value: Value, invite: str = "") -> Vote:
    """This peer's vote for ``value`` in ``ballot``, with its invitation if the run asks for one."""
    return Vote(identity.peer_id, sign(identity, _CONTEXT, _statement(ballot, value.value_hash)).signature, invite)


def check_vote(vote: Vote, ballot: Ballot, value_hash: Digest) -> None:
    """Return if the vote is its peer's own.

    Raises:
        BadRecord: the signature is not the peer's for this ballot and value.
    """
    verify(Signed(body=_statement(ballot, value_hash), signer=vote.peer, signature=vote.signature), _CONTEXT)


def votes_needed(ballot: Ballot, quorum: int) -> int:
    """Votes that commit: those of a majority of the ballot's members, and no fewer than the manifest's quorum."""
    return max(ballot.majority, quorum)


def check_certificate(certificate: Certificate, run: RunId, slices: Collection[SliceId], quorum: int) -> None:
    """Return if a majority of the ballot's members signed the value, a quorum at least, and it is about our run.

    Raises:
        BadRecord: another run, an unknown slice, too few votes, or a vote that does not verify.
    """
    value, ballot = certificate.value, certificate.ballot
    if value.run != run or value.slice not in slices:
        raise BadRecord(f"certificate of slice {value.slice!a} of run {short(value.run)!a}, which is not ours")
    needed = votes_needed(ballot, quorum)
    voters = {vote.peer for vote in certificate.votes}
    if len(voters) != len(certificate.votes) or not voters <= set(ballot.members) or len(voters) < needed:
        raise BadRecord(
            f"certificate of slice {value.slice} v{value.version} has {len(voters)} valid voters"
            f" of {len(ballot.members)} members; {needed} are needed"
        )
    value_hash = value.value_hash
    for vote in certificate.votes:
        check_vote(vote, ballot, value_hash)


def check_admitted(certificate: Certificate, was_admitted: Callable[[PeerId, str], bool], quorum: int) -> None:
    """Return if as many as commit a version were let into the run when they signed a checked certificate.

    Keys are free, so whoever is let in alone could make up all other members. Those that an earlier certificate names
    as owners need no such proof; these are for the change of an epoch, and for what comes after a gap.

    Raises:
        BadRecord: too few were, as far as this peer knows; it may not have the newest guest list.
    """
    needed = votes_needed(certificate.ballot, quorum)
    admitted = sum(was_admitted(vote.peer, vote.invite) for vote in certificate.votes)
    if admitted < needed:
        value = certificate.value
        raise BadRecord(
            f"certificate of slice {value.slice} v{value.version} is not by owners that we know, and {admitted} of its"
            f" voters were let into this run; {needed} are needed"
        )


def _statement(ballot: Ballot, value_hash: Digest) -> bytes:
    members = ",".join(ballot.members)
    return f"{ballot.epoch}/{ballot.attempt}/{members}/{value_hash}".encode()
