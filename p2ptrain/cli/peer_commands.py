"""``p2ptrain peer`` and ``swarm``: what takes part, and what looks at who takes part."""

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2ptrain.cli import engine_options
from p2ptrain.cli.doctor_command import examine_at_start
from p2ptrain.cli.host_port import host_and_port
from p2ptrain.cli.log_output import JoiningBar, LogOption, is_terminal, log_form, printer
from p2ptrain.cli.network_options import Announce, MapPort, Reach
from p2ptrain.cli.processes import quiet_imports, run_loop, run_until_signal
from p2ptrain.cli.profile import Profile, followed_limits
from p2ptrain.cli.progress import working
from p2ptrain.cli.run_source import read_run, tokenizer_for, with_text_in
from p2ptrain.cli.ways_in import ways_in
from p2ptrain.errors import ConfigError
from p2ptrain.ids import SliceId, numbered_slices, short

if TYPE_CHECKING:
    from rich.table import Table

    from p2ptrain.report import SwarmReport

Run = Annotated[
    str,
    typer.Option(
        metavar="FILE|ADDRESS|URL",
        envvar="P2PTRAIN_RUN",
        help="The run's manifest; or the address of a bootstrap node or any peer, or the URL of a status page, from"
        " which it is fetched.",
    ),
]
Bootstraps = Annotated[
    list[str] | None,
    typer.Option(
        "--bootstrap",
        help="Address of a bootstrap node or any peer, in place of those in the manifest; repeatable.",
    ),
]
Host = Annotated[
    str, typer.Option(help="Address to listen on  [default: this machine only if all bootstraps are on it, else all]")
]


def peer(
    context: typer.Context,
    run: Run,
    home: Annotated[
        Path, typer.Option(envvar="P2PTRAIN_HOME", help="Folder of this peer's identity, checkpoint and journal.")
    ],
    bootstrap: Bootstraps = None,
    slices: Annotated[
        str,
        typer.Option(
            metavar="auto|all|0,3", help="Slices to own; auto takes those that need it, and others when that changes."
        ),
    ] = "auto",
    max_slices: Annotated[
        int,
        typer.Option(min=1, help="With auto: how many to own while other owners are too few, if memory allows."),
    ] = 1,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the run's text is on this machine, if it learns from a folder."),
    ] = None,
    device: engine_options.Device = "auto",
    precision: engine_options.Precision = "auto",
    memory: engine_options.Memory = "",
    micro_batch: engine_options.MicroBatch = 0,
    recompute: engine_options.Recompute = "auto",
    compiled: engine_options.Compile = False,
    host: Host = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes any free one.")] = 0,
    reach: Reach = "auto",
    map_port: MapPort = False,
    announce: Announce = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for training; 0 leaves torch's default.")] = 0,
    upload_mbps: Annotated[float, typer.Option(min=0, help="Megabits a second to send at most; 0 is no cap.")] = 0.0,
    download_mbps: Annotated[float, typer.Option(min=0, help="Megabits a second to fetch at most; 0 is no cap.")] = 0.0,
    control_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Obey enrolled clients over TLS there, too; see `control enroll`.")
    ] = "",
    invite: Annotated[
        str, typer.Option(envvar="P2PTRAIN_INVITE", help="The invitation, if the run admits by invitation; kept.")
    ] = "",
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics there, like 127.0.0.1:9464.")
    ] = "",
    log: LogOption = "auto",
    refetch: Annotated[bool, typer.Option("--refetch", help="Put what is damaged aside and fetch anew.")] = False,
    profile: Profile = None,
) -> None:
    """Take part in a run: own a slice, train it, average it with its other owners. Ctrl-C leaves.

    Example: p2ptrain peer --run /ip4/127.0.0.1/tcp/31337/p2p/12D3Koo... --home peer-a
    """
    with quiet_imports():
        from p2ptrain.config.schema import ControlConfig, NetworkConfig, PeerConfig
        from p2ptrain.data.corpus import load_corpus
        from p2ptrain.events import EventBus
        from p2ptrain.model.slicing import SlicePlan
        from p2ptrain.node.fail_at import fault_from_environment
        from p2ptrain.node.home import Home
        from p2ptrain.node.journal import Journal

    form = log_form(log, is_terminal=is_terminal())
    metrics_at = host_and_port("--metrics", metrics, example="127.0.0.1:9464") if metrics else None
    if control_listen:
        host_and_port("--control-listen", control_listen, example="0.0.0.0:7443")
    wish = engine_options.engine_wish(
        device=device,
        precision=precision,
        memory=memory,
        micro_batch=micro_batch,
        recompute=recompute,
        compiled=compiled,
    )
    limits = followed_limits(context)
    with quiet_imports():
        source = read_run(run)
        bootstraps = ways_in(source, bootstrap, home)
    config = with_text_in(source, text)
    SlicePlan.of(config.model, config.slicing)  # refuses a model that cannot be cut so
    wanted = _wanted_slices(slices, numbered_slices(config.slicing.slices))
    tokenizer_file = tokenizer_for(source, bootstraps, home)
    with working("reading the text", in_bytes=True) as report:
        corpus = load_corpus(config, source.folder, tokenizer_file, report=report)
    with working("looking at this machine"), warnings.catch_warnings(action="ignore"):
        with quiet_imports():
            from p2ptrain.node.service import serve_peer
            from p2ptrain.training.device import keep_freed_memory
            from p2ptrain.wire.libp2p_start import check_addresses, check_announced

        check_addresses(bootstraps)
        check_announced(announce or [])
        choice = engine_options.choose_engine_here(wish, config, wanted, max_slices, limits.chosen.limits.threads)
    peer_config = PeerConfig(
        home=home,
        network=NetworkConfig(
            bootstraps=bootstraps, host=host, port=port, reach=reach, map_port=map_port, announce=tuple(announce or ())
        ),
        slices=wanted,
        max_slices=min(max_slices, choice.slices_that_fit),
        engine=choice.engine,
        limits=limits.chosen.limits,
        refetch=refetch,
        control=ControlConfig(listen=control_listen),
        metrics=metrics_at,
        invite=invite,
    )
    findings = examine_at_start(home, config, peer_config.engine.device)
    with Home.open(home, source.text, source.id, tokenizer_file) as opened, Journal(opened.journal_path) as journal:
        events = EventBus(sinks=[journal, printer(form), JoiningBar()], last_sequence=journal.last_sequence)
        for finding in findings:
            events.emit(finding)
        engine = engine_options.engine_chosen(choice)
        if fault := fault_from_environment(os.environ):
            events.sinks.append(fault)
        keep_freed_memory()
        run_until_signal(lambda stop: serve_peer(peer_config, opened, corpus, events, stop, engine, limits))


