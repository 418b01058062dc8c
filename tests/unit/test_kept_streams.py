"""Which idle streams are used again, and when they are closed."""

import asyncio
from types import SimpleNamespace
from typing import Any

from p2ptrain.ids import PeerId
from p2ptrain.wire.kept_streams import _KEPT_S, _MAX_KEPT, KeptStreams
from tests.support.fake_time_loop import run_in_fake_time

A, B = PeerId("a"), PeerId("b")


class FakeWriter:
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


def stream(*, has_ended: bool = False) -> Any:
    reader = SimpleNamespace(at_eof=lambda: has_ended, exception=lambda: None)
    return reader, FakeWriter()


def closed(streams: list[Any]) -> list[bool]:
    return [writer.is_closed for _, writer in streams]


async def test_the_one_that_was_used_last_is_taken_first_and_once() -> None:
    kept, (first, second) = KeptStreams(), (stream(), stream())
    kept.keep(A, "x", first)
    kept.keep(A, "x", second)
    assert kept.take(B, "x") is None
    assert kept.take(A, "y") is None
    assert [kept.take(A, "x") for _ in range(3)] == [second, first, None]
    assert closed([first, second]) == [False, False]


async def test_one_that_the_other_end_has_closed_is_not_taken() -> None:
    kept, (good, ended) = KeptStreams(), (stream(), stream(has_ended=True))
    kept.keep(A, "x", good)
    kept.keep(A, "x", ended)
    assert kept.take(A, "x") == good
    assert closed([ended]) == [True]


def test_what_nobody_wants_for_a_while_is_closed() -> None:
    kept, (early, late) = KeptStreams(), (stream(), stream())

    async def wait() -> None:
        kept.keep(A, "x", early)
        await asyncio.sleep(_KEPT_S / 2)
        kept.keep(A, "x", late)
        await asyncio.sleep(_KEPT_S * 0.7)
        assert closed([early, late]) == [True, False]
        assert kept.take(A, "x") == late
        await asyncio.sleep(2 * _KEPT_S)
        assert closed([late]) == [False], "it is somebody's now"

    run_in_fake_time(wait())


async def test_few_are_kept_and_all_to_a_peer_or_to_everybody_can_be_closed() -> None:
    kept, many, other = KeptStreams(), [stream() for _ in range(_MAX_KEPT + 1)], stream()
    for one in many:
        kept.keep(A, "x", one)
    kept.keep(B, "x", other)
    assert closed(many) == [True] + [False] * _MAX_KEPT
    kept.close(A)
    assert closed([*many, other]) == [True] * len(many) + [False]
    kept.close()
    assert closed([other]) == [True]
