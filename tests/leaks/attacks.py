# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile app-guest and a hostile uplink try against a gateway: probes as data.

Every frame here is sent as it stands, by somebody who is root at the far end of a link. The
numbers P1 to P55 are those of docs/leaks.md.
"""

import functools
import random
from collections.abc import Iterable
from dataclasses import dataclass

from scapy.all import (
    ARP,
    GRE,
    ICMP,
    IP,
    LLC,
    NTP,
    SNAP,
    STP,
    TCP,
    UDP,
    VXLAN,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    IPOption,
    IPOption_LSRR,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_SSRR,
    IPv6,
    Packet,
    Raw,
    raw,
)

from tails_profiles import constants as c
from tails_profiles.constants import LINKS, LinkConstants
from tails_profiles.profile import Profile
from tests.leaks.laboratory import (
    BROADCAST_MAC,
    INET,
    ROUTER_MAC,
)
from tests.leaks.probes import (
    Action,
    Daemon,
    Delivered,
    Entered,
    Frames,
    Probe,
    View,
    Wire,
)

#: Any address of the internet: documentation ranges (RFC 5737), routed like every other.
N1 = "198.51.100.7"
ELSEWHERE = "203.0.113.9"
MARK = b"PROBE-PROBE-PROBE"
#: RFC 791: room for one address and its time, pointer at the first.
TIMESTAMP = IPOption(b"\x44\x0c\x05\x01" + bytes(8))
ETH_P_802_3, ETH_P_802_2 = 1, 4

#: An address in each private range to which Linux sends a SYN at all.
PRIVATE = ("10.77.0.1", "100.64.0.78", "169.254.169.254", "172.16.0.78", "192.168.0.78",
           "240.0.0.78")  # fmt: skip
#: Where Linux sends datagrams besides: all hosts, mDNS, a broadcast.
GROUPS = ("224.0.0.1", "224.0.0.251", "255.255.255.255", "10.0.2.255")

#: All of these must be gone before a packet of app-guest leaves the uplink.
FORWARDED = (INET, "inner", "uplink", "ip_forward")
#: ... before the gateway's stack takes it, or answers.
ANSWERED = (INET, "inner")
#: ... before a program with a packet socket gets it.
INGRESS = ("inner",)

LEFT = Wire("uplink")
BACK = Wire("inner")

TCP_FLAGS = ("F", "", "FPU", "A", "SF", "SR", "R")
TCP_FLAG_NAMES = {"": "none", "FPU": "FIN PSH URG", "F": "FIN", "A": "ACK", "R": "RST",
                  "SF": "SYN FIN", "SR": "SYN RST"}  # fmt: skip


@dataclass(frozen=True)
class Gateway:
    """What an attacker knows of a gateway; ports are those it serves on its inner link."""

    profile: Profile
    tcp_ports: tuple[int, ...]
    udp_ports: tuple[int, ...]
    transparent: bool = False

    @property
    def inner(self) -> LinkConstants:
        """The link to app-guest."""
        return next(link for link in LINKS[self.profile] if not link.is_uplink)

    @property
    def uplink(self) -> LinkConstants:
        """The link to the hypervisor's NAT."""
        return next(link for link in LINKS[self.profile] if link.is_uplink)

    @property
    def own(self) -> str:
        """Its inner address."""
        return str(self.inner.address.ip)

    @property
    def client(self) -> str:
        """app-guest's address."""
        return str(self.inner.peer)

    @property
    def sibling(self) -> str:
        """The inner address of the other gateway."""
        return str(c.I2P_INNER.ip if self.profile is Profile.TOR_GUEST else c.TOR_INNER.ip)

    def ether(self, **over: object) -> Packet:
        """A frame of app-guest."""
        return Ether(**{"src": self.inner.peer_mac, "dst": self.inner.mac, **over})

    def ip(self, dst: str = N1, **over: object) -> Packet:
        """A frame of app-guest with an IPv4 header."""
        return self.ether() / IP(**{"src": self.client, "dst": dst, **over})

    def outside(self, src: str = N1, **over: object) -> Packet:
        """A frame from beyond the router to the gateway's uplink."""
        ether = Ether(src=ROUTER_MAC, dst=self.uplink.mac)
        return ether / IP(**{"src": src, "dst": str(c.UPLINK.ip), **over})


