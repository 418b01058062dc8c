"""The dashboard as a person uses it, in a real terminal on a real peer; and the doctor on the same swarm."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.events import InnerStepDone
from tests.support.live_swarm import PATIENCE_S, LiveSwarm, eventually, p2ptrain, stop_gently

pytestmark = pytest.mark.swarm
LOOKS_S = 2 * PATIENCE_S
"""For more than one look at the swarm: on a busy machine each takes a minute."""


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSwarm]:
    with LiveSwarm(tmp_path_factory.mktemp("dash"), lease_s=30) as live:
        live.start_peer("peer-a", "0")
        live.start_peer("peer-b", "1")
        for peer in live.peers.values():
            peer.wait_for_version("common", 2)
        yield live


class Screen:
    """A command in a tmux session of its own."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str] | None = None) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        # Ctrl-C reaches the shell, too, which has to outlive it.
        line = "trap : INT; " + shlex.join(command) + "; echo ended with $?; exec cat"
        variables = {**os.environ, "LC_ALL": "C.UTF-8", "NO_COLOR": "", **(environment or {})}
        started = [*self._tmux, "new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", line]
        subprocess.run(started, env=variables, check=True, timeout=PATIENCE_S)

    def _do(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        return done.stdout

    def text(self, *, with_styles: bool = False) -> str:
        return self._do("capture-pane", "-p", *(["-e"] if with_styles else []))

    def type(self, *keys: str) -> None:
        self._do("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._do("resize-window", "-x", str(width), "-y", str(height))

    def fills(self, width: int, height: int) -> None:
        """Until the picture has exactly this size."""

        def exact() -> bool:
            lines = self.text().splitlines()
            return len(lines) == height and max(map(len, lines)) == width and "quit" in lines[-1]

        eventually(exact, what=f"the screen is redrawn at {width}x{height}")

    def version(self) -> int:
        """Of the common part, as the map of slices has it."""
        found = re.search(r"common +v(\d+)", self.text())
        return int(found[1]) if found else -1

    def flag(self, name: str) -> str:
        return self._do("list-panes", "-F", f"#{{{name}}}").strip()

    def shows(self, *patterns: str) -> str:
        """The screen once it has all of these regular expressions."""

        def found() -> str | None:
            shown = self.text()
            return shown if all(re.search(pattern, shown) for pattern in patterns) else None

        try:
            return str(eventually(found, what=f"the screen shows {patterns}"))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, timeout=PATIENCE_S)


@pytest.fixture
def screen(swarm: LiveSwarm, tmp_path: Path) -> Iterator[Screen]:
    opened = Screen(tmp_path, p2ptrain("dash", "--home", str(swarm.peers["peer-a"].home)))
    yield opened
    opened.close()


def test_first_picture_costs_little_more_than_any_command(swarm: LiveSwarm) -> None:
    """By processor time against another command's, which slow and busy machines leave alike; see docs/results."""
    home = str(swarm.peers["peer-a"].home)
    picture = p2ptrain("dash", "--home", home, "--once", "--size", "200x50")
    assert min(_processor_s(picture) for _ in range(3)) < 4 * min(
        _processor_s(p2ptrain("why", "--home", home)) for _ in range(3)
    )


def _processor_s(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_screen_is_used_at_three_sizes_with_keys_and_given_back(swarm: LiveSwarm, screen: Screen) -> None:
    screen.shows("live", r"TRAINING|AVERAGING", r"◆ common +v\d+", r"last round", "peer-a", "pause")
    screen.fills(80, 24)
    assert screen.flag("alternate_on") == "1"
    screen.type("?")
    screen.shows("complete the round, then pause")
    screen.type("?", "e", "/")
    screen.shows("show events with the words:")
    screen.type("digest common", "Enter")
    shown = screen.shows("only: digest common", r"slice common v\d+ committed")
    assert "claims slices" not in shown
    screen.type("Escape")  # back to the overview
    screen.resize(120, 36)
    screen.fills(120, 36)
    screen.shows("my contribution", r"tokens +\d", r"share +\d")
    screen.type("Escape", "n")
    screen.shows(r"train +[█ ]*█", "gather", r"cpu [━─╸]")
    screen.resize(240, 70)
    screen.fills(240, 70)
    screen.type("s")
    screen.shows(r"peer↓", r"◆ peer-a")
    screen.type("s")
    screen.shows("my contribution", "events", "peers")
    screen.type("w")
    screen.shows("how the time was spent", r"training +━")
    screen.type("w", "[", "[")
    back = screen.shows("back .* of", "stands still")
    screen.type("{", "{")
    eventually(lambda: _shown_moment(screen.text()) < _shown_moment(back), what="{ goes further back")
    screen.type("l")
    screen.shows("● live")
    screen.type("q")
    screen.shows("ended with 0")
    assert screen.flag("alternate_on") == "0"
    assert screen.flag("cursor_flag") == "1"
    swarm.peers["peer-a"].check()


def _shown_moment(text: str) -> float:
    """Seconds from the start to the moment that a scrubbed screen shows."""
    found = re.search(r"back (\d+):(\d+) of", text)
    return int(found[1]) * 60 + int(found[2]) if found else float("inf")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (240, 70)])
