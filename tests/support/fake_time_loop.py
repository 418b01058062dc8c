"""An event loop whose clock jumps to the next timer as soon as nothing else is to do: hours pass in a blink."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _SkippingSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now_s += timeout
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """For code that waits by the loop's clock alone; threads and sockets would make it wrong."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now_s


def run_in_fake_time(work: Coroutine[Any, Any, _Result]) -> _Result:
    """``asyncio.run`` in fake time."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(work)
