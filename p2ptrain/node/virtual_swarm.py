"""A whole swarm in one process, without a network: the same functions as real peers, in the same order.

A virtual peer computes with the anchors of the slices that it owns and the published weights of the others, exactly as
``node.bridge`` does. What a network changes is left out: everybody's updates arrive after the ``overlap.delay_steps``
inner steps since the cut-off that the manifest allows, with 0 before the next one. Where the manifest has fragments,
what is called a slice below is one of them, and a round has as many turns (``node.trainer``).
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load, save

from p2ptrain.config.schema import RunConfig
from p2ptrain.data.corpus import Corpus
from p2ptrain.ids import COMMON, GENESIS, Digest, PeerId, SliceId, Version, fragment_index, numbered_slices, slice_of
from p2ptrain.model.initial_weights import initial_values
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.model.transformer import Transformer
from p2ptrain.swarm.delegation import whom_to_ask
from p2ptrain.swarm.electorate import drawn
from p2ptrain.swarm.error_feedback import (
    EncodedContribution,
    Residual,
    encode_contribution,
    keep_rounded_away,
    no_residual,
    split,
)
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.swarm.robust import add_work, combine
from p2ptrain.swarm.state import OwnedState, PublishedState, genesis, outer_step
from p2ptrain.training.evaluation import validation_loss
from p2ptrain.training.footing import Footing, Move, Snapshot, move, stretch_all
from p2ptrain.training.inner_loop import InnerLoop
from p2ptrain.training.outer_step import outer_rule
from p2ptrain.training.pseudo_gradient import pseudo_gradient
from p2ptrain.wire.codec import Float32, decode, encode

_FLOPS_PER_WEIGHT = 2
"""A multiplication and an addition for each weight and token, in each of the three products."""


Lie = Callable[[Float32], Float32]
"""What a peer sends in place of its pseudo-gradient."""
Carry = Literal["nothing", "outer state", "inner moments"]
"""What moves with a slice: the published weights that everybody has; anchor and outer momentum, too; or AdamW's moments
of the owner before beside them."""


@dataclass(slots=True)
class _Slice:
    """The slice as all its owners hold it."""

    owned: OwnedState
    published: PublishedState
    residuals: dict[PeerId, Residual]
    """Per owner what was rounded away from its contributions so far."""
    before: PublishedState | None = None
    """The published weights one version earlier, for those who look back."""
    owners: tuple[PeerId, ...] = ()
    """Who decided the last version: all, or of more than ``exchange.max_owners`` those whom the lot drew."""
    contained: frozenset[PeerId] = frozenset()
    """Whose work the last version contains."""
    placed: frozenset[PeerId] = frozenset()
    """Whose work it could have contained."""


class VirtualSwarm:
    """Peers that train together, round by round.

    Args:
        run: what all of them share.
        corpus: its text.
        owned: per peer the whole slices that it owns, the common part among them.
        lies: what some peers send instead of their pseudo-gradients.
        look_back: non-owners compute with a slice's published weights less this share of their last update: 0 as real
            peers do, 0.5 with the mean of the last two versions; below 0 looks ahead.
    """

    def __init__(
        self,
        run: RunConfig,
        corpus: Corpus,
        owned: Mapping[PeerId, frozenset[SliceId]],
        lies: Mapping[PeerId, Lie] | None = None,
        look_back: float = 0.0,
    ) -> None:
        self.run = run
        self.plan = SlicePlan.of(run.model, run.slicing)
        self._lies = dict(lies or {})
        self._look_back = look_back
        self.version: Version = GENESIS
        """Rounds committed."""
        self._corpus = corpus
        self._rules = {slice_id: outer_rule(run.outer, run.rounds, slice_id) for slice_id in self.plan.slice_ids}
        self._slices: dict[SliceId, _Slice] = {}
        for slice_id, initial in initial_values(run, self.plan).items():
            owners = [peer for peer in sorted(owned) if slice_of(slice_id) in owned[peer]]
            assert owners, f"slice {slice_id} has no owner"
            state, published = genesis(initial)
            self._slices[slice_id] = _Slice(state, published, dict.fromkeys(owners, self._no_residual(initial.size)))
        self._inner = {
            peer: InnerLoop(run, self.plan, slices, self.values(slices), corpus, peer)
            for peer, slices in ((peer, self.plan.fragments(owned[peer])) for peer in sorted(owned))
        }
        self._footings = {
            peer: {
                slice_id: Footing.on(state.owned.anchor, GENESIS)
                for slice_id, state in self._slices.items()
                if slice_id in inner.owned
            }
            for peer, inner in self._inner.items()
        }
        self._turn = 0
        self._unmerged: dict[PeerId, dict[SliceId, int]] = {peer: {} for peer in self._inner}
        """Slices whose last commit has not reached a peer's weights, with its inner steps since the cut-off."""
        self._whole = Transformer(run.model, self.plan, frozenset())

    @property
    def peers(self) -> list[PeerId]:
        """In the order in which their contributions are summed."""
        return list(self._inner)

    def train_round(self, inner_steps: Mapping[PeerId, int] | None = None, *, position: int | None = None) -> int:
        """Everybody's inner steps, then the next version of every slice.

        Args:
            inner_steps: of each peer; None is ``run.inner.steps`` for all. A peer without any contributes nothing.
            position: inner steps from the start of the run for the learning rate, where rounds differ in length.

        Returns:
            Tokens that all peers trained on.

        Raises:
            NonFiniteUpdate: training diverged.
            BadMessage: the outer step did.
        """
        turns, tokens = self.run.slicing.fragments, 0
        counts = dict.fromkeys(self._inner, self.run.inner.steps) if inner_steps is None else inner_steps
        for turn in range(turns):
            in_turn = {peer: n * (turn + 1) // turns - n * turn // turns for peer, n in counts.items()}
            tokens += self.train_turn(in_turn, position=position)
        return tokens

    def train_turn(self, inner_steps: Mapping[PeerId, int], *, position: int | None = None) -> int:
        """Everybody's inner steps before the next cut-off of the round, then the next version of what is cut off.

        Arguments, result and errors as of ``train_round``; ``position`` is the round's beginning.
        """
        tokens, delay_steps = 0, self.run.overlap.delay_steps
        cut = [slice_id for slice_id in self.plan.slice_ids if fragment_index(slice_id) == self._turn]
        for peer, inner in self._inner.items():
            unmerged, footings = self._unmerged[peer], self._footings[peer]
            before = {slice_id: inner.amplification_of(slice_id) for slice_id in inner.owned}
            inner.begin_round(self.version)
            stretch_all(footings, inner, before)
            for _ in range(inner_steps[peer]):
                self._merge(peer, [slice_id for slice_id, steps in unmerged.items() if steps >= delay_steps])
                step = inner.step(self.version, position=None if position is None else position + inner.inner_step)
                tokens += step.tokens
                footings.update({slice_id: footing.trained(step.tokens) for slice_id, footing in footings.items()})
                unmerged.update({slice_id: steps + 1 for slice_id, steps in unmerged.items()})
            self._merge(peer, [slice_id for slice_id in cut if slice_id in unmerged])
        for slice_id in cut:
            self._commit(slice_id)
        self._turn = (self._turn + 1) % self.run.slicing.fragments
        if self._turn == 0:
            self.version = Version(self.version + 1)
        for peer in self._inner:
            self._unmerged[peer] |= dict.fromkeys(cut, 0)
            if delay_steps == 0:
                self._merge(peer, cut)
        return tokens

    def exchange_slices(self, one: PeerId, other: PeerId, carry: Carry) -> None:
        """Between two rounds: two peers take over each other's numbered slices."""
        assert not any(self._unmerged.values()), "with overlap, what is under way would be lost"
        assert self.run.slicing.fragments == 1, "with fragments, what came after their cut-offs would be lost"
        before = {peer: self._inner[peer] for peer in (one, other)}
        memory = {slice_id: loop.moments(slice_id) for loop in before.values() for slice_id in loop.owned - {COMMON}}
        gains = {one: before[other].owned, other: before[one].owned}
        for peer, owned in gains.items():
            for slice_id in before[peer].owned - owned:
                del self._slices[slice_id].residuals[peer]
            for slice_id in owned - before[peer].owned:
                state = self._slices[slice_id]
                state.residuals[peer] = self._no_residual(state.owned.numel)
                if carry == "nothing" and len(state.residuals) == 1:
                    # Its only owner left, and the new one starts from what everybody has, as after a crash.
                    values = state.published.values
                    state.owned = OwnedState.of(state.owned.version, values, np.zeros_like(values))
            self._inner[peer] = before[peer].owning(owned)
            if carry == "inner moments":
                self._inner[peer].remember({s: memory[s] for s in owned - before[peer].owned if s in memory})
        for peer in gains:
            inner = self._inner[peer]
            for slice_id, values in self.values(inner.owned).items():
                inner.replace(slice_id, values)
            self._footings[peer] = {
                s: Footing.on(self._slices[s].owned.anchor, self._slices[s].owned.version) for s in inner.owned
            }

    def inner(self, peer: PeerId) -> InnerLoop:
        """The peer's model."""
        return self._inner[peer]

    def digest(self, slice_id: SliceId) -> Digest:
        """What the slice's owners would sign."""
        return self._slices[slice_id].owned.digest

    def published_digest(self, slice_id: SliceId) -> Digest:
        """The hash of what everybody else computes with."""
        return self._slices[slice_id].published.digest

    def values(self, owned: frozenset[SliceId]) -> dict[SliceId, Float32]:
        """What a peer with these slices computes with."""
        return {
            slice_id: state.owned.anchor if slice_id in owned else state.published.values
            for slice_id, state in self._slices.items()
        }

    def validation_loss(self, num_windows: int) -> float:
        """Loss of the anchors of all slices on held-out text, nats per token."""
        self._whole.load({slice_id: state.owned.anchor for slice_id, state in self._slices.items()})
        return validation_loss(self._whole, self._corpus, num_windows)

    def flops(self, tokens: int) -> float:
        """Floating point operations in products with weights when the peers share ``tokens`` evenly.

        For each token the forward pass and the input gradient see all matrices, the weight gradient the owned ones.
        Attention's own products are not counted: slicing does not change them.
        """
        matrices = {
            slice_id: sum(
                (region.stop - region.first) * math.prod(columns)
                for region in self.plan.regions(slice_id)
                if (columns := self.plan.shapes[region.tensor][1:])
            )
            for slice_id in self.plan.slice_ids
        }
        owned = [sum(matrices[slice_id] for slice_id in inner.owned) for inner in self._inner.values()]
        return _FLOPS_PER_WEIGHT * tokens * (2 * sum(matrices.values()) + sum(owned) / len(owned))

    def save(self) -> bytes:
        """Everything that the next rounds depend on, as a safetensors file."""
        tensors: dict[str, torch.Tensor] = {"version": torch.tensor(self.version)}
        for slice_id, state in self._slices.items():
            tensors[f"slice.{slice_id}.owned"] = torch.frombuffer(bytearray(state.owned.blob), dtype=torch.uint8)
            for name, published in (("published", state.published), ("before", state.before)):
                if published is not None:
                    tensors[f"slice.{slice_id}.{name}"] = torch.from_numpy(published.bits.view(np.int16).copy())
            for name, chosen in (("owners", state.owners), ("contained", state.contained), ("placed", state.placed)):
                tensors[f"slice.{slice_id}.{name}"] = torch.tensor([peer in chosen for peer in sorted(state.residuals)])
            for peer, residual in state.residuals.items():
                tensors[f"residual.{slice_id}.{peer}"] = torch.from_numpy(np.concatenate(residual))
        for peer, inner in self._inner.items():
            for name, value in inner.optimizer_state().items():
                tensors[f"adamw.{peer}.{name}"] = value
            for slice_id in self.plan.slice_ids:
                tensors[f"local.{peer}.{slice_id}"] = torch.from_numpy(inner.local_values(slice_id))
            for slice_id, footing in self._footings[peer].items():
                tensors[f"tokens.{peer}.{slice_id}"] = torch.tensor(footing.tokens)
                tensors[f"since.{peer}.{slice_id}"] = torch.tensor(footing.since)
            for slice_id, steps in self._unmerged[peer].items():
                tensors[f"unmerged.{peer}.{slice_id}"] = torch.tensor(steps)
                if slice_id in inner.owned:
                    sent = self._footings[peer][slice_id].snapshots[-1]
                    tensors[f"sent.{peer}.{slice_id}"] = torch.from_numpy(sent.values)
                    tensors[f"sent_tokens.{peer}.{slice_id}"] = torch.tensor(sent.tokens)
                    anchor = self._footings[peer][slice_id].anchor
                    tensors[f"anchor.{peer}.{slice_id}"] = torch.from_numpy(anchor.copy())
        return save(tensors)

    def restore(self, saved: bytes) -> None:
        """Go on where the swarm that gave ``saved``, made with the same arguments, was."""
        tensors = load(saved)
        self.version = Version(int(tensors["version"]))
        for slice_id, state in self._slices.items():
            state.owned = OwnedState.from_blob(memoryview(tensors[f"slice.{slice_id}.owned"].numpy().tobytes()))
            bits = tensors[f"slice.{slice_id}.published"].numpy().view(np.uint16)
            state.published = PublishedState.of(state.owned.version, bits)
            if (earlier := tensors.get(f"slice.{slice_id}.before")) is not None:
                state.before = PublishedState.of(Version(self.version - 1), earlier.numpy().view(np.uint16))
            state.owners = self._chosen(tensors[f"slice.{slice_id}.owners"], state)
            state.contained = frozenset(self._chosen(tensors[f"slice.{slice_id}.contained"], state))
            state.placed = frozenset(self._chosen(tensors[f"slice.{slice_id}.placed"], state))
            for peer in state.residuals:
                residual = tensors[f"residual.{slice_id}.{peer}"].numpy()
                state.residuals[peer] = split(residual, part_bounds(residual.size, self.run.exchange.part_elements))
        for peer, inner in self._inner.items():
            prefix = f"adamw.{peer}."
            inner.restore_optimizer(
                {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            )
            for slice_id in self.plan.slice_ids:
                inner.replace(slice_id, tensors[f"local.{peer}.{slice_id}"].numpy())
            self._unmerged[peer] = {
                s: int(tensors[f"unmerged.{peer}.{s}"])
                for s in self.plan.slice_ids
                if f"unmerged.{peer}.{s}" in tensors
            }
            inner.begin_round(Version(max(0, self.version - 1)))  # by whose amplification the weights are so far
            for slice_id in inner.owned:
                self._footings[peer][slice_id] = self._restored(peer, slice_id, tensors)

    def _commit(self, slice_id: SliceId) -> None:
        """What ``swarm.owner`` does in a round that nobody drops out of."""
        state, exchange = self._slices[slice_id], self.run.exchange
        codec, bounds = exchange.codec, part_bounds(state.owned.numel, exchange.part_elements)
        most, lot = exchange.max_owners, state.owned.digest
        state.owners = drawn(state.residuals, present=state.owners, most=most, lot=lot)
        delegates = self._delegates(state)
        sent: dict[PeerId, EncodedContribution] = {}
        weights: dict[PeerId, int] = {}
        for owner in state.owners:
            tokens, with_others = self._contribution(owner, slice_id, [p for p, d in delegates.items() if d == owner])
            sent |= with_others
            if tokens > 0:
                weights[owner] = tokens
        state.placed = frozenset([*state.owners, *delegates])
        for peer in state.residuals.keys() - state.placed:
            self._cut_off(peer, slice_id)
        assert weights, f"nobody trained slice {slice_id}"
        averages = []
        for number, (start, stop) in enumerate(bounds):
            arrived = {p: (t, decode(codec, sent[p].parts[number], stop - start)) for p, t in weights.items()}
            averages.append(encode(codec, combine(exchange.averaging, arrived).mean))
        staged = outer_step(state.owned, state.published, averages, bounds, codec, self._rules[slice_id])
        for peer, contribution in sent.items():
            state.residuals[peer] = keep_rounded_away(state.residuals[peer], contribution, range(len(bounds)))
        if self._look_back:
            state.before = state.published
        state.owned, state.published, state.contained = staged.owned, staged.published, frozenset(sent)

    def _contribution(
        self, owner: PeerId, slice_id: SliceId, constituents: Sequence[PeerId]
    ) -> tuple[int, dict[PeerId, EncodedContribution]]:
        """An owner's tokens with those of its constituents, and what it and each of them has sent."""
        state, exchange = self._slices[slice_id], self.run.exchange
        codec, bounds = exchange.codec, part_bounds(state.owned.numel, exchange.part_elements)
        sent: dict[PeerId, EncodedContribution] = {}
        handed: dict[PeerId, int] = {}
        for peer in constituents:
            tokens, gradient = self._cut_off(peer, slice_id)
            if tokens > 0:
                handed[peer] = tokens
                sent[peer] = encode_contribution(codec, gradient, state.residuals[peer], bounds)

        def part(peer: PeerId, index: int) -> Float32:
            start, stop = bounds[index]
            return decode(codec, sent[peer].parts[index], stop - start)

        tokens, gradient = self._cut_off(owner, slice_id)
        if handed and tokens > 0:
            brought, _ = add_work(gradient, tokens, handed, bounds, part)
            tokens += sum(handed[peer] for peer in brought)
            sent = {peer: sent[peer] for peer in brought}
        else:
            sent = {}
        if tokens > 0:
            sent[owner] = encode_contribution(codec, gradient, state.residuals[owner], bounds)
        return tokens, sent

    def _cut_off(self, peer: PeerId, slice_id: SliceId) -> tuple[int, Float32]:
        """Tokens and pseudo-gradient of what the peer contributes."""
        local, footing = self._inner[peer].local_values(slice_id), self._footings[peer][slice_id]
        self._footings[peer][slice_id] = footing.cut_off(local)
        gradient = pseudo_gradient(footing.anchor, local, self._inner[peer].amplification_of(slice_id))
        if peer in self._lies and footing.tokens > 0:
            gradient = self._lies[peer](gradient)
        return footing.tokens, gradient

    def _delegates(self, state: _Slice) -> dict[PeerId, PeerId]:
        """Who brings the work of those who were not drawn; nobody, where all places are taken."""
        places = dict.fromkeys(state.owners, self.run.exchange.max_constituents)
        delegates = {}
        lot = state.owned.digest
        others = state.residuals.keys() - places.keys()
        for peer in sorted(others, key=lambda one: hashlib.sha256(f"{lot} {one}".encode()).digest()):  # who comes first
            for owner in whom_to_ask(peer, state.owners, lot=lot):
                if places[owner]:
                    places[owner] -= 1
                    delegates[peer] = owner
                    break
        return delegates

    def _chosen(self, flags: torch.Tensor, state: _Slice) -> tuple[PeerId, ...]:
        """Who of a slice's holders has a flag in a file."""
        return tuple(peer for peer, is_one in zip(sorted(state.residuals), flags.tolist(), strict=True) if is_one)

    def _no_residual(self, numel: int) -> Residual:
        return no_residual(part_bounds(numel, self.run.exchange.part_elements))

    def _restored(self, peer: PeerId, slice_id: SliceId, tensors: Mapping[str, torch.Tensor]) -> Footing:
        """Between two rounds: on the anchor, or with a snapshot of what was sent."""
        owned, tokens = self._slices[slice_id].owned, int(tensors[f"tokens.{peer}.{slice_id}"])
        since = Version(int(tensors[f"since.{peer}.{slice_id}"]))
        if slice_id not in self._unmerged[peer]:
            return Footing(anchor=owned.anchor, version=owned.version, since=since, tokens=tokens)
        sent = Snapshot(tensors[f"sent.{peer}.{slice_id}"].numpy(), int(tensors[f"sent_tokens.{peer}.{slice_id}"]))
        before = Version(owned.version - 1)
        anchor = tensors[f"anchor.{peer}.{slice_id}"].numpy()
        return Footing(anchor=anchor, version=before, since=since, tokens=tokens, snapshots=(sent,))

    def _seen(self, state: _Slice) -> Float32:
        """What non-owners compute with."""
        values = state.published.values
        if state.before is None:
            return values
        return values - np.float32(self._look_back) * (values - state.before.values)

    def _merge(self, peer: PeerId, slices: Sequence[SliceId]) -> None:
        """The last commits of these slices reach a peer's weights, as they do in ``node.trainer``."""
        inner, footings = self._inner[peer], self._footings[peer]
        for slice_id in slices:
            state = self._slices[slice_id]
            del self._unmerged[peer][slice_id]
            if slice_id not in footings:
                inner.replace(slice_id, self._seen(state))
                continue
            is_contained = peer in state.contained
            tokens = footings[slice_id].snapshots[-1].tokens if is_contained else 0
            to = Move(
                anchor=state.owned.anchor,
                version=state.owned.version,
                tokens=tokens or None,
                contained=[(0, state.owned.numel)] if tokens else (),
                had_place=peer in state.placed,
            )
            local, amplification = inner.local_values(slice_id), inner.amplification_of(slice_id)
            moved = move(footings[slice_id], local, to, self.run.overlap, amplification)
            footings[slice_id] = moved.footing
            inner.replace(slice_id, moved.local)


def dealt_slices(num_peers: int, num_slices: int) -> dict[PeerId, frozenset[SliceId]]:
    """Virtual peers with one slice each, dealt round robin, beside the common part."""
    numbered = numbered_slices(num_slices)
    digits = len(str(num_peers - 1))
    return {
        PeerId(f"virtual-{index:0{digits}}"): frozenset({COMMON, numbered[index % num_slices]})
        for index in range(num_peers)
    }
