"""The firewall rules in the guide for bootstrap nodes do what it says. Run by ``make test-net``, as root."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.home_networks import Internet

pytestmark = [pytest.mark.net, pytest.mark.timeout(120)]

GUIDE = Path(__file__).parents[2] / "docs" / "bootstrap.md"
LISTEN = """
import socket
server = socket.create_server(("0.0.0.0", 31337), backlog=500)
print("ready", flush=True)
while True: server.accept()[0].detach()
"""
CALL = """
import socket, sys
came_in = []
for _ in range(int(sys.argv[2])):
    call = socket.socket()
    call.settimeout(0.3)
    try:
        call.connect((sys.argv[1], 31337))
        came_in.append(call)
    except OSError:
        pass
print(len(came_in))
"""


def test_one_address_gets_no_more_connections_than_the_rules_say_and_others_get_theirs() -> None:
    rules = re.search(r"```\n(table inet p2ptrain.*?)```", GUIDE.read_text(), re.DOTALL)
    assert rules
    with Internet({"boot": "none", "flood": "none", "other": "none"}) as net:
        subprocess.run([*net.inside("boot"), "nft", "-f", "-"], input=rules[1], text=True, check=True)
        listen = [*net.inside("boot"), sys.executable, "-c", LISTEN]
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout
            assert listener.stdout.readline() == "ready\n"

            def came_in(host: str, tries: int) -> int:
                call = [*net.inside(host), sys.executable, "-c", CALL, net.public_address("boot"), str(tries)]
                return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)

            assert 40 < came_in("flood", 100) <= 64
            assert came_in("other", 10) == 10
            listener.kill()
