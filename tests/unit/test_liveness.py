"""Whose claim counts although it has expired."""

from p2ptrain.ids import COMMON, PeerId, RunId
from p2ptrain.swarm.directory import Claim
from p2ptrain.swarm.liveness import ALONE_LEASES, MISSED_LEASES, Liveness

ME, A, B, C = (PeerId(name) for name in "mabc")
LEASE_S = 30.0
NOW_S = 1000.0


class Surroundings:
    """Who answers, and one peer's view of them."""

    def __init__(self, *there: PeerId, has_bootstrap: bool = False) -> None:
        self.there = set(there)
        self.has_bootstrap = has_bootstrap
        self.asked: list[PeerId] = []
        self.have_left = False
        self.expiries_s: dict[PeerId, float] = {}
        """Of the claims that counted at the last look."""
        self.liveness = Liveness(me=ME, lease_s=LEASE_S, answers=self.answers, any_bootstrap_answers=self.bootstrap)

    async def answers(self, peer: PeerId) -> bool:
        self.asked.append(peer)
        return peer in self.there

    async def bootstrap(self) -> bool:
        return self.has_bootstrap

    async def living(self, *expired: PeerId, fresh: tuple[PeerId, ...] = (), at_s: float = 0.0) -> set[PeerId]:
        now_s = NOW_S + at_s
        held = () if self.have_left else (COMMON,)
        claims = {p: Claim(run=RunId("r"), peer=p, ready=held, expires_s=now_s + 10) for p in (ME, *fresh)}
        for peer in expired:  # no record has come since we looked last
            expires_s = min(now_s - 1, self.expiries_s.get(peer, now_s))
            claims[peer] = Claim(run=RunId("r"), peer=peer, ready=held, expires_s=expires_s)
        living = await self.liveness.living(claims, now_s=now_s)
        assert all(claim.expires_s > now_s for claim in living.values())
        self.expiries_s = {peer: claim.expires_s for peer, claim in living.items()}
        return set(living) - {ME}


async def test_nobody_is_asked_while_all_claims_are_fresh() -> None:
    surroundings = Surroundings()
    assert await surroundings.living(fresh=(A, B)) == {A, B}
    assert not surroundings.asked


async def test_who_is_silent_is_gone_if_anybody_else_answers() -> None:
    assert await Surroundings(A).living(B, C, fresh=(A,)) == {A}
    assert await Surroundings(has_bootstrap=True).living(A, B) == set()


async def test_who_answers_keeps_its_place_when_its_record_is_late() -> None:
    assert await Surroundings(B, has_bootstrap=True).living(A, B) == {B}


async def test_all_stay_while_nobody_at_all_answers_but_not_for_ever() -> None:
    surroundings = Surroundings()
    assert await surroundings.living(A, fresh=(B,)) == {A, B}
    assert await surroundings.living(A, B, at_s=ALONE_LEASES * LEASE_S - 1) == {A, B}
    assert await surroundings.living(A, B, at_s=ALONE_LEASES * LEASE_S) == set()


async def test_a_cut_that_ends_while_we_ask_drops_nobody_and_the_next_one_counts_from_its_own_beginning() -> None:
    surroundings = Surroundings()
    assert await surroundings.living(A, B) == {A, B}
    surroundings.there = {B}  # it came back after the bootstrap had been asked
    assert await surroundings.living(A, B, at_s=100.0) == {A, B}
    surroundings.there = set()
    assert await surroundings.living(A, B, at_s=ALONE_LEASES * LEASE_S + 50) == {A, B}


async def test_a_cut_counts_from_its_own_beginning_however_the_one_before_ended() -> None:
    surroundings = Surroundings()
    assert await surroundings.living(A, B) == {A, B}
    # The line is back, as new records show, and nobody had to be asked.
    assert await surroundings.living(fresh=(A, B), at_s=20.0) == {A, B}
    assert await surroundings.living(A, B, at_s=ALONE_LEASES * LEASE_S) == {A, B}
    assert await surroundings.living(A, B, at_s=2 * ALONE_LEASES * LEASE_S - 1) == {A, B}
    assert await surroundings.living(A, B, at_s=2 * ALONE_LEASES * LEASE_S) == set()


async def test_who_was_silent_once_is_asked_again_and_is_back_when_it_answers() -> None:
    surroundings = Surroundings(A)
    assert await surroundings.living(B, fresh=(A,)) == {A}
    surroundings.there = {A, B}
    surroundings.asked.clear()
    assert await surroundings.living(fresh=(A,), at_s=LEASE_S / 2 - 1) == {A}
    assert not surroundings.asked
    assert await surroundings.living(fresh=(A,), at_s=LEASE_S / 2) == {A, B}
    assert surroundings.asked == [B]
    surroundings.asked.clear()
    assert await surroundings.living(fresh=(A, B), at_s=LEASE_S) == {A, B}
    assert not surroundings.asked


async def test_who_stays_silent_is_forgotten() -> None:
    surroundings = Surroundings(A)
    assert await surroundings.living(B, fresh=(A,)) == {A}
    for half_leases in range(1, 2 * MISSED_LEASES):
        assert await surroundings.living(fresh=(A,), at_s=half_leases * LEASE_S / 2) == {A}
    assert surroundings.asked.count(B) == 2 * MISSED_LEASES
    surroundings.there = {A, B}
    assert await surroundings.living(fresh=(A,), at_s=MISSED_LEASES * LEASE_S) == {A}


async def test_who_has_left_is_not_asked_again() -> None:
    surroundings = Surroundings(A)
    surroundings.have_left = True
    assert await surroundings.living(B, fresh=(A,)) == {A}
    surroundings.asked.clear()
    assert await surroundings.living(fresh=(A,), at_s=LEASE_S / 2) == {A}
    assert not surroundings.asked
