"""What every part of the swarm needs of this peer: who it is, what the run fixes, and how to reach others."""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from p2ptrain import clock
from p2ptrain.config.schema import ExchangeConfig
from p2ptrain.events import EventBus
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import PeerId, RunId, SliceId, Version, fragment_index, slice_of
from p2ptrain.swarm.address_book import AddressBook
from p2ptrain.swarm.certificates import check_certificate
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.head import Head
from p2ptrain.swarm.listing import is_of_now, num_peers
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.swarm.round_commands import Promise
from p2ptrain.swarm.state import OuterRule, OwnedState, PublishedState
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.messages import Accepted, Certificate, Entrust, RoundMessage, Vote


class Listener(Protocol):
    """Who is told what the swarm decided: the peer, which passes it on to training and to the disk."""

    def cut_off_wanted(self, slice_id: SliceId, within_s: float) -> None:
        """Other owners are ready; end the inner steps within this time."""

    def round_settled(self, slice_id: SliceId, beside: Version) -> None:
        """The round that this peer contributed to was committed or is void.

        Args:
            slice_id: whose.
            beside: version of the common part that another owner's same cut-off went into, the highest of all that
                told it; ``GENESIS`` if none did.
        """

    def slice_moved(self, slice_id: SliceId) -> None:
        """A slice, owned or not, is at a new version."""

    def slices_changed(self, trained: frozenset[SliceId]) -> None:
        """Train these slices from the next round on, and no others; all of them are owned."""

    def is_training(self, slice_id: SliceId) -> bool:
        """Whether a slice is still trained, or a contribution to it is on its way."""

    def past_of(self, slice_id: SliceId) -> "Past":
        """What this peer last promised and voted for as an owner of the slice, from its disk."""

    def initial_state(self, slice_id: SliceId) -> OwnedState:
        """Version 0 of a slice, computed from the run's seed; called in a thread."""

    def save_promise(self, slice_id: SliceId, promise: Promise) -> None:
        """Put the ballot that we take part in on disk before we say so.

        Called in a worker thread, one at a time for a slice.
        """

    def save_accepted(self, slice_id: SliceId, accepted: Accepted, averages: Sequence[bytes | memoryview]) -> None:
        """Put what we are about to vote for, and its averages, on disk before the vote leaves.

        A crash must neither make us vote twice nor take away the bytes of a value that may be decided. Called in a
        worker thread, one at a time for a slice.
        """


class Caller(Protocol):
    """Asks and tells others (``swarm.calls``); a peer that cannot be reached is an outcome, not an error."""

    async def deliver(self, peer: PeerId, message: RoundMessage) -> bool:
        """Whether the peer took the message.

        Raises:
            PeerUnreachable: it may never have heard of it.
        """

    async def newer_certificates(self, peer: PeerId, have: Mapping[SliceId, int]) -> list[Certificate]:
        """The peer's certificates after those versions, checked; empty when it has none or cannot be reached."""

    async def decided_otherwise(self, peer: PeerId, slice_id: SliceId, head: Head) -> bool:
        """Whether the peer knows that another value was decided for this version on the branch that it follows."""

    async def entrust(self, owner: PeerId, request: Entrust) -> bool:
        """Whether the owner has a place for us, or takes what we hand over.

        Raises:
            PeerUnreachable: it may never have heard of it.
        """

    async def tell_constituent(
        self, peer: PeerId, slice_id: SliceId, version: Version, *, cut_off_within_s: float = 0.0, tokens: int = 0
    ) -> bool:
        """Ask a holder that has a place with us for its work, or tell it what has become of it; whether it is ours.

        Args:
            peer: the holder.
            slice_id: the slice.
            version: that the round would commit.
            cut_off_within_s: it is to end its inner steps within so long; 0 asks for nothing.
            tokens: of our contribution, which its work is part of; 0: of none so far.

        Raises:
            PeerUnreachable: it may never have heard of it.
        """


