"""``p2ptrain run new --authority``, ``sign``, ``invite``, ``guests`` and ``identity``, without a network."""

from pathlib import Path

import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.run_source import read_run
from p2ptrain.config.load import load_run, run_id
from p2ptrain.data import corpus
from p2ptrain.errors import BadRecord, ConfigError
from p2ptrain.identity.authority import Door, read_invite
from p2ptrain.identity.keys import Identity, load
from p2ptrain.ids import PeerId
from tests.support.texts import no_text

PEER = Identity.from_seed(bytes(32)).peer_id


@pytest.fixture(autouse=True)
def text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without reading the standard library, which takes seconds."""
    monkeypatch.setattr(corpus, "load_corpus", lambda *_, **__: no_text())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A signed manifest of a run by invitation; its key is beside it."""
    return new_run(tmp_path)


def new_run(folder: Path, admission: str = "invite") -> Path:
    out = folder / "run.toml"
    options = ["--authority", str(folder / "authority.key"), "--admission", admission]
    assert cli.main(["run", "new", "nano", "--out", str(out), *options]) == 0
    return out


def door(run: Path) -> list[str]:
    return [str(run), "--key", str(run.with_name("authority.key"))]


def test_a_new_run_with_an_authority_is_signed_by_its_key(run: Path) -> None:
    source = read_run(str(run))
    assert source.config.door.authority == load(run.with_name("authority.key")).peer_id
    assert source.config.door.admission == "invite"
    assert source.id == run_id(load_run(run))


def test_a_changed_value_breaks_the_signature_until_it_is_signed_again(run: Path, capsys) -> None:
    run.write_text(run.read_text().replace("rounds = 1000", "rounds = 1001"))
    with pytest.raises(ConfigError, match=r"did not sign this run.*p2ptrain run sign"):
        read_run(str(run))
    assert cli.main(["run", "sign", *door(run)]) == 0
    assert read_run(str(run)).config.rounds == 1001
    assert "# more than any test waits for" in run.read_text(), "comments stay"


def test_a_signature_that_is_missing_or_by_another_key_is_refused(run: Path, tmp_path: Path, capsys) -> None:
    lines = run.read_text().splitlines(keepends=True)
    run.write_text("".join(line for line in lines if not line.startswith("signature")))
    with pytest.raises(ConfigError, match="did not sign"):
        read_run(str(run))
    other = tmp_path / "other.key"
    assert cli.main(["identity", "--home", str(tmp_path)]) == 0
    (tmp_path / "identity.key").rename(other)
    assert cli.main(["run", "sign", str(run), "--key", str(other)]) == 2
    assert "use the right key" in capsys.readouterr().err


def test_an_invitation_is_for_one_peer_and_admits_it(run: Path, capsys) -> None:
    capsys.readouterr()
    assert cli.main(["run", "invite", *door(run), "--peer", PEER, "--days", "2"]) == 0
    token = capsys.readouterr().out.strip()
    invite, signer = read_invite(token)
    assert invite.peer == PEER
    source = read_run(str(run))
    found = Door(source.id, PeerId(signer), "invite")
    assert found.verdict(PEER, token, invite.expires_s - 1).admitted
    assert not found.verdict(PEER, token, invite.expires_s + 1).admitted
    for copied in (token[:-8], token + "AAAA", token[: len(token) // 2]):
        with pytest.raises(BadRecord, match="copy all of it"):
            read_invite(copied)


def test_guests_are_allowed_banned_and_forgotten_and_the_list_is_kept(tmp_path: Path, capsys) -> None:
    run = new_run(tmp_path, "allowlist")
    assert cli.main(["run", "guests", *door(run), "--allow", PEER]) == 0
    assert cli.main(["run", "guests", *door(run), "--ban", PEER]) == 0
    capsys.readouterr()
    assert cli.main(["run", "guests", *door(run)]) == 0
    said = capsys.readouterr().out
    assert "guest list 2 " in said
    assert f"banned   {PEER}" in said
    assert "allowed" not in said
    assert cli.main(["run", "guests", *door(run), "--forget", PEER]) == 0
    assert PEER not in capsys.readouterr().out


def test_after_a_handover_the_old_key_is_refused(run: Path, tmp_path: Path, capsys) -> None:
    assert cli.main(["identity", "--home", str(tmp_path)]) == 0
    heir = tmp_path / "identity.key"
    assert cli.main(["run", "guests", *door(run), "--hand-over", str(heir)]) == 0
    assert cli.main(["run", "guests", *door(run), "--ban", PEER]) == 2
    assert "the run's authority is " + load(heir).peer_id in capsys.readouterr().err
    assert cli.main(["run", "guests", str(run), "--key", str(heir), "--ban", PEER]) == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--admission", "invite"], "add --authority KEY"),
        (["--admission", "friends"], "choose from open, invite, allowlist"),
    ],
)
def test_admission_that_cannot_work_is_refused_and_nothing_written(tmp_path: Path, capsys, arguments, problem) -> None:
    assert cli.main(["run", "new", "nano", "--out", str(tmp_path / "x.toml"), *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_peer_id_is_refused(run: Path, capsys) -> None:
    assert cli.main(["run", "invite", *door(run), "--peer", "bob"]) == 2
    assert "bob is not a peer id" in capsys.readouterr().err


def test_nobody_invites_with_a_key_that_has_no_say(run: Path, capsys) -> None:
    assert cli.main(["identity", "--home", str(run.parent)]) == 0
    capsys.readouterr()
    assert cli.main(["run", "invite", str(run), "--key", str(run.parent / "identity.key"), "--peer", PEER]) == 2
    printed = capsys.readouterr()
    assert "and the run's authority is" in printed.err
    assert not printed.out


def test_an_order_is_signed_into_the_list_beside_the_manifest_until_it_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path, "open")
    assign = ["run", "assign", *door(run), "--peer", PEER]
    assert cli.main([*assign, "--slices", "0,1", "--days", "1"]) == 0
    assert f"assigned {PEER} slices 0, 1 until" in capsys.readouterr().out
    assert cli.main(["run", "guests", *door(run), "--ban", PEER]) == 0
    assert f"assigned {PEER}" in capsys.readouterr().out, "a change of the guests keeps the orders"
    assert cli.main([*assign, "--revoke"]) == 0
    said = capsys.readouterr().out
    assert "assigned" not in said
    assert f"banned   {PEER}" in said
    for wrong in (["--slices", "7"], [], ["--slices", "0", "--revoke"]):
        assert cli.main([*assign, *wrong]) == 2
