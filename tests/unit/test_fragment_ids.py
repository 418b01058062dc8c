"""Where slices and fragments meet: ids, claims that name slices, and rows of a screen that has no room."""

from types import SimpleNamespace
from typing import Any

import pytest

from p2ptrain.dashboard.scene import OwnerMark, RunFacts, Scene, SliceRow, slice_rows, whole_slice_rows
from p2ptrain.dashboard.seat import Seat, observe_record
from p2ptrain.events import CoverageChanged, Record, SlicesClaimed
from p2ptrain.ids import (
    COMMON,
    PeerId,
    SliceId,
    Version,
    counts_rounds,
    every_fragment,
    fragment_index,
    fragments_of,
    slice_of,
    slice_order,
)
from p2ptrain.swarm.context import Context
from p2ptrain.swarm.directory import Claim

A, B, RUN = PeerId("a"), PeerId("b"), "ab" * 32


@pytest.mark.parametrize("slice_id", [COMMON, SliceId("0"), SliceId("12")])
def test_a_fragment_is_of_one_slice_and_a_slice_that_is_not_divided_is_its_own(slice_id: SliceId) -> None:
    assert fragments_of(slice_id, 1) == (slice_id,)
    for number in (1, 2, 11):
        fragments = fragments_of(slice_id, number)
        assert {slice_of(one) for one in fragments} == {slice_id}
        assert [fragment_index(one) for one in fragments] == list(range(number))


def test_fragments_are_in_the_order_of_their_slices() -> None:
    everything = every_fragment(num_slices=11, num_fragments=11)
    assert len(set(everything)) == 12 * 11
    assert sorted(set(everything), key=slice_order) == list(everything)
    assert [one for one in everything if counts_rounds(one)] == ["common.0"]
    assert [one for one in every_fragment(2, 1) if counts_rounds(one)] == [COMMON]


def test_who_claims_a_slice_holds_all_its_fragments_and_no_others() -> None:
    claims = {
        peer: Claim(run=RUN, peer=peer, ready=(COMMON, SliceId(one)), joining=(SliceId("1"),), expires_s=1.0)  # type: ignore[arg-type]
        for peer, one in ((A, "0"), (B, "10"))
    }
    anything: Any = SimpleNamespace(door=SimpleNamespace(is_out=lambda peer: False))
    rest: dict[str, Any] = dict.fromkeys(("identity", "exchange", "outer", "blobs", "events", "listener", "book"))
    context = Context(run=RUN, numel=dict.fromkeys(every_fragment(11, 2), 1), node=anything, claims=claims, **rest)  # type: ignore[arg-type]
    assert context.holders(SliceId("common.1")) == {A, B}
    assert context.holders(SliceId("0.1")) == {A}
    assert context.holders(SliceId("10.0")) == {B}
    assert context.holders(SliceId("1.0")) == frozenset()
    assert context.fragments([COMMON, SliceId("1")]) == {"common.0", "common.1", "1.0", "1.1"}


def test_a_line_is_announced_by_shares_of_what_is_averaged_at_once() -> None:
    numel = {SliceId(one): size for one, size in (("common", 20), ("0", 30), ("1", 50))}
    node: Any = SimpleNamespace(uplink_mbps=10.0, downlink_mbps=8.0)
    me: Any = SimpleNamespace(peer_id=A)
    claims = {A: Claim(run=RUN, peer=A, ready=(COMMON, SliceId("0")), joining=(), expires_s=1.0)}  # type: ignore[arg-type]
    rest: dict[str, Any] = dict.fromkeys(("exchange", "outer", "blobs", "events", "listener", "book"))
    context = Context(run=RUN, numel=numel, node=node, identity=me, claims=claims, **rest)  # type: ignore[arg-type]
    assert context.line_mbps(COMMON) == pytest.approx((4.0, 1.6))
    assert context.line_mbps(SliceId("0")) == pytest.approx((6.0, 2.4))
    context.claims = {}
    assert context.line_mbps(SliceId("0")) == pytest.approx((10.0, 2.4))
    context.numel = dict.fromkeys(every_fragment(2, 2), 1)
    context.claims = claims
    assert context.line_mbps(SliceId("0.1")) == pytest.approx((5.0, 8 / 3))


def test_what_is_said_of_a_slice_is_shown_with_its_fragments() -> None:
    seat = Seat(mine="me")
    thin = CoverageChanged(slice=SliceId("0"), owners=1, replicas=2, is_covered=False, verdict="below quorum")
    for sequence, event in enumerate((SlicesClaimed(slices=[COMMON, SliceId("0")], reason=""), thin)):
        seat = observe_record(seat, "me", Record(sequence=sequence, time_s=float(sequence), event=event))
    scene = Scene(now_s=3.0, seat=seat, facts=RunFacts(slices=every_fragment(2, 2)))
    rows = {row.slice: row for row in slice_rows(scene)}
    assert list(rows) == list(every_fragment(2, 2)), "and there is no row for the slice itself"
    assert {slice_id for slice_id, row in rows.items() if row.lacks_quorum} == {"0.0", "0.1"}


def test_a_cell_for_a_whole_slice_shows_the_fragment_that_needs_to_be_seen() -> None:
    def row(slice_id: str, version: int, *, differs: bool = False, online: bool = True) -> SliceRow:
        return SliceRow(
            slice=SliceId(slice_id),
            version=Version(version),
            epoch=1,
            owners=(OwnerMark(name="a", is_mine=False, is_online=online),),
            is_known=True,
            is_mine=False,
            age_s=None,
            is_age_exact=True,
            digest=None,
            differs=differs,
            stage="",
            tokens=None,
            loss_nats=None,
        )

    rows = [row("common.0", 3), row("common.1", 2), row("0.0", 2, differs=True), row("0.1", 1, online=False)]
    common, zero = whole_slice_rows(rows)
    assert (common.slice, common.version) == (COMMON, 2)
    assert (zero.slice, zero.differs, zero.is_below_quorum) == ("0", True, False)
    whole = [row("common", 3), row("0", 3)]
    assert whole_slice_rows(whole) == whole
