# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile app-guest asks of tor-guest's Tor by SOCKS and DNS: P34 to P38, C2.

The real Tor with its real configuration and rule sets. Nothing that it is asked for may appear on
the uplink but as Tor's own traffic; each look at the uplink has its canaries (``uplink``). The
exits' name server lies about local names and private addresses: it is the client that refuses.
"""

import contextlib
import itertools
import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from scapy.all import DNS, DNSQR, IP, UDP, Packet

from tails_profiles import constants as c
from tests.lab.i2pnet import inside
from tests.lab.ports import Guests
from tests.lab.tornet import (
    FACTOR,
    INSIDE,
    NAMES,
    PAGE,
    PRIVATE_NAME,
    RESOLVER,
    WEB,
    WEB_NAME,
    TorNetwork,
    run,
)
from tests.lab.uplink import Uplink, call, strays

pytestmark = pytest.mark.lab

GATEWAY = str(c.TOR_INNER.ip)
CONNECT, BIND, UDP_ASSOCIATE, RESOLVE, RESOLVE_PTR = 1, 2, 3, 0xF0, 0xF1
#: The first option is for connections, the second for what exits say about names.
PRIVATE_CALLS = {"ClientRejectInternalAddresses": "0"}
PRIVATE_NAMES = {"ClientDNSRejectInternalAddresses": "0"}
PATIENCE = 60 * FACTOR
#: P34's private addresses that are the exits' machine's own here as well, so that it answers ARP.
ELSEWHERE = ("10.0.2.3", "192.168.0.1", "169.254.169.254", "10.1.2.1", "10.1.3.1")


@dataclass(frozen=True)
class World:
    """The guests, their Tor network and the capture of the uplink."""

    guests: Guests
    network: TorNetwork
    uplink: Uplink

    def quiet(self, action: Callable[[], object]) -> None:
        """Do it; nothing but Tor's own traffic may leave meanwhile."""
        assert strays(self.uplink.during(action)) == []


@pytest.fixture(scope="module")
def world(directory: Path, network: TorNetwork) -> Iterator[World]:
    with ExitStack() as stack:
        guests = Guests(directory / "socks")
        stack.callback(guests.close)
        guests.load_rules()
        guests.connect(network)
        guests.start_tor(network)
        for address in ELSEWHERE:
            run("ip", "-n", network.relays, "address", "add", f"{address}/32", "dev", "lo")
        uplink = Uplink(guests, network)
        stack.callback(uplink.close)
        yield World(guests, network, uplink)
        for address in ELSEWHERE:
            run("ip", "-n", network.relays, "address", "delete", f"{address}/32", "dev", "lo")


# ---- SOCKS


def encoded(host: str) -> bytes:
    """An address or a name as SOCKS5 has them (RFC 1928, 5)."""
    try:
        address = ip_address(host)
    except ValueError:
        return bytes([3, len(host)]) + host.encode()
    return bytes([1 if address.version == 4 else 4]) + address.packed


def open_socks(world: World, port: int) -> socket.socket:
    made = inside(world.guests.app, lambda: socket.create_connection((GATEWAY, port), PATIENCE))
    assert isinstance(made, socket.socket)
    return made


def socks5(
    world: World,
    command: int,
    host: str,
    port: int = 0,
    by: int = c.SOCKS_DEFAULT,
    *,
    hurry: bool = False,
) -> tuple[int, bytes]:
    """The reply's code, 0 for success, and all that follows to the end; -1 if it just hangs up.

    In a hurry the caller says at once that it has no more to say.
    """
    with open_socks(world, by) as made:
        made.sendall(b"\5\1\0")
        assert made.recv(2) == b"\5\0"
        made.sendall(bytes([5, command, 0]) + encoded(host) + struct.pack(">H", port))
        if hurry:
            made.shutdown(socket.SHUT_WR)
        elif command == CONNECT and port == 80:
            made.sendall(b"GET / HTTP/1.0\r\n\r\n")
        text = to_end(made)
    return (text[1], text[4:]) if text else (-1, b"")


def to_end(made: socket.socket) -> bytes:
    text = b""
    with contextlib.suppress(ConnectionResetError):
        while part := made.recv(65536):
            text += part
    return text


