"""What the doctor page asks: the peer that runs examines itself; where none runs, another process looks at its home."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from p2ptrain.errors import ControlError, P2PTrainError, UsageError

if TYPE_CHECKING:
    from p2ptrain.dashboard.attach import ControlLink

Findings = Sequence[Mapping[str, object]]
Doctor = Callable[[], Awaitable[Findings]]


def doctor_of(link: "ControlLink", command: Sequence[str]) -> Doctor:
    """Whoever can examine a peer.

    Args:
        link: to the peer, which knows its bootstraps and device.
        command: prints the findings as JSON when the peer does not answer; empty when its home is not at hand.
    """

    async def ask() -> Findings:
        try:
            return await link.examine()
        except (UsageError, ControlError):
            if not command:
                raise
            return await _run(command)

    return ask


async def _run(command: Sequence[str]) -> Findings:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    try:
        found: Findings = json.loads(printed)["findings"]
    except (ValueError, KeyError, TypeError) as error:
        raise P2PTrainError(complaint.decode(errors="replace").strip() or "the doctor said nothing") from error
    return found
