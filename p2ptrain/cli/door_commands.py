"""What the run's authority does: ``p2ptrain run sign``, ``invite``, ``guests``, ``assign``."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.cli.processes import quiet_imports, run_loop
from p2ptrain.errors import UsageError
from p2ptrain.ids import PeerId, SliceId, short

if TYPE_CHECKING:
    from p2ptrain.identity.authority import Door, GuestList
    from p2ptrain.identity.keys import Identity

_Manifest = Annotated[Path, typer.Argument(help="The run's manifest.")]
_Key = Annotated[Path, typer.Option(help="The authority's key file, made by `p2ptrain run new --authority`.")]
_DAY_S = 86400


def sign(manifest: _Manifest, key: _Key) -> None:
    """Sign a manifest again after its values were changed; that makes it another run.

    Example: p2ptrain run sign tiny.toml --key authority.key
    """
    import tomlkit

    from p2ptrain.config.bootstraps import listed_bootstraps
    from p2ptrain.config.load import SIGNATURE, parse_run, read_manifest, run_id
    from p2ptrain.identity.authority import sign_run
    from p2ptrain.node.atomic_file import replace_file

    text = read_manifest(manifest)
    run = parse_run(text, source=str(manifest))
    authority = load_authority(key)
    if run.door.authority != authority.peer_id:
        raise UsageError(
            f'{manifest} says door.authority = "{run.door.authority}", and {key} is {authority.peer_id};'
            " use the right key, or write that id into the manifest"
        )
    document = tomlkit.parse(text)
    document[SIGNATURE] = sign_run(authority, run_id(run), listed_bootstraps(text))
    signed = tomlkit.dumps(document).encode()
    replace_file(manifest, [signed], len(signed))
    typer.echo(f"signed {manifest}: run {run.name}, id {run_id(run)}")


def invite(
    manifest: _Manifest,
    key: _Key,
    peer: Annotated[str, typer.Option(metavar="PEER_ID", help="Whom to invite; `p2ptrain identity` prints it.")],
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="For how long.")] = 30,
) -> None:
    """Print an invitation, a word of some 300 letters, for one peer; it starts with: p2ptrain peer --invite WORD.

    Example: p2ptrain run invite tiny.toml --key authority.key --peer 12D3Koo... --days 30
    """
    from p2ptrain.cli.run_source import read_run
    from p2ptrain.identity.authority import Invite, write_invite

    source = read_run(str(manifest))
    if source.config.door.admission != "invite":
        raise UsageError(
            f'{manifest} says door.admission = "{source.config.door.admission}": nobody needs an invitation'
        )
    _, authority = _open_list(manifest, key)
    expires_s = time.time() + days * _DAY_S
    token = write_invite(authority, Invite(run=source.id, peer=_peer(peer), expires_s=expires_s))
    typer.echo(token)


def guests(
    manifest: _Manifest,
    key: _Key,
    bootstrap: Annotated[
        list[str] | None, typer.Option("--bootstrap", help="Address of any node of the run: publish the list there.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="PEER_ID", help="Let this peer in; repeat it for several.")
    ] = None,
    ban: Annotated[
        list[str] | None, typer.Option(metavar="PEER_ID", help="Keep this peer out; repeat it for several.")
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option(metavar="PEER_ID", help="Neither allowed nor banned any more.")
    ] = None,
    hand_over: Annotated[
        Path | None, typer.Option(metavar="KEY", help="A new authority's key file: from now on only it counts.")
    ] = None,
) -> None:
    """Allow peers, ban them, or hand the authority over, and publish the list; without options, show it.

    The list is kept beside the manifest. Running peers hear of it within some ten seconds.

    Example: p2ptrain run guests tiny.toml --key authority.key --ban 12D3Koo... --bootstrap ADDRESS
    """
    from p2ptrain.identity import authority as door

    known, signer = _open_list(manifest, key)
    allowed, banned, forgotten = ({_peer(p) for p in names or []} for names in (allow, ban, forget))
    changed = replace(
        known.guests,
        serial=known.guests.serial + 1,
        allowed=(known.guests.allowed | allowed) - banned - forgotten,
        banned=(known.guests.banned | banned) - allowed - forgotten,
    )
    if hand_over:
        heir = load_authority(hand_over)
        statement = door.hand_over(signer, known.guests.run, heir.peer_id)
        changed, signer = replace(changed, handovers=(*changed.handovers, statement)), heir
    if allowed | banned | forgotten or hand_over:
        _sign_list(manifest, signer, known, changed)
    _print_guests(known.guests, known.authority)
    if bootstrap and known.packed:
        _publish(known.packed, known.guests.run, signer, tuple(bootstrap))


def assign(
    manifest: _Manifest,
    key: _Key,
    peer: Annotated[str, typer.Option(metavar="PEER_ID", help="Whom to ask; `p2ptrain identity` prints it.")],
    slices: Annotated[str, typer.Option(help="What it shall own: `0`, or `0,3`.")] = "",
    days: Annotated[float, typer.Option(min=0.001, max=3650, help="For how long.")] = 30,
    revoke: Annotated[bool, typer.Option("--revoke", help="Ask for nothing any more.")] = False,
    bootstrap: Annotated[
        list[str] | None, typer.Option("--bootstrap", help="Address of any node of the run: publish the list there.")
    ] = None,
) -> None:
    """Ask a peer to own certain slices for some time; it follows unless its volunteer chose with --slices.

    The order is part of the authority's guest list. Afterwards the peer chooses as others do.

    Example: p2ptrain run assign tiny.toml --key authority.key --peer 12D3Koo... --slices 0,3 --bootstrap ADDRESS
    """
    from p2ptrain.cli.run_source import read_run
    from p2ptrain.identity.authority import Order
    from p2ptrain.ids import numbered_slices

    run = read_run(str(manifest)).config
    known, signer = _open_list(manifest, key)
    named = tuple(SliceId(one.strip()) for one in slices.split(",") if one.strip())
    existing = numbered_slices(run.slicing.slices)
    if unknown := [one for one in named if one not in existing]:
        raise UsageError(f"--slices {slices}: this run has no slice {unknown[0]}, but 0 to {run.slicing.slices - 1}")
    if bool(named) == revoke:
        raise UsageError("say either what the peer shall own, --slices 0,3, or --revoke")
    orders = {p: order for p, order in known.guests.orders.items() if p != _peer(peer) and order.until_s > time.time()}
    if named:
        orders[_peer(peer)] = Order(slices=named, until_s=time.time() + days * _DAY_S)
    changed = replace(known.guests, serial=known.guests.serial + 1, orders=orders)
    _sign_list(manifest, signer, known, changed)
    _print_guests(known.guests, known.authority)
    if bootstrap and known.packed:
        _publish(known.packed, known.guests.run, signer, tuple(bootstrap))


def _open_list(manifest: Path, key: Path) -> "tuple[Door, Identity]":
    """The run's door with the list that is kept beside the manifest, and the authority's key.

    Raises:
        UsageError: the key is not that of the run's authority.
    """
    from p2ptrain.cli.run_source import read_run
    from p2ptrain.identity.authority import Door

    source = read_run(str(manifest))
    signer = load_authority(key)
    known = Door(source.id, PeerId(source.config.door.authority), source.config.door.admission)
    path = manifest.with_suffix(".guests")
    if path.exists():
        known.learn(path.read_bytes())
    if signer.peer_id != known.authority:
        beside = "" if path.exists() else f" (by the manifest; if it was handed over, put {path.name} beside it)"
        raise UsageError(f"{key} is {signer.peer_id}, and the run's authority is {known.authority or 'nobody'}{beside}")
    return known, signer


def _sign_list(manifest: Path, signer: "Identity", known: "Door", changed: "GuestList") -> None:
    """Sign a new list, keep it beside the manifest, and go by it."""
    from p2ptrain.identity.authority import write_guests
    from p2ptrain.node.atomic_file import replace_file

    packed = write_guests(signer, changed)
    replace_file(manifest.with_suffix(".guests"), [packed], len(packed))
    known.learn(packed)


def _publish(packed: bytes, run: str, signer: "Identity", bootstraps: tuple[str, ...]) -> None:
    from p2ptrain.ids import RunId

    with quiet_imports():
        from p2ptrain.node.guest_messenger import publish_guests
    took = run_loop(publish_guests(RunId(run), signer.peer_id, packed, bootstraps))
    if not took:
        raise UsageError(f"no node took the list; check that one of {', '.join(bootstraps)} is up, and try again")
    typer.echo("published; peers of the run keep it from now on")


def _print_guests(found: "GuestList", authority: str) -> None:
    typer.echo(f"guest list {found.serial} of {short(found.run)}, authority {authority}")
    for word, peers in (("allowed", found.allowed), ("banned", found.banned)):
        for peer in sorted(peers):
            typer.echo(f"{word:<8} {peer}")
    for peer, order in sorted(found.orders.items()):
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(order.until_s))
        typer.echo(f"{'assigned':<8} {peer} slices {', '.join(order.slices)} until {until}")


def load_authority(key: Path) -> "Identity":
    """The key in an authority's file.

    Raises:
        UsageError: there is no such file.
        IdentityError: it is no key, or others can read it.
    """
    from p2ptrain.identity.keys import load

    try:
        return load(key)
    except FileNotFoundError as error:
        raise UsageError(f"{key} does not exist; it was made by: p2ptrain run new --authority {key}") from error


def _peer(text: str) -> PeerId:
    from p2ptrain.identity.keys import public_key

    if public_key(PeerId(text)) is None:
        raise UsageError(f"{text} is not a peer id; `p2ptrain identity --home DIR` prints one, 12D3KooW...")
    return PeerId(text)
