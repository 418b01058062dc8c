"""Averaging among peers on one machine: p2ptrain's reduce against hivemind's averager, in turns, in the same run.

    python benchmarks/reduce.py --peers 4 --megabytes 100 -n 5 [--json]

Each variant has its own processes, which stay for all repeats. A repeat begins when all are told to go and ends when
the last has the average as float32. CPU seconds are those of all processes and their children, libp2p's daemons
included. p2ptrain's figure is the reduce alone: encode, announce hashes, fetch parts, average, encode, announce; fetch
the parts once more elsewhere, average, compare, announce (not with ``unchecked``, the manifest's
``exchange.check_averages = false``); fetch averages, decode; every byte checked by hash. Agreement and the outer step
come after it. hivemind's is ``averager.step()``, which believes what it is sent.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from p2ptrain.cli.processes import run_loop

VARIANTS = (
    "p2ptrain int8",
    "p2ptrain int8 unchecked",
    "p2ptrain int4",
    "p2ptrain float32",
    "hivemind none",
    "hivemind float16",
)


def main() -> None:
    """Compare, or be one of the compared processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=100, help="of float32 that every peer holds")
    parser.add_argument("-n", type=int, default=5, help="repeats of each variant, after one that is not counted")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=3, metavar=("VARIANT", "INDEX", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        variant, index, folder = options.worker
        work(variant, int(index), Path(folder), options.peers, options.megabytes * 250_000)
        return
    with tempfile.TemporaryDirectory(prefix="reduce-") as folder:
        groups = {v: Group(v, Path(folder), options) for v in options.variants.split(",")}
        measured: dict[str, list[tuple[float, float]]] = {v: [] for v in groups}
        for repeat in range(options.n + 1):
            for variant, group in groups.items():
                outcome = group.once()
                sys.stderr.write(
                    f"{variant}: {outcome[0]:.2f} s, {outcome[1]:.2f} s of CPU{'' if repeat else ', not counted'}\n"
                )
                if repeat:
                    measured[variant].append(outcome)
        for group in groups.values():
            group.end()
    rows = [row(variant, outcomes) for variant, outcomes in measured.items()]
    if options.json:
        print(json.dumps({"peers": options.peers, "megabytes": options.megabytes, "n": options.n, "rows": rows}))
        return
    print(f"{options.peers} peers, {options.megabytes} MB of float32 each, n = {options.n}")
    print(f"{'':18}{'wall s':>8}{'range':>14}{'CPU s':>8}{'range':>14}")
    for r in rows:
        print(
            f"{r['variant']:18}{r['wall_s']:>8.2f}{r['wall_s_min']:>7.2f}-{r['wall_s_max']:<6.2f}"
            f"{r['cpu_s']:>8.2f}{r['cpu_s_min']:>7.2f}-{r['cpu_s_max']:<6.2f}"
        )


def row(variant: str, outcomes: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians and ranges."""
    walls, cpus = [wall for wall, _ in outcomes], [cpu for _, cpu in outcomes]
    return {
        "variant": variant,
        "wall_s": statistics.median(walls),
        "wall_s_min": min(walls),
        "wall_s_max": max(walls),
        "cpu_s": statistics.median(cpus),
        "cpu_s_min": min(cpus),
        "cpu_s_max": max(cpus),
    }


class Group:
    """The processes of one variant."""

    def __init__(self, variant: str, folder: Path, options: argparse.Namespace) -> None:
        self.variant = variant
        own = folder / variant.replace(" ", "-")
        own.mkdir()
        self.workers = []
        for index in range(options.peers):
            command = [sys.executable, __file__, "--peers", str(options.peers), "--megabytes", str(options.megabytes)]
            worker = subprocess.Popen(
                [*command, "--worker", variant, str(index), str(own)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.workers.append(worker)
            if index == 0:
                self._hear(worker)
        for worker in self.workers[1:]:
            self._hear(worker)
        for worker in self.workers:  # everybody is there: meet
            self._tell(worker, "meet")
        for worker in self.workers:
            self._hear(worker)

    def once(self) -> tuple[float, float]:
        """Seconds of one averaging, and of all processors."""
        before, began_s = self._cpu_s(), time.monotonic()
        for worker in self.workers:
            self._tell(worker, "go")
        for worker in self.workers:
            self._hear(worker)
        outcome = time.monotonic() - began_s, self._cpu_s() - before
        for worker in self.workers:
            self._tell(worker, "check")
        errors = [float(self._hear(worker)) for worker in self.workers]
        assert max(errors) < 0.2, f"{self.variant}: wrong by {max(errors)}"
        return outcome

    def end(self) -> None:
        """Close the processes' input, and with it the processes."""
        for worker in self.workers:
            assert worker.stdin
            worker.stdin.close()
        for worker in self.workers:
            worker.wait(30)

    def _cpu_s(self) -> float:
        return sum(cpu_s(pid) for worker in self.workers for pid in [worker.pid, *descendants(worker.pid)])

    @staticmethod
    def _tell(worker: "subprocess.Popen[str]", word: str) -> None:
        assert worker.stdin
        worker.stdin.write(word + "\n")
        worker.stdin.flush()

    def _hear(self, worker: "subprocess.Popen[str]") -> str:
        assert worker.stdout
        for line in worker.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise SystemExit(f"{self.variant}: a process ended")


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Process ids of its children and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found + [grandchild for child in found for grandchild in descendants(child)]


def work(variant: str, index: int, folder: Path, peers: int, numel: int) -> None:
    """One peer: average whenever told to, say how wrong the average is."""
    kind, codec, *unchecked = variant.split()
    values = np.random.default_rng(index).standard_normal(numel).astype(np.float32)
    expected = np.zeros(numel, np.float32)
    for other in range(peers):
        expected += np.random.default_rng(other).standard_normal(numel).astype(np.float32) / np.float32(peers)

    def error(average: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(average - expected))))

    def say(text: object) -> None:
        sys.stdout.write(f"> {text}\n")
        sys.stdout.flush()

    if kind == "hivemind":
        work_hivemind(codec, index, folder, peers, values, error, say)
    else:
        # In the event loop that peers have. hivemind's averager makes its own, of the same kind.
        run_loop(work_p2ptrain(codec, not unchecked, index, folder, peers, values, error, say))


