"""A bare network node in a process of its own: started by tests on an emulated host, commanded line by line.

``python -m tests.support.net_node FOLDER OPTIONS`` prints its peer id, addresses and reach as JSON once it is up. Each
line of its input is a JSON list, a command and its arguments, and is answered by one line.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2ptrain.config.schema import RelayLimits
from p2ptrain.errors import P2PTrainError
from p2ptrain.identity.keys import load_or_create
from p2ptrain.ids import PeerId
from p2ptrain.node.child_processes import die_with_parent_prefix
from p2ptrain.swarm.directory import is_valid_record
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.libp2p_start import NodeOptions

_SINK = "p2ptrain/test/sink"
_CHUNK = bytes(1 << 18)


class NetNode:
    """A node's process, from the outside."""

    def __init__(self, inside: Sequence[str], folder: Path, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [*inside, sys.executable, "-m", "tests.support.net_node", str(folder), json.dumps(options)]
        pipe = subprocess.PIPE
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True)
        up = self._answer()
        self.peer, self.addresses, self.way, self.nat = up["peer"], up["addresses"], up["way"], up["nat"]
        self.up_after_s: float = up["seconds"]
        """From the start of the node, Python's imports not counted, to being reachable."""

    def ask(self, *command: Any) -> Any:
        """A command's answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """SIGKILL; its daemon ends with it."""
        self._process.kill()
        with self._process:
            pass

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the node's process ended; its log has more"
        return json.loads(line)


class _Inside:
    """A node's process, from the inside: a method a command."""

    def __init__(self, node: Libp2pNode) -> None:
        self._node = node

    async def addresses(self) -> list[str]:
        return await self._node.current_addresses()

    async def paths(self) -> dict[PeerId, bool]:
        return await self._node.paths()

    async def dial(self, *addresses: str) -> bool:
        async with asyncio.timeout(20):
            return await self._node.dial(*addresses)

    async def hang_up(self) -> None:
        await self._node.hang_up()

    async def send(self, peer: PeerId, num_bytes: int) -> dict[str, Any]:
        """Send so much and have the other count it; says whether the way was relayed before and afterwards."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(120), self._node.open_stream(peer, _SINK) as (reader, writer):
                open_s = time.monotonic() - began_s
                writer.write(num_bytes.to_bytes(8, "big"))
                before = (await self._node.paths()).get(peer)
                left = num_bytes
                while left > 0:
                    writer.write(_CHUNK[: min(left, len(_CHUNK))])
                    left -= len(_CHUNK)
                    await writer.drain()
                arrived = int.from_bytes(await reader.readexactly(8), "big")
        except (P2PTrainError, OSError, EOFError, TimeoutError) as error:
            return {"arrived": 0, "error": repr(error), "seconds": time.monotonic() - began_s}
        seconds = time.monotonic() - began_s
        after = (await self._node.paths()).get(peer)
        return {"arrived": arrived, "seconds": seconds, "open_s": open_s, "relayed": (before, after)}

    async def punch(self, peer: PeerId) -> bool:
        return await self._node.punch(peer)

    async def places(self) -> list[str]:
        return self._node.places

    async def look(self) -> dict[str, Any]:
        reach = await self._node.look_at_reach()
        if reach and (reach.way, reach.public) != (self._node.reach.way, self._node.reach.public):
            await self._node.change_reach(reach)
        return {"way": self._node.reach.way, "nat": self._node.reach.nat, "public": self._node.reach.public}

    async def cpu_s(self) -> float:
        return time.process_time()

    async def usage(self) -> dict[str, int]:
        assert self._node.relay
        usage = self._node.relay.usage
        return {"circuits": usage.circuits_so_far, "carried_bytes": usage.carried_bytes, "refused": usage.refused}


async def _main(folder: Path, options: dict[str, Any]) -> None:
    key = folder / "identity.key"
    identity = load_or_create(key)
    if "relay" in options:
        options["relay"] = RelayLimits(**options["relay"])
        options["calls_back"] = True
    began_s = time.monotonic()
    node = await Libp2pNode.start(
        NodeOptions(
            identity=key,
            peer=identity.peer_id,
            check_record=is_valid_record,
            launcher=die_with_parent_prefix(),
            sockets=folder / "sockets",
            **{"host": "0.0.0.0", "port": 0, "bootstraps": []} | options,
        )
    )

    async def sink(peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = wanted = int.from_bytes(await reader.readexactly(8), "big")
        while left and (data := await reader.read(min(left, 1 << 18))):
            left -= len(data)
        writer.write((wanted - left).to_bytes(8, "big"))
        await writer.drain()

    await node.serve_streams(_SINK, sink)
    keeping = asyncio.create_task(node.keep_places())
    inside = _Inside(node)
    reach = {"way": node.reach.way, "nat": node.reach.nat, "seconds": time.monotonic() - began_s}
    _say({"peer": node.peer, "addresses": node.addresses, "places": node.places, **reach})
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, *arguments = json.loads(line)
        _say(await getattr(inside, command)(*arguments))
    keeping.cancel()
    await node.stop()


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201 - to the test


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), json.loads(sys.argv[2])))
