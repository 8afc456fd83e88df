# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets against the real rule sets of tor-guest, in network namespaces.

``app`` is hostile and puts any frame on the inner link; ``net`` is the uplink's other end. Each
blocked probe names the layers that stop it: with all of them removed its packet must be seen, and
with any single one restored it must be stopped again.
"""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.all import (  # type: ignore[attr-defined]
    ARP,
    GRE,
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    IPOption_RR,
    Raw,
    raw,
)

from tails_profiles import constants as c
from tails_profiles.links import MACHINE_SYSCTLS, link_sysctls
from tails_profiles.profile import Profile
from tails_profiles.ruleset import render_named

pytestmark = pytest.mark.lab

N1 = "198.51.100.7"
ROUTER_MAC = "02:00:00:00:00:02"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def run(*argv: str, namespace: str | None = None, stdin: str = "") -> str:
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    done = subprocess.run(
        [*prefix, *argv], input=stdin, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread in a namespace; sockets opened here stay there."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    assert _LIBC.setns(there, _CLONE_NEWNET) == 0
    try:
        yield
    finally:
        assert _LIBC.setns(here, _CLONE_NEWNET) == 0
        os.close(here)
        os.close(there)


def packet_socket(namespace: str, link: str) -> socket.socket:
    with inside(namespace):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((link, 0))
        return made


class Lab:
    """The three namespaces, the sockets at both ends, and the layers that can be removed."""

    def __init__(self) -> None:
        self.app, self.tor, self.net = (f"tp{os.getpid()}{name}" for name in ("a", "t", "n"))
        for name in (self.app, self.tor, self.net):
            run("ip", "netns", "add", name)
        self._wire(self.app, "tor", c.APP_TOR_MAC, self.tor, "inner", c.TOR_MAC)
        self._wire(self.net, "router", ROUTER_MAC, self.tor, "uplink", c.TOR_UPLINK_MAC)
        self._configure()
        self.sender = packet_socket(self.app, "tor")
        self.outside = packet_socket(self.net, "router")
        # A socket does not capture what it sends itself; others' it does.
        self.canaries = (packet_socket(self.app, "tor"), packet_socket(self.net, "router"))
        with inside(self.tor):
            self.listeners = []
            for port in (9050, 22):
                listener = socket.create_server(("", port))
                self.listeners.append(listener)

    def _wire(self, one: str, name: str, mac: str, two: str, peer: str, peer_mac: str) -> None:
        run("ip", "link", "add", name, "netns", one, "address", mac, "type", "veth",
            "peer", "name", peer, "netns", two, "address", peer_mac)  # fmt: skip
        for namespace, link in ((one, name), (two, peer)):
            run("sysctl", "-qw", f"net/ipv6/conf/{link}/disable_ipv6=1", namespace=namespace)
            run("ip", "link", "set", link, "up", namespace=namespace)

    def _configure(self) -> None:
        run("ip", "link", "set", "lo", "up", namespace=self.tor)
        for link, address in (("inner", c.TOR_INNER), ("uplink", c.UPLINK)):
            run("ip", "address", "add", str(address), "dev", link, namespace=self.tor)
        run("ip", "link", "set", "inner", "arp", "off", namespace=self.tor)
        run("ip", "neigh", "replace", str(c.APP_TOR.ip), "lladdr", c.APP_TOR_MAC, "nud",
            "permanent", "dev", "inner", namespace=self.tor)  # fmt: skip
        run("ip", "neigh", "replace", str(c.UPLINK_ROUTER), "lladdr", ROUTER_MAC, "nud",
            "permanent", "dev", "uplink", namespace=self.tor)  # fmt: skip
        run("ip", "route", "add", "default", "via", str(c.UPLINK_ROUTER), namespace=self.tor)
        for setting in (*MACHINE_SYSCTLS, *link_sysctls("inner"), *link_sysctls("uplink")):
            # Strict reverse paths are a layer of their own; off, so that others are what is tested.
            value = "0" if setting.path.endswith("rp_filter") else setting.value
            run("sysctl", "-qw", "-e", f"{setting.path}={value}", namespace=self.tor)
        for layer in LAYERS.values():
            layer[1](self)

    def close(self) -> None:
        for each in (self.sender, self.outside, *self.canaries, *self.listeners):
            each.close()
        for name in (self.app, self.tor, self.net):
            run("ip", "netns", "delete", name)

    def load(self, link: str | None) -> None:
        run("nft", "-f", "-", namespace=self.tor,
            stdin=render_named(Profile.TOR_GUEST, "tcp", link))  # fmt: skip

    def delete(self, table: str) -> None:
        run("nft", "delete", "table", *table.split(), namespace=self.tor)

    def sysctl(self, setting: str) -> None:
        run("sysctl", "-qw", setting, namespace=self.tor)

    def send(self, frame: bytes) -> tuple[list[bytes], list[bytes]]:
        """Put a frame on the inner link; what came back there, and what left the uplink."""
        for drained in (self.sender, self.outside):
            _drain(drained)
        self.sender.send(frame)
        # The canary passes both captures after whatever the frame caused: veth keeps order.
        self._canary()
        answers = _until(self.sender, b"CANARY")
        leaked = _until(self.outside, b"CANARY")
        return [one for one in answers if one != frame], leaked

    def _canary(self) -> None:
        for canary in self.canaries:
            canary.send(raw(Ether(type=0x88B5) / Raw(b"CANARY")))


def _drain(sock: socket.socket) -> None:
    sock.setblocking(False)
    try:
        while True:
            sock.recv(65536)
    except BlockingIOError:
        sock.setblocking(True)


def _until(sock: socket.socket, end: bytes) -> list[bytes]:
    """Every frame up to the canary; fails when it does not come."""
    sock.settimeout(2 * float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1")))
    seen = []
    while True:
        frame = sock.recv(65536)
        if end in frame:
            return seen
        seen.append(frame)


#: layer -> (what removes it, what restores it)
LAYERS: dict[str, tuple[Callable[[Lab], None], Callable[[Lab], None]]] = {
    "inet": (lambda lab: lab.delete("inet tails_profiles"), lambda lab: lab.load(None)),
    "inner": (
        lambda lab: lab.delete("netdev tails_profiles_inner"),
        lambda lab: lab.load("inner"),
    ),
    "uplink": (
        lambda lab: lab.delete("netdev tails_profiles_uplink"),
        lambda lab: lab.load("uplink"),
    ),
    "ip_forward": (
        lambda lab: lab.sysctl("net/ipv4/ip_forward=1"),
        lambda lab: lab.sysctl("net/ipv4/ip_forward=0"),
    ),
    "echo": (
        lambda lab: lab.sysctl("net/ipv4/icmp_echo_ignore_all=0"),
        lambda lab: lab.sysctl("net/ipv4/icmp_echo_ignore_all=1"),
    ),
}


@dataclass(frozen=True)
class Probe:
    """What hostile app-guest sends. ``towards`` is where its packet would be seen."""

    name: str
    ref: str
    frame: bytes
    layers: tuple[str, ...]
    towards: str = "uplink"


def ether(**over: str) -> Ether:
    return Ether(**{"src": c.APP_TOR_MAC, "dst": c.TOR_MAC, **over})


def ip(**over: object) -> IP:
    return IP(**{"src": str(c.APP_TOR.ip), "dst": N1, **over})


FORWARDED = ("inet", "inner", "uplink", "ip_forward")
MARK = b"PROBE"
SYN = TCP(sport=40000, dport=443, flags="S", seq=7)
PROBES = (
    Probe("SYN to the internet", "P1", raw(ether() / ip() / SYN), FORWARDED),
    *(
        Probe(f"SYN to port {port}", "P2",
              raw(ether() / ip() / TCP(dport=port, flags="S")), FORWARDED)
        for port in (22, 25, 80, 9001, 65535)
    ),
    Probe("DNS over UDP", "P3", raw(ether() / ip() / UDP(dport=53) / MARK), FORWARDED),
    Probe("DNS over TCP", "P4", raw(ether() / ip() / TCP(dport=53, flags="S")), FORWARDED),
    Probe("NTP", "P5", raw(ether() / ip() / UDP(dport=123) / MARK), FORWARDED),
    Probe("STUN", "P6", raw(ether() / ip() / UDP(dport=3478) / MARK), FORWARDED),
    Probe("echo to the internet", "P10", raw(ether() / ip() / ICMP() / MARK), FORWARDED),
    Probe("GRE", "P17", raw(ether() / ip() / GRE() / MARK), FORWARDED),
    *(
        Probe(f"IP protocol {number}", "P9", raw(ether() / ip(proto=number) / MARK), FORWARDED)
        for number in (2, 4, 33, 41, 50, 51, 132, 136, 255)
    ),
    Probe("record route", "P27", raw(ether() / ip(options=[IPOption_RR()]) / SYN), FORWARDED),
    *(
        Probe(f"TCP flags {flags or 'none'}", "P29",
              raw(ether() / ip() / TCP(dport=443, flags=flags)), FORWARDED)
        for flags in ("F", "", "FPU", "A", "SF", "SR", "R")
    ),
    Probe("source of another machine", "P26", raw(ether() / ip(src="203.0.113.9") / SYN),
          FORWARDED),
    Probe("another source MAC", "P43", raw(ether(src="02:aa:bb:cc:dd:ee") / ip() / SYN), FORWARDED),
    Probe("priority tag, VLAN 0", "P41", raw(ether() / Dot1Q(vlan=0) / ip() / SYN), FORWARDED),
    Probe("echo to tor-guest", "P11", raw(ether() / ip(dst="10.1.2.1") / ICMP() / MARK),
          ("inet", "inner", "echo"), "inner"),
    Probe("SYN to a port that is not Tor's", "P31",
          raw(ether() / ip(dst="10.1.2.1") / TCP(sport=40001, dport=22, flags="S")),
          ("inet", "inner"), "inner"),
    Probe("SYN to the uplink's address", "P24",
          raw(ether() / ip(dst="10.0.2.15") / TCP(sport=40002, dport=9050, flags="S")),
          ("inet", "inner"), "inner"),
    Probe("ARP for tor-guest", "P21",
          raw(ether(dst="ff:ff:ff:ff:ff:ff")
              / ARP(hwsrc=c.APP_TOR_MAC, psrc="10.1.2.3", pdst="10.0.2.15")),
          ("inner",), "inner"),
)  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if subprocess.run(
        ["getent", "passwd", c.TOR_USER], capture_output=True, check=False
    ).returncode:
        pytest.fail("the account debian-tor is missing: install tor")
    made = Lab()
    yield made
    made.close()


def seen(lab: Lab, probe: Probe) -> bool:
    answers, leaked = lab.send(probe.frame)
    return bool(leaked if probe.towards == "uplink" else answers)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.ref}-{probe.name}")
def test_probe_is_stopped_by_each_of_its_layers(probe: Probe, lab: Lab) -> None:
    if probe.ref in {"P21"}:
        run("ip", "link", "set", "inner", "arp", "on", namespace=lab.tor)
        lab.sysctl("net/ipv4/conf/inner/arp_ignore=0")
        lab.sysctl("net/ipv4/conf/inner/arp_filter=0")
    assert not seen(lab, probe), "it got through"
    for layer in probe.layers:
        LAYERS[layer][0](lab)
    try:
        assert seen(lab, probe), "unproven: it is not seen with every layer removed"
        for layer in probe.layers:
            LAYERS[layer][1](lab)
            assert not seen(lab, probe), f"{layer} alone does not stop it"
            LAYERS[layer][0](lab)
    finally:
        for layer in probe.layers:
            LAYERS[layer][1](lab)
    # As many unrelated layers removed: still stopped.
    unrelated = [name for name in LAYERS if name not in probe.layers][: len(probe.layers)]
    for layer in unrelated:
        LAYERS[layer][0](lab)
    try:
        assert not seen(lab, probe)
    finally:
        for layer in unrelated:
            LAYERS[layer][1](lab)


def test_app_guest_reaches_the_socks_port(lab: Lab) -> None:
    call = raw(ether() / ip(dst="10.1.2.1") / TCP(sport=40100, dport=9050, flags="S"))
    answers, leaked = lab.send(call)
    flags = [Ether(answer)[TCP].flags for answer in answers if TCP in Ether(answer)]
    assert "SA" in [str(each) for each in flags]
    assert leaked == []


CONNECT = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
s = socket.socket(socket.AF_INET, getattr(socket, sys.argv[2]))
s.setblocking(False)
try:
    if sys.argv[2] == "SOCK_STREAM":
        s.connect((sys.argv[3], 443))
    else:
        s.sendto(b"x", (sys.argv[3], 443))
except OSError:
    pass
"""


