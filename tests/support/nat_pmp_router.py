"""A router's NAT-PMP service (RFC 6886) for emulated networks: run inside the router, it adds nft's rules."""

import socket
import struct
import subprocess


def serve() -> None:
    """Answer for ever: every TCP mapping that is asked for is made."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("192.168.1.1", 5351))
        while True:
            data, client = server.recvfrom(64)
            version, operation, _, inside, outside, lifetime_s = struct.unpack(">BBHHHI", data)
            rule = ["iif", "wan", "tcp", "dport", str(outside), "dnat", "to", f"{client[0]}:{inside}"]
            subprocess.run(["nft", "add", "rule", "ip", "home", "inward", *rule], check=True)
            reply = (version, operation + 128, 0, 1, inside, outside, lifetime_s)
            server.sendto(struct.pack(">BBHIHHI", *reply), client)


if __name__ == "__main__":
    serve()