def syn(port: int, **over: object) -> Packet:
    """A call; ports of the caller differ so that each is a connection of its own."""
    return TCP(**{"sport": 40000 + port % 20000, "dport": port, "flags": "S", "seq": 7, **over})


def inner(*packets: Packet) -> Action:
    """Sent by app-guest."""
    return Frames("inner", tuple(raw(packet) for packet in packets))


def uplink(*packets: Packet) -> Action:
    """Sent by somebody on the uplink."""
    return Frames("uplink", tuple(raw(packet) for packet in packets))


def batch(
    name: str, ref: str, packets: Iterable[Packet], layers: tuple[str, ...], view: View
) -> Probe:
    """Many packets of app-guest as one probe: its anti-test must see every one of them."""
    frames = tuple(raw(packet) for packet in packets)
    return Probe(name, ref, Frames("inner", frames), view, layers, least=len(frames))


def sweep(packet: Packet, ports: Iterable[int]) -> list[bytes]:
    """The frame with each destination port in turn; its checksum is put right by hand.

    Building 65,536 packets with scapy takes a minute.
    """
    first = bytearray(raw(packet))
    start = 14 + 20
    udp = first[23] == 17
    checksum = start + (6 if udp else 16)
    if udp:  # none (RFC 768)
        first[checksum : checksum + 2] = b"\0\0"
    port_0 = int.from_bytes(first[start + 2 : start + 4], "big")
    sum_0 = int.from_bytes(first[checksum : checksum + 2], "big")
    frames = []
    for port in ports:
        first[start + 2 : start + 4] = port.to_bytes(2, "big")
        if not udp:  # RFC 1624
            total = (~sum_0 & 0xFFFF) + (~port_0 & 0xFFFF) + port
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            first[checksum : checksum + 2] = (~total & 0xFFFF).to_bytes(2, "big")
        frames.append(bytes(first))
    return frames


# ---- from app-guest, through the gateway


def to_the_internet(gw: Gateway) -> tuple[Probe, ...]:
    """P1 to P10, P17, P19, P20, P27, P29, P43: packets that a router would forward.

    In transparent mode the inner link's table lets TCP and DNS in: Tor takes them.
    """

    def probe(name: str, ref: str, *packets: Packet, more: tuple[str, ...] = ()) -> Probe:
        return batch(name, ref, packets, (*FORWARDED, *more), LEFT)

    def taken(name: str, ref: str, *packets: Packet) -> Probe:
        layers = tuple(layer for layer in FORWARDED if layer != "inner" or not gw.transparent)
        return batch(name, ref, packets, layers, LEFT)

    query = (
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06unique\x04test\x00\x00\x01\x00\x01"
    )
    call = IP(src=gw.client, dst=N1) / syn(443)
    return (
        taken("SYN to the internet", "P1", gw.ip() / syn(443)),
        taken("SYN to ports 22 25 80 9001 65535", "P2",
              *(gw.ip() / syn(port) for port in (22, 25, 80, 9001, 65535))),
        taken("DNS over UDP", "P3", gw.ip() / UDP(sport=5000, dport=53) / query),
        taken("DNS over TCP and TLS", "P4", gw.ip() / syn(53), gw.ip() / syn(853)),
        probe("NTP", "P5", gw.ip() / UDP(sport=123, dport=123) / NTP()),
        probe("STUN and QUIC", "P6",
              gw.ip() / UDP(sport=5001, dport=3478) / b"\x00\x01\x00\x00\x21\x12\xa4\x42" / MARK,
              gw.ip() / UDP(sport=5002, dport=443) / b"\xc3\x00\x00\x00\x01" / MARK),
        probe("all 256 IP protocols but TCP", "P9",
              *(gw.ip(proto=number) / b"8 bytes." for number in range(256) if number != 6)),
        taken("TCP without a header", "P9", gw.ip(proto=6) / b"8 bytes."),
        probe("echo to the internet", "P10", gw.ip() / ICMP() / MARK),
        probe("GRE, IPIP, 6in4, ESP, AH around a SYN", "P17",
              gw.ip() / GRE() / call, gw.ip(proto=4) / call, gw.ip(proto=41) / MARK,
              gw.ip(proto=50) / raw(call), gw.ip(proto=51) / raw(call)),
        probe("L2TP, VXLAN, Geneve, WireGuard around a SYN", "P17",
              gw.ip() / UDP(dport=1701) / raw(call),
              gw.ip() / UDP(dport=4789) / VXLAN(vni=1) / Ether() / call,
              gw.ip() / UDP(dport=6081) / raw(call), gw.ip() / UDP(dport=51820) / raw(call)),
        probe("Teredo bubble", "P20", gw.ip() / UDP(dport=3544) / raw(IPv6(nh=59))),
        probe("record route, timestamp, router alert", "P27",
              *(gw.ip(options=[option]) / syn(443) for option in
                (IPOption_RR(), TIMESTAMP, IPOption_Router_Alert()))),
        probe("loose source route", "P27",
              gw.ip(options=[IPOption_LSRR(routers=[ELSEWHERE])]) / syn(443),
              more=("source_route",)),
        *(
            (taken if flags in {"A", "R"} else probe)(
                f"TCP flags {TCP_FLAG_NAMES[flags]} to the internet", "P29",
                gw.ip() / TCP(sport=5005, dport=443, flags=flags))
            for flags in TCP_FLAGS
        ),
        probe("source of another machine", "P26", gw.ip(src=ELSEWHERE) / syn(443),
              more=("rp_filter",)),
        probe("4,096 random source MACs", "P43", *_random_macs(gw, 4096)),
        probe("priority tag, VLAN 0", "P41", gw.ether() / Dot1Q(vlan=0) / IP(
            src=gw.client, dst=N1) / syn(443)),
        probe("the other gateway's inner address", "P46",
              gw.ip(gw.sibling) / syn(4444), gw.ip(gw.sibling) / ICMP(),
              gw.ip(gw.sibling) / UDP(dport=53) / MARK),
        probe("addresses that could be the host", "P45",
              *(gw.ip(host) / layer
                for host in ("10.0.2.2", "10.0.2.3", "10.0.2.77", "192.168.56.1", "192.168.122.1",
                             "172.17.0.1", "169.254.169.254")
                for layer in (syn(22), syn(80), UDP(dport=53) / MARK))),
        batch("neighbours on the inner link", "P45",
              (gw.ip(str(host)) / syn(22) for host in gw.inner.address.network.hosts()
               if str(host) not in {gw.own, gw.client}),
              (INET, "inner", "ip_forward"), BACK),
    )  # fmt: skip