def leaves(lab: Lab, uid: int, kind: str, address: str = N1) -> bool:
    """Whether a packet of this user leaves the uplink."""
    _drain(lab.outside)
    run("/usr/bin/python3", "-c", CONNECT, str(uid), kind, address, namespace=lab.tor)
    with inside(lab.tor):
        canary = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    canary.bind(("uplink", 0))
    # A frame that the egress table lets pass: ARP for the router.
    canary.send(raw(Ether(src=c.TOR_UPLINK_MAC, dst=ROUTER_MAC) / ARP(
        hwsrc=c.TOR_UPLINK_MAC, psrc="10.0.2.15", pdst="10.0.2.2", hwdst=b"CANARY")))  # fmt: skip
    canary.close()
    return bool([frame for frame in _until(lab.outside, b"CANARY") if frame[12:14] == b"\x08\x00"])


def tor_uid() -> int:
    line = run("getent", "passwd", c.TOR_USER)
    return int(line.split(":")[2])


def test_only_tors_user_leaves_the_uplink_and_only_by_tcp(lab: Lab) -> None:
    assert leaves(lab, tor_uid(), "SOCK_STREAM")
    for uid in (0, 1, 33, 1000, 65534):
        assert not leaves(lab, uid, "SOCK_STREAM"), uid
        assert not leaves(lab, uid, "SOCK_DGRAM"), uid
    assert not leaves(lab, tor_uid(), "SOCK_DGRAM")
    # The anti-test: without the user rule root's packet leaves; the link table lets TCP pass.
    LAYERS["inet"][0](lab)
    try:
        assert leaves(lab, 0, "SOCK_STREAM")
    finally:
        LAYERS["inet"][1](lab)


