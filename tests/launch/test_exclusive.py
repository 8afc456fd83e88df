# SPDX-License-Identifier: GPL-3.0-or-later
"""``--exclusive`` by packets; and, in both modes, what somebody who took a machine's process sends.

Nothing here is closed that is not seen open once what closes it is gone.
"""

import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tails_profiles import qemu
from tails_profiles.constants import APP_USER, GATEWAY_USER
from tails_profiles.launch import LaunchPlan
from tails_profiles.profile import Profile
from tests.launch.test_host_rules import (
    CLOSED,
    HOST,
    HOST6,
    HOST_LAN,
    LAN,
    OPEN,
    TABLE,
    WEB,
    WEB6,
    Network,
    Service,
)
from tests.launch.world import FACTOR, run
from tests.unit.test_host_rules import CASES, NETWORKS_RESOLVER
from tests.unit.test_host_rules import plan as rules_plan
from tests.vm.guests import namespace

pytestmark = pytest.mark.vm

EXCLUSIVE, DEFAULT = CASES["exclusive.nft"], CASES["default.nft"]
OUTSIDE = (OPEN, *(service for service in CLOSED if service.outside))
#: Services of this machine that the outside can address.
INSIDE = (
    Service(HOST, 8000, "in"),
    Service(HOST, 8001, "in", udp=True),
    Service(HOST6, 8000, "in"),
)
CHAIN = {"in": "input", "forward": "forward", "anybody else": "output"}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def without_policy(rule: str) -> None:
    """Have a chain, named by its last rule, let through what that rule does not name."""
    run("nft", "chain", *TABLE, CHAIN[rule], "{ policy accept; }")


def open_chain(network: Network, rule: str) -> None:
    """Take a chain's last rule, and then its policy."""
    network.remove(rule)
    without_policy(rule)


@pytest.mark.parametrize("service", OUTSIDE, ids=str)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_nobody_else_calls_out(network: Network, user: str, service: Service) -> None:
    network.load(EXCLUSIVE)
    assert not network.arrives(user, service)
    # The rule, or the policy: each alone.
    network.remove("anybody else")
    assert not network.arrives(user, service)
    network.load(EXCLUSIVE)
    without_policy("anybody else")
    assert not network.arrives(user, service)
    open_chain(network, "anybody else")
    # An IPv6 answer would not be let in.
    assert network.arrives(user, service) == (service.udp or ":" not in service.address)


def test_default_leaves_others_alone(network: Network) -> None:
    network.load(DEFAULT)
    for service in OUTSIDE:
        assert network.arrives("nobody", service), service


@pytest.mark.parametrize("service", [OPEN, *CLOSED], ids=str)
def test_machines_users_reach_what_they_reach_by_default(
    network: Network, service: Service
) -> None:
    network.load(EXCLUSIVE)
    assert not network.arrives(APP_USER, service)
    assert network.arrives(GATEWAY_USER, service) == (service is OPEN)


def test_names_are_asked_of_the_networks_own_resolver_alone(network: Network) -> None:
    network.load(rules_plan(names=True, exclusive=True))
    assert network.arrives(GATEWAY_USER, OPEN)
    network.load(EXCLUSIVE)
    resolver = f"ip daddr {NETWORKS_RESOLVER.resolver} udp dport 53 counter accept"
    assert resolver not in run("nft", "list", "table", *TABLE)


def test_loopback_stays(network: Network) -> None:
    network.load(EXCLUSIVE)
    for service in CLOSED:
        if service.address.startswith("127.") or service.address == "::1":
            assert network.arrives("nobody", service), service


def call_in(network: Network, service: Service) -> bool:
    """Whether a call from outside arrives at a service of this machine."""
    program = network.program(service)
    network.heard(network.at(service))
    with namespace("outside"):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    return network.heard(network.at(service), 0.05)


