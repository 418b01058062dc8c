"""Where a slice stands: its newest certified version, and which of two rival ones a peer follows."""

from dataclasses import dataclass

from p2ptrain.ids import GENESIS, Digest, PeerId, Version
from p2ptrain.wire.messages import Certificate


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The newest certified version of a slice; version 0 needs no certificate."""

    version: Version = GENESIS
    value_hash: Digest | None = None
    epoch: int = 0
    owners: tuple[PeerId, ...] = ()
    """Who decides the next version."""
    tokens: int = 0

    @classmethod
    def of(cls, certificate: Certificate) -> "Head":
        """The head that a certificate proves."""
        value = certificate.value
        return cls(
            version=value.version,
            value_hash=value.value_hash,
            epoch=certificate.ballot.epoch,
            owners=value.owners,
            tokens=value.tokens,
        )

    def outranks(self, other: "Head") -> bool:
        """Whether a peer that holds ``other`` goes over to this head, be it newer or a rival of a lost majority's time.

        The written rule of rival branches: more tokens, then version, then hash (decision 0011). Both count tokens
        from version 0, so that those before the fork cancel out; along one branch none of them goes down.
        The epoch says nothing here: whoever is cut off and goes on alone has a higher one than the many who stayed.
        """
        return self._rank > other._rank

    @property
    def _rank(self) -> tuple[int, int, str]:
        return (self.tokens, self.version, self.value_hash or "")
