"""Two minutes of everything that happens to volunteers; ``make soak`` is the nightly form of it."""

import json
import subprocess

import pytest

from tests.support.live_swarm import p2ptrain

pytestmark = pytest.mark.faults


def test_swarm_survives_joins_kills_freezes_and_cuts() -> None:
    done = subprocess.run(
        p2ptrain("lab", "soak", "--seed", "9", "--minutes", "2", "--peers", "4", "--json"),
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert all(report["events"].values()), "the seed has one of each"
    assert report["slices_covered"]
    assert report["diverged_owners"] == 0
    assert report["rounds"] > 10
