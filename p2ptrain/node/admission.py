"""This peer at the run's door: its invitation and the newest guest list, kept in its home; is it admitted itself?"""

from pathlib import Path

from p2ptrain import clock
from p2ptrain.errors import BadRecord, NotAdmitted
from p2ptrain.identity.authority import Door
from p2ptrain.ids import PeerId
from p2ptrain.node.atomic_file import replace_file
from p2ptrain.node.home import Home


def open_door(home: Home) -> Door:
    """The run's door, with the guest list that this home last heard of."""
    rule = home.run.door
    door = Door(home.run_id, PeerId(rule.authority) if rule.authority else "", rule.admission)
    try:
        door.learn(_guests_path(home).read_bytes())
    except FileNotFoundError:
        pass
    except BadRecord:
        _guests_path(home).unlink()  # damaged on disk; the swarm has it
    return door


def keep_guests(home: Home, packed: bytes) -> None:
    """Remember a guest list, so that a peer that restarts knows whom not to listen to."""
    replace_file(_guests_path(home), [packed], len(packed))


def check_admitted(home: Home, door: Door, me: PeerId, invite: str) -> str:
    """The invitation to show the others, given now or on an earlier start; kept in the home.

    Raises:
        NotAdmitted: the run would not let this peer in.
    """
    path = home.path / "invite.txt"
    token = invite.strip() or (path.read_text().strip() if path.exists() else "")
    verdict = door.verdict(me, token, clock.wall_s())
    if not verdict.admitted:
        raise NotAdmitted(f"not admitted to run {home.run.name}: {verdict.reason}. This peer's id is {me}")
    if invite and home.run.door.admission == "invite":
        data = token.encode()
        replace_file(path, [data], len(data))
    return token


def _guests_path(home: Home) -> Path:
    return home.path / "guests.txt"