def test_doctor_and_gpu_keys_ask_the_running_peer_at_every_size(
    swarm: LiveSwarm, screen: Screen, size: tuple[int, int]
) -> None:
    peer = swarm.peers["peer-a"]
    screen.shows("live")
    screen.resize(*size)
    screen.fills(*size)
    screen.type("d")
    screen.shows("looking at this machine|training step")
    good = [r"✓ +clock +\d.\d\d s", "✓ +training step +cpu: loss", "✓ +bootstraps +1 of 1", "✓ +directory +stored"]

    def all_good() -> str | None:
        shown = screen.shows(r"\S +directory +\S")
        if all(re.search(pattern, shown) for pattern in good):
            return shown
        screen.type("d", "d")  # once more: on a busy machine somebody may not have answered in time
        with contextlib.suppress(AssertionError):
            eventually(lambda: "looking at this machine" in screen.text(), within_s=20.0, what="it looks again")
        return None

    shown = eventually(all_good, within_s=LOOKS_S, what=lambda: f"all is well\n{screen.text()}")
    assert max(map(len, shown.splitlines())) == size[0]
    screen.type("d", "g")
    screen.shows("GPU limits, memory in GiB then power in W")
    screen.type("6 150", "Enter")
    screen.shows("the memory limit has no effect")
    screen.type("g", "0 0", "Enter")
    screen.shows("gpu_memory_gib = 0.0, gpu_power_w = 0.0")
    steps = len(peer.events(InnerStepDone))
    eventually(lambda: len(peer.events(InnerStepDone)) > steps, what="the peer trains on")
    peer.check()


def test_finish_key_completes_the_round_and_pauses(swarm: LiveSwarm, screen: Screen) -> None:
    peer = swarm.peers["peer-a"]
    screen.shows("live", "TRAINING|AVERAGING")
    screen.type("P")
    screen.shows("complete the round, then pause for how long")
    screen.type("Enter")
    eventually(lambda: peer.state() == "PAUSED", what="the journal says PAUSED")
    screen.shows("‖ PAUSED", "goes on with")
    screen.type("p")
    eventually(lambda: peer.state() in ("TRAINING", "AVERAGING"), what="it goes on")
    peer.check()


def test_keys_pause_the_peer_for_a_time_and_resume_it_and_change_limits(swarm: LiveSwarm, screen: Screen) -> None:
    peer = swarm.peers["peer-a"]
    screen.shows("live", "TRAINING|AVERAGING")
    screen.type("b")
    screen.shows("limit in Mbit/s")
    screen.type("50 60", "Enter")
    screen.shows("upload_mbps = 50")
    screen.type("p")
    screen.shows("pause for how long")
    screen.type("2h", "Enter")
    screen.shows("‖ PAUSED", "p resume|paused until")
    eventually(lambda: peer.state() == "PAUSED", what="the journal says PAUSED")
    screen.type("p")
    screen.shows("TRAINING|AVERAGING")
    version = len(peer.committed("common"))
    eventually(lambda: len(peer.committed("common")) > version, what="it commits again")
    peer.check()


