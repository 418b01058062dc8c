"""Who may take part in a run: its authority's signature, invitations and guest list."""

import base64
import json
from dataclasses import replace

import pytest

from p2ptrain.errors import BadRecord
from p2ptrain.identity.authority import (
    MAX_GUEST_LIST_BYTES,
    Door,
    GuestList,
    Invite,
    Order,
    check_run,
    hand_over,
    read_guests,
    sign_run,
    write_guests,
    write_invite,
)
from p2ptrain.identity.keys import Identity
from p2ptrain.identity.signing import sign
from p2ptrain.ids import PeerId, RunId, SliceId

RUN = RunId("ab" * 32)
OWNER, HEIR, PEER, THIEF = (Identity.from_seed(bytes([i]) * 32) for i in range(4))
INVITE = Invite(run=RUN, peer=PEER.peer_id, expires_s=1000.0)


def door(admission: str = "invite") -> Door:
    return Door(RUN, OWNER.peer_id, admission)  # type: ignore[arg-type]


def refusal(found: Door, token: str = "", peer: Identity = PEER, now_s: float = 500.0) -> str:
    verdict = found.verdict(peer.peer_id, token, now_s)
    assert verdict.admitted == (verdict.reason == "")
    return verdict.reason


def test_a_signed_run_verifies_and_another_run_or_signer_does_not() -> None:
    signature = sign_run(OWNER, RUN)
    check_run(RUN, OWNER.peer_id, signature)
    for run, signer, text in [
        (RunId("cd" * 32), OWNER, signature),
        (RUN, THIEF, signature),
        (RUN, OWNER, "hello"),
        (RUN, OWNER, ""),
        (RUN, OWNER, "ä"),
    ]:
        with pytest.raises(BadRecord):
            check_run(run, signer.peer_id, text)


def test_an_open_run_admits_whoever_is_not_banned() -> None:
    assert refusal(Door(RUN)) == ""
    found = door("open")
    assert refusal(found) == ""
    assert found.learn(write_guests(OWNER, GuestList(run=RUN, serial=1, banned=frozenset([PEER.peer_id]))))
    assert refusal(found) == "the run's authority has banned this peer"
    assert refusal(found, peer=THIEF) == ""


def test_an_order_holds_until_its_time_and_until_a_newer_list_says_otherwise() -> None:
    order = Order(slices=(SliceId("0"), SliceId("3")), until_s=1000.0)
    found, me = door(), PEER.peer_id
    assert found.learn(write_guests(OWNER, GuestList(run=RUN, serial=1, orders={me: order})))
    assert found.order_for(me, 999.0) == order
    assert found.order_for(me, 1000.0) is None, "it has run out"
    assert found.order_for(THIEF.peer_id, 1.0) is None
    with pytest.raises(BadRecord):
        found.learn(write_guests(THIEF, GuestList(run=RUN, serial=9, orders={THIEF.peer_id: order})))
    assert found.learn(write_guests(OWNER, GuestList(run=RUN, serial=2)))
    assert found.order_for(me, 999.0) is None, "revoked"


def test_orders_of_another_form_make_no_guest_list() -> None:
    body = {"run": RUN, "serial": 1, "allowed": [], "banned": [], "handovers": []}
    for orders in ([], "0", {"p": 3}, {"p": {"slices": 3, "until_s": 1}}, {"p": {"slices": ["0"], "until_s": "soon"}}):
        signed = sign(OWNER, "guest list", json.dumps({**body, "orders": orders}).encode())
        parts = (signed.body, signed.signer.encode(), signed.signature)
        packed = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts).encode()
        with pytest.raises(BadRecord):
            read_guests(packed)


def test_an_invitation_admits_its_peer_to_its_run_until_it_expires() -> None:
    token = write_invite(OWNER, INVITE)
    assert refusal(door(), token) == ""
    assert "by invitation" in refusal(door())
    assert "has expired" in refusal(door(), token, now_s=1000.1)
    assert "for peer" in refusal(door(), token, peer=THIEF)
    assert "for run" in refusal(door(), write_invite(OWNER, replace(INVITE, run=RunId("cd" * 32))))
    assert "no say" in refusal(door(), write_invite(THIEF, INVITE))


def test_a_changed_or_cut_invitation_is_refused_with_a_reason() -> None:
    token = write_invite(OWNER, INVITE)
    for broken in ("hello", token[:-3], token[:-20], token.replace(".", ""), token + ".x", "p2ptrain-invite-ä.b.c"):
        assert "not usable" in refusal(door(), broken), broken


def test_an_allowlist_admits_whom_it_names() -> None:
    found = door("allowlist")
    assert "p2ptrain run allow" in refusal(found, write_invite(OWNER, INVITE))
    found.learn(write_guests(OWNER, GuestList(run=RUN, serial=1, allowed=frozenset([PEER.peer_id]))))
    assert refusal(found) == ""


