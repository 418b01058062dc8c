"""What it costs two owners that sixteen newcomers fetch whole states from them at once, with real processes.

The owners are real peers with a capped uplink. A newcomer is a real libp2p node with a daemon of its own that asks for
certificates and fetches published weights and the owners' state of every slice, over and over, with a capped downlink;
it does not train, because sixteen more models would measure this machine and not the protocol. Idle and busy spans
alternate, so that other jobs on the machine hit both.

Example: python benchmarks/sixteen_joiners.py --joiners 16 --spans 4 --span-s 60
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.config.load import load_run, run_id
from p2ptrain.config.schema import NetworkConfig
from p2ptrain.dashboard.follow import JournalTail
from p2ptrain.errors import BlobUnavailable, PeerUnreachable
from p2ptrain.events import InnerStepDone, PeerStarted, Record, RoundCommitted
from p2ptrain.ids import PeerId, RunId
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.child_processes import start_child, stop_children
from p2ptrain.node.passing_node import passing_node
from p2ptrain.swarm.answers import HEADS
from p2ptrain.swarm.state import owned_blob_bytes
from p2ptrain.wire.blobs import BlobExchange
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.messages import BlobRef, Certificate
from p2ptrain.wire.v1 import peer_pb2 as pb

PROGRAM = [sys.executable, "-m", "p2ptrain"]
VARIABLES = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Donor:
    """A real peer and its journal."""

    def __init__(self, folder: Path, name: str, bootstrap: str, upload_mbps: float) -> None:
        home = folder / name
        command = ["peer", "--run", str(folder / "run.toml"), "--bootstrap", bootstrap, "--home", str(home)]
        limit = ["--threads", "1", "--slices", "0", "--upload-mbps", str(upload_mbps)]
        self.child = start_child(name, [*PROGRAM, *command, *limit], folder / f"{name}.log", VARIABLES)
        self._tail = JournalTail(home / "events.jsonl")
        self._records: list[Record] = []

    def records(self) -> list[Record]:
        """Everything so far."""
        self._records += self._tail.new_records()
        return self._records

    async def until(self, kind: type, count: int = 1) -> list[Record]:
        """The records of a kind as soon as there are so many."""
        while len(found := [r for r in self.records() if isinstance(r.event, kind)]) < count:
            assert self.child.exit_status() is None, "\n".join(self.child.last_lines(20))
            await asyncio.sleep(0.1)
        return found


def printed_address(log: Path) -> str:
    """Where the bootstrap node listens."""
    for _ in range(600):
        if found := re.search(r"/ip4/\S+/p2p/\w+", log.read_text()):
            return found.group()
        time.sleep(0.1)
    raise SystemExit("the bootstrap node does not start")


async def join_for_ever(
    node: Libp2pNode, run: RunId, numel: Mapping[str, int], donors: Sequence[PeerId], done: list[int]
) -> None:
    """Fetch the newest state of every slice from the donors, again and again; ``done`` counts bytes."""
    blobs = BlobExchange(node, lambda *_: None)
    while True:
        request = pb.HeadsRequest(run=run, have=dict.fromkeys(numel, 0))
        try:
            reply = await node.call(donors[0], HEADS, request, pb.HeadsReply, timeout_s=5.0)
        except PeerUnreachable:
            await asyncio.sleep(1.0)
            continue
        newest = {c.value.slice: c for c in (Certificate.decode(c.SerializeToString()) for c in reply.certificates)}
        for slice_id, certificate in newest.items():
            value = certificate.value
            refs = [
                BlobRef(value.published_digest, 2 * numel[slice_id]),
                BlobRef(value.digest, owned_blob_bytes(numel[slice_id])),
            ]
            for ref in refs:
                try:
                    data, _ = await blobs.fetch(ref, donors, silence_timeout_s=30.0, what="a state")
                except BlobUnavailable:
                    break  # the donors have gone on to another version
                done.append(len(data))


def pace(donors: Sequence[Donor], began_s: float, ended_s: float) -> dict[str, float]:
    """Inner steps a second of both donors, and seconds a round, in a span of wall time."""
    steps = [r for d in donors for r in d.records() if isinstance(r.event, InnerStepDone)]
    commits = [r for r in donors[0].records() if isinstance(r.event, RoundCommitted) and r.event.slice == "common"]
    num_steps = sum(began_s <= r.time_s < ended_s for r in steps)
    inside = sorted(r.time_s for r in commits if began_s <= r.time_s < ended_s)
    took = [after - before for before, after in pairwise(inside)]
    return {
        "steps_per_s": num_steps / (ended_s - began_s),
        "rounds": len(inside),
        "round_s": statistics.mean(took) if took else float("nan"),
    }


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """All spans of one swarm."""
    manifest = folder / "run.toml"
    changes = ManifestChanges(seed=1, slices=1, rounds=1_000_000, inner_steps=options.inner_steps)
    write_manifest("tiny", manifest, changes)
    run = load_run(manifest)
    plan = SlicePlan.of(run.model, run.slicing)
    numel = {str(s): plan.numel(s) for s in plan.slice_ids}
    where = ["bootstrap", "--home", str(folder / "meeting"), "--port", "0"]
    children = [start_child("bootstrap", [*PROGRAM, *where], folder / "bootstrap.log", VARIABLES)]
    try:
        address = printed_address(folder / "bootstrap.log")
        first, second = (Donor(folder, name, address, options.upload_mbps) for name in ("a", "b"))
        children += [first.child, second.child]
        event = (await first.until(PeerStarted))[0].event
        assert isinstance(event, PeerStarted)
        other = (await second.until(PeerStarted))[0].event
        assert isinstance(other, PeerStarted)
        both = [first, second]
        await second.until(RoundCommitted, 6)
        spans: list[dict[str, object]] = []
        async with AsyncExitStack() as stack:
            nodes = []
            for number in range(options.joiners):
                network = NetworkConfig(bootstraps=(address,))
                node, _ = await stack.enter_async_context(passing_node(network, f"joiner{number}"))
                node.download.mbps = options.download_mbps
                nodes.append(node)
            for number in range(options.spans):
                is_busy, done = number % 2 == 1, list[int]()
                tasks = [
                    asyncio.create_task(join_for_ever(n, run_id(run), numel, [event.peer, other.peer], done))
                    for n in nodes
                    if is_busy
                ]
                await asyncio.sleep(5.0)  # until it runs evenly
                sent, cpu_s, began_s = sum(done), time.process_time(), time.time()
                await asyncio.sleep(options.span_s)
                ended_s = time.time()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                fetched = (sum(done) - sent) * 8e-6 / (ended_s - began_s)
                span: dict[str, object] = {"joiners": len(tasks), "fetched_mbps": fetched}
                span["own_cpu_s"] = time.process_time() - cpu_s
                spans.append({**span, **pace(both, began_s, ended_s)})
                print(json.dumps(spans[-1]), flush=True)
        return {"options": vars(options), "spans": spans}
    finally:
        stop_children(children, grace_s=5.0)


def main() -> None:
    """Run the spans and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--joiners", type=int, default=16)
    parser.add_argument("--spans", type=int, default=4)
    parser.add_argument("--span-s", type=float, default=60.0)
    parser.add_argument("--inner-steps", type=int, default=20)
    parser.add_argument("--upload-mbps", type=float, default=10.0)
    parser.add_argument("--download-mbps", type=float, default=1.0)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), parser.parse_args()))


if __name__ == "__main__":
    main()
