"""Bootstrap nodes and bare nodes on emulated hosts, and what went through which of them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.home_networks import Internet
from tests.support.net_node import NetNode

PORT = 31337


def start_bootstraps(net: Internet, folder: Path, names: list[str], **relay: Any) -> list[NetNode]:
    """Bootstrap nodes on these hosts, which know the first of them."""
    nodes: list[NetNode] = []
    for name in names:
        by = [public_address(net, names[0], nodes[0])] if nodes else []
        nodes.append(_start(net, folder, name, port=PORT, relay=relay, bootstraps=by))
    return nodes


def public_address(net: Internet, name: str, node: NetNode) -> str:
    """What a bootstrap's operator hands out."""
    return f"/ip4/{net.public_address(name)}/tcp/{PORT}/p2p/{node.peer}"


def start_node(net: Internet, folder: Path, name: str, bootstraps: list[str], **options: Any) -> NetNode:
    """A peer's node, which finds out itself how it can be called."""
    return _start(net, folder, name, reach="auto", bootstraps=bootstraps, **options)


def _start(net: Internet, folder: Path, name: str, **options: Any) -> NetNode:
    node = NetNode(net.inside(name), folder / name, **options)
    net.at_end.callback(node.kill)
    return node


def first_success(attempt: Callable[[], dict[str, Any]], within_s: float) -> tuple[float, dict[str, Any]]:
    """Repeat a transfer until it arrives; seconds until then, and its result."""
    began_s = time.monotonic()
    while True:
        result = attempt()
        if result["arrived"]:
            return time.monotonic() - began_s, result
        assert time.monotonic() - began_s < within_s, f"nothing arrived within {within_s:.0f} s: {result}"
        time.sleep(0.2)


def until(condition: Callable[[], Any], within_s: float, what: str) -> float:
    """Seconds until a condition holds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began_s


def note(folder: Path | None, line: str) -> None:
    """Keep a measured line for docs/results/nat.md, and show it."""
    print(line)  # noqa: T201 - measured: shown by pytest -s
    if folder:
        with (folder / "measured.txt").open("a") as out:
            out.write(line + "\n")
