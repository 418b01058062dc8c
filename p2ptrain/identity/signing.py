"""Records that are signed by who they are about, for one purpose each.

The signature covers the purpose (``context``) as well as the body: a vote that is replayed as a claim, or a record of
another protocol under the same key, does not verify.
"""

from dataclasses import dataclass

from p2ptrain.errors import BadRecord
from p2ptrain.identity.keys import Identity
from p2ptrain.identity.keys import verify as verify_signature
from p2ptrain.ids import PeerId, short

_DOMAIN = b"p2ptrain record v1\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """Bytes exactly as they were signed; parse ``body`` only after ``verify``."""

    body: bytes
    signer: PeerId
    signature: bytes


def sign(identity: Identity, context: str, body: bytes) -> Signed:
    """``body`` signed for the purpose ``context``, for example ``"claim"``."""
    return Signed(body=body, signer=identity.peer_id, signature=identity.sign(_statement(context, body)))


def verify(signed: Signed, context: str) -> None:
    """Return if ``signed.signer`` signed the body for the purpose ``context``.

    Raises:
        BadRecord: the signature is somebody else's, for another purpose or body, or the signer is no peer id.
    """
    if not verify_signature(signed.signer, _statement(context, signed.body), signed.signature):
        raise BadRecord(f"{short(signed.signer)!a} did not sign this {context} as it is here; it is ignored")


def _statement(context: str, body: bytes) -> bytes:
    name = context.encode()
    # With the length, no context and body can be taken for another context and body.
    return _DOMAIN + len(name).to_bytes(2) + name + body
