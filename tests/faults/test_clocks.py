"""A peer whose wall clock is wrong, and jumps, among others whose clocks are right."""

import os
import time
from pathlib import Path

import pytest

import p2ptrain
from tests.faults.test_heal import wait_for_newer_round_of
from tests.support.live_swarm import LiveSwarm, eventually

pytestmark = pytest.mark.faults

HERE = Path(__file__).parents[1] / "support" / "shifted_clock"
HOUR_S = 3600
RENEWED_S = 8.0
"""The lease, and some: no claim of before the jump is left."""


def test_peer_whose_clock_jumps_goes_on_averaging_and_forgets_the_dead_as_soon_as_ever(tmp_path: Path) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0")
    path = os.pathsep.join([str(HERE), str(Path(p2ptrain.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with LiveSwarm(tmp_path, slices=1) as swarm:
        right, dies = swarm.start_peer("right", "0"), swarm.start_peer("dies", "0")
        jumps = swarm.start_peer("jumps", "0", environment={"PYTHONPATH": path, "SHIFTED_CLOCK_FILE": str(shift)})
        wait_for_newer_round_of([right, dies, jumps])
        for shift_s in (HOUR_S, -HOUR_S):
            shift.write_text(str(shift_s))
            jumped_s = time.monotonic()
            eventually(lambda: time.monotonic() > jumped_s + RENEWED_S, what="all claims are renewed")  # noqa: B023
            wait_for_newer_round_of([right, dies, jumps])
        dies.child.kill()
        killed_s = time.monotonic()
        wait_for_newer_round_of([right, jumps])
        print(f"together without the dead one after {time.monotonic() - killed_s:.1f} s")  # noqa: T201
        swarm.assert_same_digests()
