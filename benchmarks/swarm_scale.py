"""Messages, transfers and directory of a round by the size of the swarm: every peer a real state machine, in fake time.

    python benchmarks/swarm_scale.py --peers 16,64,1000,10000 [--max-owners 64] [--max-listed 128] [--draws 0.5]

All peers hold one slice, as they all hold the common part. 64 begin, the others come after the first version; nothing
fails. Who is listed follows ``swarm/listing.py``, each peer by what it saw when it last looked; looks, questions and
news as in ``swarm/roster.py`` and ``swarm/swarm.py``, with a lease of 30 s. Counted from ``--draws`` after the last one
came, over the ``--rounds`` since: messages that a peer sent in a round (the most of any peer, and the mean), what of
them belongs to the group's protocol, how many others fetched a round from one peer, and bytes of claims that a peer
read in a second. Needs the repository's root on PYTHONPATH.
"""

import argparse
import functools
import hashlib
import time
from collections import Counter
from collections.abc import Sequence

from p2ptrain.ids import Digest, PeerId, RunId
from p2ptrain.swarm import spread
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.listing import DRAW_LEASES, draw_of, is_drawn, next_halvings, num_peers
from p2ptrain.swarm.rounds import ClaimsSeen
from tests.support.simulated_group import Node, SimulatedGroup, Weather

LEASE_S = 30.0
CLAIM_BYTES = 330
"""Of a signed claim with all fields set."""
FOUNDERS = 64
_START_WALL_S = 1.8e9
_LOOK_S = 2.0
_READ_AT_ONCE = 64


class ListedSwarm(SimulatedGroup):
    """Peers that look at a directory which lists some of them."""

    def __init__(self, peers: Sequence[PeerId], *, seed: int, max_owners: int, max_listed: int) -> None:
        self._everybody = list(peers)
        self._max_listed = max_listed
        self._claims: dict[PeerId, Claim] = {}
        """What the directory shows."""
        self._seen: dict[PeerId, tuple[PeerId, ...]] = {}
        self._list: tuple[tuple[PeerId, ...], frozenset[PeerId]] = ((), frozenset())
        self._halvings: Counter[PeerId] = Counter()
        self._contacts: dict[PeerId, list[PeerId]] = {}
        self._needed_until_s: dict[PeerId, float] = {}
        self.read_bytes: Counter[PeerId] = Counter()
        weather = Weather(train_s=(4.0, 5.0))
        super().__init__(peers[:FOUNDERS], seed=seed, weather=weather, lease_s=None, num_parts=8, max_owners=max_owners)

    def come(self, peers: Sequence[PeerId]) -> None:
        """More peers, with the newest version."""
        donor = max(self.nodes.values(), key=lambda node: node.disk.head.version)
        for peer in peers:
            node = self.nodes[peer] = Node(peer)
            self._adopt_disk(node, donor)
            self._boot(node)

    @property
    def num_listed(self) -> int:
        """Claims in the directory."""
        return len(self._claims)

    def _look(self, node: Node) -> frozenset[PeerId]:
        """At start: everybody publishes."""
        me = node.peer
        others = range(len(self._everybody))
        self._contacts[me] = [self._everybody[i] for i in self._random.sample(others, min(64, len(others)))]
        self._needed_until_s[me] = self.now_s + 2 * LEASE_S
        self._publish(node)
        return self._read(node)

    def _keep_directory(self, node: Node, life: int) -> None:
        self._after(self._between((0.0, _LOOK_S)), lambda: self._watch_directory(node, 0.0))

    def _watch_directory(self, node: Node, look_due_s: float) -> None:
        me = node.peer
        was_listed = me in self._claims
        self._publish(node)
        is_listed = me in self._claims
        if self.now_s >= look_due_s or is_listed > was_listed:
            claims = self._read(node)
            assert node.state is not None
            if not is_listed:
                claims = claims - {me} | {*node.disk.head.owners}
            if claims != node.state.claims:
                self._feed(node, node.life, ClaimsSeen(claims))
            pause_s = min(_LOOK_S * max(1.0, len(claims) / _READ_AT_ONCE), LEASE_S / 4)
            look_due_s = self.now_s + pause_s * (1 if is_listed else 2 ** self._halvings[me])
        self._after(_LOOK_S, lambda: self._watch_directory(node, look_due_s))

    def _publish(self, node: Node) -> None:
        me, halvings = node.peer, self._halvings[node.peer]
        draw = draw_of(me, _START_WALL_S + self.now_s, LEASE_S)
        is_needed = self.now_s < self._needed_until_s[me] or me in node.disk.head.owners
        if is_needed or is_drawn(me, draw, halvings):
            self._claims[me] = Claim(run=RunId(""), peer=me, expires_s=0.0, halvings=halvings, draw=draw)
        else:
            self._claims.pop(me, None)

    def _read(self, node: Node) -> frozenset[PeerId]:
        me = node.peer
        self.read_bytes[me] += CLAIM_BYTES * len(self._claims)
        key = self.now_s // 1.0, len(self._claims)
        if getattr(self, "_estimate_key", None) != key:  # what all see alike is computed once a second
            self._estimate_key = key
            self._estimate = num_peers(self._claims.values())
            self._list = tuple(self._claims), frozenset(self._claims)
        self._halvings[me] = next_halvings(self._halvings[me], self._estimate, self._max_listed)
        self._seen[me], claims = self._list
        return claims

    def _announce(self, node: Node) -> None:
        me, certificate = node.peer, node.disk.certificate
        assert certificate
        if me not in self._claims:
            told = spread.some([peer for peer in self._contacts[me] if peer not in self._seen[me]], spread.FAN_OUT)
        else:
            voters = tuple(vote.peer for vote in certificate.votes)
            tells = _tree(frozenset(self._seen[me]) | {me}, voters, certificate.value.value_hash)
            told = tells.get(me, [])
        for peer in told:
            self._tell_head(node, peer)

    def _pull(self, node: Node, life: int) -> None:
        self._after(self._between((0.0, 2.0)), lambda: self._keep_pulling(node))

    def _keep_pulling(self, node: Node) -> None:
        me = node.peer
        asks_listed = me in self._claims or self._random.random() < 0.5 ** self._halvings[me]
        asked = self._random.choice(self._seen[me] if asks_listed else self._contacts[me])
        if asked != me and asked in self.nodes:
            self._catch_up(node, asked)
        self._after(2.0, lambda: self._keep_pulling(node))

    def _donors(self, node: Node) -> Sequence[Node]:
        assert node.state is not None
        return [node, *(self.nodes[peer] for peer in node.state.ballot.members)]


