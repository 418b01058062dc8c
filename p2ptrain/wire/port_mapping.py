"""Asking a home router to pass one TCP port on to this machine: NAT-PMP (RFC 6886) first, then UPnP (IGD 1 and 2).

p2pd can map ports, too, but at a port of its router's choice, which it tells nobody but libp2p; here it is the port
that we listen on, so that the call-back of a bootstrap node tries exactly what others will.
"""

import asyncio
import contextlib
import re
import socket
import struct
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import aiohttp

LEASE_S = 3600
RENEW_S = LEASE_S / 2
"""The RFC's advice: half-way, so that a lost renewal can be repeated."""
_NAT_PMP_PORT = 5351
_TRIES_S = (0.25, 0.5, 1.0)
"""The RFC doubles its patience nine times; a router that answers at all answers at once."""
_SSDP = ("239.255.255.250", 1900)
_SSDP_WAIT_S = 2.0
_HTTP_S = 4.0
_MAX_DESCRIPTION_BYTES = 256 * 1024
_SERVICES = ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
_DESCRIPTION = "p2ptrain"


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a router has agreed to."""

    by: str
    """``NAT-PMP`` or ``UPnP``."""
    port: int
    """Outside; the one inside is the same."""


async def map_port(port: int) -> Mapping | None:
    """Have the router pass ``port`` on to us for an hour; None if there is no router that does so."""
    gateway = default_gateway(Path("/proc/net/route"))
    if gateway is None:
        return None
    if await nat_pmp(gateway, port):
        return Mapping("NAT-PMP", port)
    with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError, ValueError):
        if await _upnp(gateway, port):
            return Mapping("UPnP", port)
    return None


def default_gateway(route_table: Path) -> str | None:
    """The IPv4 address of the router, from Linux's table of routes."""
    try:
        lines = route_table.read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) > 2 and fields[1] == "00000000" and fields[2] != "00000000":
            return socket.inet_ntoa(struct.pack("<I", int(fields[2], 16)))
    return None


async def nat_pmp(gateway: str, port: int, *, at: int = _NAT_PMP_PORT) -> bool:
    """Ask by NAT-PMP for the same port outside as inside; whether that one was given."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            if not answer.done():
                answer.set_result(data)

        def error_received(self, exc: Exception) -> None:
            if not answer.done():
                answer.set_exception(exc)

    try:
        transport, _ = await loop.create_datagram_endpoint(Protocol, remote_addr=(gateway, at))
    except OSError:
        return False
    try:
        for patience_s in _TRIES_S:
            transport.sendto(struct.pack(">BBHHHI", 0, 2, 0, port, port, LEASE_S))
            with contextlib.suppress(TimeoutError):
                return _is_granted(await asyncio.wait_for(asyncio.shield(answer), patience_s), port)
    except OSError:
        return False
    finally:
        answer.cancel()
        transport.close()
    return False


def _is_granted(answer: bytes, port: int) -> bool:
    if len(answer) < 16:
        return False
    version, operation, result, _, inside, outside, lifetime_s = struct.unpack(">BBHIHHI", answer[:16])
    return bool((version, operation, result, inside, outside) == (0, 130, 0, port, port) and lifetime_s)


async def _upnp(gateway: str, port: int) -> bool:
    location = await _location_of(gateway)
    if location is None:
        return False
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_HTTP_S)) as session:
        async with session.get(location, allow_redirects=False) as reply:
            text = (await reply.content.read(_MAX_DESCRIPTION_BYTES)).decode(errors="replace")
        control = control_url(location, text)
        if control is None:
            return False
        url, service = control
        body = add_mapping(service, port, _address_towards(gateway))
        headers = {"SOAPAction": f'"{service}#AddPortMapping"', "Content-Type": 'text/xml; charset="utf-8"'}
        async with session.post(url, data=body.encode(), headers=headers, allow_redirects=False) as reply:
            return reply.status == 200


async def _location_of(gateway: str) -> str | None:
    """Where the router describes itself; answers of anybody else are not listened to."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            match = re.search(rb"^location:\s*(\S+)", data, re.IGNORECASE | re.MULTILINE)
            if match and addr[0] == gateway and not found.done():
                location = match[1].decode(errors="replace")
                if urllib.parse.urlsplit(location).hostname == gateway:
                    found.set_result(location)

    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=(_address_towards(gateway), 0))
    try:
        for device in ("InternetGatewayDevice:1", "InternetGatewayDevice:2"):
            search = (
                f'M-SEARCH * HTTP/1.1\r\nHOST: {_SSDP[0]}:{_SSDP[1]}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
                f"ST: urn:schemas-upnp-org:device:{device}\r\n\r\n"
            )
            transport.sendto(search.encode(), _SSDP)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(found, _SSDP_WAIT_S)
        return None
    finally:
        transport.close()


def control_url(location: str, description: str) -> tuple[str, str] | None:
    """URL and service type by which a router is told of mappings, from its description.

    Args:
        location: of the description; the URL must be of the same host.
        description: XML, taken apart by patterns, since no parser is fit for what strangers write.
    """
    for service in _SERVICES:
        kind = f"urn:schemas-upnp-org:service:{service}"
        for block in re.findall(r"<service>.*?</service>", description, re.DOTALL):
            match = re.search(r"<controlURL>\s*([^<\s]+)\s*</controlURL>", block)
            if f"<serviceType>{kind}</serviceType>" in block and match:
                url = urllib.parse.urljoin(location, match[1])
                if urllib.parse.urlsplit(url).hostname == urllib.parse.urlsplit(location).hostname:
                    return url, kind
    return None


def add_mapping(service: str, port: int, inside_ip: str) -> str:
    """The SOAP call that maps a port."""
    arguments = {
        "NewRemoteHost": "",
        "NewExternalPort": port,
        "NewProtocol": "TCP",
        "NewInternalPort": port,
        "NewInternalClient": inside_ip,
        "NewEnabled": 1,
        "NewPortMappingDescription": _DESCRIPTION,
        "NewLeaseDuration": LEASE_S,
    }
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in arguments.items())
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:AddPortMapping xmlns:u="{service}">{inner}</u:AddPortMapping></s:Body></s:Envelope>'
    )


def _address_towards(gateway: str) -> str:
    """Our address on the router's side."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((gateway, 9))
        return str(probe.getsockname()[0])
