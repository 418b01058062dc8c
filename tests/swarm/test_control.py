"""A real peer, commanded over its control socket, beside another one that is left alone."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from p2ptrain.config.schema import LimitsConfig
from p2ptrain.control.address import socket_path, target_of_home
from p2ptrain.control.client import ControlClient
from p2ptrain.control.v1 import control_pb2 as pb
from p2ptrain.events import InnerStepDone, LimitsChanged, RoundCommitted, RoundVoid, StateChanged
from tests.support.live_swarm import PATIENCE_S, LivePeer, LiveSwarm, eventually, p2ptrain

pytestmark = pytest.mark.swarm

ROOT = Path(__file__).resolve().parents[2]
NPM_S = 60.0


@pytest.fixture(scope="module")
def swarm(tmp_path_factory):
    """Two owners of one slice: ``mine`` is commanded, ``other`` must not be held up by that."""
    with LiveSwarm(tmp_path_factory.mktemp("control"), lease_s=30) as live:
        write_profile(live, "upload_mbps = 900.0")
        live.start_peer("mine", "0", "--profile", str(profile(live)))
        live.start_peer("other", "0")
        for name in ("mine", "other"):
            live.peers[name].wait_for_version("0", 3)
        yield live


def profile(swarm: LiveSwarm) -> Path:
    """Of ``mine``."""
    return swarm.folder / "mine.toml"


def write_profile(swarm: LiveSwarm, limits: str) -> None:
    """Whole at once: the peer looks at it twice a second."""
    new = profile(swarm).with_suffix(".new")
    new.write_text(f"[limits]\n{limits}\n")
    new.replace(profile(swarm))


@pytest.fixture
def mine(swarm) -> LivePeer:
    return swarm.peers["mine"]


@pytest.fixture
def client(mine):
    with ControlClient(target_of_home(mine.home)) as connected:
        connected.resume()
        eventually(lambda: connected.status().state == "TRAINING", what="the peer trains")
        yield connected


def steps(peer: LivePeer) -> int:
    return len(peer.events(InnerStepDone))


def versions(swarm: LiveSwarm) -> int:
    """The newest version of slice 0 at the peer that nobody commands."""
    return max(event.version for event in swarm.peers["other"].committed("0"))


def committed_by_other(swarm: LiveSwarm, since: int) -> list[RoundCommitted]:
    """Versions of slice 0, from this one on, at the peer that nobody commands."""
    return [event for event in swarm.peers["other"].committed("0") if event.version >= since]


def test_status_names_what_the_journal_says_and_watch_gives_all_of_it(client, mine) -> None:
    def with_both_owners() -> pb.StatusReply | None:
        status = client.status()
        assert {part.slice for part in status.slices if part.is_mine} == {"common", "0"}
        return status if all(len(part.owners) == 2 for part in status.slices if part.is_mine) else None

    status = eventually(with_both_owners, what="both own what they hold: who is late once is no owner for a version")
    assert status.peer == mine.id
    assert status.tokens > 0
    records = list(client.watch(pb.WatchRequest(stop_at_present=True)))
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    peers = eventually(
        lambda: found if len(found := client.swarm(timeout_s=30.0).peers) == 2 else None, what="both answer"
    )
    assert mine.id in {peer.peer for peer in peers}


def test_a_paused_peer_stops_at_once_and_nobody_waits_for_it(client, mine, swarm) -> None:
    client.pause(reason="a test")
    eventually(lambda: client.status().state == "PAUSED", what="the peer is paused")
    eventually(lambda: mine.id in _away(swarm), what="the others know that it is away")
    done, before = steps(mine), versions(swarm)
    # If they waited for it, each of these rounds would take the manifest's 6 s.
    eventually(lambda: versions(swarm) >= before + 15, what="the other goes on")
    assert steps(mine) <= done + 1, "the step that was under way may have been too far on to be broken off"
    last = eventually(
        lambda: next((e for e in committed_by_other(swarm, before + 15) if mine.id in e.owners), None),
        what="its place is kept",
    )
    assert mine.id not in last.contributors
    assert client.why().sentence.startswith("PAUSED: a test")
    assert client.resume().sentence == "going on"
    eventually(lambda: steps(mine) > done, what="it trains again")
    again = versions(swarm)
    eventually(
        lambda: any(mine.id in event.contributors for event in committed_by_other(swarm, again + 1)),
        what="and contributes",
    )
    swarm.assert_same_digests()


def _away(swarm: LiveSwarm) -> set[str]:
    with ControlClient(target_of_home(swarm.peers["other"].home)) as other:
        return {peer for part in other.status().slices for peer in part.away}


def test_finish_completes_the_round_before_it_pauses(client, mine) -> None:
    before = len(mine.records())
    assert "completes round" in client.finish().sentence
    eventually(lambda: client.status().pausing.is_paused, what="the peer has finished")
    events = [record.event for record in mine.records()[before:]]
    over = {event.slice for event in events if isinstance(event, RoundCommitted | RoundVoid)}
    assert over >= {"common", "0"}, "nearly always committed; a round that comes to nothing is over, too"


def never() -> str:
    """Hours that are not now, nor when this test is over."""
    later = time.strftime("%a", time.localtime(time.time() + 3 * 86400))
    return f"{later} 00:00-00:01"


def paused_for(peer: LivePeer, after: int) -> list[str]:
    """Why it stopped, in its journal after so many records."""
    events = [record.event for record in peer.records()[after:]]
    return [event.reason for event in events if isinstance(event, StateChanged) and event.state == "PAUSED"]


def test_limits_take_effect_at_once_for_a_time_and_say_why(client, mine) -> None:
    """How soon, as measured, is in docs/results/seat.md."""
    before = len(mine.records())
    client.set_limits({"compute_hours": never()}, duration_s=3600)
    eventually(lambda: paused_for(mine, before), what="the limit holds it back")
    assert "outside its hours" in paused_for(mine, before)[0]
    client.set_limits({"compute_hours": never()}, duration_s=2)
    eventually(lambda: client.status().state == "TRAINING", what="the limit has run out")
    assert len(client.limits().limits) == len(LimitsConfig.__slots__)


def test_limits_changed_in_the_profile_are_followed_and_what_is_set_comes_first(client, mine, swarm) -> None:
    def limit(key: str) -> tuple[str, str]:
        found = next(one for one in client.limits().limits if one.key == key)
        return found.value, found.origin

    before = len(mine.records())
    assert limit("upload_mbps") == ("900.0", "profile")
    write_profile(swarm, f'compute_hours = ["{never()}"]\nthreads = 2')
    eventually(lambda: paused_for(mine, before), what="the profile's new limit holds it back")
    assert limit("upload_mbps") == ("0.0", "default")
    write_profile(swarm, "niceness = 33")
    problem = "limits.niceness = 33 is out of range; choose 0 to 19"
    eventually(
        lambda: any(problem in event.problem for event in mine.events(LimitsChanged)),
        what="a profile that makes no sense is told",
    )
    assert limit("compute_hours")[1] == "profile", "and changes nothing"
    client.set_limits({"download_mbps": "800"})
    write_profile(swarm, "download_mbps = 700.0")
    eventually(lambda: client.status().state == "TRAINING", what="it trains again")
    assert limit("download_mbps") == ("800.0", "set")
    client.set_limits({"download_mbps": ""})
    assert limit("download_mbps") == ("700.0", "profile")


def test_threads_are_a_flag_first_and_can_be_changed(client) -> None:
    assert client.status().device.threads == 1  # tests start peers with --threads 1
    client.set_limits({"threads": "2"}, duration_s=3600)
    assert client.status().device.threads == 2
    client.set_limits({"threads": ""})
    assert client.status().device.threads == 1


def test_limits_that_cannot_be_kept_are_refused_with_status_2_and_those_without_effect_are_told(mine) -> None:
    def limits(*changes: str) -> subprocess.CompletedProcess[str]:
        command = p2ptrain("limits", *changes, "--home", str(mine.home))
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    for change, why in (
        ("nicenes=3", "did you mean niceness?"),
        ("niceness=99", "choose 0 to 19"),
        ("disk_gb=1e-7", "limits.disk_gb = 1e-07 is too small"),
    ):
        refused = limits(change)
        assert refused.returncode == 2, refused
        assert why in refused.stderr
        assert refused.stderr.count("\n") == 1
    told = limits("gpu_memory_gib=4")
    assert told.returncode == 0
    assert "note: the memory limit has no effect: the peer does not train on a GPU" in told.stdout
    assert "note:" not in limits("gpu_memory_gib=").stdout


def test_a_pause_outlives_a_restart_and_a_long_one_leaves_the_swarm(client, mine, swarm) -> None:
    client.pause(7200)
    eventually(lambda: mine.id not in _holders(swarm), what="a pause of hours gives the place up at once")
    client.leave()
    eventually(lambda: mine.child.exit_status() is not None, what="the process ends")
    swarm.start_peer("mine", "0", "--profile", str(profile(swarm)))
    again = swarm.peers["mine"]
    eventually(lambda: again.state() == "PAUSED", what=f"still paused\n{again.log()}")
    shown = subprocess.run(
        p2ptrain("why", "--home", str(mine.home)), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert shown.stdout.startswith("PAUSED: you paused it until"), shown
    subprocess.run(p2ptrain("resume", "--home", str(mine.home)), check=True, timeout=PATIENCE_S)
    eventually(lambda: again.state() == "TRAINING", what=f"it trains again\n{again.log()}")


def _holders(swarm: LiveSwarm) -> set[str]:
    with ControlClient(target_of_home(swarm.peers["other"].home)) as other:
        return {peer for part in other.status().slices for peer in part.holders}


def test_an_independent_implementation_can_command_it(client, mine, tmp_path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    try:
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "@grpc/grpc-js@1", "@grpc/proto-loader@0.7"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=NPM_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm could not install @grpc/grpc-js: {error}")
    script = shutil.copy(ROOT / "tests/support/grpc_js_client.js", tmp_path)
    proto = ROOT / "proto/p2ptrain/control/v1/control.proto"
    run = subprocess.run(
        ["node", script, str(proto), str(socket_path(mine.home))], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["status"]["peer"] == mine.id
    assert said["paused"]["pausing"]["is_paused"]
    assert said["resumed"]["sentence"] == "going on"
    assert "did you mean niceness?" in said["refused"]
    assert said["events"] == list(range(1, len(said["events"]) + 1))
