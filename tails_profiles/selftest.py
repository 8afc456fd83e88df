# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``check`` tries from inside a guest, and how it judges what came of it.

Addresses are those of documentation (RFC 5737, RFC 3849) and of private ranges: where a rule is
missing, nobody out there is told. Such an address answers nobody, so silence proves little by
itself. What proves something is whether the packet was on the wire, which root can watch.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tails_profiles import constants
from tails_profiles.profile import Profile

#: Documentation addresses (TEST-NET-2, 2001:db8::/32).
INTERNET = "198.51.100.7"
INTERNET6 = "2001:db8::7"
#: Stands for the link's own MAC in a frame; replaced when it is sent.
OWN_MAC = b"\x02ownMC"

_BROADCAST = b"\xff" * 6
_TCP, _UDP = 6, 17
_ICMP, _ICMP6 = 1, 58


class Kind(StrEnum):
    """How an attempt is made."""

    TCP = "tcp"
    UDP = "udp"
    PING = "ping"
    FRAME = "frame"


class Verdict(StrEnum):
    """What came of an attempt; the first two are failures of the guest's rules."""

    OUT = "OUT"
    LEFT = "LEFT"
    STOPPED = "stopped"
    SILENT = "silent"
    UNTRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out that must not be one.

    ``payload`` is the datagram, or for FRAME the whole Ethernet frame with OWN_MAC in it. ``port``
    is 0 where there is none.
    """

    name: str
    kind: Kind
    address: IPv4Address | IPv6Address | None = None
    port: int = 0
    payload: bytes = b""

    @property
    def what(self) -> str:
        """Protocol and destination in a word or two."""
        if self.address is None:
            return self.kind
        host = f"[{self.address}]" if self.address.version == 6 and self.port else self.address
        return f"{self.kind} {host}" + (f":{self.port}" if self.port else "")

    def is_frame(self, frame: bytes) -> bool:
        """Whether an Ethernet frame that was sent is this attempt's."""
        if self.kind is Kind.FRAME:
            return frame.replace(frame[6:12], OWN_MAC) == self.payload
        return _destination(frame) == (self._protocol(), self.address, self.port)

    def _protocol(self) -> int:
        if self.kind is Kind.PING:
            return _ICMP
        return _TCP if self.kind is Kind.TCP else _UDP


def _destination(frame: bytes) -> tuple[int, IPv4Address | IPv6Address, int] | None:
    """Protocol, address and port that a frame goes to, or None where it has none of these."""
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        protocol, address = frame[23], IPv4Address(frame[30:34])
        start = 14 + 4 * (frame[14] & 15)
    elif frame[12:14] == b"\x86\xdd" and len(frame) >= 54:
        protocol, start = frame[20], 54
        return protocol, IPv6Address(frame[38:54]), _port(frame, start, protocol)
    else:
        return None
    return protocol, address, _port(frame, start, protocol)


