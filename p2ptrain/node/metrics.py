"""A peer's events folded into Prometheus metrics: which exist, and what each event does to them.

``changes`` decides purely; ``PeerMetrics`` is the sink that keeps the numbers, in a registry of its own. Names follow
Prometheus's conventions: the application first, base units, ``_total`` for what only grows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from p2ptrain.events import (
    STATES,
    CatchUpFailed,
    ComputeUsed,
    CoverageChanged,
    DiskRecovered,
    DiskTrouble,
    Evaluated,
    InnerStepDone,
    PeerStarted,
    ProgressDropped,
    Record,
    RoundCommitted,
    RoundVoid,
    SliceGained,
    SliceGivenUp,
    SlicesClaimed,
    StateChanged,
    StateFetched,
    Traffic,
    UpdateApplied,
)

Kind = Literal["counter", "gauge", "histogram"]

_STEP_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_ROUND_BUCKETS_S = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric: its name without the application's, and what it says."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper ends, for histograms."""

    @property
    def full_name(self) -> str:
        """As Prometheus has it."""
        return f"p2ptrain_peer_{self.name}"


@dataclass(frozen=True, slots=True)
class Change:
    """What an event does to one metric."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()
    how: Literal["add", "set", "observe", "total", "forget"] = "add"
    """``total``: the value is a count since some beginning; one that falls began anew. ``forget``: all labels'."""


INFO = Metric(
    name="info",
    kind="gauge",
    help="Always 1; who this is, of which run, with which p2ptrain.",
    labels=("peer", "run", "version"),
)
STATE = Metric(name="state", kind="gauge", help="1 for what the peer is doing now, 0 for all else.", labels=("state",))
EVENTS = Metric(name="events_total", kind="counter", help="Events of each kind, see events.md.", labels=("kind",))
ROUND = Metric(name="round", kind="gauge", help="Round of the last inner step.")
INNER_STEPS = Metric(name="inner_steps_total", kind="counter", help="Inner steps done.")
STEP_SECONDS = Metric(
    name="inner_step_duration_seconds", kind="histogram", help="Time that an inner step took.", buckets=_STEP_BUCKETS_S
)
TOKENS = Metric(name="tokens_total", kind="counter", help="Tokens trained on.")
LOSS = Metric(name="loss_nats", kind="gauge", help="Training loss of the last inner step, a token.")
VALIDATION = Metric(name="validation_loss_nats", kind="gauge", help="Validation loss when it was last taken, a token.")
COMPUTE = Metric(
    name="compute_seconds_total",
    kind="counter",
    help="Time of the training thread: training, waiting for slices that are being averaged, or other.",
    labels=("use",),
)
LOOP_LAG = Metric(
    name="event_loop_lag_seconds", kind="gauge", help="Longest that the event loop was late in the last round."
)
TRAINING_LAG = Metric(
    name="training_lag_seconds", kind="gauge", help="Longest that news waited for an inner step in the last round."
)
OWNED = Metric(name="slice_owned", kind="gauge", help="1 while this peer owns the slice.", labels=("slice",))
VERSION = Metric(name="slice_version", kind="gauge", help="Newest version of the slice here.", labels=("slice",))
OWNERS = Metric(
    name="slice_owners", kind="gauge", help="Owners of the slice's next version, or its live claims.", labels=("slice",)
)
MOVED = Metric(
    name="slice_moved_timestamp_seconds",
    kind="gauge",
    help="When the slice last came to a new version here, as Unix time.",
    labels=("slice",),
)
COMMITTED = Metric(
    name="rounds_committed_total", kind="counter", help="Rounds of owned slices that committed.", labels=("slice",)
)
VOID = Metric(
    name="rounds_void_total", kind="counter", help="Rounds of owned slices that changed nothing.", labels=("slice",)
)
ROUND_SECONDS = Metric(
    name="round_duration_seconds",
    kind="histogram",
    help="From the cut-off of an owned slice to its commit.",
    buckets=_ROUND_BUCKETS_S,
)
DROPPED = Metric(
    name="dropped_tokens_total", kind="counter", help="Tokens whose training came too late to be averaged."
)
FETCHED = Metric(
    name="fetched_bytes_total",
    kind="counter",
    help="Model data fetched and verified: updates, and for catching up anchor, published and replay.",
    labels=("part",),
)
CATCH_UP_FAILED = Metric(
    name="catch_up_failures_total",
    kind="counter",
    help="Times that a certified version could not be fetched yet.",
    labels=("slice",),
)
SENT = Metric(name="sent_bytes_total", kind="counter", help="Messages and blobs sent, without libp2p's overhead.")
RECEIVED = Metric(
    name="received_bytes_total", kind="counter", help="Messages and blobs received, without libp2p's overhead."
)
DISK_TROUBLE = Metric(
    name="disk_trouble", kind="gauge", help="1 while nothing can be saved, and so the peer votes on nothing."
)