@dataclass(kw_only=True)
class Context:
    """This peer, its run and its connections."""

    run: RunId
    identity: Identity
    exchange: ExchangeConfig
    quorum: int = 1
    """Owners without whom no version of a slice is committed."""
    numel: Mapping[SliceId, int]
    """Parameters of every slice of the run, or where there are fragments of every fragment."""
    outer: Callable[[SliceId], OuterRule]
    node: Libp2pNode
    blobs: BlobExchange
    events: EventBus
    listener: Listener
    book: AddressBook
    """Where others were last seen."""
    admits: Callable[[PeerId, str], bool] = lambda peer, invite: True
    """Whether the run's door lets a peer in that shows this invitation; claims have been through it."""
    was_admitted: Callable[[PeerId, str], bool] = lambda peer, invite: True
    """Whether it ever did, as far as is known."""
    invite: str = ""
    """Our own invitation."""
    caller: Caller = field(init=False)
    """Set by the Swarm that this context is made for."""
    announce: Callable[[SliceId], None] = field(init=False)
    """Spreads the news of a commit of a slice; set by the Swarm as well."""
    claims: Mapping[PeerId, Claim] = field(default_factory=dict)
    """The live claims as of the last look at the directory."""
    halvings: int = 0
    """How often the swarm is halved to get to those that are listed in the directory, see ``listing``; 0: all are."""
    is_listed: bool = True
    """Whether this peer is one of them."""

    @property
    def me(self) -> PeerId:
        """This peer's id."""
        return self.identity.peer_id

    def checked(self, certificate: Certificate, slices: Collection[SliceId]) -> Certificate:
        """The certificate, if a majority of its members signed it, with what it takes to prove that they were let in.

        Raises:
            BadRecord: as ``check_certificate``.
        """
        check_certificate(certificate, self.run, slices, self.quorum)
        return replace(certificate, votes=tuple(map(self.with_invite, certificate.votes)))

    def with_invite(self, vote: Vote) -> Vote:
        """A vote, with the invitation that its peer shows in its claim if it came with none that is good.

        Anybody could leave it out, or take it out on the way, and those who come later could not believe the vote.
        """
        claim = self.claims.get(vote.peer)
        if claim is None or self.was_admitted(vote.peer, vote.invite):
            return vote
        return replace(vote, invite=claim.invite)

    def bounds(self, slice_id: SliceId) -> list[tuple[int, int]]:
        """Start and stop of the slice's parts."""
        return part_bounds(self.numel[slice_id], self.exchange.part_elements)

    def line_mbps(self, slice_id: SliceId) -> tuple[float, float]:
        """What of our line, up and down, a slice gets while all that is due at once is on its way; 0 is not known.

        As its parameters' share: up of what we own, down of the whole model, since the others' updates come as well.
        """
        together = [one for one in self.numel if fragment_index(one) == fragment_index(slice_id)]
        owned = self.claims[self.me].ready if self.me in self.claims else ()
        due = sum(self.numel[one] for one in together if slice_of(one) in owned or one == slice_id)
        share, share_of_all = (self.numel[slice_id] / all_of for all_of in (due, sum(self.numel[o] for o in together)))
        return self.node.uplink_mbps * share, self.node.downlink_mbps * share_of_all

    def holders(self, slice_id: SliceId) -> frozenset[PeerId]:
        """Peers with a live claim that hold the slice's state as owners.

        Not those that we do not listen to at present: whoever waited for them would wait in vain.
        """
        is_out, claimed = self.node.door.is_out, slice_of(slice_id)
        return frozenset(peer for peer, claim in self.claims.items() if claimed in claim.ready and not is_out(peer))

    def num_peers(self, slice_id: SliceId | None = None) -> int:
        """How many take part, or hold a slice, by estimate where not all are listed."""
        wall_s = clock.wall_s()
        counted = [c for c in self.claims.values() if is_of_now(c, wall_s, self.exchange.lease_s)]
        return num_peers(c for c in counted if slice_id is None or slice_of(slice_id) in c.ready)

    def may_ask_listed(self) -> bool:
        """Whether it is the turn of the listed peers to be asked something that everybody knows.

        Who is not listed asks others of them mostly, so that the few that are listed are not asked by everybody.
        """
        return self.is_listed or not self.unlisted or random.random() < 0.5**self.halvings  # noqa: S311 - no secret

    @property
    def unlisted(self) -> list[PeerId]:
        """Peers that we have heard of and that the directory did not show when we last looked."""
        return [peer for peer in self.book.contacts if peer not in self.claims]

    def fragments(self, slices: Collection[SliceId]) -> frozenset[SliceId]:
        """What of these slices is agreed on: their fragments, or themselves."""
        return frozenset(slice_id for slice_id in self.numel if slice_of(slice_id) in slices)

    def donors(self, first: Iterable[PeerId], slice_id: SliceId) -> Sequence[PeerId]:
        """Whom to ask for a slice's bytes: ``first``, then its owners, then everybody else; each once, never us."""
        order = [*first, *sorted(self.holders(slice_id)), *sorted(self.claims)]
        return [peer for peer in dict.fromkeys(order) if peer != self.me]


@dataclass(frozen=True, slots=True)
class Past:
    """What an owner said about the next version of a slice before it was stopped, from its disk."""

    promise: Promise | None = None
    accepted: Accepted | None = None
    averages: Sequence[bytes | memoryview] = ()
    """Of the accepted value, part by part."""


@dataclass(frozen=True, slots=True)
class Replica:
    """What this peer holds of one slice: its published weights always, the owners' state when it owns the slice."""

    certificate: Certificate | None
    """None at version 0."""
    published: PublishedState
    owned: OwnedState | None