def swarm(
    run: Run,
    bootstrap: Bootstraps = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Go on looking, with --json a line each time; 0 looks once.")
    ] = 0,
) -> None:
    """Look at a run without taking part: its slices, their owners and digests, and what each peer does.

    Example: p2ptrain swarm --run tiny.toml --bootstrap /ip4/127.0.0.1/tcp/31337/p2p/12D3Koo... --json
    """
    from p2ptrain.config.schema import NetworkConfig
    from p2ptrain.ids import every_fragment

    with quiet_imports():
        source = read_run(run)
        bootstraps = ways_in(source, bootstrap)
        from p2ptrain.node.observer import observe, observe_often
        from p2ptrain.swarm.coverage import Target
    config = source.config
    network = NetworkConfig(bootstraps=bootstraps)
    ids = every_fragment(config.slicing.slices, config.slicing.fragments)
    target = Target(replicas=config.slicing.replicas, quorum=config.slicing.quorum)
    if not every:
        with working("asking the peers"):
            found = run_loop(observe(source.id, ids, network, target))
        _print_report(found, as_json=as_json, indent=2)
        return
    if as_json:
        # Whoever reads the lines need not have the manifest.
        typer.echo(json.dumps({"manifest": source.text}))

    def tell(report: "SwarmReport") -> None:
        _print_report(report, as_json=as_json, indent=None)

    run_until_signal(lambda stop: observe_often(source.id, ids, network, target, every_s=every, stop=stop, tell=tell))


def _print_report(report: "SwarmReport", *, as_json: bool, indent: int | None) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=indent))
        return
    from rich.console import Console

    console = Console()
    for table in _tables(report):
        console.print(table)
    if not report.peers:
        console.print("nobody takes part in this run at the moment")


def _wanted_slices(text: str, known: tuple[SliceId, ...]) -> tuple[SliceId, ...] | None:
    if text == "auto":
        return None
    wanted = tuple(SliceId(part.strip()) for part in text.split(","))
    if text == "all":
        return known
    unknown = [s for s in wanted if s not in known]
    if unknown:
        raise ConfigError(
            f"--slices {text}: this run has no slice {', '.join(map(repr, unknown))};"
            f" choose from {', '.join(known)}, auto or all"
        )
    return wanted


def _tables(report: "SwarmReport") -> "list[Table]":
    from rich.table import Table
    from rich.text import Text

    slices = Table(title=f"run {short(report.run)}", title_justify="left")
    for column in ("slice", "version", "epoch", "owners", "digest", "tokens", "loss", "coverage"):
        slices.add_column(column, justify="right" if column in ("version", "epoch", "tokens", "loss") else "left")
    for s in report.slices.values():
        digest = ", ".join(sorted({short(d) for d in s.digests.values()}))
        verdict = f"{digest} ×{len(s.digests)}" if s.agrees else f"DIFFERENT: {digest}"
        slices.add_row(
            s.slice,
            str(s.version),
            str(s.epoch),
            " ".join(map(short, s.owners)) or "none yet",
            f"{verdict} at v{s.digests_version}" if s.digests else "nobody answered",
            f"{s.tokens:,}",
            _nats(s.loss_nats),
            s.verdict if s.verdict in ("", "ok") else Text(s.verdict, "bold red"),
        )
    listed = len(report.peers) + len(report.silent)
    others = f": {listed} that are listed now, of some {report.num_peers:,}" if report.num_peers > listed else ""
    peers = Table(title=f"peers{others}", title_justify="left")
    for column in ("peer", "slices", "state", "tokens", "sent", "validation loss", "reach"):
        peers.add_column(column, justify="left" if column in ("peer", "slices", "state", "reach") else "right")
    for p in report.peers.values():
        peers.add_row(
            short(p.peer),
            " ".join(p.slices),
            f"{p.state}: {p.reason}",
            f"{p.tokens:,}",
            f"{p.sent_bytes / 1e6:.1f} MB",
            _nats(p.validation_loss_nats),
            p.reach or "not measured",
        )
    for silent in report.silent:
        peers.add_row(short(silent), "", "has a claim but does not answer", "", "", "", "")
    return [slices, peers]


def _nats(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.3f}"