class Listener:
    """A service in a namespace, on one address or, in tor-guest, on all of both families."""

    def __init__(self, namespace: str, port: int, address: str | None = None) -> None:
        made = inside(namespace, lambda: self._open(port, address))
        assert isinstance(made, socket.socket)
        made.setblocking(False)
        self._socket = made

    @staticmethod
    def _open(port: int, address: str | None) -> socket.socket:
        if address is not None:
            return socket.create_server((address, port))
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def was_called(self) -> bool:
        """Since this was last asked, or ever."""
        called = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
                called = True
        return called

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


P34 = (
    ("10.0.2.2", 22),
    ("10.0.2.3", 53),
    ("192.168.0.1", 80),
    ("169.254.169.254", 80),
    ("127.0.0.1", 9052),
    (GATEWAY, 9052),
    (str(c.I2P_INNER.ip), 4444),
    ("0.0.0.0", 22),
    ("::1", 22),
)
#: tor-guest itself, where a call makes no frame: a service on it tells.
OWN = frozenset({"127.0.0.1", GATEWAY, "0.0.0.0", "::1"})


@pytest.mark.parametrize(("address", "port"), P34)
def test_private_address_is_refused_and_appears_nowhere(
    address: str, port: int, world: World
) -> None:
    """P34."""
    with Listener(world.guests.tor, port) as own:
        replies: list[tuple[int, bytes]] = []
        world.quiet(
            lambda: replies.extend(
                socks5(world, CONNECT, address, port, by) for by in c.SOCKS_PORTS
            )
        )
        assert len(replies) == len(c.SOCKS_PORTS)
        assert all(code != 0 for code, _ in replies), replies
        assert not own.was_called()
        # The anti-test: somebody without rules sends it, and it is seen where it was looked for.
        with world.guests.without_rules():
            frames = world.uplink.during(lambda: call(world.guests.tor, address, port))
        if address in OWN:
            assert own.was_called()
        else:
            assert address in {frame[IP].dst for frame in frames if IP in frame}
            assert strays(frames)


@pytest.mark.parametrize(("address", "port"), P34)
def test_it_is_tors_configuration_that_refuses(address: str, port: int, world: World) -> None:
    """P34's other anti-test: without the option Tor says no such thing and looks for an exit.

    It finds none: the summary of an exit's policy never covers a private address. So the caller
    has no more to say, and Tor, which still looks, hangs up without a word.
    """
    refused = 1  # RFC 1928, 6: general failure
    assert socks5(world, CONNECT, address, port, hurry=True)[0] == refused
    with world.guests.options(**PRIVATE_CALLS):
        assert socks5(world, CONNECT, address, port, hurry=True)[0] == -1


@pytest.mark.parametrize("command", [UDP_ASSOCIATE, BIND])
@pytest.mark.parametrize("by", c.SOCKS_PORTS)
def test_datagrams_and_binding_are_refused(command: int, by: int, world: World) -> None:
    """P35; the same words with CONNECT bring the page."""
    codes: list[int] = []
    world.quiet(lambda: codes.append(socks5(world, command, WEB, 80, by)[0]))
    assert codes == [7]  # RFC 1928, 6: command not supported
    code, text = socks5(world, CONNECT, WEB, 80, by)
    assert code == 0
    assert text.endswith(PAGE.encode())


def socks4(world: World, host: str, port: int, name: str = "") -> bytes:
    """SOCKS4, or 4a with a name; the whole answer to a request for the page."""
    with open_socks(world, c.SOCKS_DEFAULT) as made:
        made.sendall(struct.pack(">BBH", 4, CONNECT, port) + IPv4Address(host).packed + b"me\0")
        if name:
            made.sendall(name.encode() + b"\0")
        made.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return to_end(made)


def test_socks4_by_address_goes_through_tor_and_asks_no_name(world: World) -> None:
    """P36; by a private address it is refused."""
    answers: list[bytes] = []
    asked = len(world.network.asked_names())
    world.quiet(lambda: answers.append(socks4(world, WEB, 80)))
    assert answers[0][1] == 90
    assert answers[0].endswith(PAGE.encode())
    assert len(world.network.asked_names()) == asked
    world.quiet(lambda: answers.append(socks4(world, "10.0.2.2", 22)))
    assert answers[1][1] != 90


