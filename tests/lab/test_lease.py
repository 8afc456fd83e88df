# SPDX-License-Identifier: GPL-3.0-or-later
"""The uplink of a stock virtual machine: what is asked, of whom, and what any answer opens."""

import contextlib
import hashlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from scapy.all import DHCP, IP, TCP, UDP, Ether, Raw, fragment, raw

from tails_profiles import constants as c
from tails_profiles.rule_files import lease_elements
from tests.lab.dhcp import ROUTER_MAC, Gateway, is_request, kind, reply
from tests.lab.tornet import FACTOR, run, wait_for

pytestmark = pytest.mark.lab

CLOSED: dict[str, list[str]] = {"elements": [], "addresses": [], "routes": []}
OPEN = {
    "elements": ["address 10.0.2.15", "router 10.0.2.2"],
    "addresses": ["10.0.2.15/24"],
    "routes": ["default 10.0.2.2", "10.0.2.0/24"],
}
#: Every option of the two requests, byte by byte (RFC 2132): type, size, list of what is asked.
DISCOVER_OPTIONS = bytes.fromhex("350101 39020240 37020103 ff")
SELECT_OPTIONS = bytes.fromhex("350103 32040a00020f 36040a000202 39020240 37020103 ff")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    try:
        yield made
    finally:
        made.close()


def options(frame: bytes) -> bytes:
    """What follows the cookie, without the padding behind the end mark."""
    return frame.split(b"\x63\x82\x53\x63", 1)[1].rstrip(b"\0")


def constant(frame: bytes) -> bytes:
    """A request without what differs by design: transaction id, seconds, checksum."""
    packet = Ether(frame)
    packet["BOOTP"].xid = packet["BOOTP"].secs = 0
    del packet[UDP].chksum
    return raw(packet)


def identifies(frame: bytes) -> list[str]:
    """The options of a request that say something about its sender."""
    harmless = {"message-type", "max_dhcp_size", "requested_addr", "server_id", "param_req_list"}
    return [
        entry[0]
        for entry in Ether(frame)[DHCP].options
        if isinstance(entry, tuple) and entry[0] not in harmless
    ]


def wait_for_lease(gateway: Gateway) -> None:
    assert "READY=1" in gateway.next_status()


