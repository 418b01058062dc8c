"""Asking routers for a port: what is sent, and which answers count."""

import asyncio
import struct
from pathlib import Path

import pytest

from p2ptrain.wire.port_mapping import add_mapping, control_url, default_gateway, nat_pmp

TABLE = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0101A8C0	0003	0	0	0	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
"""
DESCRIPTION = """<root><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3f</controlURL></service>
<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>{url}</controlURL></service>
</serviceList></device></root>"""


class Router(asyncio.DatagramProtocol):
    """Answers NAT-PMP as told."""

    def __init__(self, *, outside: int | None = None, result: int = 0) -> None:
        self._outside = outside
        self._result = result

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        _, operation, _, inside, outside, lifetime_s = struct.unpack(">BBHHHI", data)
        given = self._outside or outside
        reply = struct.pack(">BBHIHHI", 0, operation + 128, self._result, 7, inside, given, lifetime_s)
        self._transport.sendto(reply, addr)


async def asked(router: Router) -> bool:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: router, local_addr=("127.0.0.1", 0))
    try:
        return await nat_pmp("127.0.0.1", 31337, at=transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


def test_gateway_is_that_of_the_default_route(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(TABLE)
    assert default_gateway(tmp_path / "route") == "192.168.1.1"
    assert default_gateway(tmp_path / "absent") is None


async def test_router_that_gives_the_wanted_port_is_believed() -> None:
    assert await asked(Router())


@pytest.mark.parametrize("router", [Router(outside=4000), Router(result=2)], ids=["other port", "refused"])
async def test_router_that_gives_another_port_or_none_is_not(router: Router) -> None:
    assert not await asked(router)


async def test_silent_router_is_given_up_soon() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    began_s = loop.time()
    assert not await nat_pmp("127.0.0.1", 31337, at=transport.get_extra_info("sockname")[1])
    assert loop.time() - began_s < 10
    transport.close()


def test_control_url_is_of_the_right_service_and_of_the_router_itself() -> None:
    location = "http://192.168.1.1:5000/desc.xml"
    found = control_url(location, DESCRIPTION.format(url="/ctl"))
    assert found == ("http://192.168.1.1:5000/ctl", "urn:schemas-upnp-org:service:WANIPConnection:1")
    assert control_url(location, DESCRIPTION.format(url="http://198.51.100.9/ctl")) is None
    assert control_url(location, "<no xml") is None


def test_mapping_asks_for_the_same_port_at_both_sides() -> None:
    body = add_mapping("urn:x", 31337, "192.168.1.2")
    assert "<NewExternalPort>31337</NewExternalPort>" in body
    assert "<NewInternalPort>31337</NewInternalPort>" in body
    assert "<NewInternalClient>192.168.1.2</NewInternalClient>" in body
