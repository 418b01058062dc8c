"""A name server on loopback that knows some TXT records; answers by UDP, or by TCP what is too long for that."""

import contextlib
import socketserver
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset

MAX_UDP_BYTES = 512


@contextlib.contextmanager
def name_server(records: Mapping[str, Sequence[str]]) -> Iterator[dns.resolver.Resolver]:
    """A resolver that asks nobody but a server with ``records``: TXT texts by name, looked up at each question."""

    def answer(question: bytes, limit_bytes: int) -> bytes:
        query = dns.message.from_wire(question)
        reply = dns.message.make_response(query)
        asked = query.question[0]
        texts = records.get(str(asked.name))
        if texts is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        else:
            quoted = [" ".join(f'"{text[i : i + 255]}"' for i in range(0, len(text), 255)) for text in texts]
            reply.answer.append(dns.rrset.from_text(asked.name, 300, "IN", "TXT", *quoted))
        wire = reply.to_wire()
        if len(wire) > limit_bytes:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        return wire

    class OverUdp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question, socket = self.request
            socket.sendto(answer(question, MAX_UDP_BYTES), self.client_address)

    class OverTcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (length,) = struct.unpack("!H", self.rfile.read(2))
            wire = answer(self.rfile.read(length), 65535)
            self.wfile.write(struct.pack("!H", len(wire)) + wire)

    with _both(OverUdp, OverTcp) as (udp, tcp):
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in (udp, tcp)
        ]
        for thread in threads:
            thread.start()
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], udp.server_address[1]
        try:
            yield resolver
        finally:
            for server, thread in zip((udp, tcp), threads, strict=True):
                server.shutdown()
                thread.join()


@contextlib.contextmanager
def _both(
    over_udp: type[socketserver.BaseRequestHandler], over_tcp: type[socketserver.BaseRequestHandler]
) -> Iterator[tuple[socketserver.UDPServer, socketserver.TCPServer]]:
    """Servers of both kinds on one port number."""
    for _ in range(20):
        with socketserver.UDPServer(("127.0.0.1", 0), over_udp) as udp:
            try:
                tcp = socketserver.TCPServer(("127.0.0.1", udp.server_address[1]), over_tcp)
            except OSError:  # somebody has the TCP port of this number
                continue
            with tcp:
                yield udp, tcp
                return
    raise AssertionError("no port is free for both UDP and TCP")
