"""Handing on the run's manifest, so that a newcomer needs nothing but an address.

The manifest fixes the run id, and whoever serves it is authenticated by the peer id in the address: a newcomer trusts
that one node to name the run, and nobody with anything that follows.
"""

from collections.abc import Sequence

from p2ptrain.config.schema import NetworkConfig
from p2ptrain.errors import NetworkSetupError, PeerUnreachable
from p2ptrain.ids import PeerId
from p2ptrain.node.passing_node import passing_node
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.v1 import peer_pb2 as pb

MANIFEST = "manifest"
_MAX_MANIFEST_CHARACTERS = 1 << 20
_TIMEOUT_S = 60.0
"""Whoever is asked may be busy starting; who is not there is known at once, since nobody can be dialled."""


async def serve_manifest(node: Libp2pNode, manifest: str | None) -> None:
    """Answer newcomers with the run's manifest; None tells them that this node knows of no run."""

    async def answer(_sender: PeerId, _request: pb.ManifestRequest) -> pb.ManifestReply:
        if manifest is None:
            return pb.ManifestReply(refusal="this node serves every run and knows the manifest of none")
        return pb.ManifestReply(manifest=manifest)

    await node.serve(MANIFEST, pb.ManifestRequest, answer)


async def fetch_manifest(addresses: Sequence[str]) -> str:
    """The manifest of the run that the node at ``addresses`` serves.

    Args:
        addresses: of one node, be it a bootstrap node or any peer; multiaddresses ending in ``/p2p/<peer id>``.

    Raises:
        NetworkSetupError: an address is malformed, nobody answers there, or the node knows no run.
    """
    address = addresses[0]
    network = NetworkConfig(bootstraps=tuple(addresses))
    server = PeerId(address.rpartition("/p2p/")[2])
    async with passing_node(network, "newcomer") as (node, _):
        try:
            reply = await node.call(server, MANIFEST, pb.ManifestRequest(), pb.ManifestReply, timeout_s=_TIMEOUT_S)
        except PeerUnreachable as error:
            raise NetworkSetupError(f"{address} gave no manifest: {error}; ask for the manifest as a file") from error
    if reply.refusal or not reply.manifest or len(reply.manifest) > _MAX_MANIFEST_CHARACTERS:
        reason = reply.refusal[:200] or "it sent nothing usable"
        raise NetworkSetupError(
            f"{address} gave no manifest: {reason}. Ask for the manifest as a file, then give both: --run FILE"
            f" --bootstrap {address}"
        )
    return reply.manifest
