"""Staying in touch: a few others are asked every few seconds whether they see us, and where they and their friends are.

hivemind drops a node from its routing table when a call fails and looks for it never again; after a cut of 60 s a node
stayed alone with nobody to ask (seen in the lab). So bootstraps and acquaintances are dialled again here, for as long
as it takes. Because everybody passes on whom it knows, two swarms of one run become one as soon as a peer knows both.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable

from p2ptrain import clock
from p2ptrain.errors import PeerUnreachable
from p2ptrain.events import Redialling
from p2ptrain.ids import PeerId
from p2ptrain.swarm import isolation
from p2ptrain.swarm.address_book import worth_telling
from p2ptrain.swarm.beside import begin_beside
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.isolation import Evidence, Verdict
from p2ptrain.swarm.spread import some
from p2ptrain.swarm.upheaval import LOOK_EVERY_S, Ground, hosts_in, source_of, upheaval
from p2ptrain.wire.v1 import acquaint_pb2 as pb

ACQUAINT = "p2ptrain/1/acquaint"

_CALL_TIMEOUT_S = 4.0
"""Two thirds of what three probes have before we call ourselves isolated; a relayed path answers in 70 ms."""
_ASKED_OF_LISTED = 3
_ASKED_OF_OTHERS = 2
"""Peers that we only know the address of: how two swarms that never met find each other."""
_ASKED_WHEN_ALONE = 8
_CONTACTS_TOLD = 16
_ASKED_AFTER_UPHEAVAL = 32
"""Everybody in a swarm of volunteers, within reason: each holds a dead connection to us until it hears of it."""
_SILENT_PROBES = 2
"""In a row, without an answer or a byte: one alone may be this machine's own load."""
_ANSWER_LEAVES_S = 0.3
"""Between answering a caller that asks to be hung up on, and doing so: a relayed answer takes 70 ms."""


