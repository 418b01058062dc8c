"""What a bootstrap node takes: memory with many connections, and under floods of forged, valid and repeated records.

Connections are real libp2p ones (TCP, Noise XX, yamux), made here with a key each, which are then kept open and answer
pings: a thousand p2pd processes would not fit on one machine. Records come from a node of p2ptrain's own, by the calls
that the directory uses, a hundred in each.

Example: python benchmarks/bootstrap_load.py --connections 1000 --records 100000
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from p2ptrain.identity.keys import Identity
from p2ptrain.ids import RunId
from p2ptrain.swarm.directory import Claim, _encode, _record_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.bare_connection import BareConnection

AT_ONCE = 50
A_CALL = 100


class Node:
    """The bootstrap node under test."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = ["bootstrap", "--home", str(folder / "boot"), "--port", "0", "--status", "127.0.0.1:0", *options]
        log = folder / "boot.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "p2ptrain", *command],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        found = None
        while found is None:
            time.sleep(0.2)
            assert self.process.poll() is None, log.read_text()
            found = re.search(r"(/ip4/\S+/p2p/\w+).*status page: (\S+)", log.read_text(), re.DOTALL)
        self.address, self.url = found.groups()
        self.port = int(re.findall(r"/tcp/(\d+)", self.address)[0])

    def measured(self) -> dict[str, float]:
        """Megabytes of memory, seconds of processor time, and what the node says of its load."""
        python = psutil.Process(self.process.pid)
        (daemon,) = [p for p in python.children(recursive=True) if p.name().startswith("p2pd")]
        with urllib.request.urlopen(self.url + "status.json", timeout=60) as answer:  # noqa: S310 - our own node
            load = json.load(answer)["load"]
        return {
            "python_mb": round(python.memory_info().rss / 1e6, 1),
            "p2pd_mb": round(daemon.memory_info().rss / 1e6, 1),
            "python_cpu_s": round(sum(python.cpu_times()[:2]), 1),
            "p2pd_cpu_s": round(sum(daemon.cpu_times()[:2]), 1),
            **load,
        }


def claims(count: int, runs: int) -> Iterator[tuple[RunId, Claim, bytes]]:
    """Valid claims by made-up peers."""
    names = [RunId(secrets.token_hex(32)) for _ in range(runs)]
    for i in range(count):
        identity = Identity.generate()
        claim = Claim(run=names[i % runs], peer=identity.peer_id, expires_s=time.time() + 590.0)
        yield claim.run, claim, _encode(identity, claim)


async def flood(node: Any, peer: str, records: Sequence[tuple[RunId, Claim, bytes]], kind: str) -> tuple[int, float]:
    """Send all records; how many were taken, and the seconds that it took."""
    from hivemind.dht.routing import DHTID
    from hivemind.p2p import PeerID
    from hivemind.utils import MSGPackSerializer

    protocol, taken, started_s = node._dht.protocol, 0, time.monotonic()
    for start in range(0, len(records), A_CALL):
        some = records[start : start + A_CALL]
        values = [v[:-1] + bytes([v[-1] ^ 1]) if kind == "forged" else v for _, _, v in some]
        answer = await protocol.call_store(
            PeerID.from_base58(peer),
            [DHTID.generate(source=_record_name(run)) for run, _, _ in some],
            [MSGPackSerializer.dumps(value) for value in values],
            [claim.expires_s for _, claim, _ in some],
            subkeys=[claim.peer for _, claim, _ in some],
        )
        taken += sum(answer or [])
    return taken, time.monotonic() - started_s


async def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """All of it, printed as lines of JSON."""
    node = Node(folder, "--connections-per-address", "1000000")
    try:
        await asyncio.sleep(arguments.settle_s)
        report("idle", node.measured())
        await crowd(node, arguments)
        await floods(node, arguments)
    finally:
        node.process.terminate()
        node.process.wait(30)


async def crowd(node: Node, arguments: argparse.Namespace) -> None:
    """Many connections that stay."""
    held: list[BareConnection] = []
    failures: list[BaseException] = []
    started_s = time.monotonic()
    while len(held) + len(failures) < arguments.connections:
        opening = [BareConnection.open("127.0.0.1", node.port) for _ in range(AT_ONCE)]
        for result in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(result, BaseException):
                failures.append(result)
            else:
                held.append(result)
    staying = [asyncio.create_task(connection.stay()) for connection in held]
    seconds = round(time.monotonic() - started_s, 1)
    report(f"{len(held)} connections made", {"seconds": seconds, "refused": len(failures), **node.measured()})
    if failures:
        print("first refusal:", repr(failures[0]))
    for minute in range(arguments.minutes):
        await asyncio.sleep(60)
        still = sum(not task.done() for task in staying)
        report(f"{still} still there after {minute + 1} min", node.measured())
    for task in staying:
        task.cancel()
    for connection in held:
        connection.close()
    await asyncio.gather(*staying, return_exceptions=True)
    await asyncio.sleep(30)
    report("30 s after they left", node.measured())


async def floods(node: Node, arguments: argparse.Namespace) -> None:
    """Records that are forged, valid, and valid once more."""
    from p2ptrain.config.schema import NetworkConfig
    from p2ptrain.node.passing_node import passing_node

    records = list(claims(arguments.records, runs=50))
    peer = node.address.rpartition("/")[2]
    for kind in ("forged", "valid", "repeated"):
        async with passing_node(NetworkConfig(bootstraps=(node.address,)), "flood") as (source, _):
            taken, seconds = await flood(source, peer, records, kind)
        rate = round(len(records) / seconds)
        report(f"{len(records)} {kind} records", {"taken": taken, "records_per_s": rate, **node.measured()})


def report(what: str, measured: dict[str, float]) -> None:
    """One line."""
    print(json.dumps({"what": what, **measured}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=3, help="for which the connections stay")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--settle-s", type=float, default=10.0)
    with tempfile.TemporaryDirectory(prefix="p2ptrain-load-") as made:
        asyncio.run(measure(parser.parse_args(), Path(made)))
