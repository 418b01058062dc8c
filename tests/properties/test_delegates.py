"""Owners of one slice and their constituents in storms: links break, peers die, are cut off and come back.

The edge of the rounds, delegation and agreement are the real ones, in fake time.
"""

import pytest

from tests.support.fake_time_loop import run_in_fake_time
from tests.support.stormy_owners import StormyOwners


@pytest.mark.parametrize("seed", range(20))
def test_after_every_storm_versions_are_decided_with_the_work_of_all_and_none_of_it_twice(seed: int) -> None:
    async def main() -> None:
        swarm = StormyOwners(seed, size=11)
        async with swarm.running():
            await swarm.storms(100.0)
            for _ in range(2):
                # Most owners are gone for good, with whatever work they were given.
                swarm.kill_most_owners()
                await swarm.calm(30.0)
                before, counted_before = swarm.newest_version, swarm.counted.copy()
                await swarm.calm(30.0)
                assert swarm.newest_version >= before + 5, "versions are decided"
                assert min(hand.version for hand in swarm.living) >= swarm.newest_version - 1
                assert all(swarm.counted[hand.peer] > counted_before[hand.peer] for hand in swarm.living)
        trained, counted = swarm.trained, sum(swarm.counted.values())
        assert counted <= trained
        if not swarm.has_forked:
            # Work that its peer could not know to be counted: of the dead, and where news were lost.
            assert swarm.tokens_in_versions - counted <= 0.03 * trained

    run_in_fake_time(main())