@functools.lru_cache(maxsize=200)
def _tree(peers: frozenset[PeerId], voters: Sequence[PeerId], value_hash: Digest) -> dict[PeerId, list[PeerId]]:
    """``whom_to_tell`` of every peer at once; ``main`` checks that it is the same."""
    voters = sorted(voters)
    place = {p: hashlib.sha256(f"{value_hash}{p}".encode()).digest() for p in peers - {*voters}}
    shares: list[list[PeerId]] = [[] for _ in voters]
    for peer in sorted(place, key=place.__getitem__):
        shares[place[peer][0] % len(voters)].append(peer)
    tells: dict[PeerId, list[PeerId]] = {}
    for voter, share in zip(voters, shares, strict=True):
        for number, peer in enumerate([voter, *share]):
            tells[peer] = share[number * spread.FAN_OUT : (number + 1) * spread.FAN_OUT]
    return tells


def measure(count: int, max_owners: int, max_listed: int, draws: float, rounds: int, seed: int) -> str:
    """One row of the table."""
    began_s = time.monotonic()
    peers = [PeerId(f"P{number:05d}") for number in range(count)]
    swarm = ListedSwarm(peers, seed=seed, max_owners=max_owners, max_listed=max_listed)

    def reached(version: int) -> None:
        while min(swarm.versions().values()) < version:
            swarm.run(for_s=0.5)
            assert swarm.now_s < 5000

    reached(1)
    swarm.come(peers[FOUNDERS:])
    swarm.run(for_s=draws * DRAW_LEASES * LEASE_S if count > max_listed else 0)
    swarm.sent.clear()
    swarm.served.clear()
    swarm.read_bytes.clear()
    first, start_s = max(swarm.versions().values()), swarm.now_s
    reached(first + rounds)
    done, took_s = max(swarm.versions().values()) - first, swarm.now_s - start_s
    sent: Counter[PeerId] = Counter()
    of_group: Counter[PeerId] = Counter()
    for (peer, kind), number in swarm.sent.items():
        sent[peer] += number
        of_group[peer] += number * (kind != "Committed")
    swarm.check_agreement()
    assert all(len(values) == 1 for values in swarm.decided.values())
    owners = swarm.commits[-1].certificate.value.owners
    read, seconds_kb = swarm.read_bytes, took_s * 1e3
    return (
        f"| {count:,} | {swarm.num_listed} | {len(owners)} | {max(of_group.values()) / done:.0f}"
        f" | {max(sent.values()) / done:.0f} | {sum(sent.values()) / count / done:.1f}"
        f" | {max(swarm.served.values(), default=0) / done:.1f}"
        f" | {max(read.values()) / seconds_kb:.1f} | {sum(read.values()) / count / seconds_kb:.2f}"
        f" | {took_s / done:.1f} | {time.monotonic() - began_s:.0f} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="16,64,256,1000,10000")
    parser.add_argument("--max-owners", type=int, default=64)
    parser.add_argument("--max-listed", type=int, default=128)
    parser.add_argument("--draws", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    few = [PeerId(f"P{number}") for number in range(40)]
    told = {p: spread.whom_to_tell(p, few, few[:5], Digest("v")) for p in few}
    assert _tree(frozenset(few), tuple(few[:5]), Digest("v")) == told
    print(
        "| peers | listed | owners | most in the group | most | mean | most fetched from one"
        " | kB/s of claims, most | mean | s a round | took s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    most = options.max_owners, options.max_listed
    for count in map(int, options.peers.split(",")):
        print(measure(count, *most, options.draws, options.rounds, options.seed), flush=True)


if __name__ == "__main__":
    main()
