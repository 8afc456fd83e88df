# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of app-guest find Tor where they always found it, and it is tor-guest's."""

import asyncio
import resource
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tails_profiles import constants as c
from tails_profiles import dns_relay
from tests.lab.ports import Guests, unit_lines
from tests.lab.tornet import PAGE, RELAYS, WEB, TorNetwork

pytestmark = pytest.mark.lab

ONION = "a" * 56 + ".onion"


@pytest.fixture(scope="module")
def guests(directory: Path, network: TorNetwork) -> Iterator[Guests]:
    made = Guests(directory / "ports")
    try:
        made.load_rules()
        made.connect(network)
        made.start_tor(network)
        for port in c.SOCKS_PORTS:
            made.open_port(port)
        made.open_dns()
        yield made
    finally:
        made.close()


def fetch(guests: Guests, *options: str) -> str:
    done = guests.execute(
        guests.app,
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "30",
        *options,
        f"http://{WEB}/",
    )
    return done.stdout or done.stderr


@pytest.mark.parametrize("port", c.SOCKS_PORTS)
def test_page_comes_through_each_local_port_from_an_exit(
    port: int, guests: Guests, network: TorNetwork
) -> None:
    assert fetch(guests, "--socks5-hostname", f"127.0.0.1:{port}") == PAGE
    assert network.visitors()[-1] in RELAYS


def test_page_does_not_come_without_tor(guests: Guests, network: TorNetwork) -> None:
    before = len(network.visitors())
    assert "prohibited" in fetch(guests).lower() or "connect" in fetch(guests).lower()
    assert len(network.visitors()) == before


def query(name: str, identifier: int) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", identifier, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


ASK = """
import socket, sys
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.settimeout(20)
peer.connect(("127.0.0.1", int(sys.argv[1])))
peer.send(bytes.fromhex(sys.argv[2]))
print(peer.recv(4096).hex())
"""


@pytest.mark.parametrize("port", c.DNS_PORTS)
def test_name_is_answered_by_tor(port: int, guests: Guests) -> None:
    done = guests.execute(guests.app, sys.executable, "-c", ASK, str(port), query(ONION, 77).hex())
    assert done.returncode == 0, done.stderr
    answer = bytes.fromhex(done.stdout)
    assert answer[:2] == struct.pack(">H", 77)
    assert IPv4Address(answer[-4:]) in c.MAPPED


MANY = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
count = int(sys.argv[1])
async def one():
    reader, writer = await asyncio.open_connection("127.0.0.1", 9050)
    writer.write(b"x")
    return await asyncio.wait_for(reader.readexactly(1), 60), writer
async def main():
    held = []
    for _ in range(0, count, 256):
        held += await asyncio.gather(*(one() for _ in range(min(256, count - len(held)))))
    print(len(held), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
ECHO = """
import asyncio, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
async def echo(reader, writer):
    while byte := await reader.read(1):
        writer.write(byte)
async def main():
    server = await asyncio.start_server(echo, "10.1.2.1", 9050, backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


#: Two sockets and two pipes for each connection of systemd-socket-proxyd, and a few of its own.
FILES_EACH, FILES_OWN = 6, 64


def test_port_carries_as_many_connections_at_once_as_there_are_files_for(directory: Path) -> None:
    """The unit has files for 4096, which tests/vm opens; the machine of this test may not."""
    (unit_limit,) = unit_lines("tails-profiles-tor-port@.service", "LimitNOFILE")
    assert int(unit_limit) >= 4096 * FILES_EACH + FILES_OWN
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(4096, (limit - FILES_OWN) // FILES_EACH)
    guests = Guests(directory / "many")
    try:
        guests.load_rules()
        server = guests.start(guests.tor, sys.executable, "-c", ECHO, stdout=-1)
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        port = guests.open_port(9050)
        client = guests.start(guests.app, sys.executable, "-c", MANY, str(count), stdout=-1)
        assert client.stdout is not None
        assert client.stdout.readline() == f"{count}\n".encode()
        files = len(list(Path(f"/proc/{port.pid}/fd").iterdir()))
        assert files > count * FILES_EACH
        assert files <= count * FILES_EACH + FILES_OWN
    finally:
        guests.close()


def test_relay_drops_what_is_no_query_and_an_answer_to_another_one() -> None:
    async def scenario() -> bytes:
        loop = asyncio.get_running_loop()
        upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        upstream.bind(("127.0.0.1", 0))
        upstream.setblocking(False)
        task = asyncio.ensure_future(dns_relay.ask(query(ONION, 5), upstream.getsockname()))
        received, client = await loop.sock_recvfrom(upstream, 512)
        for identifier in (6, 5):
            answer = struct.pack(">H", identifier) + received[2:]
            await loop.sock_sendto(upstream, answer, client)
        return await asyncio.wait_for(task, 10)

    assert asyncio.run(scenario()) == query(ONION, 5)
