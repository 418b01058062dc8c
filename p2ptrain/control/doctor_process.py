"""``p2ptrain doctor`` in a process of its own, for whoever cannot examine a peer within its own process."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from p2ptrain.errors import ControlError

Findings = Sequence[Mapping[str, object]]
"""As ``p2ptrain doctor --json`` prints them."""


def doctor_command(home: Path, *options: str) -> list[str]:
    """The command line that examines the peer whose folder is ``home`` and prints what it finds as JSON."""
    return [sys.executable, "-m", "p2ptrain", "doctor", "--json", "--home", str(home), *options]


async def findings_of(command: Sequence[str]) -> Findings:
    """What a doctor's command line prints; the process does not outlive the question.

    Raises:
        ControlError: it printed no findings, and what it said instead.
    """
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
            await process.communicate()  # or its pipes would stay open
    try:
        found: Findings = json.loads(printed)["findings"]
    except (ValueError, KeyError, TypeError) as error:
        said = complaint.decode(errors="replace").strip() or f"it ended with status {process.returncode}"
        raise ControlError(f"the doctor found nothing: {said}") from error
    return found
