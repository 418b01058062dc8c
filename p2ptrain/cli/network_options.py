"""Options of peers and bootstrap nodes that say how others get to them."""

from typing import Annotated, Literal

import typer

Announce = Annotated[
    list[str] | None,
    typer.Option(
        "--announce",
        metavar="ADDRESS",
        help="Tell others this address instead of what the machine has, like /dns4/boot.example.org/tcp/31337;"
        " repeat it for several.",
    ),
]

MapPort = Annotated[
    bool,
    typer.Option("--map-port/--no-map-port", help="Ask the home router to pass the port on (NAT-PMP, UPnP)."),
]

Reach = Annotated[
    Literal["auto", "direct", "relayed"],
    typer.Option(
        help="How others get here: auto asks the bootstraps to call back and uses their relays if they cannot."
    ),
]
