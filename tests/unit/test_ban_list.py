"""A volunteer's own ban list: its form, what a running peer makes of it, and the commands that write it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from p2ptrain import clock
from p2ptrain.cli.main import main
from p2ptrain.errors import ConfigError
from p2ptrain.identity.keys import Identity
from p2ptrain.ids import PeerId, RunId
from p2ptrain.node.ban_list import FILE, Ban, BanList, UnbannedDirectory, load_bans, read_bans, write_bans
from p2ptrain.swarm.directory import Claim
from p2ptrain.wire.doorkeeper import Doorkeeper

A, B = (Identity.generate().peer_id for _ in range(2))
NEVER = float("inf")


def test_list_says_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    bans = {
        A: Ban(peer=A, until_s=NEVER, reason="sends nonsense"),
        B: Ban(peer=B, until_s=1_800_000_000.0, reason=""),
    }
    write_bans(tmp_path / FILE, bans)
    read = load_bans(tmp_path / FILE)
    assert read[A] == bans[A]
    assert abs(read[B].until_s - bans[B].until_s) < 60


def test_every_wrong_line_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        read_bans(f"# mine\n\nnobody forever x\n{A} tomorrow\n{B} 2026-12-24T18:00Z", "list")
    assert "list:3" in str(caught.value)
    assert "list:4" in str(caught.value)
    assert "list:5" not in str(caught.value)


def test_ban_ends_and_an_edited_file_counts_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(clock, "wall_s", lambda: now_s[0])
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])
    write_bans(tmp_path / FILE, {A: Ban(peer=A, until_s=2000.0, reason="x")})
    problems: list[str] = []
    bans = BanList(tmp_path / FILE, problems.append)
    assert bans.is_banned(A)
    assert not bans.is_banned(B)
    now_s[0] = 2100.0
    assert not bans.is_banned(A), "it was for a while"
    write_bans(tmp_path / FILE, {B: Ban(peer=B, until_s=NEVER, reason="rude, twice")})
    now_s[0] = 2110.0
    assert "rude" in bans.verdict(B)
    (tmp_path / FILE).write_text("something else entirely\n")
    now_s[0] = 2120.0
    assert bans.is_banned(B), "a slip of the pen frees nobody"
    assert problems


class Everybody:
    def __init__(self, *peers: PeerId) -> None:
        self._claims = {peer: Claim(run=RunId("r"), peer=peer, expires_s=NEVER) for peer in peers}

    async def publish(self, claim: Claim) -> bool:
        return True

    async def claims(self, *, elsewhere: bool = False) -> Mapping[PeerId, Claim]:
        return self._claims


async def test_banned_peer_is_in_no_group_of_ours_and_is_not_listened_to(tmp_path: Path) -> None:
    write_bans(tmp_path / FILE, {A: Ban(peer=A, until_s=NEVER, reason="x")})
    bans = BanList(tmp_path / FILE, lambda problem: None)
    told: list[PeerId] = []
    directory = UnbannedDirectory(Everybody(A, B), bans, lambda peer, reason: told.append(peer))
    assert set(await directory.claims()) == {B}
    assert set(await directory.claims()) == {B}
    assert told == [A], "said once"
    door = Doorkeeper()
    door.is_banned = bans.is_banned
    assert not door.admits_call(A)
    assert not door.opens_stream(A)
    assert door.admits_call(B)


def test_commands_ban_share_and_unban(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    assert main(["peers", "ban", "--home", str(mine), A, "--days", "7", "--reason", "sends nonsense"]) == 0
    capsys.readouterr()
    assert main(["peers", "list", "--home", str(mine)]) == 0
    shared = tmp_path / "shared.txt"
    shared.write_text(capsys.readouterr().out)
    assert main(["peers", "ban", "--home", str(theirs), "--from", str(shared)]) == 0
    assert load_bans(theirs / FILE)[A].reason == "sends nonsense"
    assert main(["peers", "unban", "--home", str(theirs), A]) == 0
    assert load_bans(theirs / FILE) == {}
    assert main(["peers", "unban", "--home", str(theirs), A]) == 2
    assert main(["peers", "ban", "--home", str(theirs), "somebody"]) == 2