@functools.cache
def sweeps(gw: Gateway) -> tuple[Probe, ...]:
    """P7, P8, P31, P32, P41: all ports, all ethertypes; these take seconds."""

    def probe(name: str, ref: str, packet: Packet, shut: Iterable[int], view: View,
              layers: tuple[str, ...]) -> Probe:  # fmt: skip
        frames = sweep(packet, shut)
        return Probe(name, ref, Frames("inner", frames), view, layers, least=len(frames))

    ports = range(65536)
    datagram, call = UDP(sport=5011) / b"x", TCP(sport=5010, flags="S")
    return (
        probe("UDP to all 65,536 ports", "P7", gw.ip() / datagram, ports, LEFT, FORWARDED),
        probe("SYN to all 65,536 ports", "P8", gw.ip() / call, ports, LEFT, FORWARDED),
        probe("SYN to all closed ports", "P31", gw.ip(gw.own) / call,
              (port for port in ports if port and port not in gw.tcp_ports), BACK, ANSWERED),
        probe("UDP to all closed ports", "P32", gw.ip(gw.own) / datagram,
              (port for port in ports if port and port not in gw.udp_ports), Delivered((17,)),
              ANSWERED),
        Probe("every ethertype around a SYN", "P41", Frames("inner", ethertypes(gw)),
              Entered("inner"), INGRESS, least=65536 - 1537),
    )  # fmt: skip


def _random_macs(gw: Gateway, number: int) -> list[Packet]:
    drawn = random.Random(43)
    frame = gw.ip() / syn(443)
    rest = raw(frame)[12:]
    return [
        Raw(raw(frame)[:6] + bytes([2, *drawn.randbytes(5)]) + rest) for _ in range(number)
    ]  # fmt: skip


