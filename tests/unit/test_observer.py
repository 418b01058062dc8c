"""What strangers say of themselves, as whoever looks at the swarm shows it."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from p2ptrain.ids import COMMON, PeerId, RunId, SliceId
from p2ptrain.node.observer import look
from p2ptrain.report import SwarmReport
from p2ptrain.swarm.directory import Claim, Directory
from p2ptrain.swarm.listing import is_drawn
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.v1 import peer_pb2 as pb
from tests.support.reports import peer, slice_view

STRANGER = PeerId("stranger")


async def test_what_makes_no_sense_is_left_out_of_a_stranger_s_answer() -> None:
    names = ["common", "0", "7", "", "x.y", "0.0.0"]
    statuses = [pb.SliceStatus(slice=name, version=3, owned=True, loss_nats=math.nan) for name in names]
    answer = pb.StatusReply(slices=statuses, validation_loss_nats=math.inf)

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
    losses = [report.peers[STRANGER].validation_loss_nats, *(one.loss_nats for one in report.slices.values())]
    assert losses == [None] * 4, "what is not a number was not measured"


def test_a_report_is_read_back_as_it_was_written() -> None:
    one = replace(slice_view("0", 2, loss=None), verdict="ok")
    report = SwarmReport.of(RunId("r"), [one], [peer(STRANGER, "0")], [PeerId("silent")])
    assert SwarmReport.from_json(json.loads(json.dumps(report.to_json()))) == report


async def test_who_has_withdrawn_is_not_shown_and_those_that_are_listed_stand_for_the_others() -> None:
    drawn = next(PeerId(f"P{n}") for n in range(1000) if is_drawn(PeerId(f"P{n}"), 7, 6))
    asked: list[PeerId] = []

    async def claims() -> dict[PeerId, Claim]:
        here = Claim(run=RunId("r"), peer=drawn, expires_s=9e9, halvings=6, draw=7)
        return {drawn: here, STRANGER: replace(here, peer=STRANGER, is_withdrawn=True)}

    async def call(peer: PeerId, *_: Any, **__: Any) -> pb.StatusReply:
        asked.append(peer)
        return pb.StatusReply()

    node, directory = SimpleNamespace(call=call), SimpleNamespace(claims=claims)
    report = await look(cast(Libp2pNode, node), cast(Directory, directory), RunId("r"), [COMMON])
    assert asked == [drawn]
    assert report.silent == ()
    assert report.num_peers == 64
    assert SwarmReport.from_json(report.to_json()).num_peers == 64
