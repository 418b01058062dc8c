"""What the demo promises, what it reports, and what it says at the end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from p2ptrain.cli.demo_command import _new_folder
from p2ptrain.cli.demo_summary import summary_lines
from p2ptrain.dashboard.projection import SwarmView
from p2ptrain.errors import UsageError
from p2ptrain.events import Record, RoundCommitted
from p2ptrain.ids import COMMON, Digest, PeerId, SliceId, Version
from p2ptrain.node import demo_swarm
from p2ptrain.node.demo_results import DemoReport, Killed, ModelResults, failed_promises
from p2ptrain.node.demo_strike import Strike
from p2ptrain.node.demo_swarm import DemoFailed, DemoSwarm, SliceAnswer, parse_answer

A, B = PeerId("12D3KooWaaaaaa"), PeerId("12D3KooWbbbbbb")
ONE = SliceId("1")


def answer(slice_id: SliceId, **digests: str) -> SliceAnswer:
    peers = {"a": A, "b": B}
    return SliceAnswer(
        id=slice_id,
        version=Version(24),
        owners=(A, B),
        digests={peers[name]: Digest(digest * 32) for name, digest in digests.items()},
    )


GOOD = DemoReport(
    rounds_committed=72,
    rounds_void=1,
    val_loss_first=6.0,
    val_loss_last=2.0,
    slices=[answer(COMMON, a="cc", b="cc"), answer(ONE, a="11", b="11")],
    killed=Killed(peer=B, slice=ONE, version=Version(9), stage="reducing"),
    replaced_after_s=12.5,
    bytes_sent_per_peer={A: 1_000_000},
    export_path="/demo/model",
    seconds=100.0,
    versions={"p2ptrain": "0.1"},
)
STRIKE = Strike(
    victim="peer-d",
    replacement="peer-e",
    from_version=Version(8),
    committed_after=frozenset({Version(9)}),
)
MODEL = ModelResults(
    val_loss_first=6.0,
    val_loss_last=2.0,
    sample=b"def f():\n\treturn \x1b[31m\xff\n",
    export_path=Path("/demo/model"),
)


def failures(report: DemoReport, strike: Strike = STRIKE) -> list[str]:
    return failed_promises(report, strike, [COMMON, ONE])


def test_all_as_promised_has_no_failures() -> None:
    assert failures(GOOD) == []
    assert failures(replace(GOOD, val_loss_last=4.0)) == [], "a third exactly is enough"


@pytest.mark.parametrize("loss", [4.01, 7.0, float("nan")])
def test_loss_must_fall_by_a_third(loss: float) -> None:
    assert failures(replace(GOOD, val_loss_last=loss)) == [
        f"The validation loss fell from 6.000 to {loss:.3f} nats/byte only, by less than a third."
    ]


def test_each_broken_promise_is_one_sentence() -> None:
    assert failures(replace(GOOD, val_loss_last=None)) == ["The trained model could not be evaluated."]
    assert failures(GOOD, replace(STRIKE, committed_after=frozenset())) == [
        "No round of slice 1 was committed after peer-d was killed."
    ]
    assert failures(replace(GOOD, slices=GOOD.slices[:1])) == ["Slice 1 has no owner at the end."]
    never = replace(GOOD, killed=None)
    assert failures(never, replace(STRIKE, committed_after=frozenset())) == [
        "No peer was killed: none was seen in the middle of averaging before the time was over."
    ]


@pytest.mark.parametrize("digests", [{"a": "11", "b": "22"}, {"a": "11"}, {}])
def test_owners_that_differ_or_lag_do_not_agree(digests: dict[str, str]) -> None:
    report = replace(GOOD, slices=[GOOD.slices[0], answer(ONE, **digests)])
    assert failures(report) == ["Not all 2 owners of slice 1 have the same digest of version 24."]


def test_report_has_the_agreed_keys_and_survives_json() -> None:
    body = json.loads(json.dumps(GOOD.to_json()))
    assert list(body) == [
        "rounds_committed",
        "rounds_void",
        "val_loss_first",
        "val_loss_last",
        "slices",
        "killed",
        "replaced_after_s",
        "bytes_sent_per_peer",
        "export_path",
        "seconds",
        "versions",
    ]
    assert body["slices"][1] == {
        "id": "1",
        "version": 24,
        "owners": [A, B],
        "digests": {A: "11" * 32, B: "11" * 32},
    }
    assert body["killed"] == {"peer": B, "slice": "1", "version": 9, "stage": "reducing"}
    assert json.dumps(replace(GOOD, killed=None, replaced_after_s=None, export_path=None).to_json())


def test_swarms_answer_is_read_back() -> None:
    printed = GOOD.to_json() | {"run": "x", "peers": []}
    assert parse_answer(json.loads(json.dumps(printed))) == list(GOOD.slices)


def test_summary_ends_with_the_verdict_and_prints_nothing_that_moves_the_cursor() -> None:
    lines = summary_lines(GOOD, SwarmView(), MODEL, [])
    text = "\n".join(lines)
    assert lines[-1] == "all as promised, in 100 s"
    assert "6.000 with initial weights, 2.000 nats/byte trained: 67% less" in text
    assert "v24, digest 11111111 on all 2 owners" in text
    assert "12.5 s after the kill" in text
    assert text.replace("\n", "").isprintable()
    lines = summary_lines(replace(GOOD, slices=[answer(ONE, a="11", b="22")]), SwarmView(), None, ["It broke."])
    assert lines[-2:] == ["It broke.", "failed, in 100 s"]
    assert any("11111111 on 1, 22222222 on 1 of 2 owners" in line for line in lines)


def test_process_that_ends_early_is_reported_with_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        demo_swarm, "_p2ptrain", lambda arguments: ["sh", "-c", "echo $0 is not for me; exit 2", *arguments]
    )
    swarm = DemoSwarm(folder=tmp_path, manifest=tmp_path / "none.toml")
    swarm.start_peer("peer-a", None)
    swarm.children["peer-a"].process.wait(30)
    with pytest.raises(DemoFailed, match=r"peer-a ended with status 2; it wrote last:\n  peer is not for me\n"):
        swarm.check_running(["peer-a"])
    assert swarm.stop(0.0) == []


def test_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="not an empty folder"):
        _new_folder(tmp_path)
    assert _new_folder(tmp_path / "new" / "deeper").is_absolute()
    assert list((tmp_path / "new" / "deeper").iterdir()) == []


def test_a_swarm_gets_under_way_when_every_peer_has_committed_the_common_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = DemoSwarm(tmp_path, tmp_path / "run.toml")
    checked: list[str] = []
    monkeypatch.setattr(DemoSwarm, "check_running", lambda self, names: checked.extend(names))

    def commit(name: str, slice_id: SliceId) -> None:
        event = RoundCommitted(
            slice=slice_id,
            version=Version(1),
            epoch=1,
            members=[A],
            digest=Digest("00" * 32),
            contributors=[A],
            owners=[A],
            tokens=1,
            seconds=1.0,
        )
        swarm.home(name).mkdir(exist_ok=True)
        with swarm.journal(name).open("a") as file:
            file.write(Record(sequence=1, time_s=1.0, event=event).to_json() + '\n{"cut off by a kill')

    commit("a", COMMON)
    commit("b", ONE)
    with pytest.raises(DemoFailed, match=r"^b, c committed nothing within 0 s; see the logs in"):
        swarm.wait_until_all_average(["a", "b", "c"], 0.0)
    assert checked == ["bootstrap", "a", "b", "c"]
    assert [r.event.slice for r in swarm.records("b") if isinstance(r.event, RoundCommitted)] == [ONE]
    swarm.wait_until_all_average(["a"], 0.0)