def fragments(gw: Gateway) -> tuple[Probe, ...]:
    """P28. Conntrack puts fragments together; without it they are forwarded one by one."""
    tcp = raw(IP(src=gw.client, dst=gw.own) / syn(22))[20:]
    allowed = raw(IP(src=gw.client, dst=gw.own) / syn(gw.tcp_ports[0]))[20:]
    first = gw.ip(flags="MF", id=1) / Raw(raw(syn(22))[:8])
    return (
        batch("first fragment of 8 bytes", "P28", [first], FORWARDED, LEFT),
        batch("fragments that rewrite the port", "P28",
              [first, gw.ip(flags="MF", id=1, frag=0) / Raw(raw(syn(443))[:8]),
               gw.ip(id=1, frag=1) / Raw(raw(syn(443))[8:])], FORWARDED, LEFT),
        batch("UDP fragments that never complete", "P28",
              [gw.ip(proto=17, flags="MF", id=2, frag=number * 2) / (b"x" * 16)
               for number in range(64)], FORWARDED, LEFT),
        batch("a SYN to a closed port in two fragments", "P28",
              [gw.ip(gw.own, proto=6, flags="MF", id=3) / tcp[:8]], INGRESS, Daemon("inner")),
        Probe("a SYN to a closed port in two fragments, answered", "P28",
              inner(gw.ip(gw.own, proto=6, flags="MF", id=4) / tcp[:8],
                    gw.ip(gw.own, proto=6, id=4, frag=1) / tcp[8:]), BACK, ANSWERED),
        Probe("a SYN to an open port in two fragments, answered", "P28",
              inner(gw.ip(gw.own, proto=6, flags="MF", id=5) / allowed[:8],
                    gw.ip(gw.own, proto=6, id=5, frag=1) / allowed[8:]), BACK, INGRESS),
        batch("first fragment of a SYN to an open port", "P28",
              [gw.ip(gw.own, proto=6, flags="MF", id=7) / allowed[:8]], INGRESS, Daemon("inner")),
        batch("a fragment that overlaps the first", "P28",
              [gw.ip(gw.own, proto=6, flags="MF", id=6) / tcp[:16],
               gw.ip(gw.own, proto=6, id=6, frag=1) / allowed[8:]], INGRESS, Daemon("inner")),
    )  # fmt: skip


# ---- from app-guest, at the gateway itself