def work_hivemind(
    codec: str,
    index: int,
    folder: Path,
    peers: int,
    values: np.ndarray,
    error: Callable[..., float],
    say: Callable[[object], None],
) -> None:
    """Hivemind's averager, in its own processes."""
    import hivemind
    import torch
    from hivemind.averaging import DecentralizedAverager
    from hivemind.compression import Float16Compression, NoCompression

    torch.set_num_threads(1)
    address = folder / "address"
    others = [] if index == 0 else [address.read_text()]
    dht = hivemind.DHT(initial_peers=others, host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
    if index == 0:
        address.write_text(str(dht.get_visible_maddrs()[0]))
    averager = DecentralizedAverager(
        [torch.from_numpy(values.copy())],
        dht,
        prefix="bench",
        target_group_size=peers,
        min_group_size=peers,
        min_matchmaking_time=5.0,
        request_timeout=3.0,
        compression=NoCompression() if codec == "none" else Float16Compression(),
        start=True,
    )
    result = values
    say("ready")
    for word in sys.stdin:
        if word.strip() == "meet":
            say("met")
            continue
        if word.strip() == "check":
            say(error(result))
            continue
        with averager.get_tensors() as (tensor,):
            tensor.copy_(torch.from_numpy(values))
        averager.step(timeout=120)
        with averager.get_tensors() as (tensor,):
            result = tensor.numpy().copy()
        say("done")
    averager.shutdown()
    dht.shutdown()


async def work_p2ptrain(
    codec: Any,
    checks: bool,
    index: int,
    folder: Path,
    peers: int,
    values: np.ndarray,
    error: Callable[..., float],
    say: Callable[[object], None],
) -> None:
    """The functions that a slice's owner calls between cut-off and outer step."""
    from p2ptrain.config.schema import ExchangeConfig
    from p2ptrain.identity.keys import load_or_create
    from p2ptrain.ids import PeerId, RunId, SliceId, Version
    from p2ptrain.node.child_processes import die_with_parent_prefix
    from p2ptrain.swarm.directory import is_valid_record
    from p2ptrain.swarm.error_feedback import encode_contribution, no_residual
    from p2ptrain.swarm.reduce import part_bounds, share_parts
    from p2ptrain.swarm.robust import combine
    from p2ptrain.training.device import keep_freed_memory
    from p2ptrain.wire.blobs import BlobExchange
    from p2ptrain.wire.codec import decode, encode
    from p2ptrain.wire.libp2p import Libp2pNode
    from p2ptrain.wire.libp2p_start import NodeOptions
    from p2ptrain.wire.messages import Ballot, BlobRef, Contribution, PartResult, Ready, RoundMessage
    from p2ptrain.wire.v1 import peer_pb2 as pb

    keep_freed_memory()  # as a peer does
    address = folder / "address"
    key = folder / f"{index}.key"
    identity = load_or_create(key)
    node = await Libp2pNode.start(
        NodeOptions(
            identity=key,
            peer=identity.peer_id,
            host="127.0.0.1",
            port=0,
            bootstraps=[] if index == 0 else [address.read_text()],
            check_record=is_valid_record,
            launcher=die_with_parent_prefix(),
            sockets=folder / f"{index}.sockets",
        )
    )
    if index == 0:
        address.write_text(node.addresses[0])
    blobs = BlobExchange(node, lambda peer, reason: None)
    await blobs.start()
    heard: asyncio.Queue[tuple[PeerId, RoundMessage]] = asyncio.Queue()

    async def hear(sender: PeerId, request: pb.RoundMessage) -> pb.Ack:
        heard.put_nowait((sender, RoundMessage.from_pb(request)))
        return pb.Ack()

    await node.serve("round", pb.RoundMessage, hear)
    (folder / f"{index}.peer").write_text(identity.peer_id)
    bounds = part_bounds(values.size, ExchangeConfig().part_elements)
    residual = no_residual(bounds)
    me = identity.peer_id
    members: tuple[PeerId, ...] = ()

    async def tell(body: Any) -> None:
        message = RoundMessage(RunId("bench"), SliceId("0"), Version(1), Ballot(1, 0, members), body)
        heard.put_nowait((me, message))
        sent = message.to_pb()
        others = [peer for peer in members if peer != me]
        await asyncio.gather(*(node.call(peer, "round", sent, pb.Ack, timeout_s=30) for peer in others))

    early: list[tuple[PeerId, RoundMessage]] = []

    async def next_from(kind: type[Ready | PartResult]) -> tuple[PeerId, RoundMessage]:
        """The next message of a kind; others are kept."""
        for at, (sender, message) in enumerate(early):
            if isinstance(message.body, kind):
                del early[at]
                return sender, message
        while not isinstance((found := await heard.get())[1].body, kind):
            early.append(found)
        return found

    async def reduce(part: int, contributions: list[Contribution]) -> None:
        start, stop = bounds[part]

        async def fetch(c: Contribution) -> memoryview:
            data, _ = await blobs.fetch(c.parts[part], [c.peer], silence_timeout_s=30, what="part")
            return data

        arrived = await asyncio.gather(*map(fetch, contributions))

        def averaged() -> tuple[memoryview, Any, tuple[PeerId, ...]]:  # in one visit to a thread, as an owner does
            decoded = zip(contributions, (decode(codec, data, stop - start) for data in arrived), strict=True)
            combined = combine("mean", {c.peer: (c.tokens, values) for c, values in decoded})
            average = encode(codec, combined.mean)
            return average, BlobRef.of(average).sha256, combined.contributors

        average, sha256, contributors = await asyncio.to_thread(averaged)
        await tell(PartResult(part, blobs.store.hold("round", average, sha256=sha256), contributors))

    async def average_all() -> np.ndarray:
        sent = await asyncio.to_thread(encode_contribution, codec, values, residual, bounds)
        hashes = await asyncio.to_thread(lambda: [BlobRef.of(part).sha256 for part in sent.parts])
        pairs = zip(sent.parts, hashes, strict=True)
        refs = tuple(blobs.store.hold("round", part, sha256=sha256) for part, sha256 in pairs)
        await tell(Ready(Contribution(me, 1, 1.0, refs), None))
        contributions: list[Contribution] = []
        while len(contributions) < len(members):
            body = (await next_from(Ready))[1].body
            assert isinstance(body, Ready)
            assert body.contribution
            contributions.append(body.contribution)
        contributions.sort(key=lambda c: c.peer)
        reducers = share_parts(len(bounds), dict.fromkeys(members, 0.0))
        checkers = [members[(members.index(reducer) + 1) % len(members)] for reducer in reducers]
        words = 2 if checks else 1
        said: dict[int, dict[PeerId, PartResult]] = {part: {} for part in range(len(bounds))}
        async with asyncio.TaskGroup() as tasks:
            for part, reducer in enumerate(reducers):
                if reducer == me:
                    tasks.create_task(reduce(part, contributions))
            while any(len(of_part) < words for of_part in said.values()):
                sender, message = await next_from(PartResult)
                result = message.body
                assert isinstance(result, PartResult)
                said[result.part][sender] = result
                if checks and sender == reducers[result.part] and checkers[result.part] == me:
                    tasks.create_task(reduce(result.part, contributions))
        assert all(len({result.average for result in of_part.values()}) == 1 for of_part in said.values())
        fetched = await asyncio.gather(
            *(
                blobs.fetch(of_part[reducers[part]].average, list(of_part), silence_timeout_s=30, what="average")
                for part, of_part in said.items()
            )
        )

        def joined() -> np.ndarray:
            average = np.empty_like(values)
            for (data, _), (start, stop) in zip(fetched, bounds, strict=True):
                average[start:stop] = decode(codec, data, stop - start)
            return average

        return await asyncio.to_thread(joined)

    result = values
    say("ready")
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if word == "meet":
            members = tuple(sorted(PeerId((folder / f"{i}.peer").read_text()) for i in range(peers)))
            say("met")
            continue
        if word == "check":
            say(error(result))
            continue
        blobs.store.release("last")
        result = await average_all()
        say("done")
        # Others may still be fetching: what we served is dropped a round later.
        for ref in list(blobs.store._data):
            blobs.store._labels[ref] = {"last"}
    await node.stop()


if __name__ == "__main__":
    main()
