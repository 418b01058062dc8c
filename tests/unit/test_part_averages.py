"""What a member computes of one part, whoever announced its contributions."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from p2ptrain.ids import Digest, PeerId
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.part_averages import PartAverages
from p2ptrain.wire.codec import encode
from p2ptrain.wire.messages import BlobRef, Contribution, PartResult
from tests.support.owners_in_memory import EXCHANGE, SLICE, OwnersInMemory

ONE = np.linspace(-1, 1, EXCHANGE.part_elements, dtype=np.float32)
ENCODED = encode(EXCHANGE.codec, ONE)


def averages(fetched: list[BlobRef], averaging: str = "mean", data: bytes | memoryview = ENCODED) -> PartAverages:
    async def fetch(ref: BlobRef, *_: object, **__: object) -> tuple[memoryview, PeerId]:
        fetched.append(ref)
        return memoryview(data), PeerId("them")

    hand = next(iter(OwnersInMemory(1).hands.values()))
    blobs: Any = SimpleNamespace(fetch=fetch, store=hand.store)
    exchange = replace(EXCHANGE, averaging=averaging)  # type: ignore[arg-type]
    context: Context = replace(hand.context, blobs=blobs, exchange=exchange)
    return PartAverages(context, SLICE, "round")


def contribution(size_bytes: int, parts: int = 3) -> Contribution:
    return Contribution(PeerId("them"), 10, 1.0, (BlobRef(Digest("11" * 32), size_bytes),) * parts)


RESULT = PartResult(0, BlobRef.of(ENCODED), (PeerId("them"),))


async def test_no_room_is_made_for_a_part_of_another_size_than_the_slice_has() -> None:
    fetched: list[BlobRef] = []
    checker = averages(fetched)
    for wrong in (contribution(2**62), contribution(len(ENCODED) + 1), contribution(len(ENCODED), parts=0)):
        assert await checker.check(RESULT, [wrong], PeerId("them"), 1.0) is None
    assert await checker.reduce(0, [contribution(2**62)], 1.0) is None
    assert fetched == []
    checked = await checker.check(RESULT, [contribution(len(ENCODED))], PeerId("them"), 1.0)
    assert checked is not None
    assert checked.data == ENCODED


async def test_what_is_fetched_early_is_there_when_it_is_needed_and_no_room_is_made_for_other_sizes() -> None:
    fetched: list[BlobRef] = []
    member, size = averages(fetched), len(ENCODED)
    store = member._context.blobs.store
    wrong = [contribution(2**62), contribution(size, parts=0), replace(contribution(size), tokens=0)]
    await member.fetch_inputs(0, wrong, PeerId("reducer"), 1.0, lambda: True)
    for size_bytes in (2**62, 0):
        lie = replace(RESULT, average=BlobRef(RESULT.average.sha256, size_bytes))
        await member.fetch_average(lie, PeerId("them"), lambda: True)
    assert fetched == []
    for is_wanted in (False, True):
        assert [store.get(ref.sha256) for ref in fetched] == [None] * len(fetched), "the round has gone on meanwhile"
        fetched.clear()
        await member.fetch_inputs(0, [contribution(size)], PeerId("reducer"), 1.0, lambda: is_wanted)  # noqa: B023
        await member.fetch_average(RESULT, PeerId("reducer"), lambda: is_wanted)  # noqa: B023
    assert fetched == [contribution(size).parts[0], RESULT.average]
    assert [store.get(ref.sha256) for ref in fetched] == [ENCODED, ENCODED]
    store.release("round")
    assert [store.get(ref.sha256) for ref in fetched] == [None, None], "not kept for longer than the round"


@pytest.mark.parametrize("size_bytes", [2**62, 0])
async def test_an_average_of_another_size_is_not_near_ours(size_bytes: int) -> None:
    fetched: list[BlobRef] = []
    lie = replace(RESULT, average=BlobRef(Digest("22" * 32), size_bytes))
    checked = await averages(fetched, "trimmed").check(lie, [contribution(len(ENCODED))], PeerId("them"), 1.0)
    assert checked is not None
    assert checked.reducers is None
    assert [ref.size_bytes for ref in fetched] == [len(ENCODED)]


async def test_a_part_that_does_not_decode_is_left_out_and_its_sender_accused() -> None:
    worker = averages([], data=b"\xff" * len(ENCODED))  # scales that are no numbers
    accused: list[PeerId] = []
    door = SimpleNamespace(accuse=lambda peer, reason: accused.append(peer))
    worker._context.node = SimpleNamespace(door=door)  # type: ignore[assignment]
    assert await worker.reduce(0, [contribution(len(ENCODED))], 1.0) is None
    assert accused == [PeerId("them")]
    assert await worker.check(RESULT, [contribution(len(ENCODED))], PeerId("them"), 1.0) is None
