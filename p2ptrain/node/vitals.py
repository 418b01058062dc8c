"""A peer's present in numbers, folded from its events: for its status, and for metrics."""

from collections import deque

from p2ptrain import clock
from p2ptrain.events import (
    Evaluated,
    InnerStepDone,
    PeerStarted,
    ReachChanged,
    Record,
    RoundCommitted,
    StateChanged,
    StateFetched,
    Traffic,
    UpdateApplied,
)
from p2ptrain.ids import SliceId

_RATE_WINDOW_S = 30.0
"""Over which tokens and bytes per second are taken: some inner steps, and about a round's transfers."""


class Rate:
    """Growth per second of a number that only rises, over the last half minute."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()

    def add(self, total: float, at_s: float) -> None:
        """The number's value at a time."""
        self._points.append((at_s, total))
        while self._points[0][0] < at_s - _RATE_WINDOW_S:
            self._points.popleft()

    def per_s(self, now_s: float) -> float | None:
        """None when it was not seen twice in the window."""
        recent = [point for point in self._points if point[0] >= now_s - _RATE_WINDOW_S]
        if len(recent) < 2:
            return None
        elapsed_s = now_s - recent[0][0]
        return (recent[-1][1] - recent[0][1]) / elapsed_s if elapsed_s > 0 else None


class Vitals:
    """A sink for ``EventBus``."""

    def __init__(self) -> None:
        self.started_s = clock.wall_s()
        self.addresses: list[str] = []
        self.reach = ""
        self.state = "STARTING"
        self.reason = "loading"
        self.state_since_s = self.started_s
        self.round = 0
        self.inner_step = 0
        self.loss_nats: float | None = None
        self.validation_loss_nats: float | None = None
        self.tokens = 0
        """Trained by this process, however often it slept meanwhile."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self.moved_s: dict[SliceId, float] = {}
        """When each slice last came to a new version here."""
        self.token_rate, self.sent_rate, self.received_rate = Rate(), Rate(), Rate()
        self._before = (0, 0)
        """Bytes of the network nodes that this process had before its present one."""

    def __call__(self, record: Record) -> None:
        """Take note of ``record``."""
        now_s = record.time_s
        match record.event:
            case PeerStarted(addresses=addresses):
                self.addresses = list(addresses)
                self._before = (self.sent_bytes, self.received_bytes)
            case ReachChanged(reach=reach):
                self.reach = reach
            case StateChanged(state=state, reason=reason):
                if state != self.state:
                    self.state_since_s = now_s
                self.state, self.reason = state, reason
            case InnerStepDone() as step:
                self.round, self.inner_step = step.round, step.inner_step + 1
                self.loss_nats = step.loss_nats
                self.tokens += step.tokens
                self.token_rate.add(self.tokens, now_s)
            case Evaluated(loss_nats=loss_nats):
                self.validation_loss_nats = loss_nats
            case Traffic(sent_bytes=sent, received_bytes=received):
                self.sent_bytes = self._before[0] + sent
                self.received_bytes = self._before[1] + received
                self.sent_rate.add(self.sent_bytes, now_s)
                self.received_rate.add(self.received_bytes, now_s)
            case RoundCommitted(slice=slice_id) | UpdateApplied(slice=slice_id) | StateFetched(slice=slice_id):
                self.moved_s[slice_id] = now_s
            case _:
                pass