@pytest.fixture
def dnsmasq(gateway: Gateway) -> Iterator[None]:
    """A real server and router, with a web server's address behind it."""
    for address, link in (("10.0.2.2/24", "net"), ("198.51.100.7/32", "lo")):
        run("ip", "-n", gateway.net, "address", "add", address, "dev", link)
    server = subprocess.Popen(
        ["ip", "netns", "exec", gateway.net, "dnsmasq", "--keep-in-foreground", "--port=0",
         "--conf-file=/dev/null", "--interface=net", "--bind-interfaces", "--leasefile-ro",
         "--dhcp-range=10.0.2.15,10.0.2.15,255.255.255.0,300", "--dhcp-option=3,10.0.2.2",
         "--dhcp-option=6,10.0.2.3", "--dhcp-authoritative", "--no-ping", "--user=root"],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(
        "dnsmasq",
        lambda: ":67 " in run("ip", "netns", "exec", gateway.net, "ss", "-Hnlu"),
        10,
    )
    yield
    server.kill()
    server.wait()


def connects(gateway: Gateway, *who: str) -> bool:
    seconds = 1 * FACTOR
    code = f"import socket; socket.create_connection(('198.51.100.7', 443), {seconds}).close()"
    return (
        subprocess.run(
            ["ip", "netns", "exec", gateway.name, *who, "/usr/bin/python3", "-c", code],
            capture_output=True, check=False,
        ).returncode == 0
    )  # fmt: skip


LISTENER = """
import socket
listener = socket.create_server(("198.51.100.7", 443))
print(flush=True)
while True:
    listener.accept()
"""
TOR = ("setpriv", "--reuid=debian-tor", "--regid=debian-tor", "--clear-groups")


@pytest.mark.usefixtures("dnsmasq")
def test_real_server_gives_address_and_route_and_only_tor_leaves(gateway: Gateway) -> None:
    listener = subprocess.Popen(
        ["ip", "netns", "exec", gateway.net, "/usr/bin/python3", "-c", LISTENER],
        stdout=subprocess.PIPE,
    )
    assert listener.stdout
    listener.stdout.readline()
    try:
        assert not connects(gateway, *TOR)
        gateway.start()
        wait_for_lease(gateway)
        assert gateway.opened() == OPEN
        assert gateway.state()["address"] == "10.0.2.15/24"
        assert connects(gateway, *TOR)
        assert not connects(gateway)
        # Not even Tor, once the elements are gone.
        gateway.nft(lease_elements(None))
        assert not connects(gateway, *TOR)
    finally:
        listener.kill()
        listener.wait()
    assert gateway.said() == []


@pytest.mark.usefixtures("dnsmasq")
def test_requests_are_constant_and_say_nothing_about_the_machine(gateway: Gateway) -> None:
    process = gateway.start()
    wait_for_lease(gateway)
    process.kill()
    process.wait()
    assert gateway.start("stopped").wait(30) == 0
    gateway.start()
    while "READY=1" not in gateway.next_status():
        pass
    requests = [frame for frame in gateway.frames() if is_request(frame)]
    discovers = [frame for frame in requests if kind(Ether(frame)) == 1]
    selects = [frame for frame in requests if kind(Ether(frame)) == 3]
    assert len(discovers) >= 2
    assert len(selects) >= 2
    assert {options(frame) for frame in discovers} == {DISCOVER_OPTIONS}
    assert {options(frame) for frame in selects} == {SELECT_OPTIONS}
    # Header and padding too: two starts differ in transaction id and checksum alone.
    assert len({constant(frame) for frame in discovers}) == 1
    assert len({constant(frame) for frame in selects}) == 1
    hostname = Path("/proc/sys/kernel/hostname").read_text().strip().encode()
    # Not in what is random: a name of two letters would be there once in some hundred runs.
    assert not any(hostname in constant(frame) or b"udhcp" in frame for frame in requests)
    assert not any(identifies(frame) for frame in requests)


def test_client_without_our_options_would_say_who_it_is(gateway: Gateway) -> None:
    talkative = "busybox udhcpc -i uplink -f -q -n -t 1 -T 1 -s /bin/true -x hostname:me || true"
    run("ip", "netns", "exec", gateway.name, "sh", "-c", talkative)
    (frame,) = (frame for frame in gateway.frames() if is_request(frame))
    assert {"hostname", "vendor_class_id", "client_id"} <= set(identifies(frame))


def test_request_passes_the_table_and_nothing_else_does_before_a_lease(gateway: Gateway) -> None:
    gateway.run_server(lambda _: [])
    gateway.start()
    assert "nobody answers" in gateway.next_status()
    assert gateway.frames()
    # A packet socket is what the client has, too: every one of its frames is the table's to judge.
    sender = gateway.packet_socket(gateway.name, "uplink")
    ether = Ether(src=c.TOR_UPLINK_MAC, dst="ff:ff:ff:ff:ff:ff")
    anywhere = {"src": "0.0.0.0", "dst": "255.255.255.255"}
    ask = IP(**anywhere) / UDP(sport=68, dport=67) / Raw(b"PROBE")
    probes = [
        ether / IP(src="10.0.2.15", dst="255.255.255.255") / UDP(sport=68, dport=67) / b"PROBE",
        ether / IP(src="0.0.0.0", dst="198.51.100.7") / UDP(sport=68, dport=67) / b"PROBE",
        ether / IP(**anywhere) / UDP(sport=68, dport=53) / b"PROBE",
        ether / IP(**anywhere) / UDP(sport=5353, dport=67) / b"PROBE",
        ether / IP(flags="MF", **anywhere) / UDP(sport=68, dport=67) / b"PROBE",
        Ether(src="02:aa:bb:cc:dd:ee", dst="ff:ff:ff:ff:ff:ff") / ask,
        Ether(src=c.TOR_UPLINK_MAC, dst=ROUTER_MAC) / ask,
        ether / IP(src="10.0.2.15", dst="198.51.100.7") / TCP(dport=443) / b"PROBE",
        ether / Raw(b"PROBE" * 20),
    ]

    def send(packet: Any) -> list[bytes]:
        # The kernel's word for a frame that an egress rule drops.
        with contextlib.suppress(OSError):
            sender.send(raw(packet))
        return [frame for frame in gateway.frames() if b"PROBE" in frame]

    for probe in probes:
        assert send(probe) == [], probe.summary()
    assert len(send(ether / ask)) == 1
    run("ip", "netns", "exec", gateway.name, "nft", "delete", "table", "netdev",
        "tails_profiles_uplink")  # fmt: skip
    for probe in probes:
        assert len(send(probe)) == 1, probe.summary()
    sender.close()


REFUSED: dict[str, dict[str, Any]] = {
    "tor-guest's inner link": {"yiaddr": "10.1.2.4", "router": "10.1.2.2"},
    "10.1.3.0/29": {"yiaddr": "10.1.3.200", "router": "10.1.3.201"},
    "Tor's mapped names": {"yiaddr": "10.90.0.5", "router": "10.90.0.1"},
    "no mask": {"mask": "0.0.0.0"},
    "not in the lease's network": {"router": "10.0.3.2"},
    "to us and to the router": {"router": "10.0.2.15"},
    "no router": {"router": None},
    "no subnet": {"mask": None},
    "none that a machine can have": {"yiaddr": "10.0.2.255"},
}


def mostly_broad(names: Iterable[str], quick: set[str]) -> list[Any]:
    """All of them as parameters; those not in ``quick`` are more of the same."""
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.broad) for name in names
    ]


