"""A bootstrap node that knows its run: it hands out the manifest, shows what it sees and can be restarted."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.events import TwinSeen
from p2ptrain.node.child_processes import Child, start_child, stop_children
from tests.support.live_swarm import ENDLESS, PATIENCE_S, LivePeer, eventually, p2ptrain, stop_gently
from tests.support.texts import folder_of_texts, tokenizer_for

pytestmark = pytest.mark.swarm


class Node:
    """A bootstrap node with a status page."""

    def __init__(
        self, folder: Path, port: str = "0", run: bool = True, name: str = "boot", others: Sequence[str] = ()
    ) -> None:
        command = ["bootstrap", "--home", str(folder / name), "--port", port, "--status", "127.0.0.1:0"]
        self.child: Child = start_child(
            f"{name}-{port}",
            p2ptrain(
                *command,
                *(["--run", str(folder / "run.toml")] if run else []),
                *(word for address in others for word in ("--bootstrap", address)),
            ),
            folder / f"{name}-{port}.log",
            {**os.environ, "PYTHONUNBUFFERED": "1"},
        )

        def printed() -> re.Match[str] | None:
            assert self.child.exit_status() is None, "\n".join(self.child.last_lines(20))
            return re.search(r"(/ip4/\S+/p2p/\w+).*status page: (\S+)", self.child.log.read_text(), re.DOTALL)

        found = eventually(printed, what="the bootstrap prints its address and page")
        self.address, self.url = found.groups()
        self.port = re.findall(r"/tcp/(\d+)/", self.address)[0]

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + "status.json", timeout=PATIENCE_S) as answer:
            return dict(json.load(answer))


def start_peer(name: str, folder: Path, run: str, *options: str) -> LivePeer:
    peer = LivePeer(name, folder / name)
    command = p2ptrain("peer", "--run", run, "--home", str(folder / name), "--threads", "1", *options)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    peer.child = start_child(name, command, folder / f"{name}.log", environment)
    return peer


def test_an_address_is_all_that_a_newcomer_needs_and_a_restarted_node_goes_on(tmp_path: Path) -> None:
    write_manifest("nano", tmp_path / "run.toml", ManifestChanges(seed=1, rounds=ENDLESS))
    children = []
    try:
        node = Node(tmp_path)
        children.append(node.child)
        first = start_peer("first", tmp_path, node.address)
        children.append(first.child)
        first.wait_for_version("common", 2)

        def with_a_curve() -> dict[str, Any] | None:
            seen = node.status()
            owners = {s["id"]: s["owners"] for s in seen["slices"]}.get("common")  # at the last look, if it answered
            return seen if len(seen["loss"]) >= 2 and owners == [first.id] else None

        seen = eventually(with_a_curve, what="two points of the loss curve, and whose they are")
        assert [p["peer"] for p in seen["peers"]] == [first.id]

        node.child.send(signal.SIGTERM)
        eventually(lambda: node.child.exit_status() is not None, what="the node ends")
        again = Node(tmp_path, port=node.port)
        children.append(again.child)
        assert again.address == node.address, "the identity is the address"
        assert again.status()["loss"][0] == seen["loss"][0], "the curve goes on where it was"
        # The first peer finds back to the node by itself; a newcomer can even come by way of that peer alone.
        eventually(lambda: again.status()["peers"], what="the peer is seen again")
        own_address = re.search(r"/ip4/127.0.0.1/tcp/\d+/p2p/" + first.id, first.child.log.read_text())
        assert own_address is not None, first.log()
        second = start_peer("second", tmp_path, own_address.group())
        children.append(second.child)
        second.wait_for_version("common", 5)
        assert again.status()["problems"] == {}, "its own past is no twin"
        assert stop_gently([first, second]) == {"first": 0, "second": 0}
    finally:
        stop_children(children, grace_s=5.0)


def test_a_manifest_names_the_nodes_by_which_peers_and_other_nodes_join(tmp_path: Path) -> None:
    children = []
    try:
        listed = Node(tmp_path, run=False, name="listed")
        children.append(listed.child)
        by_name = listed.address.replace("/ip4/127.0.0.1/", "/dns4/localhost/")
        assert by_name != listed.address
        write_manifest("nano", tmp_path / "run.toml", ManifestChanges(seed=1, rounds=ENDLESS, bootstraps=(by_name,)))
        other = Node(tmp_path, name="other")
        children.append(other.child)
        peer = start_peer("peer", tmp_path, str(tmp_path / "run.toml"))
        children.append(peer.child)
        peer.wait_for_version("common", 1)
        eventually(
            lambda: [p["peer"] for p in other.status()["peers"]] == [peer.id],
            what="the node that the peer was not told of finds it by way of the one that it was",
        )
        assert stop_gently([peer]) == {"peer": 0}
    finally:
        stop_children(children, grace_s=5.0)


def test_two_processes_with_one_identity_notice_each_other(tmp_path: Path) -> None:
    write_manifest("nano", tmp_path / "run.toml", ManifestChanges(seed=1, rounds=ENDLESS))
    children = []
    try:
        node = Node(tmp_path)
        children.append(node.child)
        for name in ("boot-b", "peer-b"):
            (tmp_path / name).mkdir()
        twins = [Node(tmp_path, run=False, name="boot-a", others=[node.address])]
        children.append(twins[0].child)
        shutil.copy(tmp_path / "boot-a" / "identity.key", tmp_path / "boot-b")
        twins.append(Node(tmp_path, run=False, name="boot-b", others=[node.address]))
        children.append(twins[1].child)
        peers = [start_peer("peer-a", tmp_path, node.address)]
        children.append(peers[0].child)
        peers[0].wait_for_version("common", 1)
        shutil.copy(tmp_path / "peer-a" / "identity.key", tmp_path / "peer-b")
        peers.append(start_peer("peer-b", tmp_path, node.address))
        children.append(peers[1].child)
        eventually(
            lambda: any("twin" in twin.status()["problems"] for twin in twins),
            what="one of two bootstrap nodes says so on its status page",
        )
        assert any("PROBLEM: another process runs as" in twin.child.log.read_text() for twin in twins)
        eventually(lambda: any(peer.events(TwinSeen) for peer in peers), what="one of two peers says so")
        assert node.status()["problems"] == {}
    finally:
        stop_children(children, grace_s=5.0)


def test_a_node_without_a_run_says_so_to_a_newcomer(tmp_path: Path) -> None:
    node = Node(tmp_path, run=False)
    try:
        done = subprocess.run(
            p2ptrain("peer", "--run", node.address, "--home", str(tmp_path / "p")),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        stop_children([node.child], grace_s=5.0)
    assert done.returncode == 2, done.stderr
    assert "knows the manifest of none" in done.stderr
    assert not (tmp_path / "p").exists()


def test_drained_node_ends_by_itself(tmp_path: Path) -> None:
    node = Node(tmp_path, run=False)
    try:
        drain = p2ptrain("bootstrap", "--drain", "--home", str(tmp_path / "boot"))
        subprocess.run(drain, check=True, timeout=PATIENCE_S)
        eventually(lambda: node.child.exit_status() is not None, what="it ends once it carries nothing")
        assert node.child.exit_status() == 0
        nobody = subprocess.run(drain, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert nobody.returncode != 0
        assert "nothing to drain" in nobody.stderr
    finally:
        stop_children([node.child], grace_s=5.0)


def test_the_tokenizer_comes_with_the_run(tmp_path: Path) -> None:
    """From a bootstrap node and from a peer, to newcomers that have nothing but an address."""
    text = folder_of_texts(tmp_path / "text")
    file = tokenizer_for(text, tmp_path / "tokenizer.json")
    changes = ManifestChanges(seed=1, rounds=ENDLESS, text=text, pattern="*.py", tokenizer=tmp_path / "tokenizer.json")
    write_manifest("nano", tmp_path / "run.toml", changes)
    children = []
    try:
        node = Node(tmp_path)
        children.append(node.child)
        first = start_peer("first", tmp_path, node.address, "--text", str(text))
        children.append(first.child)
        first.wait_for_version("common", 1)
        assert (tmp_path / "first" / "tokenizer.json").read_bytes() == file
        own_address = re.search(r"/ip4/127.0.0.1/tcp/\d+/p2p/" + first.id, first.child.log.read_text())
        assert own_address is not None, first.log()
        node.child.send(signal.SIGTERM)
        eventually(lambda: node.child.exit_status() is not None, what="the node ends")
        second = start_peer("second", tmp_path, own_address.group(), "--text", str(text))
        children.append(second.child)
        second.wait_for_version("common", 3)
        assert (tmp_path / "second" / "tokenizer.json").read_bytes() == file
        assert stop_gently([first, second]) == {"first": 0, "second": 0}

        home = str(tmp_path / "second")
        command = p2ptrain("generate", "--home", home, "--prompt", "def é", "--tokens", "30", "--seed", "1")
        said = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True).stdout.decode()
        assert said.startswith("def é")
        assert len(said.encode()) > 35, "most tokens are more than one byte"
        (tmp_path / "second" / "tokenizer.json").write_text("{}")
        spoilt = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
        assert spoilt.returncode == 2
        assert b"peers with other tokens would spoil the model" in spoilt.stderr
    finally:
        stop_children(children, grace_s=5.0)
