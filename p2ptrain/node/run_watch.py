"""What a bootstrap node does besides being there: it looks at its run every few seconds and remembers what it saw."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from p2ptrain import __version__, clock
from p2ptrain.config.schema import RunConfig
from p2ptrain.errors import StorageError
from p2ptrain.ids import RunId, every_fragment
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.atomic_file import replace_file
from p2ptrain.node.observer import look
from p2ptrain.node.problems import Problems
from p2ptrain.node.run_history import RunHistory
from p2ptrain.swarm.directory import Directory
from p2ptrain.wire.libp2p import Libp2pNode
from p2ptrain.wire.relay import Relay

LOOK_EVERY_S = 5.0
_SAVE_EVERY_S = 60.0
_UNHEALTHY_AFTER_S = 60.0
"""Without a completed look; one takes a few seconds even when every peer is silent."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedRun:
    """The run that a bootstrap node serves."""

    id: RunId
    config: RunConfig
    manifest: str
    tokenizer_file: bytes = b""
    """The run's ``tokenizer.json``, if this node has it."""


@dataclass
class NodeStatus:
    """What the status page shows, kept up to date by ``watch_run``."""

    peer: str
    addresses: list[str]
    run: WatchedRun | None
    relay: Relay | None = None
    started_s: float = field(default_factory=clock.monotonic_s)
    looked_s: float | None = None
    history: RunHistory = field(default_factory=RunHistory)
    problems: Problems = field(default_factory=Problems)
    load: Callable[[], dict[str, int]] = dict
    """What the node holds and has turned away, by name."""

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON values, now."""
        now_s = clock.monotonic_s()
        looked_s_ago = None if self.looked_s is None else round(now_s - self.looked_s, 1)
        patience_from_s = self.looked_s or self.started_s
        return {
            "software": __version__,
            "peer": self.peer,
            "addresses": self.addresses,
            "uptime_s": round(now_s - self.started_s, 1),
            "looked_s_ago": looked_s_ago,
            "healthy": self.run is None or now_s - patience_from_s < _UNHEALTHY_AFTER_S,
            "load": self.load(),
            "problems": self.problems.current(now_s),
            "run": self._run_json(),
            "relay": asdict(self.relay.usage) if self.relay else None,
            **self.history.to_json(clock.wall_s()),
        }

    def _run_json(self) -> dict[str, Any] | None:
        if self.run is None:
            return None
        config = self.run.config
        plan = SlicePlan.of(config.model, config.slicing)
        return {
            "id": self.run.id,
            "name": config.name,
            "rounds": config.rounds,
            "slices": config.slicing.slices,
            "parameters": sum(plan.numel(slice_id) for slice_id in plan.slice_ids),
        }


async def watch_run(node: Libp2pNode, directory: Directory, run: WatchedRun, status: NodeStatus, saved: Path) -> None:
    """Look at the run until cancelled, and keep the curve and the incidents in the file ``saved``."""
    _restore(status.history, saved)
    status.history.replicas, status.history.quorum = run.config.slicing.replicas, run.config.slicing.quorum
    slices = every_fragment(run.config.slicing.slices, run.config.slicing.fragments)
    saved_s = clock.monotonic_s()
    try:
        while True:
            status.history.observe(await look(node, directory, run.id, slices), clock.wall_s())
            status.looked_s = clock.monotonic_s()
            if status.looked_s - saved_s > _SAVE_EVERY_S:
                saved_s = status.looked_s
                await asyncio.to_thread(_save, status.history, saved)
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        _save(status.history, saved)


def _save(history: RunHistory, path: Path) -> None:
    data = json.dumps(history.to_json(clock.wall_s())).encode()
    try:
        replace_file(path, [data], len(data))
    except StorageError as error:
        _log.warning("%s", error)


def _restore(history: RunHistory, path: Path) -> None:
    try:
        history.remember(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is not readable and begins anew: %s", path, error)
