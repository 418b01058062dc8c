"""Where a slice stands: its newest certified version, and which of two rival ones a peer follows."""

from collections.abc import Collection
from dataclasses import dataclass

from p2ptrain.ids import GENESIS, Digest, PeerId, Version
from p2ptrain.wire.messages import Certificate, Contribution

_MOST = 2**63 - 1
"""What liars may add up to; it must still fit into a certificate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The newest certified version of a slice; version 0 needs no certificate."""

    version: Version = GENESIS
    value_hash: Digest | None = None
    epoch: int = 0
    owners: tuple[PeerId, ...] = ()
    """Who decides the next version."""
    tokens: int = 0
    weight: int = 0

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
            weight=value.weight,
        )

    def sums_with(self, contributions: Collection[Contribution]) -> tuple[int, int]:
        """Tokens and weight of the next version, if these contribute to it."""
        tokens = sum(c.tokens for c in contributions)
        return min(self.tokens + tokens, _MOST), min(self.weight + tokens * len(contributions), _MOST)

    def outranks(self, other: "Head") -> bool:
        """Whether a peer that holds ``other`` goes over to this head, be it newer or a rival of a lost majority's time.

        The written rule of rival branches: more weight, then version, then hash (decision 0011). Both are weighed
        from version 0, so that what was before the fork cancels out; along one branch none of the three goes down.
        The epoch says nothing here: whoever is cut off and goes on alone has a higher one than the many who stayed.
        """
        return self._rank > other._rank

    @property
    def _rank(self) -> tuple[int, int, str]:
        return (self.weight, self.version, self.value_hash or "")