def to_the_gateway(gw: Gateway) -> tuple[Probe, ...]:
    """P11 to P16, P24 to P27, P29, P31 to P33: packets for an address of the gateway."""

    def answered(name: str, ref: str, *packets: Packet, more: tuple[str, ...] = ()) -> Probe:
        return batch(name, ref, packets, (*ANSWERED, *more), BACK)

    def delivered(name: str, ref: str, protocol: int, *packets: Packet) -> Probe:
        return batch(name, ref, packets, ANSWERED, Delivered((protocol,)))

    to = gw.own
    shut = (22, 951, 9040, 9051, 9052)
    uplink_ports = (*gw.tcp_ports, *(port for port in shut if port not in gw.tcp_ports))
    other = (number for number in range(1, 255) if number not in {1, 2, 6, 17})
    quoted = IP(src=str(c.UPLINK.ip), dst=N1) / TCP(sport=1, dport=443)
    return (
        answered("echo to the gateway", "P11", gw.ip(to) / ICMP() / MARK, more=("echo_ignore",)),
        answered("ICMP timestamp", "P12", gw.ip(to) / ICMP(type=13)),
        delivered("ICMP address mask, information", "P12", 1,
                  gw.ip(to) / ICMP(type=17), gw.ip(to) / ICMP(type=15)),
        delivered("ICMP redirect", "P13", 1, gw.ip(to) / ICMP(type=5, code=1, gw=gw.client) / IP(
            src=to, dst=N1) / UDP()),
        delivered("ICMP fragmentation needed, MTU 552", "P14", 1,
                  gw.ip(to) / ICMP(type=3, code=4, nexthopmtu=552) / quoted),
        batch("IGMP general query", "P15",
              [gw.ether(dst="01:00:5e:00:00:01") / IP(
                  src=gw.client, dst="224.0.0.1", proto=2, ttl=1)
               / b"\x11\x64\xee\x9b\x00\x00\x00\x00"], ANSWERED, Delivered((2,))),
        batch("IGMP join", "P15",
              [gw.ether(dst="01:00:5e:01:02:03") / IP(
                  src=gw.client, dst="239.1.2.3", proto=2, ttl=1)
               / b"\x16\x00\xfa\xf9\xef\x01\x02\x03"], INGRESS, Daemon("inner")),
        *(
            delivered(f"{name} to the gateway", ref, protocol,
                      gw.ip(to, proto=protocol) / (b"\x9c\x40\x23\x5a" + MARK))
            for name, ref, protocol in (("SCTP", "P16", 132), ("DCCP", "P16", 33),
                                        ("UDP-Lite", "P16", 136), ("GRE", "P17", 47),
                                        ("IPIP", "P17", 4), ("6in4", "P17", 41))
        ),
        batch("every other IP protocol to the gateway", "P9",
              (gw.ip(to, proto=number) / b"8 bytes." for number in other),
              INGRESS, Daemon("inner")),
        answered("SYN to the uplink's address", "P24",
                 *(gw.ip(str(c.UPLINK.ip)) / syn(port) for port in uplink_ports)),
        answered("SYN to 127.0.0.1 on the wire", "P25",
                 gw.ip("127.0.0.1") / syn(gw.tcp_ports[0]), gw.ip("127.0.0.1") / syn(9052),
                 more=("route_localnet",)),
        Probe("source is the gateway's own address", "P26", inner(gw.ip(to, src=to) / syn(22)),
              Delivered((6,)), (*ANSWERED, "accept_local")),
        batch("sources 0.0.0.0, 127.0.0.1, broadcast, multicast", "P26",
              (gw.ip(to, src=source) / syn(gw.tcp_ports[0])
               for source in ("0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1")),
              INGRESS, Daemon("inner")),
        *(
            Probe(f"source is {name}: no answer on the uplink", "P26",
                  inner(gw.ip(to, src=source) / syn(port)), LEFT,
                  (INET, "inner", "uplink", "rp_filter"))
            for name, source, port in (("the other gateway", gw.sibling, 22),
                                       ("on the internet", ELSEWHERE, gw.tcp_ports[0]),
                                       ("on the internet, port 22", ELSEWHERE, 22),
                                       ("the router", "10.0.2.2", 22))
        ),
        Probe("forged source's ACK to an open port: no RST on the uplink", "P26",
              inner(gw.ip(to, src=ELSEWHERE) / syn(gw.tcp_ports[0], flags="A")), LEFT,
              (INET, "inner", "uplink", "rp_filter")),
        batch("IP options to an open port", "P27",
              (gw.ip(to, options=[option]) / syn(gw.tcp_ports[0]) for option in
               (IPOption_RR(), TIMESTAMP, IPOption_Router_Alert(),
                IPOption_SSRR(routers=[N1]), IPOption_LSRR(routers=[N1]))),
              INGRESS, Daemon("inner")),
        *(
            answered(f"TCP flags {TCP_FLAG_NAMES[flags]} to a closed port", "P29",
                     gw.ip(to) / TCP(sport=5007, dport=23, flags=flags))
            for flags in ("F", "", "FPU", "A")
        ),
        *(
            delivered(f"TCP flags {TCP_FLAG_NAMES[flags]} to a closed port", "P29", 6,
                      gw.ip(to) / TCP(sport=5007, dport=23, flags=flags))
            for flags in ("SF", "SR", "R")
        ),
        *(
            delivered(f"TCP flags {TCP_FLAG_NAMES[flags]} to an open port", "P29", 6,
                      gw.ip(to) / TCP(sport=5008, dport=gw.tcp_ports[0], flags=flags))
            for flags in ("F", "", "FPU", "SF", "SR")
        ),
        Probe("a bare ACK to an open port", "P29",
              inner(gw.ip(to) / TCP(sport=5009, dport=gw.tcp_ports[0], flags="A")), BACK, (INET,)),
        answered("SYN to closed ports", "P31", *(gw.ip(to) / syn(port) for port in shut
                                                 if port not in gw.tcp_ports)),
        batch("UDP to closed ports", "P32",
              (gw.ip(to) / UDP(sport=5011, dport=port) / MARK for port in (67, 123, 161, 5354)
               if port not in gw.udp_ports), ANSWERED, Delivered((17,))),
        batch("source on the internet, to an open port", "P26",
              [gw.ip(to, src=ELSEWHERE) / syn(gw.tcp_ports[0])], (*ANSWERED, "rp_filter"),
              Delivered((6,))),
        batch("another source MAC, to an open port", "P43",
              [gw.ether(src="02:00:00:00:00:98") / IP(src=gw.client, dst=to)
               / syn(gw.tcp_ports[0])], INGRESS, Daemon("inner")),
    )  # fmt: skip


