"""Handing on the run's manifest and tokenizer, so that a newcomer needs nothing but an address.

The manifest fixes the run id, and whoever serves it is authenticated by the peer id in the address: a newcomer trusts
that one node to name the run, and nobody with anything that follows: the manifest has the tokenizer's hash.
"""

import asyncio
from collections.abc import Sequence

from p2ptrain.config.schema import DataConfig, NetworkConfig
from p2ptrain.data.tokenizer import MAX_FILE_BYTES, check_tokenizer_file
from p2ptrain.errors import DataError, NetworkSetupError, PeerUnreachable
from p2ptrain.ids import PeerId, short
from p2ptrain.node.passing_node import passing_node
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.v1 import peer_pb2 as pb

MANIFEST = "manifest"
TOKENIZER = "tokenizer"
_MAX_MANIFEST_CHARACTERS = 1 << 20
_PAGE_BYTES = 1 << 20
_WHOLE_FILE_S = 600.0
"""Ample for 33 MB at half a megabit a second; whoever takes longer may be doing so on purpose."""
_TIMEOUT_S = 60.0
"""Whoever is asked may be busy starting; who is not there is known at once, since nobody can be dialled."""


async def serve_manifest(node: Libp2pNode, manifest: str | None) -> None:
    """Answer newcomers with the run's manifest; None tells them that this node knows of no run."""

    async def answer(_sender: PeerId, _request: pb.ManifestRequest) -> pb.ManifestReply:
        if manifest is None:
            return pb.ManifestReply(refusal="this node serves every run and knows the manifest of none")
        return pb.ManifestReply(manifest=manifest)

    await node.serve(MANIFEST, pb.ManifestRequest, answer)


async def serve_tokenizer(node: Libp2pNode, file: bytes) -> None:
    """Answer newcomers with the run's ``tokenizer.json``; b"" tells them that it is not here."""

    async def answer(_sender: PeerId, request: pb.TokenizerRequest) -> pb.TokenizerReply:
        page = file[request.offset : request.offset + _PAGE_BYTES]
        return pb.TokenizerReply(size_bytes=len(file), data=page)

    await node.serve(TOKENIZER, pb.TokenizerRequest, answer)


async def fetch_tokenizer(data: DataConfig, addresses: Sequence[str]) -> bytes:
    """The run's ``tokenizer.json``, from the first node that has the one whose hash the manifest names.

    Args:
        data: names the hash.
        addresses: of any nodes of the run; multiaddresses ending in ``/p2p/<peer id>``.

    Raises:
        NetworkSetupError: an address is malformed, or no node has it.
    """
    failures = []
    async with passing_node(NetworkConfig(bootstraps=tuple(addresses)), "newcomer") as (node, _):
        for peer in dict.fromkeys(PeerId(address.rpartition("/p2p/")[2]) for address in addresses):
            try:
                async with asyncio.timeout(_WHOLE_FILE_S):
                    file = await _pages_of(node, peer)
                check_tokenizer_file(data, file, origin=f"the tokenizer of {short(peer)}")
            except (PeerUnreachable, DataError) as error:
                failures.append(str(error))
            except TimeoutError:
                failures.append(f"{short(peer)} took more than {_WHOLE_FILE_S:.0f} s")
            else:
                return file
    raise NetworkSetupError(
        f"nobody gave the run's tokenizer: {'; '.join(failures)}; put {data.tokenizer} beside the manifest"
    )


async def _pages_of(node: Libp2pNode, peer: PeerId) -> bytes:
    """Raises PeerUnreachable: the peer does not answer, or has no tokenizer."""
    file = bytearray()
    while True:
        request = pb.TokenizerRequest(offset=len(file))
        reply = await node.call(peer, TOKENIZER, request, pb.TokenizerReply, timeout_s=_TIMEOUT_S)
        expected = min(reply.size_bytes - len(file), _PAGE_BYTES)
        # A byte at a time would never end.
        if expected <= 0 or len(reply.data) != expected or reply.size_bytes > MAX_FILE_BYTES:
            raise PeerUnreachable(f"{short(peer)} has no tokenizer to hand on")
        file += reply.data
        if len(file) == reply.size_bytes:
            return bytes(file)


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
