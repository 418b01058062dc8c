"""What strangers say of themselves, as whoever looks at the swarm shows it."""

import json
from types import SimpleNamespace
from typing import Any, cast

from p2ptrain.ids import COMMON, Digest, PeerId, RunId, SliceId, Version
from p2ptrain.node.observer import look
from p2ptrain.report import PeerReport, SliceReport, SwarmReport
from p2ptrain.swarm.directory import Claim, Directory
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.v1 import peer_pb2 as pb

STRANGER = PeerId("stranger")


async def test_slices_that_the_run_does_not_have_are_left_out_of_a_stranger_s_answer() -> None:
    names = ["common", "0", "7", "", "x.y", "0.0.0"]
    answer = pb.StatusReply(slices=[pb.SliceStatus(slice=name, version=3, owned=True) for name in names])

    async def claims() -> dict[PeerId, Claim]:
        return {STRANGER: Claim(run=RunId("r"), peer=STRANGER, ready=(SliceId("z"),), expires_s=9e9)}

    async def call(*_: Any, **__: Any) -> pb.StatusReply:
        return answer

    node, directory = SimpleNamespace(call=call), SimpleNamespace(claims=claims)
    report = await look(
        cast(Libp2pNode, node), cast(Directory, directory), RunId("r"), [COMMON, SliceId("0"), SliceId("1")]
    )
    assert report.peers[STRANGER].slices == (COMMON, "0")
    assert [(one.slice, one.version) for one in report.slices.values()] == [("common", 3), ("0", 3), ("1", 0)]


def test_a_report_is_read_back_as_it_was_written() -> None:
    peer = PeerReport(
        peer=STRANGER,
        slices=(COMMON,),
        state="TRAINING",
        reason="round 2",
        sent_bytes=1,
        received_bytes=2,
        tokens=3,
        validation_loss_nats=None,
        software="0.1.0",
        reach="direct",
    )
    one = SliceReport(
        slice=COMMON,
        version=Version(2),
        epoch=1,
        owners=(STRANGER,),
        digests={STRANGER: Digest("ab" * 32)},
        digests_version=Version(2),
        tokens=3,
        loss_nats=1.5,
        verdict="ok",
    )
    report = SwarmReport.of(RunId("r"), [one], [peer], [PeerId("silent")])
    assert SwarmReport.from_json(json.loads(json.dumps(report.to_json()))) == report
