# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's rule set, by packets: of the users of machines, and of a guest through QEMU's NAT.

A namespace stands for the rest of the world: a web server with a documentation address, and a
machine of the LAN. Each thing that is closed is seen to be open once its rule is gone.
"""

import json
import select
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tails_profiles import launch_steps
from tails_profiles.constants import APP_USER, GATEWAY_USER
from tails_profiles.launch import LaunchPlan
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import Proxy, ProxyType, TorSettings, defaults
from tests.launch.world import FACTOR, World, run
from tests.unit.test_launch import FACTS, SNOWFLAKE, plan
from tests.vm.guests import namespace

pytestmark = pytest.mark.vm

TABLE = ("inet", "tails_profiles_host")
WEB, LAN, HOST, HOST_LAN = "203.0.113.80", "192.168.7.9", "198.51.100.5", "192.168.7.1"
WEB6, HOST6 = "2001:db8::80", "2001:db8::5"
RESOLVER = "127.0.0.53"
PROXY = Proxy(ProxyType.SOCKS5, IPv4Address(LAN), 1080)
PRIVATE, OWN, SIX, REST = (
    "private ranges and loopback", "this machine's addresses, broadcast", "IPv6 of a gateway",
    "anything else of a gateway",
)  # fmt: skip


@dataclass(frozen=True)
class Service:
    """One port that something listens on, and the rule that closes it to a gateway's user."""

    address: str
    port: int
    closed_by: str
    udp: bool = False
    outside: bool = False

    def __str__(self) -> str:
        return f"{'udp' if self.udp else 'tcp'} {self.address} {self.port}"


CLOSED = (
    Service("127.0.0.1", 8000, PRIVATE),
    Service("127.0.0.1", 8001, PRIVATE, udp=True),
    Service("127.9.9.9", 8000, PRIVATE),
    Service(RESOLVER, 53, PRIVATE),
    Service(RESOLVER, 53, PRIVATE, udp=True),
    Service(HOST, 8000, OWN),
    Service(HOST, 8001, OWN, udp=True),
    Service(HOST_LAN, 8000, PRIVATE),
    Service(LAN, 8000, PRIVATE, outside=True),
    Service(LAN, 1080, PRIVATE, outside=True),
    Service(WEB, 8001, REST, udp=True, outside=True),
    Service(WEB, 53, REST, udp=True, outside=True),
    Service("::1", 8000, SIX),
    Service(HOST6, 8000, SIX),
    Service(WEB6, 8000, SIX, outside=True),
)
OPEN = Service(WEB, 80, "", outside=True)
#: Who reaches it when the rule that closes it is gone: the next one that would is gone as well.
ALSO = {PRIVATE: (OWN, REST), OWN: (REST,), SIX: (REST,), REST: ()}