METRICS: tuple[Metric, ...] = tuple(value for value in vars().copy().values() if isinstance(value, Metric))
"""All, in the order above. The process's own (``process_*``: CPU, memory, files, start) come with them."""


def changes(record: Record) -> Iterator[Change]:
    """What a record does to the metrics."""
    yield Change(EVENTS, 1, (type(record.event).__name__,))
    match record.event:
        case PeerStarted(peer=peer, run=run):
            yield Change(INFO, 1, (peer, run, metadata.version("p2ptrain")), "set")
            yield Change(OWNED, 0, how="forget")
        case StateChanged(state=now):
            for state in STATES:
                yield Change(STATE, float(state == now), (state,), "set")
        case InnerStepDone() as step:
            yield Change(ROUND, step.round, how="set")
            yield Change(INNER_STEPS, 1)
            yield Change(STEP_SECONDS, step.seconds, how="observe")
            yield Change(TOKENS, step.tokens)
            yield Change(LOSS, step.loss_nats, how="set")
        case Evaluated(loss_nats=loss_nats):
            yield Change(VALIDATION, loss_nats, how="set")
        case ComputeUsed() as used:
            yield Change(COMPUTE, used.training_s, ("training",))
            yield Change(COMPUTE, used.waiting_s, ("waiting",))
            yield Change(COMPUTE, used.other_s, ("other",))
            yield Change(LOOP_LAG, used.loop_lag_s, how="set")
            yield Change(TRAINING_LAG, used.training_lag_s, how="set")
        case Traffic(sent_bytes=sent, received_bytes=received):
            yield Change(SENT, sent, how="total")
            yield Change(RECEIVED, received, how="total")
        case DiskTrouble():
            yield Change(DISK_TROUBLE, 1, how="set")
        case DiskRecovered():
            yield Change(DISK_TROUBLE, 0, how="set")
        case _:
            yield from _of_slices(record)


def _of_slices(record: Record) -> Iterator[Change]:
    match record.event:
        case SlicesClaimed(slices=slices):
            for slice_id in slices:
                yield Change(OWNED, 1, (slice_id,), "set")
        case SliceGained(slice=slice_id, version=version):
            yield Change(OWNED, 1, (slice_id,), "set")
            yield Change(VERSION, version, (slice_id,), "set")
        case SliceGivenUp(slice=slice_id):
            yield Change(OWNED, 0, (slice_id,), "set")
        case CoverageChanged(slice=slice_id, owners=owners):
            yield Change(OWNERS, owners, (slice_id,), "set")
        case RoundCommitted() as commit:
            yield Change(COMMITTED, 1, (commit.slice,))
            yield Change(ROUND_SECONDS, commit.seconds, how="observe")
            yield Change(OWNERS, len(commit.owners), (commit.slice,), "set")
            yield from _moved(record, commit.slice, commit.version)
        case RoundVoid(slice=slice_id):
            yield Change(VOID, 1, (slice_id,))
        case UpdateApplied() as update:
            yield Change(FETCHED, update.size_bytes, ("update",))
            yield from _moved(record, update.slice, update.version)
        case StateFetched() as fetched:
            yield Change(FETCHED, fetched.size_bytes, (fetched.part,))
            yield from _moved(record, fetched.slice, fetched.version)
        case CatchUpFailed(slice=slice_id):
            yield Change(CATCH_UP_FAILED, 1, (slice_id,))
        case ProgressDropped(tokens=tokens):
            yield Change(DROPPED, tokens)
        case _:
            pass


def _moved(record: Record, slice_id: str, version: int) -> Iterator[Change]:
    yield Change(VERSION, version, (slice_id,), "set")
    yield Change(MOVED, record.time_s, (slice_id,), "set")


class PeerMetrics:
    """A sink for ``EventBus``; ``registry`` is what Prometheus reads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._kept: dict[Metric, MetricWrapperBase] = {metric: self._make(metric) for metric in METRICS}
        self._totals: dict[Metric, float] = {}
        ProcessCollector(registry=self.registry)

    def __call__(self, record: Record) -> None:
        """Take note of ``record``."""
        for change in changes(record):
            self._apply(change)

    def _make(self, metric: Metric) -> MetricWrapperBase:
        if metric.kind == "histogram":
            return Histogram(
                metric.full_name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets
            )
        wrapper = Counter if metric.kind == "counter" else Gauge
        return wrapper(metric.full_name, metric.help, metric.labels, registry=self.registry)

    def _apply(self, change: Change) -> None:
        kept = self._kept[change.metric]
        if change.how == "forget":
            kept.clear()
            return
        one = kept.labels(*change.labels) if change.labels else kept
        match one:
            case Histogram():
                one.observe(change.value)
            case Counter():
                one.inc(self._growth(change) if change.how == "total" else change.value)
            case Gauge():
                one.set(change.value)

    def _growth(self, change: Change) -> float:
        before = self._totals.get(change.metric, 0.0)
        self._totals[change.metric] = change.value
        return change.value if change.value < before else change.value - before