# ---- frames that are no IPv4, or not for the gateway


def other_frames(gw: Gateway) -> tuple[Probe, ...]:
    """P18, P19, P21 to P23, P39 to P42: what a daemon with a packet socket must not get."""

    def frames(name: str, ref: str, ethertypes: tuple[int, ...], *packets: Packet) -> Probe:
        return batch(name, ref, packets, INGRESS, Daemon("inner", ethertypes))

    everybody = gw.ether(dst=BROADCAST_MAC)
    return (
        frames("IPv6 RS, RA, NS, echo, MLD, DHCPv6", "P18", (0x86DD,), *ipv6(gw)),
        frames("SYN over IPv6", "P19", (0x86DD,),
               gw.ether() / IPv6(src="2001:db8::3", dst="2001:db8::1") / syn(443)),
        batch("ARP for the gateway, answered", "P21",
              [everybody / _who_has(gw, gw.own)], ("inner", "arp_flag_inner"), BACK),
        batch("ARP for the gateway's uplink, answered", "P21",
              [everybody / _who_has(gw, str(c.UPLINK.ip))],
              ("inner", "arp_flag_inner", "arp_ignore"), BACK),
        frames("ARP for the inner, NAT and home networks", "P21", (0x0806,),
               *(everybody / _who_has(gw, address) for address in _neighbourhood(gw))),
        frames("ARP that claims a gateway's address", "P22", (0x0806,),
               *(everybody / ARP(op=op, hwsrc=gw.inner.peer_mac, psrc=address, pdst=pdst,
                                 hwdst=gw.inner.mac)
                 for address in (gw.own, gw.sibling, gw.client) for op in (1, 2)
                 for pdst in (address, gw.own))),
        batch("ARP probe, answered", "P23",
              [everybody / ARP(op=1, hwsrc=gw.inner.peer_mac, psrc="0.0.0.0", pdst=gw.own)],
              ("inner", "arp_flag_inner"), BACK),
        frames("ARP whose sender is the uplink's address", "P23", (0x0806,),
               everybody / _who_has(gw, gw.own, psrc=str(c.UPLINK.ip))),
        batch("mDNS, LLMNR, NetBIOS, SSDP, WSD to 255.255.255.255", "P39",
              (everybody / IP(src=gw.client, dst="255.255.255.255")
               / UDP(sport=port, dport=port) / MARK for port in (5355, 137, 138, 1900, 3702)),
              ANSWERED, Delivered((17,))),
        frames("mDNS, LLMNR, SSDP, WSD to their groups", "P39", (0x0800,),
               *(gw.ether(dst=mac) / IP(src=gw.client, dst=group) / UDP(sport=port, dport=port)
                 / MARK for mac, group, port in
                 (("01:00:5e:00:00:fb", "224.0.0.251", 5353),
                  ("01:00:5e:00:00:fc", "224.0.0.252", 5355),
                  ("01:00:5e:7f:ff:fa", "239.255.255.250", 1900),
                  ("01:00:5e:7f:ff:fa", "239.255.255.250", 3702)))),
        frames("802.1Q and 802.1ad tags 1, 100, 4094", "P41", (0x0800, 0x86DD),
               *(gw.ether(type=kind) / Dot1Q(vlan=vlan, type=0x0800) / IP(src=gw.client, dst=N1)
                 / syn(443) for kind in (0x8100, 0x88A8) for vlan in (1, 100, 4094))),
        frames("LLDP, EAPOL, PPPoE, MPLS, IPX, WoL, PTP, CFM, ECTP", "P41", ETHERTYPES,
               *(gw.ether(type=ethertype) / MARK for ethertype in ETHERTYPES)),
        frames("STP, CDP and raw 802.3", "P41", (ETH_P_802_2, ETH_P_802_3),
               Dot3(src=gw.inner.peer_mac, dst="01:80:c2:00:00:00") / LLC() / STP(),
               Dot3(src=gw.inner.peer_mac, dst="01:00:0c:cc:cc:cc") / LLC(dsap=0xAA, ssap=0xAA)
               / SNAP(OUI=0xC, code=0x2000) / MARK,
               Dot3(src=gw.inner.peer_mac, dst=gw.inner.mac) / Raw(b"\xff\xff" + MARK)),
        frames("SYN to other destination MACs", "P42", (0x0800,),
               *(gw.ether(dst=mac) / IP(src=gw.client, dst=dst) / syn(port)
                 for mac in (BROADCAST_MAC, "01:00:5e:01:02:03", "02:00:00:00:00:99")
                 for dst, port in ((N1, 443), (gw.own, gw.tcp_ports[0])))),
    )  # fmt: skip


