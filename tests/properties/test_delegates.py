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


@pytest.mark.parametrize("seed", range(5))
def test_what_was_decided_is_not_lost_where_only_peers_that_nobody_sees_have_it(seed: int) -> None:
    """All but a few are cut off; these go on, and then all of them die that are listed."""

    async def main() -> None:
        swarm = StormyOwners(seed, size=12)
        async with swarm.running():
            await swarm.calm(20.0)
            staying = sorted(hand.peer for hand in swarm.living if not hand.owner.has_a_say)[:3]
            owners = swarm.owners
            swarm.cut(swarm.hands.keys() - owners - {*staying})
            before = swarm.newest_version
            while swarm.newest_version < before + 10 or not swarm.up_to_date_and_unseen:
                await swarm.calm(0.5)
            decided, having_it = swarm.newest_version, swarm.up_to_date_and_unseen
            for peer in (owners | {*staying}) - having_it:
                swarm.kill(peer)
            swarm.join_again()
            await swarm.calm(60.0)
            assert swarm.newest_version >= decided + 3
            assert min(hand.version for hand in swarm.living) >= swarm.newest_version - 1
            assert [len(swarm.decided[version]) for version in range(decided, decided + 3)] == [1, 1, 1]

    run_in_fake_time(main())