class Acquaintances:
    """Answers and asks; ``run`` until cancelled.

    Args:
        context: this peer.
        on_verdict: told after each look.
        on_change: told when the book has news for the disk.
        on_upheaval: told when everybody was called anew over new connections.
    """

    def __init__(
        self,
        context: Context,
        on_verdict: Callable[[Verdict], None],
        on_change: Callable[[], None],
        on_upheaval: Callable[[], None],
    ) -> None:
        self._context = context
        self._book = context.book
        self._on_verdict = on_verdict
        self._on_change = on_change
        self._on_upheaval = on_upheaval
        self._is_uprooted = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._evidence = Evidence(looked_s=clock.monotonic_s(), contact_s=clock.monotonic_s())
        self._own_addresses: list[str] = []

    async def start(self) -> None:
        """Begin to answer others."""
        await self._context.node.serve(ACQUAINT, pb.AcquaintRequest, self._on_call)

    async def run(self) -> None:
        """Probe for ever, and start from nothing when this machine has moved or slept."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._watch_ground())
            self._group.create_task(self._keep_in_touch())

    async def _watch_ground(self) -> None:
        before = self._ground()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = self._ground()
            if reason := upheaval(before, now):
                await self._drop_connections(reason)
            before = now

    def _ground(self) -> Ground:
        known = [*self._context.node.bootstraps, *self._book.addresses()]
        return Ground(looked_s=clock.boot_s(), sources={host: source_of(host) for host in hosts_in(known)})

    async def _drop_connections(self, reason: str) -> None:
        self._context.events.emit(Redialling(reason=reason))
        await self._context.node.hang_up()
        self._is_uprooted.set()

    async def _keep_in_touch(self) -> None:
        node, owes_hang_up = self._context.node, False
        while True:
            self._own_addresses = worth_telling(await node.current_addresses())
            if self._is_uprooted.is_set():
                self._is_uprooted.clear()
                owes_hang_up = not await self._start_anew()
            received_bytes = node.traffic.received_bytes
            await self._probe()
            self._evidence, verdict = isolation.judged(
                self._evidence,
                heard_s=node.heard_s,
                num_addresses=len(node.bootstraps) + len(self._book.contacts),
                now_s=clock.monotonic_s(),
            )
            self._on_verdict(verdict)
            if owes_hang_up and not self._evidence.probes_failed:
                owes_hang_up = not await self._start_anew()
            if self._evidence.probes_failed == _SILENT_PROBES and node.traffic.received_bytes == received_bytes:
                # A router that got another address or forgot us: our end of its connections looks alive for long.
                await self._drop_connections("nobody answers")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(isolation.pause_s(self._evidence, random.random())):  # noqa: S311 - spreads
                    await self._is_uprooted.wait()

    async def _start_anew(self) -> bool:
        """Have the others drop their connections to us, dead as ours were, and call them; whether any answered."""
        everybody = dict.fromkeys([*self._context.claims, *self._book.contacts])
        others = some([peer for peer in everybody if peer != self._context.me], _ASKED_AFTER_UPHEAVAL)
        bootstraps = asyncio.gather(
            *(self._context.node.is_there(a, _CALL_TIMEOUT_S) for a in self._context.node.bootstraps)
        )
        replies = await asyncio.gather(*(self._ask(peer, hang_up=True) for peer in others))
        answered = [peer for peer, reply in zip(others, replies, strict=True) if reply]
        if answered:
            await asyncio.sleep(2 * _ANSWER_LEAVES_S)
            await asyncio.gather(*map(self._ask, answered))
        if any([*(await bootstraps), *answered]):
            await self._context.node.take_places()
            self._on_upheaval()
        return bool(answered or not others)

    async def _hang_up_on(self, peer: PeerId) -> None:
        await asyncio.sleep(_ANSWER_LEAVES_S)
        await self._context.node.hang_up(peer)

    async def _probe(self) -> None:
        node = self._context.node
        asked = self._whom_to_ask()
        bootstraps = asyncio.gather(*(node.is_there(address, _CALL_TIMEOUT_S) for address in node.bootstraps))
        replies = await asyncio.gather(*map(self._ask, asked))
        seen = [reply.sees_you for reply in replies if reply is not None]
        answers = len(seen) + sum(await bootstraps)
        sees_us = any(seen) or not self._context.is_listed if seen else None  # nothing to see while we are not listed
        self._evidence = isolation.probed(self._evidence, answers=answers, sees_us=sees_us, now_s=clock.monotonic_s())
        if seen:
            self._on_change()

    def _whom_to_ask(self) -> list[PeerId]:
        listed = [peer for peer in self._context.claims if peer != self._context.me]
        others = self._context.unlisted
        if self._evidence.probes_failed:
            return some([*listed, *others], _ASKED_WHEN_ALONE)
        if not self._context.may_ask_listed():
            return some(others, _ASKED_OF_LISTED + _ASKED_OF_OTHERS)
        return [*some(listed, _ASKED_OF_LISTED), *some(others, _ASKED_OF_OTHERS)]

    async def _ask(self, peer: PeerId, *, hang_up: bool = False) -> pb.AcquaintReply | None:
        node = self._context.node
        contact = self._book.contacts.get(peer)
        request = pb.AcquaintRequest(run=self._context.run, addresses=self._own_addresses, hang_up=hang_up)
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                if contact is not None:
                    await node.dial(*contact.addresses)
                reply = await node.call(peer, ACQUAINT, request, pb.AcquaintReply, timeout_s=_CALL_TIMEOUT_S)
                await node.ping(peer)
        except (PeerUnreachable, TimeoutError):
            return None
        if reply.refusal:
            return None
        self._book.met(peer, reply.addresses, clock.wall_s())
        for told in reply.contacts[:_CONTACTS_TOLD]:
            self._book.heard_of(PeerId(told.peer), told.addresses)
        return reply

    async def _on_call(self, sender: PeerId, request: pb.AcquaintRequest) -> pb.AcquaintReply:
        if request.run != self._context.run:
            return pb.AcquaintReply(refusal=f"this peer trains run {self._context.run}")
        self._book.met(sender, request.addresses, clock.wall_s())
        if request.hang_up and self._group:  # before run() there is nothing to hang up
            begin_beside(self._group, self._hang_up_on(sender))
        claim = self._context.claims.get(sender)
        contacts = [c for c in self._book.newest(_CONTACTS_TOLD + 1) if c.peer != sender and c.seen_s]
        return pb.AcquaintReply(
            sees_you=claim is not None,
            addresses=self._own_addresses,
            contacts=[pb.Contact(peer=c.peer, addresses=c.addresses) for c in contacts[:_CONTACTS_TOLD]],
        )