@pytest.mark.parametrize("network", c.PRIVATE_RANGES, ids=str)
def test_tor_never_reaches_a_private_range(network: object, lab: Lab) -> None:
    address = str(next(iter(network.hosts())) + 77)  # type: ignore[attr-defined]
    if address.startswith(("0.", "127.", "224.")):
        pytest.skip("the kernel itself sends nothing there")
    assert not leaves(lab, tor_uid(), "SOCK_STREAM", address)
    for layer in ("inet", "uplink"):
        LAYERS[layer][0](lab)
    try:
        assert leaves(lab, tor_uid(), "SOCK_STREAM", address)
        for layer in ("inet", "uplink"):
            LAYERS[layer][1](lab)
            assert not leaves(lab, tor_uid(), "SOCK_STREAM", address), layer
            LAYERS[layer][0](lab)
    finally:
        for layer in ("inet", "uplink"):
            LAYERS[layer][1](lab)


def test_every_file_loads_twice_and_a_missing_account_loads_nothing(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden/rulesets"
    script = tmp_path / "load"
    script.write_text(
        "set -e\n"
        "for link in uplink inner tor i2p; do ip link add $link type veth peer name p$link; done\n"
        f"for file in {golden}/*.nft; do nft -f $file; nft -f $file; done\n"
        f"nft -f {golden}/lockdown.nft\n"
        "mount --make-rprivate /\n"
        f"grep -v debian-tor /etc/passwd > {tmp_path}/passwd\n"
        f"mount --bind {tmp_path}/passwd /etc/passwd\n"
        f"! nft -f {golden}/tor-guest-tcp.nft 2> {tmp_path}/err\n"
        f"grep -q 'does not exist' {tmp_path}/err\n"
        "nft list table inet tails_profiles | grep -q 'lo out'\n"
    )
    run("unshare", "--net", "--mount", "sh", str(script))