def dhcp_requests(gw: Gateway) -> tuple[Probe, ...]:
    """P40, for a gateway that leases nothing."""
    # RFC 2131: a request over Ethernet; then option 53, the options asked for, and the end.
    ask = b"\x01\x01\x06\x00" + b"\x07" * 4 + bytes(20)
    assert gw.inner.peer_mac is not None
    ask += bytes.fromhex(gw.inner.peer_mac.replace(":", "")) + bytes(202) + b"\x63\x82\x53\x63"
    options = b"\x37\x06\x03\x06\x0f\x2a\x77\xfc\xff"
    head = gw.ether(dst=BROADCAST_MAC)
    ports = UDP(sport=68, dport=67)
    messages = [
        head / IP(src=source, dst="255.255.255.255") / ports / (ask + kind + options)
        for source, kind in (("0.0.0.0", b"\x35\x01\x01"), (gw.client, b"\x35\x01\x08"))
    ]
    return (
        batch("DHCP DISCOVER and INFORM, a packet socket", "P40", messages, INGRESS,
              Daemon("inner")),
        batch("DHCP DISCOVER and INFORM, a UDP socket", "P40", messages, ANSWERED,
              Delivered((17,))),
    )  # fmt: skip


ETHERTYPES = (0x88CC, 0x888E, 0x8863, 0x8864, 0x8847, 0x8848, 0x8137, 0x0842, 0x88F7, 0x8902,
               0x9000, 0x8809, 0x88E5, 0x8035)  # fmt: skip


def ethertypes(gw: Gateway) -> list[bytes]:
    """All but IPv4's own, which other probes send."""
    frame = raw(gw.ip() / syn(443))
    return [
        frame[:12] + number.to_bytes(2, "big") + frame[14:]
        for number in range(1536, 65536)
        if number != 0x0800
    ]


def _who_has(gw: Gateway, address: str, **over: object) -> Packet:
    return ARP(**{"op": 1, "hwsrc": gw.inner.peer_mac, "psrc": gw.client, "pdst": address, **over})


def _neighbourhood(gw: Gateway) -> list[str]:
    return [
        *(str(host) for host in gw.inner.address.network),
        *(f"10.0.2.{last}" for last in (2, 3, *range(15, 256, 8))),
        *(f"192.168.{third}.1" for third in range(0, 256, 16)),
    ]


def ipv6(gw: Gateway) -> list[Packet]:
    src = "fe80::211:22ff:fe33:4455"
    own = "ff02::1:ff33:2211"
    return [
        gw.ether(dst="33:33:00:00:00:02") / IPv6(src=src, dst="ff02::2") / ICMPv6ND_RS(),
        gw.ether(dst="33:33:00:00:00:01") / IPv6(src=src, dst="ff02::1") / ICMPv6ND_RA(),
        gw.ether(dst="33:33:ff:33:22:11") / IPv6(src=src, dst=own)
        / ICMPv6ND_NS(tgt="fe80::255:44ff:fe33:2211"),
        gw.ether(dst="33:33:00:00:00:01") / IPv6(src=src, dst="ff02::1") / ICMPv6EchoRequest(),
        gw.ether(dst="33:33:00:00:00:16") / IPv6(src=src, dst="ff02::16") / ICMPv6MLReport2(),
        gw.ether(dst="33:33:00:01:00:02") / IPv6(src=src, dst="ff02::1:2")
        / UDP(sport=546, dport=547) / MARK,
    ]  # fmt: skip


@functools.cache
def from_app(gw: Gateway) -> tuple[Probe, ...]:
    """What a hostile app-guest tries by packets, but for ``sweeps``."""
    return (
        *to_the_internet(gw),
        *fragments(gw),
        *to_the_gateway(gw),
        *other_frames(gw),
        *(() if gw.transparent else dhcp_requests(gw)),
    )
