# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``check`` sends, how it recognises it on the wire, and how it judges."""

import socket
import threading
from ipaddress import ip_address, ip_network

import pytest
from scapy.all import (
    ARP,
    BOOTP,
    DHCP,
    DNS,
    ICMP,
    IP,
    TCP,
    UDP,
    Ether,
    ICMPv6ND_RS,
    IPv6,
    raw,
)

from tails_profiles import constants, selftest
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.selftest import Attempt, Kind, Observation, Report, Result, Service, Verdict
from tails_profiles.system import selftest as edge

MAC = bytes.fromhex("001122334455")
ATTEMPTS = selftest.attempts(Profile.APP_GUEST)
TOR = Service("Tor", 9050)


def frame(attempt: Attempt) -> bytes:
    """What the kernel would put on the wire for an attempt, by scapy's own knowledge."""
    if attempt.kind is Kind.FRAME:
        return attempt.payload.replace(selftest.OWN_MAC, MAC)
    assert attempt.address
    layer = {Kind.TCP: TCP(dport=attempt.port, flags="S"), Kind.PING: ICMP(),
             Kind.UDP: UDP(dport=attempt.port) / attempt.payload}[attempt.kind]  # fmt: skip
    network = (IP if attempt.address.version == 4 else IPv6)(dst=str(attempt.address))
    return raw(Ether(src="00:11:22:33:44:55", dst="00:55:44:33:22:11") / network / layer)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda each: f"{each.name} {each.what}")
def test_each_attempt_is_known_on_the_wire_and_is_no_other(attempt: Attempt) -> None:
    assert [each for each in ATTEMPTS if each.is_frame(frame(attempt))] == [attempt]


def test_frame_with_options_is_known_and_a_cut_one_is_nobodys() -> None:
    web = ATTEMPTS[0]
    options = raw(Ether() / IP(dst=str(web.address), options=b"\x94\x04\0\0") / TCP(dport=web.port))
    assert web.is_frame(options)
    for length in range(len(options) - 20):
        assert not any(each.is_frame(options[:length]) for each in ATTEMPTS)


@pytest.mark.parametrize("profile", [*GUESTS, Profile.QUARANTINE])
def test_nobody_out_there_is_contacted(profile: Profile) -> None:
    documentation = [ip_network(text) for text in ("198.51.100.0/24", "2001:db8::/32")]
    own = [*constants.PRIVATE_RANGES, *documentation]
    for attempt in selftest.attempts(profile):
        if attempt.address is not None:
            assert any(
                ip_address(attempt.address) in network
                for network in own
                if network.version == attempt.address.version
            )


def decoded(name: str) -> Ether:
    (attempt,) = (each for each in ATTEMPTS if each.name == name and each.kind is Kind.FRAME)
    packet = Ether(frame(attempt))
    rebuilt = packet.copy()
    for layer in (IP, IPv6, ICMPv6ND_RS):
        if layer in rebuilt:
            for name_ in ("chksum", "cksum", "len", "plen"):
                if name_ in rebuilt[layer].fields:
                    delattr(rebuilt[layer], name_)
    # Lengths and checksums are right where scapy computes the same.
    assert raw(rebuilt) == raw(packet)
    return packet


def test_frames_are_what_they_say() -> None:
    discover = decoded("DHCP")
    assert discover[BOOTP].chaddr[:6] == MAC
    assert ("message-type", 1) in discover[DHCP].options
    assert (discover[UDP].sport, discover[UDP].dport) == (68, 67)
    assert decoded("ARP for the NAT's router")[ARP].pdst == "10.0.2.2"
    assert decoded("IPv6 router solicitation")[ICMPv6ND_RS].code == 0
    assert decoded("LLDP").type == 0x88CC


def test_question_is_dns() -> None:
    assert DNS(selftest._dns_question()).qd.qname == b"check.invalid."


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (Observation(answer="a connection was made", left=True), Verdict.OUT),
        (Observation(answer="a connection was made"), Verdict.OUT),
        # Answered though nothing was seen: over a link that nobody watched.
        (Observation(answer="a connection was made", left=False), Verdict.OUT),
        (Observation(left=True), Verdict.LEFT),
        (Observation(refusal="No route to host", left=True), Verdict.LEFT),
        (Observation(left=False), Verdict.STOPPED),
        (Observation(refusal="No route to host"), Verdict.STOPPED),
        (Observation(), Verdict.SILENT),
        (Observation(obstacle="needs root"), Verdict.UNTRIED),
    ],
)
def test_verdict(seen: Observation, verdict: Verdict) -> None:
    assert Result(ATTEMPTS[0], seen).verdict is verdict


@pytest.mark.parametrize(
    ("seen", "wrong", "passed"),
    [
        (Observation(left=False), None, True),
        (Observation(left=True), None, False),
        (Observation(answer="x"), None, False),
        (Observation(left=False), "Connection refused", False),
        # Nobody watched, or nothing was tried: that nothing is known to have got out is no proof.
        (Observation(), None, None),
        (Observation(obstacle="needs root", left=False), None, None),
    ],
)
def test_report_passes_only_if_nothing_got_out_and_tor_answers(
    seen: Observation, wrong: str | None, passed: bool | None
) -> None:
    report = Report(
        Profile.APP_GUEST, (Result(ATTEMPTS[0], seen),), {TOR: wrong}, seen.left is not None
    )
    assert report.passed is bool(passed)
    assert report.to_json()["passed"] is bool(passed)
    *_, last = report.lines()
    assert last.startswith({True: "passed: ", False: "FAILED: ", None: "no verdict: "}[passed])


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [(b"\x05\x00", None), (b"\x05\xff", "it answers b'\\x05\\xff'"), (b"", "it answers b''")],
)
def test_only_a_socks_port_that_takes_us_works(answer: bytes, wrong: str | None) -> None:
    def serve() -> None:
        with listener.accept()[0] as peer:
            peer.recv(3)
            peer.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        assert edge._ask(Service("x", listener.getsockname()[1])) == wrong
        thread.join()


def test_app_guest_needs_tor_and_gateways_need_nothing() -> None:
    assert [service.port for service in selftest.services(Profile.APP_GUEST)] == [9050]
    assert selftest.services(Profile.TOR_GUEST) == ()


def test_every_gateway_calls_its_own_neighbour() -> None:
    for profile, app in ((Profile.TOR_GUEST, "10.1.2.3"), (Profile.I2P_GUEST, "10.1.3.3")):
        assert app in {str(each.address) for each in selftest.attempts(profile)}