def test_socks4a_by_name_is_asked_at_the_exit(world: World) -> None:
    """P36 with a name: the exits' name server is asked for it, nobody on the uplink."""
    name = unique()
    answers: list[bytes] = []
    world.quiet(lambda: answers.append(socks4(world, "0.0.0.1", 80, name)))
    assert answers[0].endswith(PAGE.encode())
    assert name in world.network.asked_names()


def unique() -> str:
    return f"{secrets.token_hex(8)}.{NAMES}"


@pytest.mark.parametrize("by", c.SOCKS_PORTS)
def test_name_is_resolved_through_tor(by: int, world: World) -> None:
    """P37."""
    name = unique()
    replies: list[tuple[int, bytes]] = []
    world.quiet(lambda: replies.append(socks5(world, RESOLVE, name, by=by)))
    assert replies[0][0] == 0
    assert replies[0][1].startswith(IPv4Address(WEB).packed)
    assert name in world.network.asked_names()


@pytest.mark.parametrize("address", ["10.0.2.15", "192.168.0.1"])
def test_private_address_has_no_name(address: str, world: World) -> None:
    """P37. The exits' name server has one for it, and a public address gets its own."""
    replies: list[tuple[int, bytes]] = []
    asked = len(world.network.asked_names())
    for command in (RESOLVE, RESOLVE_PTR):
        world.quiet(lambda command=command: replies.append(socks5(world, command, address)))
    # An address is its own address: Tor says so by itself.
    assert replies[0][0] != 0 or replies[0][1].startswith(IPv4Address(address).packed)
    assert replies[1][0] != 0
    assert len(world.network.asked_names()) == asked
    known = ask(world.network.relays, (RESOLVER, 53), reverse(address), "PTR")
    assert known is not None
    assert records(known) == [f"{PRIVATE_NAME}."]
    world.quiet(lambda: replies.append(socks5(world, RESOLVE_PTR, WEB)))
    assert replies[2][0] == 0
    assert WEB_NAME.encode() in replies[2][1]


def test_exits_private_answer_is_not_believed(world: World) -> None:
    """P37, P38: an exit says that a name is tor-guest's router."""
    assert socks5(world, RESOLVE, INSIDE)[0] != 0
    assert answers(world, INSIDE, "A") == []
    with world.guests.options(**PRIVATE_NAMES):
        assert socks5(world, RESOLVE, INSIDE)[1].startswith(IPv4Address("10.0.2.2").packed)
        assert answers(world, INSIDE, "A") == ["10.0.2.2"]


# ---- DNS

CHAOS = 3


def ask(
    namespace: str, server: tuple[str, int], name: str, kind: str, cls: int = 1
) -> Packet | None:
    """The answer to one query by UDP; None where none comes."""
    query = DNS(id=secrets.randbelow(65536), rd=1, qd=DNSQR(qname=name, qtype=kind, qclass=cls))

    def exchange() -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.settimeout(PATIENCE)
            made.connect(server)
            made.send(bytes(query))
            try:
                return made.recv(4096)
            except OSError:
                return None

    text = inside(namespace, exchange)
    if text is None:
        return None
    assert isinstance(text, bytes)
    answer = DNS(text)
    assert answer.id == query.id
    return answer


def answers(world: World, name: str, kind: str, cls: int = 1, port: int = 53) -> list[str]:
    """What DNSPort answers: the data of each record. It must say something."""
    answer = ask(world.guests.app, (GATEWAY, port), name, kind, cls)
    assert answer is not None, "no answer"
    return records(answer)


def records(answer: Packet) -> list[str]:
    return [text(answer.an[number].rdata) for number in range(answer.ancount)]


def text(data: object) -> str:
    return data.decode() if isinstance(data, bytes) else str(data)


def reverse(address: str) -> str:
    return ip_address(address).reverse_pointer


#: P38: what is asked, and nothing of which may be answered ("ALL" is ANY).
UNANSWERED = (
    *((NAMES, kind) for kind in ("ALL", "TXT", "MX", "SRV", "AXFR")),
    *((reverse(address), "PTR") for address in
      ("10.0.2.15", "10.0.2.2", "10.1.2.1", "127.0.0.1", "172.16.0.1", "192.168.0.1",
       "169.254.169.254", "fe80::1", "fd00::1", "::1")),
    *((name, kind) for kind in ("A", "AAAA") for name in
      ("localhost", "router.local", "tor-guest", "tor-guest.local", socket.gethostname())),
)  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), UNANSWERED)
def test_dns_port_answers_nothing_local_and_asks_nobody_but_tor(
    name: str, kind: str, world: World
) -> None:
    """P38."""
    found: list[list[str]] = []
    world.quiet(lambda: found.extend(answers(world, name, kind, port=port) for port in c.DNS_PORTS))
    assert found == [[], []]


