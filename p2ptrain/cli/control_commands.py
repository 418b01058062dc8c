"""Commands for a running peer: ``status``, ``pause``, ``resume``, ``finish``, ``leave``, ``why``, ``limits``."""

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2ptrain.errors import UsageError
from p2ptrain.ids import short

if TYPE_CHECKING:
    from p2ptrain.control.address import Target
    from p2ptrain.control.client import ControlClient
    from p2ptrain.control.v1.control_pb2 import ActionReply, LimitsReply, StatusReply

HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar="P2PTRAIN_HOME", help="Folder of the running peer, on this machine.")
]
ControlOption = Annotated[
    str | None,
    typer.Option(
        "--control", envvar="P2PTRAIN_CONTROL", metavar="SOCKET|FILE", help="Its control socket, or an enrolment file."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
DurationOption = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="How long, like 2h, 90m or 1h30m  [default: until changed]")
]

control_app = typer.Typer(no_args_is_help=True, help="Who may command a peer from another machine.")

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def status(home: HomeOption = None, control: ControlOption = None, as_json: JsonOption = False) -> None:
    """Show what a running peer is doing.

    Example: p2ptrain status --home peer-a
    """
    with _client(home, control) as client:
        reply = client.status()
    if as_json:
        _print_json(reply)
        return
    for line in _status_lines(reply):
        typer.echo(line)


def why(home: HomeOption = None, control: ControlOption = None, as_json: JsonOption = False) -> None:
    """Say in one sentence what the peer is doing, or why it contributes nothing now.

    Example: p2ptrain why --home peer-a
    """
    with _client(home, control) as client:
        reply = client.why()
    if as_json:
        _print_json(reply)
    else:
        typer.echo(reply.sentence)


def pause(
    duration: DurationOption = None,
    reason: Annotated[str, typer.Option(help="Shown to whoever asks why.")] = "",
    home: HomeOption = None,
    control: ControlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop training at once and give the device's memory back; holds across restarts.

    Example: p2ptrain pause --for 2h --home peer-a
    """
    with _client(home, control) as client:
        _done(client.pause(_seconds(duration), reason), as_json)


def resume(home: HomeOption = None, control: ControlOption = None, as_json: JsonOption = False) -> None:
    """Undo pause and finish.

    Example: p2ptrain resume --home peer-a
    """
    with _client(home, control) as client:
        _done(client.resume(), as_json)


def finish(
    duration: DurationOption = None,
    home: HomeOption = None,
    control: ControlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Complete the round that is under way, then pause.

    Example: p2ptrain finish --home peer-a
    """
    with _client(home, control) as client:
        _done(client.finish(_seconds(duration)), as_json)


def leave(
    finish_first: Annotated[bool, typer.Option("--finish", help="Complete the round before.")] = False,
    home: HomeOption = None,
    control: ControlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Withdraw the peer's claim, save, and end its process.

    Example: p2ptrain leave --finish --home peer-a
    """
    with _client(home, control) as client:
        _done(client.leave(finish_first=finish_first), as_json)


def limits(
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What to change; KEY= restores the profile's.")
    ] = None,
    duration: DurationOption = None,
    home: HomeOption = None,
    control: ControlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a running peer's limits, or change them; a change takes effect within a second and outlives restarts.

    Example: p2ptrain limits upload_mbps=2 "compute_hours=Mon-Fri 22:00-07:00" --for 1d --home peer-a
    """
    wanted = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"{change!r} is not KEY=VALUE; for example upload_mbps=2, or upload_mbps= to restore it")
        wanted[key.strip()] = value.strip()
    with _client(home, control) as client:
        reply = client.set_limits(wanted, _seconds(duration)) if wanted else client.limits()
    if as_json:
        _print_json(reply)
        return
    for line in _limits_lines(reply):
        typer.echo(line)


@control_app.command("enroll")
def enroll(
    home: Annotated[Path, typer.Option(envvar="P2PTRAIN_HOME", help="Folder of the peer.")],
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the client will find the peer; --control-listen opens it.")
    ],
    out: Annotated[Path, typer.Option(help="File to write: address, certificates and the client's private key.")],
    name: Annotated[str, typer.Option(help="Who the client is.")] = "client",
) -> None:
    """Make the certificates by which another machine may command this peer over TLS.

    Example: p2ptrain control enroll --home peer-a --address 192.168.1.5:7443 --out laptop.enrolment

    Copy the file to that machine and use it there as --control. Whoever has the file can command the peer. To make all
    of them void, delete the folder control-tls in the peer's home and restart the peer.
    """
    from p2ptrain.control.enrolment import Authority

    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"--address {address}: choose HOST:PORT, for example 192.168.1.5:7443")
    Authority.open_or_create(home / "control-tls").enrol(name, address).write(out)
    typer.echo(f"wrote {out}: keep it secret, it commands the peer")
    typer.echo(f"the peer must listen: p2ptrain peer ... --home {home} --control-listen 0.0.0.0:{port}")
    typer.echo(f"on the other machine: p2ptrain status --control {out.name}")


