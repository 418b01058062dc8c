"""A run with an authority: who has no invitation stays out, and who is banned is dropped while training goes on."""

import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from p2ptrain.events import GuestListHeard, MetricsServed, OrderHeard, SliceGained, SliceGivenUp, SlicesClaimed
from tests.support.live_swarm import PATIENCE_S, LiveSwarm, eventually, p2ptrain, stop_gently
from tests.support.secrets import found_in, secrets_of_key

pytestmark = pytest.mark.swarm


def say(*arguments: str, status: int = 0) -> str:
    done = subprocess.run(p2ptrain(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout.strip() if status == 0 else done.stderr


def test_an_invited_peer_trains_until_it_is_banned(tmp_path: Path) -> None:
    key = tmp_path / "authority.key"
    with LiveSwarm(tmp_path, authority=key, admission="invite") as swarm:
        run = [str(swarm.manifest), "--key", str(key)]
        ids = {name: say("identity", "--home", str(tmp_path / name)) for name in ("good", "bad")}
        tokens = {name: say("run", "invite", *run, "--peer", peer) for name, peer in ids.items()}

        stranger = ["peer", "--run", str(swarm.manifest), "--bootstrap", swarm.address, "--home", str(tmp_path / "s")]
        said = say(*stranger, "--invite", tokens["good"], status=2)
        assert re.search(r"not admitted .* for peer .* This peer's id is 12D3KooW", said)

        good = swarm.start_peer("good", "0,1", "--invite", tokens["good"], "--metrics", "127.0.0.1:0", "--log", "json")
        good.wait_for_version("common", 1)
        bad = swarm.start_peer("bad", "1", "--invite", tokens["bad"])
        eventually(
            lambda: any(ids["bad"] in c.contributors for c in good.committed("1")),
            what="bad contributes",
        )

        with urllib.request.urlopen(good.events(MetricsServed)[0].url, timeout=PATIENCE_S) as answer:
            metrics = answer.read()
        assert b"p2ptrain" in metrics
        published = say("run", "guests", *run, "--ban", ids["bad"], "--bootstrap", swarm.address)
        assert "published" in published
        eventually(
            lambda: any(event.banned == [ids["bad"]] for event in good.events(GuestListHeard)),
            what="the good peer hears of the ban",
        )
        eventually(lambda: bad.child.exit_status() is not None, what=lambda: f"the banned peer ends\n{bad.log()}")
        assert bad.child.exit_status() == 2, bad.log()
        assert "has banned this peer" in bad.log()
        later = good.reached("1")
        good.wait_for_version("1", later + 5)
        assert good.committed("1")[-1].contributors == [ids["good"]]
        assert stop_gently([good]) == {"good": 0}
        again = say(*stranger[:-1], str(tmp_path / "bad"), status=2)
        assert "has banned this peer" in again, "and it remembers when it starts again"

        secrets = {f"{name}'s invitation": token.encode() for name, token in tokens.items()}
        for file in (key, *tmp_path.glob("*/identity.key")):
            secrets |= {f"{file.parent.name} key": raw for raw in secrets_of_key(file)}
        places = {str(file): file.read_bytes() for file in (*tmp_path.glob("*.log"), *tmp_path.glob("*/events*.jsonl"))}
        assert len(secrets) > 4
        assert len(places) > 4
        assert found_in({**places, "metrics": metrics}, secrets) == []


def test_the_authority_asks_a_peer_to_own_another_slice_and_it_does_unless_its_volunteer_chose(tmp_path: Path) -> None:
    key = tmp_path / "authority.key"
    with LiveSwarm(tmp_path, authority=key) as swarm:
        chose = swarm.start_peer("chose", "0,1")
        follows = swarm.start_peer("follows")
        chose.wait_for_version("common", 1)
        first = eventually(lambda: follows.events(SlicesClaimed), what="it chooses")[0].slices
        wanted = "1" if "0" in first else "0"

        def ask(peer: str, *what: str) -> None:
            order = ["run", "assign", str(swarm.manifest), "--key", str(key), "--peer", peer, *what]
            assert "published" in say(*order, "--bootstrap", swarm.address)

        ask(follows.id, "--slices", wanted)
        ask(chose.id, "--slices", "0")
        gained = eventually(lambda: follows.events(SliceGained), what=follows.log())[0]
        assert (gained.slice, "authority" in gained.reason) == (wanted, True)
        refused = eventually(lambda: chose.events(OrderHeard), what=chose.log())[0]
        assert "you chose" in refused.refusal
        assert "not followed: you chose this peer's slices" in " ".join(say("why", "--home", str(chose.home)).split())
        eventually(lambda: follows.events(SliceGivenUp), what=f"it leaves {first}")
        assert stop_gently([follows]) == {"follows": 0}

        again = swarm.start_peer("again", home=follows.home)
        claims = eventually(lambda: again.events(SlicesClaimed), what="the order outlives a restart")
        assert claims[0].slices == ["common", wanted]
        assert "authority" in claims[0].reason
        ask(again.id, "--revoke")
        eventually(lambda: any(not event.slices for event in again.events(OrderHeard)), what=again.log())
