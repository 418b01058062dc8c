"""A peer's metrics: what events do to them, and what Prometheus's own tools say of the result."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, get_origin, get_type_hints

import aiohttp
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from p2ptrain.errors import NetworkSetupError
from p2ptrain.events import (
    KINDS,
    ComputeUsed,
    Event,
    InnerStepDone,
    PeerStarted,
    Record,
    RoundCommitted,
    SliceGivenUp,
    SlicesClaimed,
    StateChanged,
    Traffic,
    UpdateApplied,
)
from p2ptrain.ids import Digest, PeerId, RunId, SliceId, Version
from p2ptrain.node.metrics import METRICS, PeerMetrics, changes
from p2ptrain.node.metrics_server import start_metrics_server

S0, S1 = SliceId("0"), SliceId("1")


def sample(kind: type[Event]) -> Event:
    """An event of a kind, whatever its fields are."""

    def value(hint: Any) -> Any:
        if get_origin(hint) is list:
            return ["0"]
        if get_origin(hint) is dict:
            return {"0": 1}
        plain = getattr(hint, "__supertype__", hint)
        return {str: "text", int: 3, float: 1.5, bool: True}.get(plain)

    return kind(**{name: value(hint) for name, hint in get_type_hints(kind).items()})


def folded(*events: Event) -> dict[str, float]:
    """The samples after these events: ``name{label=value}`` without the application's prefix."""
    metrics = PeerMetrics()
    for i, event in enumerate(events):
        metrics(Record(sequence=i + 1, time_s=1000.0 + i, event=event))
    return dict(samples(generate_latest(metrics.registry).decode()))


def samples(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
            yield one.name.removeprefix("p2ptrain_peer_") + (f"{{{labels}}}" if labels else ""), one.value


def step(tokens: int, seconds: float = 0.2) -> InnerStepDone:
    return InnerStepDone(round=Version(4), inner_step=1, loss_nats=2.5, tokens=tokens, seconds=seconds)


def commit(slice_id: SliceId, version: int) -> RoundCommitted:
    return RoundCommitted(
        slice=slice_id,
        version=Version(version),
        epoch=0,
        members=[PeerId("a"), PeerId("b")],
        digest=Digest("d"),
        contributors=[PeerId("a")],
        owners=[PeerId("a"), PeerId("b")],
        tokens=10,
        seconds=2.0,
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_event_is_counted_and_none_is_too_much_for_the_metrics(kind: type[Event]) -> None:
    found = folded(sample(kind), sample(kind))
    assert found[f"events_total{{kind={kind.__name__}}}"] == 2


def test_every_metric_is_moved_by_some_event() -> None:
    records = [Record(sequence=1, time_s=0.0, event=sample(kind)) for kind in KINDS.values()]
    assert {change.metric for record in records for change in changes(record)} == set(METRICS)


def test_steps_add_up_and_the_last_one_shows() -> None:
    found = folded(step(100, 0.02), step(50, 7.0))
    assert found["inner_steps_total"] == 2
    assert found["tokens_total"] == 150
    assert found["loss_nats"] == 2.5
    assert found["round"] == 4
    assert found["inner_step_duration_seconds_bucket{le=0.03}"] == 1
    assert found["inner_step_duration_seconds_sum"] == pytest.approx(7.02)


def test_only_the_present_state_is_1() -> None:
    found = folded(StateChanged(state="TRAINING", reason=""), StateChanged(state="PAUSED", reason="you"))
    assert found["state{state=PAUSED}"] == 1
    assert found["state{state=TRAINING}"] == 0
    assert sum(value for name, value in found.items() if name.startswith("state{")) == 1


def test_bytes_go_on_rising_over_a_session_that_counts_from_0_again() -> None:
    traffic = [Traffic(sent_bytes=sent, received_bytes=2 * sent, sending="") for sent in (100, 400, 30)]
    found = folded(*traffic)
    assert found["sent_bytes_total"] == 430
    assert found["received_bytes_total"] == 860


def test_slices_have_versions_owners_and_times_and_a_new_session_owns_afresh() -> None:
    started = PeerStarted(peer=PeerId("p"), run=RunId("r"), addresses=[])
    update = UpdateApplied(slice=S1, version=Version(8), holder=PeerId("b"), size_bytes=500)
    given_up = SliceGivenUp(slice=S1, version=Version(7), reason="")
    found = folded(started, SlicesClaimed(slices=[S0, S1], reason=""), given_up, commit(S0, 7), commit(S0, 8), update)
    assert found["slice_owned{slice=0}"] == 1
    assert found["slice_owned{slice=1}"] == 0
    assert found["rounds_committed_total{slice=0}"] == 2
    assert found["slice_version{slice=0}"] == found["slice_version{slice=1}"] == 8
    assert found["slice_owners{slice=0}"] == 2
    assert found["slice_moved_timestamp_seconds{slice=1}"] == 1005.0
    assert found["fetched_bytes_total{part=update}"] == 500
    again = folded(started, SlicesClaimed(slices=[S0], reason=""), started, SlicesClaimed(slices=[S1], reason=""))
    assert "slice_owned{slice=0}" not in again
    assert again["slice_owned{slice=1}"] == 1


def test_time_of_the_training_thread_is_told_by_use() -> None:
    times = {"training_s": 9.0, "waiting_s": 0.5, "other_s": 0.25}
    used = ComputeUsed(round=Version(1), **times, loop_lag_s=0.125, training_lag_s=0.5)
    found = folded(used, used)
    assert found["compute_seconds_total{use=training}"] == 18
    assert found["compute_seconds_total{use=waiting}"] == 1
    assert found["event_loop_lag_seconds"] == 0.125
    assert found["training_lag_seconds"] == 0.5


def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    metrics = PeerMetrics()
    for kind in KINDS.values():
        metrics(Record(sequence=1, time_s=1000.0, event=sample(kind)))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_metrics_are_served_and_nothing_else() -> None:
    metrics = PeerMetrics()
    metrics(Record(sequence=1, time_s=1.0, event=step(77)))
    runner, url = await start_metrics_server("127.0.0.1", 0, metrics.registry)
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                assert answer.status == 200
                assert answer.headers["Content-Type"].startswith("text/plain")
                assert dict(samples(await answer.text()))["tokens_total"] == 77
            wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
            async with session.get(url, headers=wanted) as answer:
                assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
                assert (await answer.text()).endswith("# EOF\n")
            for method, path in (("GET", "/"), ("POST", "/metrics")):
                async with session.request(method, url.replace("/metrics", path)) as answer:
                    assert answer.status in (404, 405)
        port = int(url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(NetworkSetupError, match=f"--metrics 127.0.0.1:{port}: cannot listen there"):
            await start_metrics_server("127.0.0.1", port, metrics.registry)
    finally:
        await runner.cleanup()