def target_of(home: Path | None, control: str | None) -> "Target":
    """The peer that a command is for.

    Raises:
        UsageError: neither was given.
        NoPeerRunning: there is no peer.
    """
    from p2ptrain.control.address import target_of_address, target_of_home

    if control:
        return target_of_address(control)
    if home is None:
        raise UsageError("which peer? Add --home DIR of one on this machine, or --control FILE of one elsewhere")
    return target_of_home(home)


def _client(home: Path | None, control: str | None) -> "ControlClient":
    from p2ptrain.control.client import ControlClient

    return ControlClient(target_of(home, control))


def _seconds(text: str | None) -> float | None:
    """A duration as people write it, in seconds."""
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])", text)
    if not parts or re.sub(r"\d+(?:\.\d+)?\s*[dhms]", "", text).strip():
        raise UsageError(f"--for {text} is not a duration; for example 2h, 90m, 1h30m or 45s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _print_json(reply: Any) -> None:
    from google.protobuf.json_format import MessageToDict

    body = MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    typer.echo(json.dumps(body, indent=2))


def _done(reply: "ActionReply", as_json: bool) -> None:
    if as_json:
        _print_json(reply)
    else:
        typer.echo(reply.sentence)


def _status_lines(reply: "StatusReply") -> list[str]:
    mine = [part for part in reply.slices if part.is_mine]
    network, device = reply.network, reply.device
    lines = [
        f"{reply.state}: {reply.reason}",
        f"peer      {short(reply.peer) if reply.peer else 'asleep'} of run {reply.run_name} ({short(reply.run)}),"
        f" up for {_span(reply.time_s - reply.started_s)}",
        f"round     {reply.round} of {reply.rounds}, inner step {reply.inner_step} of {reply.inner_steps}",
        f"slices    {', '.join(f'{part.slice} v{part.version}' for part in mine) or 'none'}",
        f"tokens    {reply.tokens:,}, {_measured(reply, 'tokens_per_s', '{:,.0f} a second')}",
        f"loss      {_measured(reply, 'loss_nats', '{:.3f}')} training,"
        f" {_measured(reply, 'validation_loss_nats', '{:.3f}')} validation, nats a token",
        f"network   sent {network.sent_bytes / 1e6:.1f} MB, received {network.received_bytes / 1e6:.1f} MB,"
        f" {network.month_bytes / 1e9:.2f} GB this month",
        f"device    {device.name}, memory {_measured(device, 'memory_used_bytes', '{:.0f} MB', 1e-6)},"
        f" temperature {_measured(device, 'temperature_c', '{:.0f} °C')}",
    ]
    if reply.pausing.is_finishing:
        lines.insert(1, "finishing: stops when the round is over")
    return lines


def _limits_lines(reply: "LimitsReply") -> list[str]:
    width = max(len(limit.key) for limit in reply.limits)
    values = max(len(limit.value) for limit in reply.limits)
    lines = []
    for limit in reply.limits:
        origin = limit.origin
        if limit.HasField("until_s"):
            origin += time.strftime(" until %a %H:%M", time.localtime(limit.until_s))
        lines.append(f"{limit.key:<{width}}  {limit.value:<{values}}  {origin}")
    lines += [f"note: {problem}" for problem in reply.problems]
    lines.append("allowed to train" if reply.is_allowed else f"not allowed to train: {reply.reason}")
    return lines


def _measured(message: Any, field: str, form: str, scale: float = 1.0) -> str:
    return form.format(getattr(message, field) * scale) if message.HasField(field) else "not measured"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
