"""Lists of bootstrap nodes in DNS: TXT records under ``_dnsaddr.NAME`` that the run's authority has signed.

A name server, or whoever sits between us and one, may withhold the list or show an old one, but cannot make one up.
"""

import dns.exception
import dns.resolver

from p2ptrain.config.bootstraps import MAX_BOOTSTRAPS, is_node
from p2ptrain.errors import BadRecord, NetworkSetupError
from p2ptrain.identity.authority import read_dns_list
from p2ptrain.ids import PeerId, RunId

_ANSWER_WITHIN_S = 6.0
"""Three tries of a name server that loses every second packet; a peer starts meanwhile, so no longer."""


def look_up_list(
    name: str, run: RunId, authority: PeerId, resolver: dns.resolver.Resolver | None = None
) -> tuple[str, ...]:
    """The bootstrap nodes that DNS lists under ``name``, at most ``MAX_BOOTSTRAPS``. Blocks for some seconds at most.

    Args:
        name: like ``example.org``.
        run: the run that the nodes serve.
        authority: who must have signed the list.
        resolver: whom to ask; None takes this machine's name servers.

    Raises:
        NetworkSetupError: there is no answer in time, no list, or one that the authority did not sign.
    """
    asked = f"_dnsaddr.{name}"
    try:
        resolver = resolver or dns.resolver.get_default_resolver()
        answer = resolver.resolve(f"{asked}.", "TXT", lifetime=_ANSWER_WITHIN_S)
        texts = [b"".join(record.strings).decode(errors="replace") for record in answer]
        nodes = read_dns_list(authority, run, texts)
    except (dns.exception.DNSException, OSError) as error:
        raise NetworkSetupError(
            f"the list of bootstrap nodes at {asked} could not be had: {_one_line(error)}; check this machine's name"
            " server, or name a node with --bootstrap ADDRESS"
        ) from error
    except BadRecord as error:
        raise NetworkSetupError(
            f"the list of bootstrap nodes at {asked} is not used: {error}; tell the run's authority, who signs it with"
            " `p2ptrain run bootstraps --txt`, or name a node with --bootstrap ADDRESS"
        ) from error
    return tuple(filter(is_node, nodes))[:MAX_BOOTSTRAPS]


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