@pytest.mark.parametrize("word", mostly_broad(REFUSED, {"tor-guest's inner link", "no mask"}))
def test_hostile_lease_is_refused_by_name_and_the_uplink_ends_down(
    word: str, gateway: Gateway
) -> None:
    gateway.run_server(lambda request: [reply(request, **REFUSED[word])])
    assert gateway.start().wait(30) == 6
    assert word in gateway.state()["note"]
    assert gateway.opened() == CLOSED
    frames = gateway.frames()
    assert frames
    assert all(is_request(frame) for frame in frames)
    # What systemd runs then.
    assert gateway.start("stopped", SERVICE_RESULT="exit-code").wait(30) == 0
    assert not gateway.is_up()
    assert gateway.said() == ["tails-profiles 1 tor-guest failed network"]


def padded(request: Any) -> list[bytes]:
    """64 KiB of options, as the fragments they need."""
    packet = Ether(reply(request, more=[("domain", b"x" * 250)] * 250))
    return [
        raw(Ether(src=ROUTER_MAC, dst=request[Ether].src) / each)
        for each in fragment(packet[IP], fragsize=1400)
    ]


UNANSWERED: dict[str, Any] = {
    "silence": lambda _: [],
    "refusal": lambda request: [reply(request, 6)],
    "another transaction": lambda request: [reply(request, xid=request["BOOTP"].xid ^ 1)],
    "another machine's": lambda request: [reply(request, chaddr=b"\2\2\2\2\2\2")],
    "another MAC": lambda request: [reply(request, dst="02:aa:bb:cc:dd:ee")],
    "another port": lambda request: [reply(request, sport=68)],
    "a confirmation nobody asked for": lambda request: [reply(request, 5)],
    "garbage": lambda request: [
        raw(Ether(src=ROUTER_MAC, dst=request[Ether].src) / IP(dst="255.255.255.255")
            / UDP(sport=67, dport=68) / Raw(bytes(range(256)) * 4))
    ],
    "cut short": lambda request: [reply(request)[:300]],
    "64 KiB of options": padded,
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_broad(UNANSWERED, {"silence", "64 KiB of options"}))
def test_answer_that_is_none_opens_nothing_and_the_host_is_told(
    name: str, gateway: Gateway
) -> None:
    def answer(request: Any) -> Sequence[bytes]:
        made: Sequence[bytes] = UNANSWERED[name](request)
        return made

    gateway.run_server(answer)
    process = gateway.start()
    assert "nobody answers" in gateway.next_status()
    assert gateway.said() == ["tails-profiles 1 tor-guest failed network"]
    assert gateway.opened() == CLOSED
    assert process.poll() is None
    assert all(is_request(frame) for frame in gateway.frames())


@pytest.mark.broad
def test_host_is_told_of_the_same_silence_once(gateway: Gateway) -> None:
    asked: list[Any] = []

    def note(request: Any) -> Sequence[bytes]:
        asked.append(request)
        return []

    gateway.run_server(note)
    gateway.start()
    # The fourth question is asked when three have stayed without an answer.
    wait_for("four questions", lambda: len(asked) >= 4, 30)
    assert gateway.said() == ["tails-profiles 1 tor-guest failed network"]


