"""Messages and transfers of a round by the size of the swarm: every peer a real state machine, in fake time.

    python benchmarks/swarm_scale.py --peers 16,64,1000,10000 [--max-owners 64] [--rounds 3] [--seed 1]

All peers hold one slice, as they all hold the common part. Nothing fails. Counted over the rounds after the first are
messages that a peer sent in a round (the most of any peer, and the mean), what of them belongs to the group's protocol,
and how many other peers fetched a round's averages from one peer. Needs the repository's root on PYTHONPATH.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Collection

from p2ptrain.ids import Digest, PeerId
from p2ptrain.swarm import round_state, spread
from p2ptrain.swarm.electorate import drawn
from tests.support.simulated_group import Node, SimulatedGroup, Weather


class CalmSwarm(SimulatedGroup):
    """Nobody comes or goes, so what all peers would compute alike is computed once."""

    def __init__(self, peers: list[PeerId], *, seed: int, max_owners: int) -> None:
        self._everybody = frozenset(peers)
        self._trees: dict[str, dict[PeerId, list[PeerId]]] = {}
        setattr(round_state, "drawn", _drawn_once())  # noqa: B010 - it is imported there, not exported
        weather = Weather(train_s=(4.0, 5.0))
        super().__init__(peers, seed=seed, weather=weather, lease_s=None, num_parts=8, max_owners=max_owners)

    def _look(self, node: Node) -> frozenset[PeerId]:
        return self._everybody

    def _keep_directory(self, node: Node, life: int) -> None:
        pass

    def _announce(self, node: Node) -> None:
        assert node.disk.certificate
        certificate = node.disk.certificate
        voters, value_hash = [vote.peer for vote in certificate.votes], certificate.value.value_hash
        key = f"{value_hash} {voters}"
        if key not in self._trees:
            self._trees = {key: tree(self._everybody, voters, value_hash)} | dict(list(self._trees.items())[-50:])
        for peer in self._trees[key][node.peer]:
            self._tell_head(node, peer)


def tree(peers: Collection[PeerId], voters: list[PeerId], value_hash: str) -> dict[PeerId, list[PeerId]]:
    """``whom_to_tell`` of every peer at once; ``main`` checks that it is the same."""
    import hashlib

    voters = sorted(voters)
    place = {p: hashlib.sha256(f"{value_hash}{p}".encode()).digest() for p in set(peers) - {*voters}}
    shares: list[list[PeerId]] = [[] for _ in voters]
    for peer in sorted(place, key=place.__getitem__):
        shares[place[peer][0] % len(voters)].append(peer)
    tells: dict[PeerId, list[PeerId]] = {}
    for voter, share in zip(voters, shares, strict=True):
        for number, peer in enumerate([voter, *share]):
            tells[peer] = share[number * spread.FAN_OUT : (number + 1) * spread.FAN_OUT]
    return tells


def _drawn_once() -> Callable[..., tuple[PeerId, ...]]:
    cache: dict[tuple[int, str], tuple[PeerId, ...]] = {}

    def cached(holders: Collection[PeerId], *, present: Collection[PeerId], most: int, lot: str) -> tuple[PeerId, ...]:
        if (most, lot) not in cache:
            cache[most, lot] = drawn(holders, present=present, most=most, lot=lot)
        return cache[most, lot]

    return cached


def measure(count: int, max_owners: int, rounds: int, seed: int) -> str:
    """One row of the table."""
    began_s = time.monotonic()
    peers = [PeerId(f"P{number:05d}") for number in range(count)]
    swarm = CalmSwarm(peers, seed=seed, max_owners=max_owners)

    def at(version: int) -> bool:
        while min(swarm.versions().values()) < version:
            swarm.run(for_s=0.5)
            if swarm.now_s > 3000:
                return False
        return True

    assert at(1)
    swarm.sent.clear()
    swarm.served.clear()
    first, start_s = max(swarm.versions().values()), swarm.now_s
    assert at(1 + rounds)
    done = max(swarm.versions().values()) - first
    sent: Counter[PeerId] = Counter()
    of_group: Counter[PeerId] = Counter()
    for (peer, kind), number in swarm.sent.items():
        sent[peer] += number
        of_group[peer] += number * (kind != "Committed")
    swarm.check_agreement()
    assert all(len(values) == 1 for values in swarm.decided.values())
    owners = swarm.commits[-1].certificate.value.owners
    return (
        f"| {count:,} | {len(owners)} | {max(of_group.values()) / done:.0f} | {max(sent.values()) / done:.0f}"
        f" | {sum(sent.values()) / count / done:.1f} | {max(swarm.served.values(), default=0) / done:.1f}"
        f" | {(swarm.now_s - start_s) / done:.1f} | {time.monotonic() - began_s:.0f} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="16,64,256,1000,10000")
    parser.add_argument("--max-owners", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    few = [PeerId(f"P{number}") for number in range(40)]
    assert tree(few, few[:5], "v") == {p: spread.whom_to_tell(p, few, few[:5], Digest("v")) for p in few}
    print(
        "| peers | owners | most group messages | most messages | mean | most fetched from one | s a round | took s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for count in map(int, options.peers.split(",")):
        print(measure(count, options.max_owners, options.rounds, options.seed), flush=True)


if __name__ == "__main__":
    main()