@pytest.mark.parametrize("service", INSIDE, ids=str)
def test_nobody_calls_in(network: Network, service: Service) -> None:
    network.load(EXCLUSIVE)
    assert not call_in(network, service)
    network.remove("in")
    assert not call_in(network, service)
    without_policy("in")
    # A call by TCP is more than its first packet.
    assert call_in(network, service) == service.udp
    open_chain(network, "anybody else")
    assert call_in(network, service)
    network.load(DEFAULT)
    assert call_in(network, service)


def test_nothing_is_forwarded(network: Network) -> None:
    """A machine behind this one, for which this one forwards; the answer is not needed."""
    run("ip", "netns", "add", "behind")
    run("ip", "link", "add", "back", "type", "veth", "peer", "name", "front", "netns", "behind")
    run("ip", "address", "add", "10.99.0.1/24", "dev", "back")
    run("ip", "link", "set", "back", "up")
    run("ip", "-n", "behind", "address", "add", "10.99.0.2/24", "dev", "front")
    run("ip", "-n", "behind", "link", "set", "front", "up")
    run("ip", "-n", "behind", "route", "add", "default", "via", "10.99.0.1")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    service = next(each for each in CLOSED if (each.address, each.port) == (WEB, 53))

    def forwarded() -> bool:
        network.heard(service)
        with namespace("behind"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.sendto(b"x", (WEB, 53))
        return network.heard(service, 0.5 * FACTOR)

    network.load(EXCLUSIVE)
    assert not forwarded()
    network.remove("forward")
    assert not forwarded()
    without_policy("forward")
    assert forwarded()
    network.load(DEFAULT)
    assert forwarded()
    run("ip", "netns", "delete", "behind")


def test_dhcp_is_answered_and_nothing_that_only_looks_like_it(network: Network) -> None:
    network.load(EXCLUSIVE)
    with namespace("outside"):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, other, client, stranger:
        server.bind((LAN, 67))
        client.bind((HOST_LAN, 68))

        def heard(where: socket.socket) -> bool:
            if not select.select([where], [], [], 0.5 * FACTOR)[0]:
                return False
            where.recv(4096)
            return True

        client.sendto(b"renew", (LAN, 67))
        assert heard(server)
        with pytest.raises(PermissionError):
            stranger.sendto(b"renew", (LAN, 67))
        assert not heard(server)
        server.sendto(b"answer", (HOST_LAN, 68))
        assert heard(client)
        other.sendto(b"answer", (HOST_LAN, 68))
        assert not heard(client)
        network.load(DEFAULT)
        stranger.sendto(b"renew", (LAN, 67))
        assert heard(server)
        other.sendto(b"answer", (HOST_LAN, 68))
        assert heard(client)


MARK = b"from-a-machine-s-process"
#: Every way to put MARK on the wire that a process could think of; prints what became of each.
ATTACK = f"""
import ctypes, json, os, socket, struct, subprocess
MARK, LAN, HOST = {MARK!r}, {LAN!r}, {HOST!r}
done = {{}}
def attempt(name):
    def run(call):
        try:
            call()
            done[name] = "sent"
        except OSError as err:
            done[name] = err.strerror
    return run
def raw(protocol, payload):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as made:
        made.sendto(payload + MARK, (LAN, 0))
def frame(link="uplink"):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
        made.bind((link, 0))
        made.send(b"\\xff" * 6 + b"\\x02\\0\\0\\0\\0\\1" + b"\\x88\\xb6" + MARK)
def header():
    total = 20 + len(MARK)
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, total, 1, 0, 64, 253, 0,
                       socket.inet_aton(HOST), socket.inet_aton(LAN))
def spoofed():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        made.sendto(header() + MARK, (LAN, 0))
def datagram(family=socket.AF_INET, where=(LAN, 9)):
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.sendto(MARK, where)
def in_a_user_namespace():
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    frame()
def nft():
    command = ["/usr/sbin/nft", "delete", "table", *{TABLE!r}]
    if subprocess.run(command, capture_output=True).returncode:
        raise OSError(1, "nft refused")
attempt("udp")(datagram)
attempt("udp6")(lambda: datagram(socket.AF_INET6, ({WEB6!r}, 9)))
attempt("broadcast")(lambda: datagram(where=("192.168.7.255", 9)))
attempt("icmp")(lambda: raw(1, bytes([8, 0, 0, 0, 0, 1, 0, 1])))
attempt("protocol 253")(lambda: raw(253, b""))
attempt("own header")(spoofed)
attempt("frame")(frame)
attempt("rules")(nft)
attempt("after rules")(datagram)
attempt("user namespace")(in_a_user_namespace)
print(json.dumps(done))
"""


class Wire:
    """All frames that come to the outside, between two canaries."""

    def __enter__(self) -> "Wire":
        with namespace("outside"):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind(("inside", 3))
        self._socket.settimeout(10 * FACTOR)
        self._canary(b"first canary")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _canary(self, word: bytes) -> list[bytes]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
            made.bind(("uplink", 0))
            made.send(b"\xff" * 6 + b"\x02\0\0\0\0\2\x88\xb5" + word)
        seen = []
        while word not in (got := self._socket.recv(65536)):
            seen.append(got)
        return seen

    def marked(self) -> int:
        """How many frames with MARK came since the canary before."""
        return sum(MARK in got for got in self._canary(b"last canary"))


def attack(runner: tuple[str, ...]) -> dict[str, str]:
    """Run ATTACK as ``runner`` runs a machine."""
    done = subprocess.run(
        [*runner, "/usr/bin/python3", "-c", ATTACK], capture_output=True, text=True, check=False,
        timeout=60 * FACTOR,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def runner(made: LaunchPlan, profile: Profile) -> tuple[str, ...]:
    """Everything that the launcher puts before QEMU: user, namespace, capabilities."""
    guest = next(guest for guest in made.guests if guest.profile is profile)
    words = qemu.guest_command(guest, made).argv
    return words[: words.index(qemu.QEMU)]


@pytest.mark.parametrize("made", [DEFAULT, EXCLUSIVE], ids=["default", "exclusive"])
@pytest.mark.parametrize("profile", [Profile.TOR_GUEST, Profile.APP_GUEST], ids=str)
def test_whoever_takes_a_machines_process_puts_nothing_on_the_wire(
    network: Network, profile: Profile, made: LaunchPlan
) -> None:
    network.load(made)
    with Wire() as wire:
        done = attack(runner(made, profile))
        assert wire.marked() == 0
    assert "sent" not in done.values(), done
    # Its rules gone: its datagrams leave if it has a network at all, and still no frame of its own.
    run("nft", "delete", "table", *TABLE)
    with Wire() as wire:
        done = attack(runner(made, profile))
        sent = {name for name, word in done.items() if word == "sent"}
        if profile is Profile.APP_GUEST:
            assert (sent, wire.marked()) == (set(), 0)
        else:
            assert sent == {"udp", "udp6", "after rules"}
            assert wire.marked() >= 2


@pytest.mark.parametrize("profile", [Profile.TOR_GUEST, Profile.APP_GUEST], ids=str)
def test_each_of_the_attempts_is_one_that_can_succeed(network: Network, profile: Profile) -> None:
    """With its user alone, in this namespace, and the capabilities that the launcher takes."""
    network.load(DEFAULT)
    user = {Profile.TOR_GUEST: GATEWAY_USER, Profile.APP_GUEST: APP_USER}[profile]
    allowed = "+net_raw,+net_admin,+sys_admin"
    with Wire() as wire:
        done = attack(
            ("setpriv", f"--reuid={user}", "--clear-groups", f"--inh-caps={allowed}",
             f"--ambient-caps={allowed}", "--")
        )  # fmt: skip
        marked = wire.marked()
    # The rules still know the user of a raw packet, and not of a frame.
    for name in ("udp", "udp6", "icmp", "protocol 253", "own header"):
        assert done[name] != "sent", (name, done)
    for name in ("frame", "rules", "after rules"):
        assert done[name] == "sent", (name, done)
    assert marked >= 2