def test_dns_port_has_no_word_for_chaos(world: World) -> None:
    """P38: neither version nor name of the server."""
    asked = list(itertools.product(("version.bind", "hostname.bind"), c.DNS_PORTS))
    found: list[list[str]] = []
    world.quiet(
        lambda: found.extend(answers(world, name, "TXT", CHAOS, port) for name, port in asked)
    )
    assert found == [[]] * len(asked)


@pytest.mark.parametrize(("kind", "expected"), [("A", [WEB]), ("AAAA", [])])
@pytest.mark.parametrize("port", c.DNS_PORTS)
def test_dns_port_asks_an_exit(kind: str, expected: list[str], port: int, world: World) -> None:
    """P38. The names have no IPv6 address."""
    name = unique()
    found: list[list[str]] = []
    world.quiet(lambda: found.append(answers(world, name, kind, port=port)))
    assert found == [expected]
    assert name in world.network.asked_names()


@pytest.mark.parametrize("port", c.DNS_PORTS)
def test_dns_port_finds_a_public_addresss_name(port: int, world: World) -> None:
    """P38: what private addresses do not get."""
    found: list[list[str]] = []
    world.quiet(lambda: found.append(answers(world, reverse(WEB), "PTR", port=port)))
    assert [name.rstrip(".") for name in found[0]] == [WEB_NAME]


@pytest.mark.parametrize(
    ("name", "lie"), [("localhost", "127.0.0.1"), ("router.local", "10.0.2.2")]
)
def test_local_names_come_from_no_exit_because_of_the_option(
    name: str, lie: str, world: World
) -> None:
    """P38's anti-test: the exits' name server has them."""
    assert answers(world, name, "A") == []
    with world.guests.options(**PRIVATE_NAMES):
        assert answers(world, name, "A") == [lie]


def test_capture_sees_a_dns_query_that_is_sent(world: World) -> None:
    """The anti-test of every look above: tor-guest itself asks, first behind its rules."""
    name = unique()
    server = (RESOLVER, 53)
    code = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(bytes.fromhex(sys.argv[1]), ('192.0.2.53', 53))"
    )
    query = bytes(DNS(id=7, rd=1, qd=DNSQR(qname=name, qtype="A")))

    def send() -> None:
        world.guests.execute(
            world.guests.tor, "setpriv", "--reuid=debian-tor", "--clear-groups",
            "/usr/bin/python3", "-c", code, query.hex(),
        )  # fmt: skip

    world.quiet(send)
    assert name not in world.network.asked_names()
    with world.guests.without_rules():
        frames = world.uplink.during(send)
        assert strays(frames)
        assert any(UDP in frame and frame[UDP].dport == 53 for frame in frames)
        answer = ask(world.guests.tor, server, name, "A")
    assert answer is not None
    assert records(answer) == [WEB]


# ---- C2


@pytest.mark.parametrize("port", [9051, 9052, 9151])
def test_control_port_is_closed(port: int, world: World) -> None:
    """C2. The anti-test takes the rules away, and the service there is called."""
    with Listener(world.guests.tor, port) as service:
        assert not call(world.guests.app, GATEWAY, port)
        assert not service.was_called()
        with world.guests.without_rules():
            assert call(world.guests.app, GATEWAY, port)
        assert service.was_called()
    # Nor would Tor be there without any rule.
    with world.guests.without_rules():
        assert not call(world.guests.app, GATEWAY, port)


def test_tor_listens_where_app_guest_may_call_and_nowhere_else(world: World) -> None:
    """C2: no control port at all, no port on another address."""
    listed = run("ip", "netns", "exec", world.guests.tor, "ss", "-Hnltu")
    found = {(line.split()[0], line.split()[4]) for line in listed.splitlines()}
    assert found == {
        *(("tcp", f"{GATEWAY}:{port}") for port in (*c.SOCKS_PORTS, c.TRANS_PORT)),
        *(("udp", f"{GATEWAY}:{port}") for port in c.DNS_PORTS),
    }