@pytest.mark.broad
def test_lease_that_comes_late_is_taken(gateway: Gateway) -> None:
    asked = []

    def answer(request: Any) -> Sequence[bytes]:
        asked.append(request)
        return [reply(request)] if len(asked) > 2 else []

    gateway.run_server(answer)
    gateway.start()
    assert "nobody answers" in gateway.next_status()
    wait_for_lease(gateway)
    assert gateway.opened() == OPEN


def test_other_things_a_server_says_are_nobodys_business(gateway: Gateway) -> None:
    resolver = Path("/etc/resolv.conf")
    before = hashlib.sha256(resolver.read_bytes()).digest()
    more = [
        ("name_server", "198.51.100.53"),
        ("domain", b"evil.example"),
        ("hostname", b"$(touch /tmp/owned)"),
        ("NTP_server", "198.51.100.123"),
        ("interface-mtu", 68),
        ("router", "10.0.2.9"),
        (121, bytes.fromhex("00 0a000209 08 0b 0a000209")),
        (252, b"http://198.51.100.80/wpad.dat"),
    ]
    gateway.run_server(lambda request: [reply(request, more=more)])
    gateway.start()
    wait_for_lease(gateway)
    opened = gateway.opened()
    assert opened["addresses"] == OPEN["addresses"]
    # A router named twice is one list of two (RFC 3396): the first counts.
    assert opened["elements"] == OPEN["elements"]
    assert opened["routes"] == OPEN["routes"]
    assert hashlib.sha256(resolver.read_bytes()).digest() == before
    assert "mtu 1500" in run("ip", "-n", gateway.name, "link", "show", "uplink")


def test_renewal_that_changes_the_network_replaces_everything(gateway: Gateway) -> None:
    second = {"yiaddr": "192.168.7.20", "router": "192.168.7.1"}
    asked: list[int] = []

    def answer(request: Any) -> Sequence[bytes]:
        asked.append(kind(request))
        over = second if asked.count(1) > 1 else {}
        return [reply(request, seconds=2, **over)]

    gateway.run_server(answer)
    gateway.start()
    wait_for_lease(gateway)
    assert gateway.opened() == OPEN
    assert "192.168.7.20" in gateway.next_status()
    assert gateway.opened() == {
        "elements": ["address 192.168.7.20", "router 192.168.7.1"],
        "addresses": ["192.168.7.20/24"],
        "routes": ["default 192.168.7.1", "192.168.7.0/24"],
    }
    assert gateway.said() == []


def test_lease_that_nobody_renews_ends_and_the_host_is_told(gateway: Gateway) -> None:
    asked: list[int] = []

    def answer(request: Any) -> Sequence[bytes]:
        asked.append(kind(request))
        return [reply(request, seconds=2)] if asked.count(1) == 1 else []

    gateway.run_server(answer)
    gateway.start()
    wait_for_lease(gateway)
    assert gateway.opened() == OPEN
    assert "nobody answers" in gateway.next_status()
    assert gateway.opened() == CLOSED
    assert gateway.said() == ["tails-profiles 1 tor-guest failed network"]


@pytest.mark.broad
def test_renewal_that_may_not_be_taken_ends_it(gateway: Gateway) -> None:
    asked: list[int] = []

    def answer(request: Any) -> Sequence[bytes]:
        asked.append(kind(request))
        over = {"mask": "255.0.0.0"} if asked.count(1) > 1 else {}
        return [reply(request, seconds=2, **over)]

    gateway.run_server(answer)
    process = gateway.start()
    wait_for_lease(gateway)
    assert process.wait(30) == 6
    assert gateway.start("stopped", SERVICE_RESULT="exit-code").wait(30) == 0
    assert gateway.opened() == CLOSED
    assert not gateway.is_up()


def test_uplink_whose_table_is_gone_is_not_raised(gateway: Gateway) -> None:
    run("ip", "-n", gateway.name, "link", "set", "uplink", "down")
    run("ip", "netns", "exec", gateway.name, "nft", "delete", "table", "netdev",
        "tails_profiles_uplink")  # fmt: skip
    assert gateway.start().wait(30) == 5
    assert not gateway.is_up()
    # The capture's own canary needs the link; what left before would lie before it.
    run("ip", "-n", gateway.name, "link", "set", "uplink", "up")
    assert gateway.frames() == []
