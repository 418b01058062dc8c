"""What a run asks of a peer, for `p2ptrain run show`: what it sends in a round, and the memory it needs."""

from collections import Counter
from typing import TYPE_CHECKING

from p2ptrain.errors import UsageError

if TYPE_CHECKING:
    from p2ptrain.config.schema import RunConfig
    from p2ptrain.model.slicing import SlicePlan

_HOME_UPLINK_MBPS = 20
"""A usual one in 2026."""


def line_demand(run: "RunConfig", plan: "SlicePlan", peers: int) -> str:
    """What a peer with one slice sends and fetches in a round.

    Args:
        run: codec, and who averages with whom.
        plan: how large its slices are.
        peers: how many take part, or 0 for as many as ``slicing.replicas`` asks for.

    Raises:
        UsageError: fewer peers than slices.
    """
    from p2ptrain.ids import SliceId, slice_of
    from p2ptrain.swarm.round_bytes import round_bytes
    from p2ptrain.wire.codec import encoded_bytes

    slices, exchange = run.slicing.slices, run.exchange
    peers = peers or slices * run.slicing.replicas
    if peers < slices:
        raise UsageError(f"--peers {peers} are fewer than the {slices} slices, and each needs an owner")
    encoded: Counter[SliceId] = Counter()
    for fragment in plan.slice_ids:
        encoded[slice_of(fragment)] += encoded_bytes(exchange.codec, plan.numel(fragment))
    sent = round_bytes(encoded, peers, max_owners=exchange.max_owners, is_checked=exchange.check_averages)
    seconds = 8 * sent / (_HOME_UPLINK_MBPS * 1e6)
    return (
        f"{sent / 1e6:,.1f} MB a round and peer, and fetches as much, if {peers} take part:"
        f" {seconds:,.1f} s at {_HOME_UPLINK_MBPS} Mbit/s"
    )


def memory_demand(run: "RunConfig") -> str:
    """The smallest ``--memory`` with which a peer can own one slice."""
    from p2ptrain.config.schema import EngineConfig
    from p2ptrain.ids import COMMON, SliceId
    from p2ptrain.training.choose import swarm_bytes
    from p2ptrain.training.fit import least_bytes, smallest_budget_gib

    def needed_gib(engine: EngineConfig, beside: int = 0) -> float:
        return smallest_budget_gib(least_bytes(run.model, run.slicing, batch=run.inner.batch, engine=engine) + beside)

    of_gpu = needed_gib(EngineConfig(device="cuda", precision="bfloat16"))
    lighter = needed_gib(EngineConfig(device="cuda", precision="bfloat16", recompute="blocks"))
    of_cpu = needed_gib(EngineConfig(), swarm_bytes(run, frozenset({COMMON, SliceId("0")})))
    recomputed = f" ({lighter} if blocks are computed twice)" if lighter < of_gpu else ""
    return f"{of_gpu} GiB of a GPU's{recomputed} or {of_cpu} of a processor's for one slice"
