"""One of several owners averages wrongly, and delivers what it announces: it is caught, and no lie is committed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2ptrain.events import ReducerLied
from p2ptrain.node.rounds_on_disk import _read
from tests.support.live_swarm import LivePeer, LiveSwarm, eventually

pytestmark = pytest.mark.faults


def results_on_disk(peer: LivePeer) -> Iterator[tuple[str, int, int, str]]:
    """Slice, version, part and hash of the averages in the last rounds that a peer keeps."""
    for file in (peer.home / "rounds").glob("*.bin"):
        one = _read(file)
        if one is not None:
            value = one.certificate.value
            yield from ((value.slice, value.version, r.part, r.average.sha256) for r in value.results)


def is_on_disk(peer: LivePeer, slice_id: str, version: int) -> bool:
    return any(found == slice_id and at >= version for found, at, *_ in results_on_disk(peer))


def convictions(peers: list[LivePeer]) -> list[ReducerLied]:
    return [event for peer in peers for event in peer.events(ReducerLied)]


def test_one_of_four_reducers_lies_about_every_average_and_no_lie_is_committed(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    swarm = LiveSwarm(tmp_path)
    # What was committed when the lie was told is still on the disks when they are read.
    swarm.manifest.write_text(swarm.manifest.read_text().replace("[exchange]\n", "[exchange]\nhistory = 200\n"))
    with swarm:
        honest = [swarm.start_peer(name, "0,1") for name in ("a", "b", "c")]
        liar = swarm.start_peer("liar", "0,1", orders=orders)
        for peer in (*honest, liar):
            peer.wait_for_version("common", 2)
        eventually(
            lambda: all(any(liar.id in e.members for e in honest[0].committed(s)[-1:]) for s in ("0", "1", "common")),
            what="the liar is an owner of everything",
        )
        orders.write_text("training:*:forge:100000\n")
        eventually(lambda: convictions(honest), what="an honest peer finds it out")
        reached = {s: max(e.version for p in honest for e in p.committed(s)) for s in ("0", "1", "common")}
        for peer in honest:
            for slice_id, version in reached.items():
                peer.wait_for_version(slice_id, version + 3)
        found = convictions(honest)
        assert {event.peer for event in found} == {liar.id}
        lies = {event.announced for event in found}
        for peer in honest:
            for slice_id, version in reached.items():
                eventually(
                    lambda peer=peer, key=(slice_id, version): is_on_disk(peer, *key),
                    what=f"{peer.name} saves slice {slice_id} v{version} or a later one",
                )
        committed = {sha256 for peer in honest for *_, sha256 in results_on_disk(peer)}
        assert not lies & committed
        assert {event.correct for event in found}.isdisjoint(lies)
        swarm.assert_same_digests(honest)  # nobody listens to the other one, who may go on with himself
        assert "LIED about the average" in "".join(peer.log() + peer.child.log.read_text() for peer in honest)