class Network(World):
    """A world with an outside, and listeners everywhere."""

    sockets: dict[Service, socket.socket]

    def __enter__(self) -> "Network":
        super().__enter__()
        run("ip", "netns", "add", "outside")
        run(
            "ip",
            "link",
            "add",
            "uplink",
            "type",
            "veth",
            "peer",
            "name",
            "inside",
            "netns",
            "outside",
        )
        for address in (f"{HOST}/24", f"{HOST_LAN}/24"):
            run("ip", "address", "add", address, "dev", "uplink")
        run("ip", "address", "add", f"{HOST6}/64", "dev", "uplink", "nodad")
        run("ip", "link", "set", "uplink", "up")
        inside = ("ip", "-n", "outside")
        for address in ("198.51.100.1/24", f"{LAN}/24", f"{WEB}/32"):
            run(*inside, "address", "add", address, "dev", "inside")
        run(*inside, "address", "add", f"{WEB6}/64", "dev", "inside", "nodad")
        for name in ("inside", "lo"):
            run(*inside, "link", "set", name, "up")
        run("ip", "route", "add", "default", "via", "198.51.100.1")
        (self.top / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        run("mount", "--bind", str(self.top / "resolv.conf"), "/etc/resolv.conf")
        self.sockets = {service: self._listen(service) for service in (*CLOSED, OPEN)}
        return self

    def _listen(self, service: Service) -> socket.socket:
        family = socket.AF_INET6 if ":" in service.address else socket.AF_INET
        kind = socket.SOCK_DGRAM if service.udp else socket.SOCK_STREAM
        if service.outside:
            with namespace("outside"):
                made = socket.socket(family, kind)
        else:
            made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((service.address, service.port))
        if not service.udp:
            made.listen(64)
        return made

    def __exit__(self, *exception: object) -> None:
        for each in self.sockets.values():
            each.close()
        super().__exit__(*exception)

    def heard(self, service: Service, seconds: float = 0.0) -> bool:
        """Whether something came to a service since it was asked last."""
        listener = self.sockets[service]
        found = False
        while select.select([listener], [], [], seconds)[0]:
            found = True
            seconds = 0.0
            if service.udp:
                listener.recv(4096)
            else:
                listener.accept()[0].close()
        return found

    def load(self, made: LaunchPlan) -> None:
        """The rules of a launch."""
        run("nft", "-f", "-", stdin=launch_steps.host_rules(made))

    def remove(self, *comments: str) -> None:
        """Take rules out of the kernel, by their comments."""
        listed = json.loads(run("nft", "-j", "list", "table", *TABLE))["nftables"]
        rules = [entry["rule"] for entry in listed if "rule" in entry]
        for comment in comments:
            (rule,) = [rule for rule in rules if rule.get("comment") == comment]
            run("nft", "delete", "rule", *TABLE, rule["chain"], "handle", str(rule["handle"]))

    def at(self, service: Service) -> Service:
        """The listener that a service is heard at."""
        return next(
            each
            for each in self.sockets
            if (each.address, each.port, each.udp) == (service.address, service.port, service.udp)
        )

    def program(self, service: Service) -> str:
        """What calls a service, in Python."""
        kind = "SOCK_DGRAM" if service.udp else "SOCK_STREAM"
        family = "AF_INET6" if ":" in service.address else "AF_INET"
        return (
            "import socket\n"
            f"made = socket.socket(socket.{family}, socket.{kind})\n"
            f"made.settimeout({0.5 * FACTOR})\n"
            "try:\n"
            f"    made.connect(({service.address!r}, {service.port}))\n"
            "    made.send(b'x')\n"
            "except OSError: pass\n"
        )

    def arrives(self, user: str, service: Service) -> bool:
        """Whether a packet of ``user`` arrives at a service."""
        self.heard(service)
        program = self.program(service)
        subprocess.run(
            ["setpriv", f"--reuid={user}", "--clear-groups", "--",
             "/usr/bin/python3", "-c", program],
            check=True, timeout=60,
        )  # fmt: skip
        return self.heard(service, 0.05)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


PLAIN = plan()


@pytest.mark.parametrize("service", CLOSED, ids=str)
def test_gateway_s_user_does_not_reach(network: Network, service: Service) -> None:
    network.load(PLAIN)
    assert not network.arrives(GATEWAY_USER, service)
    # Other rules gone: still closed.
    others = {PRIVATE, OWN, SIX, REST} - {service.closed_by, *ALSO[service.closed_by]}
    network.remove(*others)
    assert not network.arrives(GATEWAY_USER, service)
    network.remove(service.closed_by, *ALSO[service.closed_by])
    assert network.arrives(GATEWAY_USER, service)


def test_gateway_s_user_reaches_the_internet_by_tcp_alone(network: Network) -> None:
    network.load(PLAIN)
    assert network.arrives(GATEWAY_USER, OPEN)
    counters = run("nft", "list", "table", *TABLE)
    (line,) = [line for line in counters.splitlines() if 'comment "TCP"' in line]
    assert "packets 0" not in line


@pytest.mark.parametrize("service", [OPEN, *CLOSED], ids=str)
def test_app_guest_s_user_reaches_nothing_and_others_everything(
    network: Network, service: Service
) -> None:
    network.load(PLAIN)
    assert not network.arrives(APP_USER, service)
    assert network.arrives("nobody", service)
    network.remove("app-guest's machine")
    assert network.arrives(APP_USER, service)


def test_a_transport_with_names_reaches_the_resolver_by_udp_and_nothing_else_of_the_host(
    network: Network,
) -> None:
    made = plan(
        replace(FACTS, resolver=IPv4Address(RESOLVER)), tor=TorSettings(bridges=(SNOWFLAKE,))
    )
    network.load(made)
    opened = {str(service) for service in CLOSED if network.arrives(GATEWAY_USER, service)}
    assert opened == {f"udp {RESOLVER} 53", f"udp {WEB} 8001", f"udp {WEB} 53"}


def test_private_proxy_opens_its_address_and_port_alone(network: Network) -> None:
    network.load(plan(tor=TorSettings(proxy=PROXY)))
    opened = {str(service) for service in CLOSED if network.arrives(GATEWAY_USER, service)}
    assert opened == {f"tcp {LAN} 1080"}


def wait_for_round(network: Network) -> None:
    """Until a guest, which tries one service after the other and the web server last, is through.

    The round under way may have begun before: so it is two.
    """
    for _ in range(2):
        assert network.heard(OPEN, 120 * FACTOR), "the guest asked no more"


def test_through_qemu_s_nat_a_guest_does_not_reach_the_host(network: Network) -> None:
    """10.0.2.2 and 10.0.2.3 of a guest without any rules of its own, which tries for ever."""
    loopback, resolver = Service("127.0.0.1", 8000, PRIVATE), Service(RESOLVER, 53, PRIVATE, True)
    host, lan = Service(HOST, 8000, OWN), Service(LAN, 8000, PRIVATE, outside=True)
    tried = (loopback, resolver, host, lan)
    targets = f"10.0.2.2:8000,dns:10.0.2.3,{HOST}:8000,{LAN}:8000,{WEB}:80"
    image = network.image(net="yes", only="app-guest", targets=targets)
    network.start(network.plan(image))
    for service in (*tried, OPEN):
        network.heard(service)
    wait_for_round(network)
    assert [service for service in tried if network.heard(service)] == []

    # The rules of a transport with names: its resolver, and nothing else.
    given = {profile: defaults(profile) for profile in GUESTS}
    given[Profile.TOR_GUEST] = replace(
        given[Profile.TOR_GUEST], tor=TorSettings(bridges=(SNOWFLAKE,))
    )
    network.load(network.plan(image, given=given))
    wait_for_round(network)
    assert [service for service in tried if network.heard(service)] == [resolver]

    network.load(PLAIN)
    network.remove(PRIVATE, OWN, REST)
    wait_for_round(network)
    assert [service for service in tried if network.heard(service)] == [*tried]
    network.stop()
    assert Path("/etc/resolv.conf").read_text() == f"nameserver {RESOLVER}\n"