def test_screen_says_so_when_the_peer_is_gone_and_goes_on_when_it_is_back(swarm: LiveSwarm, tmp_path: Path) -> None:
    peer = swarm.peers["peer-b"]
    screen = Screen(tmp_path, p2ptrain("dash", "--home", str(peer.home)), {"NO_COLOR": "1"})
    try:
        screen.shows("● live")
        codes = set(re.findall(r"\x1b\[([0-9;]*)m", screen.text(with_styles=True)))
        assert not {code for code in codes for one in code.split(";") if one.isdigit() and 30 <= int(one) < 38}
        assert stop_gently([peer]) == {"peer-b": 0}
        screen.shows("not running", "start it with p2ptrain peer")
        before = len(peer.committed("common"))
        swarm.start_peer("peer-b", "1")
        screen.shows("● live", "TRAINING|AVERAGING")
        again = swarm.peers["peer-b"]
        eventually(lambda: again.committed("common"), what="peer-b commits again")
        newest = again.reached("common")
        assert newest > before
        eventually(lambda: screen.version() >= newest, what=f"the screen has v{newest}")
        screen.type("C-c")
        screen.shows("ended with 0")
        assert screen.flag("cursor_flag") == "1"
    finally:
        screen.close()


def test_observer_needs_only_an_address_of_the_swarm(swarm: LiveSwarm) -> None:
    command = p2ptrain("dash", "--bootstrap", swarm.address, "--run", str(swarm.manifest), "--json")
    peers = {peer.id for peer in swarm.peers.values()}

    def sees_both() -> dict[str, Any] | None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        body: dict[str, Any] = json.loads(done.stdout)
        return body if {one["peer"] for one in body["peers"]} >= peers else None

    body = eventually(sees_both, within_s=LOOKS_S, what="both peers answer an observer")
    assert body["name"] == "nano"
    assert body["peer"] is None
    assert [one["id"] for one in body["slices"]] == ["common", "0", "1"]
    assert all(one["owners_online"] >= 1 for one in body["slices"] if one["version"])


def test_doctor_has_a_running_peer_examined_from_outside(swarm: LiveSwarm) -> None:
    """Without an address it asks the peer, which has another process look, with the bootstraps that it knows."""
    home = swarm.peers["peer-a"].home
    command = p2ptrain("doctor", "--home", str(home), "--json")
    good = ("clock", "versions", "training step", "memory", "identity", "bootstraps", "directory")
    evidence = {
        "clock": "median of",
        "directory": "seen from outside",
        "disk": r"writes \d+ MB/s",  # slowly, where others write, too: a warning, which is right
        "identity": "is running here",
        "link": r"down [\d.]+ Mbit/s \([\d.]+ MB from a bootstrap\), up [\d.]+ Mbit/s \([\d.]+ MB to a bootstrap\)",
        "reach": "1 of 1 bootstrap could call the running peer's port",
    }
    said = ""

    def all_good() -> bool:
        """Once more where it is not so: on a busy machine somebody may not answer in time."""
        nonlocal said
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOOKS_S, check=False)
        said = done.stdout + done.stderr
        assert done.stdout, said
        findings = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
        return (
            done.returncode == 0
            and all(findings[check]["verdict"] == "ok" for check in good)
            and all(re.search(pattern, findings[check]["evidence"]) for check, pattern in evidence.items())
        )

    eventually(all_good, within_s=LOOKS_S, what=lambda: f"all is well\n{said}")


def test_doctor_finds_the_same_identity_elsewhere(swarm: LiveSwarm, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for name in ("identity.key", "manifest.toml"):  # what else is in the home changes all the time
        shutil.copy2(swarm.peers["peer-a"].home / name, tmp_path / "copy")
    command = p2ptrain("doctor", "--home", str(tmp_path / "copy"), "--bootstrap", swarm.address)
    said = ""

    def is_found() -> bool:
        nonlocal said
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOOKS_S, check=False)
        said = done.stdout + done.stderr
        return done.returncode == 1 and "the same identity.key runs elsewhere" in done.stdout

    eventually(is_found, within_s=LOOKS_S, what=lambda: f"the peer with this key answers the doctor in time\n{said}")
