"""The doctor's look at the router: a node that does not take part asks the bootstraps to call it back."""

from collections.abc import Sequence

from p2ptrain.config.schema import NetworkConfig
from p2ptrain.errors import NetworkSetupError
from p2ptrain.node.doctor import Finding, not_measured
from p2ptrain.node.passing_node import passing_node
from p2ptrain.wire.reach import Nat, Reach

_CHECK = "router"

_WHAT_IT_MEANS: dict[Nat, str] = {
    "none": "no router in between",
    "open": "the router passes calls on",
    "cone": "the router keeps ports, so holes can be punched where a run has four public nodes",
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
