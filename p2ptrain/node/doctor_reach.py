"""The doctor's look at the way in: what the router does, as the bootstraps see it, and whether a relay works.

Both are tried by nodes that take no part in the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from p2ptrain import clock
from p2ptrain.config.schema import NetworkConfig
from p2ptrain.errors import NetworkSetupError, PeerUnreachable
from p2ptrain.node.doctor import Finding, not_measured
from p2ptrain.node.link_probe import UPLOAD, serve_upload
from p2ptrain.node.passing_node import passing_node
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.reach import Nat, Reach
from p2ptrain.wire.v1 import probe_pb2 as pb

_CHECK = "router"
_RELAY = "relay"
_CALL_TIMEOUT_S = 10.0

_WHAT_IT_MEANS: dict[Nat, str] = {
    "none": "no router in between",
    "open": "the router passes calls on",
    "cone": "the router keeps ports, so holes can be punched to peers behind other routers that do",
    "symmetric": "the router takes another port for everybody (symmetric), so no holes can be punched",
    "unknown": "what the router does is not known: two bootstrap nodes tell more than one",
}


async def examine_router(bootstraps: Sequence[str], *, map_port: bool = False) -> Finding:
    """Whether a node on this machine can be called, what the router does, and what to do about it; some 10 s.

    Args:
        bootstraps: whom to ask.
        map_port: ask the router for the port, as a peer with ``--map-port`` does.
    """
    network = NetworkConfig(bootstraps=tuple(bootstraps), reach="auto", map_port=map_port)
    try:
        async with passing_node(network, "doctor", asks_reach=True) as (node, _):
            return judge_router(node.reach, num_places=len(node.places))
    except NetworkSetupError as error:
        return not_measured(_CHECK, str(error))


def judge_router(reach: Reach, num_places: int) -> Finding:
    """A verdict on how a node is reached.

    Args:
        reach: as measured.
        num_places: relays at which the node has a place.
    """
    evidence = f"{reach.reason}; {_WHAT_IT_MEANS[reach.nat]}"
    if reach.way != "relayed":
        if reach.nat == "unknown":
            return not_measured(_CHECK, reach.reason)
        return Finding(check=_CHECK, verdict="ok", evidence=evidence)
    remedy = "start the peer with --map-port, or forward a TCP port on the router and name it with --port"
    if reach.nat == "none":
        remedy = "let the peer's TCP port in (--port names it)"
    if num_places:
        evidence += f"; {num_places} relays take calls for it, and it gets less to reduce"
        return Finding(check=_CHECK, verdict="warn", evidence=evidence, remedy=remedy)
    return Finding(
        check=_CHECK,
        verdict="fail",
        evidence=f"{evidence}; no relay takes calls for it, so nobody can reach it",
        remedy=f"{remedy}; or add a bootstrap node that relays",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayFacts:
    """A node that could be called through a relay only, and another one that tried."""

    num_bootstraps: int
    num_places: int
    """Relays that keep a place for such a node."""
    seconds: float | None
    """Of the call through one of them; None: it did not get through."""
    error: str = ""


async def examine_relay(bootstraps: Sequence[str]) -> Finding:
    """Whether a peer that nobody can dial could be called through a bootstrap's relay; some seconds."""
    hidden = NetworkConfig(bootstraps=tuple(bootstraps), reach="relayed")
    open_ = NetworkConfig(bootstraps=tuple(bootstraps))
    try:
        async with passing_node(hidden, "doctor") as (called, _), passing_node(open_, "doctor") as (caller, _):
            if called.is_alone:
                return not_measured(_RELAY, "everybody is on this machine")
            await serve_upload(called)
            return judge_relay(await _call_through(caller, called, len(bootstraps)))
    except NetworkSetupError as error:
        return not_measured(_RELAY, str(error))


async def _call_through(caller: Libp2pNode, called: Libp2pNode, num_bootstraps: int) -> RelayFacts:
    seconds, error = None, ""
    for relay in called.places:
        await caller.dial(f"{relay}/p2p-circuit/p2p/{called.peer}")
        started_s = clock.monotonic_s()
        try:
            await caller.call(called.peer, UPLOAD, pb.UploadRequest(), pb.UploadReply, timeout_s=_CALL_TIMEOUT_S)
        except PeerUnreachable as failed:
            error = str(failed)
            continue
        seconds = clock.monotonic_s() - started_s
        break
    return RelayFacts(num_bootstraps=num_bootstraps, num_places=len(called.places), seconds=seconds, error=error)


def judge_relay(facts: RelayFacts) -> Finding:
    """A verdict on the way through relays."""
    if not facts.num_places:
        return Finding(
            check=_RELAY,
            verdict="warn",
            evidence=f"none of {facts.num_bootstraps} bootstraps carries calls to peers that nobody can dial",
            remedy="if the router lets nobody in, add a bootstrap node that relays: p2ptrain bootstrap does",
        )
    evidence = f"{facts.num_places} of {facts.num_bootstraps} bootstraps carry calls"
    if facts.seconds is None:
        return Finding(
            check=_RELAY,
            verdict="warn",
            evidence=f"{evidence}, but none got through: {facts.error}",
            remedy="tell whoever runs the bootstrap node; until then forward a TCP port if the router lets nobody in",
        )
    return Finding(
        check=_RELAY, verdict="ok", evidence=f"{evidence}; one got through and was answered in {facts.seconds:.2f} s"
    )