def _port(frame: bytes, start: int, protocol: int) -> int:
    if protocol not in {_TCP, _UDP} or len(frame) < start + 4:
        return 0
    return int.from_bytes(frame[start + 2 : start + 4], "big")


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one attempt.

    ``answer`` says what came back, None where nothing did. ``refusal`` is this machine's own error.
    ``left``: whether it was on the wire, None where nobody could watch. ``obstacle`` says why it
    was not tried.
    """

    answer: str | None = None
    refusal: str | None = None
    left: bool | None = None
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """An attempt and what was seen of it."""

    attempt: Attempt
    seen: Observation

    @property
    def verdict(self) -> Verdict:
        """The judgement."""
        seen = self.seen
        if seen.obstacle is not None:
            return Verdict.UNTRIED
        if seen.answer is not None:
            return Verdict.OUT
        if seen.left is not None:
            return Verdict.LEFT if seen.left else Verdict.STOPPED
        return Verdict.STOPPED if seen.refusal is not None else Verdict.SILENT

    @property
    def detail(self) -> str:
        """What was seen, in words."""
        seen = self.seen
        if seen.left and seen.answer is None:
            return "on the wire, no answer"
        return seen.obstacle or seen.answer or seen.refusal or "no answer"


@dataclass(frozen=True, slots=True)
class Service:
    """What a guest must reach: a SOCKS port on its own loopback."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. ``services`` maps each to None where it answers, else to what is wrong."""

    profile: Profile
    results: tuple[Result, ...]
    services: Mapping[Service, str | None]
    watched: bool

    @property
    def passed(self) -> bool:
        """Whether it is shown that nothing got out, and what must work works."""
        return (
            self.watched
            and self._tried > 0
            and not any(self.services.values())
            and not any(result.verdict in {Verdict.OUT, Verdict.LEFT} for result in self.results)
        )

    @property
    def _tried(self) -> int:
        return sum(result.verdict is not Verdict.UNTRIED for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``check --json``."""
        return {
            "profile": self.profile.value,
            "passed": self.passed,
            "watched": self.watched,
            "attempts": [
                {
                    "name": result.attempt.name,
                    "what": result.attempt.what,
                    "verdict": result.verdict.value,
                    "detail": result.detail,
                }
                for result in self.results
            ],
            "services": [
                {"name": service.name, "answers": wrong is None, "detail": wrong}
                for service, wrong in self.services.items()
            ],
        }

    def lines(self) -> Iterable[str]:
        """The same as a table, and a plain verdict."""
        rows = [
            (result.verdict.value, result.attempt.what, result.attempt.name, result.detail)
            for result in self.results
        ]
        rows += [
            ("works" if wrong is None else "FAILS", f"tcp 127.0.0.1:{service.port}", service.name,
             wrong or "it answers")
            for service, wrong in self.services.items()
        ]  # fmt: skip
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            yield "  ".join(f"{row[n]:{widths[n]}}" for n in range(3)) + f"  {row[3]}"
        yield ""
        yield self._verdict()

    def _verdict(self) -> str:
        bad = sum(result.verdict in {Verdict.OUT, Verdict.LEFT} for result in self.results)
        if bad:
            return f"FAILED: {bad} of {len(self.results)} attempts got out of {self.profile}"
        if any(self.services.values()):
            return f"FAILED: nothing got out of {self.profile}, and what must work does not"
        if not self._tried:
            return "no verdict: not one attempt could be made"
        if not self.watched:
            return (
                "no verdict: nobody watched the wire, and silence may be rules, or nobody there;"
                " run as root"
            )
        return f"passed: none of {self._tried} attempts got out of {self.profile}"


def services(profile: Profile) -> tuple[Service, ...]:
    """What must answer in this guest."""
    if profile is Profile.APP_GUEST:
        return (Service("Tor, through tor-guest", constants.SOCKS_DEFAULT),)
    return ()


def attempts(profile: Profile) -> tuple[Attempt, ...]:
    """Every way out that is tried in this guest."""
    return (*_internet(), *_neighbourhood(), *_inner(profile), *_frames())


def _call(name: str, kind: Kind, address: str, port: int = 0, payload: bytes = b"") -> Attempt:
    return Attempt(name, kind, ip_address(address), port, payload)


def _internet() -> tuple[Attempt, ...]:
    return (
        _call("the web", Kind.TCP, INTERNET, 443),
        _call("the web, in clear text", Kind.TCP, INTERNET, 80),
        _call("a Tor relay, past Tor", Kind.TCP, INTERNET, 9001),
        _call("another DNS server", Kind.UDP, INTERNET, 53, _dns_question()),
        _call("another DNS server", Kind.TCP, INTERNET, 53),
        _call("QUIC", Kind.UDP, INTERNET, 443, b"\xc0" + bytes(1199)),
        _call("STUN", Kind.UDP, INTERNET, 3478, _STUN),
        _call("NTP", Kind.UDP, INTERNET, 123, b"\x23" + bytes(47)),
        _call("ping", Kind.PING, INTERNET),
        _call("IPv6", Kind.TCP, INTERNET6, 443),
        _call("IPv6", Kind.UDP, INTERNET6, 53, _dns_question()),
    )


def _neighbourhood() -> tuple[Attempt, ...]:
    return (
        _call("the host, through NAT", Kind.TCP, str(constants.UPLINK_ROUTER), 22),
        _call("the host, through NAT", Kind.TCP, str(constants.UPLINK_ROUTER), 80),
        _call("the host's resolver", Kind.UDP, str(constants.UPLINK_RESOLVER), 53, _dns_question()),
        _call("a router at home", Kind.TCP, "192.168.0.1", 80),
        _call("a router at home", Kind.TCP, "192.168.1.1", 80),
        _call("a LAN", Kind.TCP, "10.0.0.1", 80),
        _call("a LAN", Kind.TCP, "172.16.0.1", 80),
        _call("a cloud's metadata", Kind.TCP, "169.254.169.254", 80),
        _call("multicast DNS", Kind.UDP, "224.0.0.251", 5353, _dns_question()),
        _call("UPnP", Kind.UDP, "239.255.255.250", 1900, b"M-SEARCH * HTTP/1.1\r\n\r\n"),
        _call("broadcast", Kind.UDP, "255.255.255.255", 137, b"?"),
    )


def _inner(profile: Profile) -> tuple[Attempt, ...]:
    """Ports of the gateways, or of app-guest, that are nobody's business."""
    if profile is not Profile.APP_GUEST:
        app = constants.APP_TOR if profile is Profile.TOR_GUEST else constants.APP_I2P
        return (_call("a call to app-guest", Kind.TCP, str(app.ip), 22),)
    tor, i2p = str(constants.TOR_INNER.ip), str(constants.I2P_INNER.ip)
    return (
        _call("tor-guest's shell", Kind.TCP, tor, 22),
        _call("tor-guest's control port", Kind.TCP, tor, 9051),
        _call("tor-guest's own resolver", Kind.TCP, tor, 53),
        _call("ping of tor-guest", Kind.PING, tor),
        _call("i2p-guest's console", Kind.TCP, i2p, 7657),
        _call("i2p-guest's SAM", Kind.TCP, i2p, 7656),
    )


def _frames() -> tuple[Attempt, ...]:
    """Frames of packet sockets, which no rule of the inet tables sees."""
    return (
        Attempt("DHCP", Kind.FRAME, payload=_dhcp_discover()),
        Attempt("ARP for the NAT's router", Kind.FRAME, payload=_arp(constants.UPLINK_ROUTER)),
        Attempt("LLDP", Kind.FRAME, payload=_LLDP),
        Attempt("IPv6 router solicitation", Kind.FRAME, payload=_router_solicitation()),
    )


# RFC 5389: a binding request without attributes.
_STUN = bytes.fromhex("000100002112a442") + b"tails-check\0"
# IEEE 802.1AB: chassis (a MAC), port (a MAC), time to live 120 s, end.
_LLDP = (
    bytes.fromhex("0180c200000e") + OWN_MAC + bytes.fromhex("88cc")
    + bytes.fromhex("020704") + OWN_MAC + bytes.fromhex("040703") + OWN_MAC
    + bytes.fromhex("060200780000")
)  # fmt: skip


def _dns_question() -> bytes:
    """RFC 1035: the address of a name that nobody has (RFC 2606)."""
    labels = b"".join(bytes([len(part)]) + part for part in (b"check", b"invalid"))
    return (
        struct.pack(">6H", 0x7470, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    )


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _dhcp_discover() -> bytes:
    """RFC 2131: a client that knows nothing."""
    message = (
        struct.pack(">4BIHH", 1, 1, 6, 0, 0x74707466, 0, 0x8000) + bytes(16) + OWN_MAC + bytes(10)
        + bytes(192) + bytes.fromhex("63825363") + bytes.fromhex("350101ff")
    )  # fmt: skip
    datagram = struct.pack(">4H", 68, 67, 8 + len(message), 0) + message

    def header(checksum: int) -> bytes:
        return struct.pack(
            ">2B3H2BH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, _UDP, checksum, bytes(4),
            b"\xff" * 4,
        )  # fmt: skip

    return _BROADCAST + OWN_MAC + b"\x08\x00" + header(_checksum(header(0))) + datagram


def _arp(target: IPv4Address) -> bytes:
    """RFC 826: who has ``target``; as a probe, which claims no address (RFC 5227)."""
    head = struct.pack(">2H2BH", 1, 0x0800, 6, 4, 1)
    body = OWN_MAC + bytes(4) + bytes(6) + target.packed
    return _BROADCAST + OWN_MAC + b"\x08\x06" + head + body


def _router_solicitation() -> bytes:
    """RFC 4861, from the unspecified address."""
    destination = IPv6Address("ff02::2")
    message = struct.pack(">2BHI", 133, 0, 0, 0)
    pseudo = bytes(16) + destination.packed + struct.pack(">II", len(message), _ICMP6)
    message = message[:2] + struct.pack(">H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack(">IHBB", 6 << 28, len(message), _ICMP6, 255) + bytes(16)
    return (
        bytes.fromhex("333300000002")
        + OWN_MAC
        + b"\x86\xdd"
        + header
        + destination.packed
        + message
    )


def report(
    profile: Profile,
    seen: Sequence[tuple[Attempt, Observation]],
    answered: Mapping[Service, str | None],
    *,
    watched: bool,
) -> Report:
    """Put it together."""
    results = tuple(Result(attempt, observation) for attempt, observation in seen)
    return Report(profile, results, answered, watched)
