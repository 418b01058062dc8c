"""What the doctor page asks: the peer that runs examines itself; where none runs, another process looks at its home."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from p2ptrain.control.doctor_process import Findings, findings_of
from p2ptrain.errors import ControlError, UsageError

if TYPE_CHECKING:
    from p2ptrain.dashboard.attach import ControlLink

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
            return await findings_of(command)

    return ask
