"""Which nodes a peer joins by: named on the command line, listed in the manifest, listed in DNS, or once known."""

import json
from pathlib import Path

import dns.resolver
import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.run_source import read_run
from p2ptrain.cli.ways_in import ways_in
from p2ptrain.config.presets import preset_text
from p2ptrain.data import corpus
from p2ptrain.errors import BadRecord, ConfigError, NetworkSetupError, UsageError
from p2ptrain.identity.authority import read_dns_list, write_dns_list
from p2ptrain.identity.keys import Identity, load
from p2ptrain.ids import PeerId, RunId
from p2ptrain.node.home import Home
from p2ptrain.wire.dns_list import look_up_list
from tests.support.name_server import MAX_UDP_BYTES, name_server
from tests.support.texts import no_text

OWNER, STRANGER = Identity.from_seed(bytes(32)), Identity.from_seed(bytes([1] * 32))
RUN = RunId("ab" * 32)


def node(number: int, host: str = "dns4/boot.example.org") -> str:
    return f"/{host}/tcp/31337/p2p/{Identity.from_seed(bytes([number] * 32)).peer_id}"


FIRST, SECOND, THIRD = node(11), node(12, "ip4/203.0.113.7"), node(13, "ip6/2001:db8::7")


@pytest.fixture(autouse=True)
def text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without reading the standard library, which takes seconds."""
    monkeypatch.setattr(corpus, "load_corpus", lambda *_, **__: no_text())


def new_run(folder: Path, *options: str, authority: bool = True) -> Path:
    out = folder / "run.toml"
    owner = ["--authority", str(folder / "authority.key")] if authority else []
    assert cli.main(["run", "new", "nano", "--out", str(out), "--seed", "1", *owner, *options]) == 0
    return out


def listing(*addresses: str) -> list[str]:
    return [word for address in addresses for word in ("--bootstrap", address)]


# In the manifest.


def test_a_signed_manifest_that_lists_nodes_is_all_that_a_peer_needs(tmp_path: Path) -> None:
    run = new_run(tmp_path, *listing(FIRST, SECOND, THIRD))
    source = read_run(str(run))
    assert source.listed == (FIRST, SECOND, THIRD)
    assert ways_in(source, None) == (FIRST, SECOND, THIRD)
    assert ways_in(source, [node(14)]) == (node(14),), "who names a node wants that one"


def test_the_list_can_change_and_the_run_stays_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, *listing(FIRST))
    before = read_run(str(run))
    key = ["--key", str(tmp_path / "authority.key")]
    assert cli.main(["run", "bootstraps", str(run), *key, *listing(SECOND, THIRD)]) == 0
    after = read_run(str(run))
    assert (after.listed, after.id) == ((SECOND, THIRD), before.id)
    assert "# more than any test waits for" in run.read_text(), "comments stay"
    assert cli.main(["run", "sign", str(run), *key]) == 0
    assert read_run(str(run)).listed == (SECOND, THIRD), "signing again signs the list, too"
    capsys.readouterr()
    assert cli.main(["run", "bootstraps", str(run)]) == 0
    assert capsys.readouterr().out.split() == [SECOND, THIRD]


@pytest.mark.parametrize("change", [lambda t: t.replace(SECOND, THIRD), lambda t: t.replace(f'    "{SECOND}",\n', "")])
def test_a_list_that_the_authority_did_not_sign_is_refused(tmp_path: Path, change) -> None:
    run = new_run(tmp_path, *listing(FIRST, SECOND))
    changed = change(run.read_text())
    assert changed != run.read_text()
    run.write_text(changed)
    with pytest.raises(ConfigError, match="list of bootstraps is signed"):
        read_run(str(run))


def test_nobody_but_the_authority_changes_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, *listing(FIRST))
    assert cli.main(["identity", "--home", str(tmp_path / "other")]) == 0
    for key in ([], ["--key", str(tmp_path / "other" / "identity.key")]):
        before = run.read_text()
        assert cli.main(["run", "bootstraps", str(run), *key, *listing(SECOND)]) == 2
        assert "who alone changes this list" in capsys.readouterr().err
        assert run.read_text() == before


def test_a_run_without_an_authority_lists_nodes_but_nothing_in_dns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path, *listing(FIRST), authority=False)
    assert ways_in(read_run(str(run)), None) == (FIRST,)
    assert cli.main(["run", "bootstraps", str(run), *listing(SECOND)]) == 0
    assert read_run(str(run)).listed == (SECOND,)
    assert cli.main(["run", "bootstraps", str(run), *listing("/dnsaddr/example.org")]) == 2
    assert "this run has none" in capsys.readouterr().err
    new = ["run", "new", "nano", "--out", str(tmp_path / "x.toml"), *listing("/dnsaddr/example.org")]
    assert cli.main(new) == 2
    assert "add --authority KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        "boot.example.org:31337",
        "/ip4/203.0.113.7/tcp/31337",
        "/dns4/boot example/tcp/31337/p2p/" + OWNER.peer_id,
        FIRST + "/p2p-circuit",
        "/dnsaddr/",
        "/dnsaddr/example.org/p2p/" + OWNER.peer_id,
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_written(tmp_path: Path, capsys, wrong: str) -> None:
    assert cli.main(["run", "new", "nano", "--out", str(tmp_path / "x.toml"), *listing(wrong)]) == 2
    assert "bootstraps[0] = " in capsys.readouterr().err
    assert not (tmp_path / "x.toml").exists()


def test_every_wrong_address_of_a_manifest_is_named_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text(f'bootstraps = ["{FIRST}", "here", 7]\n' + preset_text("nano"))
    with pytest.raises(ConfigError, match=r"bootstraps\[1\] = 'here'.*\n.*bootstraps\[2\] = '7'"):
        read_run(str(run))
    run.write_text('bootstraps = "everywhere"\n' + preset_text("nano"))
    with pytest.raises(ConfigError, match="is not a list"):
        read_run(str(run))


def test_a_home_keeps_the_manifest_that_was_given_last(tmp_path: Path) -> None:
    run = new_run(tmp_path, *listing(FIRST))
    for addresses in ([FIRST], [SECOND]):
        key = ["--key", str(tmp_path / "authority.key")]
        assert cli.main(["run", "bootstraps", str(run), *key, *listing(*addresses)]) == 0
        source = read_run(str(run))
        with Home.open(tmp_path / "home", source.text, source.id) as home:
            assert read_run(str(home.manifest_path)).listed == tuple(addresses), "newcomers are handed the new list"


def test_nobody_to_join_by_is_said_with_what_to_do(tmp_path: Path) -> None:
    source = read_run(str(new_run(tmp_path)))
    with pytest.raises(UsageError, match="add --bootstrap ADDRESS"):
        ways_in(source, None)


# In DNS.


def test_a_list_in_dns_counts_only_as_the_authority_signed_it_for_this_run() -> None:
    records = write_dns_list(OWNER, RUN, [SECOND, FIRST])
    assert set(read_dns_list(OWNER.peer_id, RUN, ["v=spf1 -all", *reversed(records)])) == {FIRST, SECOND}
    other_run = write_dns_list(OWNER, RunId("cd" * 32), [FIRST, SECOND])
    assert read_dns_list(OWNER.peer_id, RUN, [*other_run[-1:], *records]), "runs can share a name"
    forged = [
        [*records, f"dnsaddr={THIRD}"],
        records[1:],
        [records[0].replace(SECOND, THIRD), *records[1:]],
        records[:-1],
        [*records[:-1], "p2ptrain-signature=!"],
        write_dns_list(STRANGER, RUN, [FIRST, SECOND]),
        other_run,
        [],
    ]
    for texts in forged:
        with pytest.raises(BadRecord):
            read_dns_list(OWNER.peer_id, RUN, texts)


def test_the_list_is_fetched_from_a_name_server_also_when_it_is_too_long_for_one_packet() -> None:
    few, many = [FIRST], [node(20 + i) for i in range(9)]
    zone = {f"_dnsaddr.{n}.example.": write_dns_list(OWNER, RUN, a) for n, a in (("few", few), ("many", many))}
    assert sum(map(len, zone["_dnsaddr.many.example."])) > MAX_UDP_BYTES
    with name_server(zone) as resolver:
        assert look_up_list("few.example", RUN, OWNER.peer_id, resolver) == (FIRST,)
        assert set(look_up_list("many.example", RUN, OWNER.peer_id, resolver)) == set(many)
        zone["_dnsaddr.few.example."] = write_dns_list(STRANGER, RUN, few)
        with pytest.raises(NetworkSetupError, match="did not sign"):
            look_up_list("few.example", RUN, OWNER.peer_id, resolver)
        with pytest.raises(NetworkSetupError, match="could not be had"):
            look_up_list("none.example", RUN, OWNER.peer_id, resolver)


def test_what_the_command_prints_for_dns_is_what_peers_join_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path, *listing("/dnsaddr/example.org", THIRD))
    capsys.readouterr()
    key = ["--key", str(tmp_path / "authority.key")]
    assert cli.main(["run", "bootstraps", str(run), *key, "--txt", "example.org", *listing(FIRST, SECOND)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("_dnsaddr.example.org. 300 IN TXT ") for line in lines)
    zone = {"_dnsaddr.example.org.": [json.loads(line.partition(" TXT ")[2]) for line in lines]}
    source = read_run(str(run))
    with name_server(zone) as resolver:
        monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
        assert set(ways_in(source, None)) == {FIRST, SECOND, THIRD}
        zone.clear()
        assert ways_in(source, None) == (THIRD,), "one list that cannot be had does not keep a peer out"
        assert "_dnsaddr.example.org could not be had" in capsys.readouterr().err


def test_without_dns_a_peer_calls_whom_it_once_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read_run(str(new_run(tmp_path, *listing("/dnsaddr/example.org"))))
    known = {"peer": PeerId(FIRST.rpartition("/")[2]), "addresses": [FIRST], "seen_s": 5.0}
    with name_server({}) as resolver:
        monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
        with pytest.raises(NetworkSetupError, match="name a node with --bootstrap"):
            ways_in(source, None, tmp_path)
        (tmp_path / "known_peers.json").write_text(json.dumps([known]))
        assert ways_in(source, None, tmp_path) == (FIRST,)


def test_a_list_for_dns_is_signed_by_the_authority_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, *listing(FIRST))
    assert load(tmp_path / "authority.key").peer_id == read_run(str(run)).config.door.authority
    assert cli.main(["run", "bootstraps", str(run), "--txt", "example.org"]) == 2
    assert "who alone changes this list" in capsys.readouterr().err