def test_the_newest_list_counts_in_whatever_order_they_come() -> None:
    lists = [
        write_guests(OWNER, GuestList(run=RUN, serial=n, banned=frozenset([PEER.peer_id] if n == 2 else [])))
        for n in (1, 2)
    ]
    for order in (lists, lists[::-1], [lists[1], lists[1], lists[0]]):
        found = door("open")
        for packed in order:
            found.learn(packed)
        assert found.guests.serial == 2
        assert refusal(found) != ""
        assert found.packed == lists[1]


def test_a_list_by_somebody_else_or_of_another_run_changes_nothing() -> None:
    found = door("open")
    for packed in (
        write_guests(THIEF, GuestList(run=RUN, serial=9, banned=frozenset([PEER.peer_id]))),
        write_guests(OWNER, GuestList(run=RunId("cd" * 32), serial=9)),
        b"",
        b"\xff\xfe",
        b"a.b.c",
        b"x" * (MAX_GUEST_LIST_BYTES + 1),
    ):
        with pytest.raises(BadRecord):
            found.learn(packed)
    assert refusal(found) == ""


def test_a_run_without_authority_takes_nobodys_list() -> None:
    with pytest.raises(BadRecord, match="no say"):
        Door(RUN).learn(write_guests(THIEF, GuestList(run=RUN, serial=1)))


def test_after_a_handover_only_the_successor_decides() -> None:
    handover = hand_over(OWNER, RUN, HEIR.peer_id)
    found = door()
    assert found.learn(write_guests(HEIR, GuestList(run=RUN, serial=1, handovers=(handover,))))
    assert refusal(found, write_invite(HEIR, INVITE)) == ""
    assert "no say" in refusal(found, write_invite(OWNER, INVITE))
    assert not found.learn(write_guests(OWNER, GuestList(run=RUN, serial=10**9))), "a stolen key's high number"
    assert found.guests.serial == 1


def test_a_handover_by_somebody_without_a_say_is_refused() -> None:
    stolen = hand_over(THIEF, RUN, THIEF.peer_id)
    of_another_run = hand_over(OWNER, RunId("cd" * 32), THIEF.peer_id)
    for handover in (stolen, of_another_run):
        with pytest.raises(BadRecord, match="no say"):
            door().learn(write_guests(THIEF, GuestList(run=RUN, serial=1, handovers=(handover,))))


def test_what_somebody_signed_who_was_let_in_counts_after_its_invitation_and_its_ban() -> None:
    token, found = write_invite(OWNER, INVITE), door()
    assert found.was_admitted(PEER.peer_id, token)
    assert found.was_admitted(OWNER.peer_id, "")
    assert not found.was_admitted(PEER.peer_id, "")
    assert not found.was_admitted(HEIR.peer_id, token), "it is another peer's"
    assert not found.was_admitted(PEER.peer_id, write_invite(OWNER, replace(INVITE, run=RunId("cd" * 32))))
    assert not found.was_admitted(PEER.peer_id, write_invite(THIEF, INVITE))
    assert not found.was_admitted(PEER.peer_id, write_invite(HEIR, INVITE)), "who has no say yet"

    handover = hand_over(OWNER, RUN, HEIR.peer_id)
    banned = frozenset([PEER.peer_id])
    assert found.learn(write_guests(HEIR, GuestList(run=RUN, serial=1, banned=banned, handovers=(handover,))))
    assert found.was_admitted(PEER.peer_id, token)
    assert found.was_admitted(PEER.peer_id, ""), "whom a list names was let in once, or it would not be banned"
    other = replace(INVITE, peer=THIEF.peer_id, expires_s=0.0)
    assert found.was_admitted(THIEF.peer_id, write_invite(HEIR, other))
    assert not found.was_admitted(THIEF.peer_id, write_invite(OWNER, other)), "a key that was stolen invites nobody"
    assert not refusal(found, write_invite(HEIR, replace(other, expires_s=1000.0)), THIEF)
    assert refusal(found, write_invite(OWNER, replace(other, expires_s=1000.0)), THIEF)

    listed = door("allowlist")
    assert not listed.was_admitted(PEER.peer_id, token), "an invitation opens no door with a list"
    assert listed.learn(write_guests(OWNER, GuestList(run=RUN, serial=1, allowed=frozenset([PEER.peer_id]))))
    assert listed.was_admitted(PEER.peer_id, "")
    assert door("open").was_admitted(THIEF.peer_id, "")


def test_a_list_too_long_for_the_directory_is_refused_when_it_is_written() -> None:
    crowd = frozenset(PeerId(Identity.from_seed(bytes([i]) * 32).peer_id) for i in range(200))
    with pytest.raises(BadRecord, match="by invitation"):
        write_guests(OWNER, GuestList(run=RUN, serial=1, allowed=crowd))
