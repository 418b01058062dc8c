"""The doctor's judgement on good and bad input, and its probes on this machine."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from p2ptrain.cli.main import main
from p2ptrain.events import Record, TwinSeen
from p2ptrain.identity.keys import Identity, load_or_create
from p2ptrain.ids import PeerId, RunId
from p2ptrain.node.doctor import (
    ClockOffset,
    DialledBootstrap,
    DirectoryFacts,
    DiskFacts,
    Finding,
    IdentityFacts,
    LinkFacts,
    MemoryFacts,
    ReachFacts,
    StepFacts,
    has_failed,
    judge_bootstraps,
    judge_clock,
    judge_clock_is_set,
    judge_directory,
    judge_disk,
    judge_identity,
    judge_link,
    judge_memory,
    judge_names,
    judge_reach,
    judge_step,
    judge_versions,
    not_measured,
)
from p2ptrain.node.doctor_network import _store_and_find, is_seen
from p2ptrain.node.doctor_probes import (
    KNOWN_LOSSES,
    installed_versions,
    lock_holder,
    measure_disk,
    measure_identity,
    measure_step,
    tcp_port,
    version_conflicts,
)
from p2ptrain.node.doctor_reach import RelayFacts, judge_relay
from p2ptrain.node.home import FolderLock
from p2ptrain.swarm.directory import Claim
from p2ptrain.wire.reach import Sighting

ME, OTHER = PeerId("12D3KooWxxxxxxxxaaaaaa"), PeerId("12D3KooWxxxxxxxxbbbbbb")
MEMORY = MemoryFacts(device="cpu", free_bytes=2 << 30, needed_bytes=None, reason="2 of 2 slices")
STORED = DirectoryFacts(is_stored=True, is_found=True, seconds=0.2, is_own_claim_seen=None)


def offsets(*ahead_s: float, uncertainty_s: float = 0.05) -> list[ClockOffset]:
    return [ClockOffset(peer=OTHER, ahead_s=ahead, uncertainty_s=uncertainty_s) for ahead in ahead_s]


def called_back(*could_dial: bool) -> ReachFacts:
    sightings = [Sighting(by=OTHER, ip="8.8.8.8", port=9, could_dial=could) for could in could_dial]
    return ReachFacts(port=4001, is_peers=True, sightings=sightings)


@pytest.mark.parametrize(
    ("finding", "verdict", "says"),
    [
        (judge_clock_is_set(1_800_000_000.0), "ok", "set"),
        (judge_clock_is_set(1000.0), "fail", "never set"),
        (judge_clock(offsets(0.3, 0.1, 400.0), 30.0), "ok", "0.30 s behind the median of 3 peers"),
        (judge_clock(offsets(-5.0), 30.0), "warn", "5.00 s ahead of the median of 1 peer,"),
        (judge_clock(offsets(11.0), 30.0), "fail", "11.00 s behind"),
        (judge_clock(offsets(3.0, uncertainty_s=2.0), 30.0), "ok", "to 2.00 s"),
        (judge_clock([], 30.0), "not measured", "no peer answered"),
        (judge_disk(DiskFacts(free_bytes=10**11, needed_bytes=10**9, write_mbps=200.0)), "ok", "100.0 GB free"),
        (judge_disk(DiskFacts(free_bytes=10**9, needed_bytes=10**10, write_mbps=None)), "fail", "10.0 GB needed"),
        (judge_disk(DiskFacts(free_bytes=15 * 10**9, needed_bytes=10**10, write_mbps=None)), "warn", "15.0 GB free"),
        (judge_disk(DiskFacts(free_bytes=10**11, needed_bytes=None, write_mbps=3.0)), "warn", "3 MB/s"),
        (judge_disk(DiskFacts(free_bytes=0, needed_bytes=None, write_mbps=None, error="read-only")), "fail", "read"),
        (judge_step(StepFacts(device="cpu", losses=(5.0, 4.0), seconds=0.1), (5.0, 4.0)), "ok", "5.0000 to 4.0000"),
        (judge_step(StepFacts(device="cuda", losses=(5.0, 4.003), seconds=0.1), (5.0, 4.0)), "ok", "7.5e-04"),
        (judge_step(StepFacts(device="cuda", losses=(5.0, 4.1), seconds=0.1), (5.0, 4.0)), "fail", "from the known"),
        (judge_step(StepFacts(device="cuda", losses=(5.0, float("nan")), seconds=0.1), (5.0, 4.0)), "fail", "inf"),
        (judge_step(StepFacts(device="cuda", losses=(), seconds=0.0, error="no driver"), (5.0,)), "fail", "no driver"),
        (
            judge_memory(MemoryFacts(device="cpu", free_bytes=2 << 30, needed_bytes=1 << 30, reason="2 of 2")),
            "ok",
            "2 of",
        ),
        (
            judge_memory(MemoryFacts(device="cpu", free_bytes=1 << 30, needed_bytes=None, reason="too little")),
            "fail",
            "too",
        ),
        (judge_versions({"p2ptrain": "0.1.0"}, [], {OTHER: "0.1.0"}), "ok", "1 other peer the same"),
        (judge_versions({"p2ptrain": "0.1.0"}, [], {OTHER: "0.2.0"}), "warn", "0.2.0 elsewhere"),
        (judge_versions({"p2ptrain": "0.1.0"}, ["torch 2.4 is outside >=2.5"], {}), "fail", "outside"),
        (judge_identity(IdentityFacts(peer=None, holder=None, answers_elsewhere=None)), "ok", "no key yet"),
        (judge_identity(IdentityFacts(peer=ME, holder=7, answers_elsewhere=None)), "ok", "process 7"),
        (judge_identity(IdentityFacts(peer=ME, holder=7, answers_elsewhere=None, has_twin=True)), "fail", "elsewhere"),
        (judge_identity(IdentityFacts(peer=ME, holder=None, answers_elsewhere=False)), "ok", "nobody in the swarm"),
        (judge_identity(IdentityFacts(peer=ME, holder=None, answers_elsewhere=True)), "fail", "no process on this"),
        (judge_identity(IdentityFacts(peer=None, holder=None, answers_elsewhere=None, error="bad")), "fail", "bad"),
        (judge_names({}), "not measured", "no bootstrap"),
        (judge_names({"a.example": ["192.0.2.1"]}), "ok", "a.example"),
        (judge_names({"a.example": "no such name", "b.example": ["192.0.2.1"]}), "warn", "no such name"),
        (judge_names({"a.example": "no such name"}), "fail", "a.example"),
        (judge_bootstraps([]), "not measured", "--bootstrap"),
        (judge_bootstraps([DialledBootstrap(address="a:1", seconds=0.02)]), "ok", "in 20 ms"),
        (judge_bootstraps([DialledBootstrap(address="a:1", seconds=None, error="refused")]), "fail", "a:1: refused"),
        (
            judge_bootstraps(
                [DialledBootstrap(address="a:1", seconds=0.02), DialledBootstrap(address="b:1", seconds=None)]
            ),
            "warn",
            "1 of 2",
        ),
        (judge_reach(None), "not measured", "no node was started"),
        (
            judge_reach(called_back()),
            "not measured",
            "no bootstrap could be asked to call back the running peer's port",
        ),
        (
            judge_reach(called_back(True, False)),
            "ok",
            "1 of 2 bootstraps could call the running peer's port 4001 at 8.8.8.8",
        ),
        (judge_reach(called_back(False)), "warn", "0 of 1 bootstrap could call"),
        (judge_reach(replace(called_back(True), is_peers=False)), "ok", "could call a newly opened port"),
        (judge_directory(STORED), "ok", "found by another node in 0.2 s"),
        (judge_directory(replace(STORED, is_own_claim_seen=True)), "ok", "seen from outside"),
        (judge_directory(replace(STORED, is_own_claim_seen=False)), "fail", "not seen from outside"),
        (judge_directory(replace(STORED, is_found=False)), "fail", "not found by others"),
        (judge_directory(replace(STORED, is_stored=False)), "fail", "no node took"),
        (judge_directory(replace(STORED, error="none answers")), "fail", "none answers"),
        (judge_link(LinkFacts(down_mbps=None)), "not measured", "nobody"),
        (
            judge_link(LinkFacts(down_mbps=80.0, down_source="1.0 MB from a peer")),
            "ok",
            "down 80.0 Mbit/s (1.0 MB from a peer)",
        ),
        (judge_link(LinkFacts(down_mbps=0.4)), "warn", "0.4 Mbit/s"),
        (judge_link(LinkFacts(down_mbps=None, up_mbps=0.4)), "warn", "up 0.4 Mbit/s"),
        (judge_relay(RelayFacts(num_bootstraps=2, num_places=0, seconds=None)), "warn", "none of 2 bootstraps"),
        (judge_relay(RelayFacts(num_bootstraps=2, num_places=1, seconds=0.2)), "ok", "answered in 0.20 s"),
        (judge_relay(RelayFacts(num_bootstraps=2, num_places=1, seconds=None, error="gone")), "warn", "through: gone"),
    ],
)
def test_verdict_and_evidence(finding: Finding, verdict: str, says: str) -> None:
    assert finding.verdict == verdict, finding
    assert says in finding.evidence
    assert bool(finding.remedy) == (verdict in ("warn", "fail"))


@pytest.mark.parametrize(("halvings", "expected"), [(0, False), (3, None)])
def test_a_claim_that_is_not_shown_is_no_fault_where_not_all_are_listed(halvings: int, expected: bool | None) -> None:
    shown = {PeerId("other"): Claim(run=RunId("r"), peer=PeerId("other"), expires_s=1.0, halvings=halvings)}
    assert is_seen(PeerId("me"), shown) is expected
    assert is_seen(PeerId("other"), shown) is True


def test_only_failures_fail() -> None:
    assert not has_failed([not_measured("link", "nobody"), judge_clock(offsets(-5.0), 30.0)])
    assert has_failed([judge_clock_is_set(0.0)])


def test_this_processor_computes_the_known_result() -> None:
    finding = judge_step(measure_step("cpu"), KNOWN_LOSSES)
    assert finding.verdict == "ok", finding
    assert float(finding.evidence.split(", ")[-1].split()[0]) < 1e-5
    assert judge_step(measure_step("cuda:63"), KNOWN_LOSSES).verdict == "fail"


def test_packages_here_fit_and_are_named() -> None:
    assert version_conflicts() == []
    assert list(installed_versions())[:2] == ["p2ptrain", "torch"]


def test_disk_is_measured_where_the_home_will_be_and_nothing_is_left_there(tmp_path: Path) -> None:
    facts = measure_disk(tmp_path / "not" / "yet", None, writes=True)
    assert facts.write_mbps is None or facts.write_mbps > 0
    assert facts.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_who_uses_a_home_is_known_and_asking_makes_no_key(tmp_path: Path) -> None:
    assert measure_identity(tmp_path).peer is None
    assert list(tmp_path.iterdir()) == []
    peer = load_or_create(tmp_path / "identity.key").peer_id
    assert measure_identity(tmp_path) == IdentityFacts(peer=peer, holder=None, answers_elsewhere=None)
    with FolderLock.acquire(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
    assert lock_holder(tmp_path) is None
    (tmp_path / "identity.key").write_bytes(b"nonsense")
    assert judge_identity(measure_identity(tmp_path)).verdict == "fail"


def test_a_twin_that_the_running_peer_has_just_seen_is_told(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_bytes(Identity.from_seed(bytes(32)).file_bytes())
    (tmp_path / "identity.key").chmod(0o600)
    told_s = {"long ago": time.time() - 1000, "now": time.time() - 5}
    for when, expected in (("long ago", "ok"), ("now", "fail")):
        twin = Record(sequence=1, time_s=told_s[when], event=TwinSeen(peer=ME))
        (tmp_path / "events.jsonl").write_text(f"damaged\n{twin.to_json()}\n")
        with FolderLock.acquire(tmp_path):
            assert judge_identity(measure_identity(tmp_path)).verdict == expected, when


def test_doctor_without_network_ends_with_status_0_and_says_what_it_did_not_measure(tmp_path: Path, capsys) -> None:
    assert main(["doctor", "--home", str(tmp_path), "--json"]) == 0
    findings = {one["check"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["training step"]["verdict"] == "ok"
    assert findings["reach"]["verdict"] == "not measured"
    assert findings["memory"]["evidence"] == "no run is given; add --run FILE"


def test_doctor_ends_with_status_1_when_something_must_be_repaired(capsys) -> None:
    address = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWAXkmV83p8CnNiht3G2rriH1CYMgpxo8hXmuXruipXQ7N"
    assert main(["doctor", "--device", "cuda:63", "--bootstrap", address]) == 1
    printed = capsys.readouterr().out
    assert "127.0.0.1:9: " in printed
    assert "or train on the CPU" in printed


@pytest.mark.parametrize(
    ("addresses", "port"),
    [
        (["/ip4/10.0.0.1/tcp/4001/p2p/x"], 4001),
        (["/ip4/1.2.3.4/tcp/5/p2p/relay/p2p-circuit/p2p/x", "/ip6/::1/tcp/7"], 7),
        (["/ip4/10.0.0.1/udp/4001", "nonsense"], None),
    ],
)
def test_port_is_that_of_an_address_that_leads_straight_to_us(addresses: list[str], port: int | None) -> None:
    assert tcp_port(addresses) == port


async def test_a_record_that_is_found_was_stored_whatever_storing_said(tmp_path: Path) -> None:
    """hivemind tells what the last node that it asked said, and that may be one that has the record already."""

    class Node:
        records: ClassVar[dict[str, bytes]] = {}

        async def store(self, record_name: str, *, subkey: str, value: bytes, expires_s: float) -> bool:
            self.records[subkey] = value
            return False

        async def find(self, record_name: str) -> dict[str, bytes]:
            return self.records

    identity = load_or_create(tmp_path / "identity.key")
    facts = await _store_and_find(Node(), identity, Node())  # type: ignore[arg-type]
    assert judge_directory(facts).verdict == "ok"
