# SPDX-License-Identifier: GPL-3.0-or-later
"""app-guest's own rule set, the second line: what programs in it send, and what comes to them.

Its first line is the gateways. Whoever is root in app-guest can remove all of this; a program that
is not, or a daemon that asks the network by itself, puts nothing on a wire but calls to the ports
of the gateways, and learns at once that it may not.
"""

import errno
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from scapy.all import (
    ARP,
    GRE,
    ICMP,
    IP,
    LLC,
    SNAP,
    STP,
    TCP,
    UDP,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    IPOption_Router_Alert,
    IPOption_RR,
    IPv6,
    Packet,
    raw,
)

from tails_profiles import constants as c
from tails_profiles.constants import LinkConstants
from tails_profiles.links import LoadTable, RequireTables, Sysctl, steps
from tails_profiles.profile import Profile
from tests.leaks.attacks import (
    ELSEWHERE,
    ETH_P_802_2,
    MARK,
    N1,
    TCP_FLAG_NAMES,
    TIMESTAMP,
    syn,
)
from tests.leaks.laboratory import (
    BROADCAST_MAC,
    INET,
    FarEnd,
    Laboratory,
    acting_as,
    inside,
    patience,
    run,
    wait_until,
)
from tests.leaks.probes import (
    Action,
    Call,
    Daemon,
    Delivered,
    Flow,
    Frames,
    Mutant,
    Probe,
    Report,
    Result,
    RootFrames,
    Tool,
    View,
    Wire,
    passes,
    survival,
    untested,
    verify,
)

pytestmark = pytest.mark.lab

# By hand: what the gateways serve, and what they must not be asked for.
TOR_PORTS = (9050, 9062, 9063, 9150, 951)
DNS_PORTS = (53, 5353)
I2P_PORTS = (4444, 4447, 4448)
SHUT = {
    "tor": (22, 80, 4444, 9040, 9051, 9052),
    "i2p": (22, 80, 2827, 7650, 7654, 7656, 7657, 9050),
}
#: A name that Tor has mapped.
MAPPED = "10.64.0.5"
LAN = ("10.0.2.2", "10.0.2.3", "192.168.0.1", "192.168.56.1", "192.168.122.1", "172.17.0.1",
       "169.254.169.254", "100.64.0.1", "10.200.1.99")  # fmt: skip
GROUPS = ("224.0.0.1", "224.0.0.251", "239.255.255.250", "255.255.255.255")
USERS = (0, 1000, 65534)
TOR, I2P = c.LINKS[Profile.APP_GUEST]
PORTS = {TOR.name: TOR_PORTS, I2P.name: I2P_PORTS}

#: Tails' namespaces (tails-create-netns): our end, theirs, and the ports that ferm.conf gives them.
NETWORKS = {
    "veth-tbb": ("10.200.1.1/30", "10.200.1.2", (9050, 951)),
    "veth-onioncircs": ("10.200.1.5/30", "10.200.1.6", (951,)),
    "veth-tca": ("10.200.1.9/30", "10.200.1.10", (951,)),
    "veth-onionshare": ("10.200.1.13/30", "10.200.1.14", (9050, 951)),
}


#: A program with another resolver than ours, in a mount namespace of its own.
WITH_RESOLVER = (
    "unshare", "--mount", "sh", "-ec",
    """mount -t tmpfs none /mnt
    echo nameserver 198.51.100.53 >/mnt/resolv.conf
    mount --bind /mnt/resolv.conf /etc/resolv.conf
    exec "$@" """, "sh",
)  # fmt: skip


class AppGuest(Laboratory):
    """app-guest on Tails: its two inner links, and the namespaces of Tails' own programs."""

    def __init__(self) -> None:
        super().__init__(Profile.APP_GUEST)

    def _build(self) -> None:
        super()._build()
        for number, (name, (own, peer, _)) in enumerate(NETWORKS.items()):
            mac, peer_mac = f"02:00:00:00:01:{number:02x}", f"02:00:00:00:02:{number:02x}"
            space = self._namespace(name)
            run("ip", "link", "add", "wire", "netns", space, "address", peer_mac, "type", "veth",
                "peer", "name", name, "netns", self.guest, "address", mac)  # fmt: skip
            for namespace, link in ((space, "wire"), (self.guest, name)):
                with inside(namespace):
                    Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").write_text("1")
                    Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter").write_text("0")
                run("ip", "link", "set", link, "arp", "off", "up", namespace=namespace)
            run("ip", "address", "add", own, "dev", name, namespace=self.guest)
            run("ip", "neighbour", "add", peer, "lladdr", peer_mac, "nud", "permanent", "dev", name,
                namespace=self.guest)  # fmt: skip
            address = IPv4Interface(own)
            facts = LinkConstants(name, mac, address, address.ip + 1, peer_mac, None)
            self.ends[name] = FarEnd(space, "wire", facts)
            self.ends[name].open()
        self.wait_for_queues()


@dataclass(frozen=True)
class Anywhere(View):
    """Frames that the guest put on either of its links."""

    def clear(self, lab: Laboratory) -> None:
        """Forget what is in the captures."""
        for link in PORTS:
            Wire(link).clear(lab)

    def seen(self, lab: Laboratory) -> list[bytes]:
        """Those of the one, then those of the other."""
        return [frame for link in PORTS for frame in Wire(link).seen(lab)]


@dataclass(frozen=True)
class RawPackets(Action):
    """IP packets of root with headers of its own: they pass the inet table, unlike frames."""

    packets: tuple[bytes, ...]

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """Each to the address in its header."""
        view.clear(lab)
        with (
            inside(lab.guest),
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock,
        ):
            sock.setblocking(False)
            for packet in self.packets:
                with suppress(OSError):
                    sock.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
        return view.seen(lab)


@dataclass(frozen=True)
class Exchange(Action):
    """A program calls a port of a gateway, and the gateway answers: what the program got."""

    link: str
    kind: str
    address: str
    port: int

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """An open connection, or a datagram."""
        view.clear(lab)
        end = lab.ends[self.link]
        kind = socket.SOCK_STREAM if self.kind == "tcp" else socket.SOCK_DGRAM
        with inside(lab.guest):
            sock = socket.socket(socket.AF_INET, kind)
        # Its end is one RST, and no FIN that is repeated into later tests.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with sock, suppress(OSError):
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect((self.address, self.port))
            if self.kind == "udp":
                sock.send(MARK)
            (call,) = [Ether(frame) for frame in view.seen(lab)]
            end.sender.send(raw(_answer(call)))
            lab.settle()
            return [sock.getpeername()[0].encode() if self.kind == "tcp" else sock.recv(1024)]
        return []


def _answer(call: Packet) -> Packet:
    back = Ether(src=call.dst, dst=call.src) / IP(src=call[IP].dst, dst=call[IP].src)
    if UDP in call:
        return back / UDP(sport=call[UDP].dport, dport=call[UDP].sport) / MARK
    tcp = call[TCP]
    return back / TCP(sport=tcp.dport, dport=tcp.sport, flags="SA", seq=100, ack=tcp.seq + 1)


# ---- programs in app-guest


def _calls(name: str, ref: str, kind: str, addresses: tuple[str, ...], port: int = 443,
           link: str = "tor", **more: object) -> Probe:  # fmt: skip
    return Probe(name, ref, Call(USERS, kind, addresses, port, **more), Anywhere(), (INET, link),
                 least=len(USERS) * len(addresses))  # fmt: skip


PROGRAMS = (
    _calls("programs: SYN to the internet", "P1", "tcp", (N1, ELSEWHERE, "9.9.9.9")),
    _calls("programs: SYN to the LAN and the hypervisor", "P45", "tcp", LAN, 80),
    *(
        _calls(f"programs: SYN to {link}-guest's port {port}", "P31", "tcp",
               (str(facts.peer),), port, link)
        for link, facts in (("tor", TOR), ("i2p", I2P)) for port in SHUT[link]
    ),
    _calls("programs: SYN to other addresses of the inner link", "P45", "tcp",
           ("10.1.2.2", "10.1.2.4"), 9050),
    _calls("programs: SYN from the other link's address", "P26", "tcp", (str(TOR.peer),), 9050,
           source=(str(I2P.address.ip), 0)),
    *(
        _calls(f"programs: UDP to port {port} of the internet", ref, "udp", (N1,), port)
        for port, ref in ((53, "P3"), (123, "P5"), (443, "P6"), (3478, "P6"), (4789, "P17"))
    ),
    _calls("programs: UDP to the LAN and the hypervisor", "P45", "udp", LAN, 53),
    _calls("programs: UDP to tor-guest's other ports", "P32", "udp", (str(TOR.peer),), 123),
    _calls("programs: UDP to i2p-guest", "P32", "udp", (str(I2P.peer),), 53, "i2p"),
    *(
        _calls(f"programs: {name}", "P39", "udp", GROUPS, port)
        for name, port in (("mDNS", 5353), ("LLMNR", 5355), ("SSDP", 1900), ("NetBIOS", 137),
                           ("WSD", 3702))
    ),
    _calls("programs: broadcast to the inner networks", "P39", "udp", ("10.1.2.7",), 137),
    _calls("programs: broadcast to i2p's network", "P39", "udp", ("10.1.3.7",), 137, "i2p"),
    _calls("programs: UDP to mapped names", "P7", "udp", (MAPPED,), 53),
    *(
        _calls(f"programs: {name}", ref, kind, (N1, str(TOR.peer), MAPPED))
        for name, ref, kind in (("echo", "P10", "ip 1"), ("IGMP", "P15", "ip 2"),
                                ("GRE", "P17", "ip 47"), ("SCTP", "P16", "ip 132"),
                                ("IPIP", "P17", "ip 4"), ("ESP", "P17", "ip 50"))
    ),
    _calls("programs: echo to i2p-guest", "P11", "ip 1", (str(I2P.peer),), link="i2p"),
    Probe("raw packets: another source", "P26", RawPackets(tuple(
        raw(IP(src=src, dst=str(TOR.peer)) / syn(9050)) for src in (N1, "10.0.2.15", "10.1.2.4"))),
          Anywhere(), (INET, "tor"), least=3),
    Probe("raw packets: answers to calls that never were", "P30", RawPackets(tuple(
        raw(IP(src=str(TOR.address.ip), dst=str(TOR.peer))
            / TCP(sport=4000, dport=9050, flags=each)) for each in ("A", "SA", "R"))),
          Anywhere(), (INET,), least=3),
    Probe("curl to the internet, the LAN and over IPv6", "P1", Tool("guest", (
        "curl", "--connect-timeout", "0.05", "--parallel", "--noproxy", "*", f"http://{N1}/",
        f"https://{ELSEWHERE}/", "http://10.0.2.2/", "http://[2001:db8::1]/")),
          Anywhere(), (INET, "tor"), least=3),
    Probe("ping", "P10", Tool("guest", ("ping", "-c1", "-W0.05", N1)), Anywhere(), (INET, "tor")),
    Probe("ping to everybody", "P10", Tool("guest", ("ping", "-b", "-c1", "-W0.05", "10.1.2.7")),
          Anywhere(), (INET, "tor")),
    Probe("a resolver that somebody has set", "P3", Tool("guest", (
        *WITH_RESOLVER, "timeout", "0.2", "getent", "ahostsv4", "unique.test.invalid")),
          Anywhere(), (INET, "tor")),
)  # fmt: skip


# ---- root and daemons in app-guest, with packet sockets


def _by_root(facts: LinkConstants) -> tuple[Probe, ...]:
    link, own, gateway, port = (
        facts.name,
        str(facts.address.ip),
        str(facts.peer),
        PORTS[facts.name][0],
    )

    def frames(name: str, ref: str, *packets: Packet) -> Probe:
        return Probe(f"{name}, on {link}", ref, RootFrames(link, tuple(map(raw, packets))),
                     Wire(link), (link,), least=len(packets))  # fmt: skip

    def ether(dst: str | None = facts.peer_mac, **over: object) -> Packet:
        return Ether(**{"src": facts.mac, "dst": dst, **over})

    def ip(dst: str = gateway, **over: object) -> Packet:
        return ether() / IP(**{"src": own, "dst": dst, **over})

    def arp(**over: object) -> Packet:
        fields = {"hwsrc": facts.mac, "psrc": own, "pdst": gateway, **over}
        return ether(BROADCAST_MAC) / ARP(**fields)

    call = syn(port)
    return (
        frames("DHCP DISCOVER", "P40", ether(BROADCAST_MAC) / IP(
            src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / MARK),
        frames("ARP: request, claim, probe", "P21", arp(), arp(op=2, pdst=own),
               arp(psrc="0.0.0.0")),
        frames("LLDP, EAPOL, PPPoE, MPLS, MACsec", "P41", *(
            ether("01:80:c2:00:00:0e", type=kind) / MARK
            for kind in (0x88CC, 0x888E, 0x8863, 0x8847, 0x88E5))),
        frames("IPv6: RS, NS, MLD, a call", "P18",
               ether("33:33:00:00:00:02") / IPv6(dst="ff02::2") / ICMPv6ND_RS(),
               ether("33:33:ff:00:00:01") / IPv6(dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt="fe80::1"),
               ether("33:33:00:00:00:16") / IPv6(dst="ff02::16") / ICMPv6MLReport2(),
               ether() / IPv6(dst="2001:db8::1") / call),
        frames("IGMP join", "P15", ether("01:00:5e:01:02:03") / IP(
            src=own, dst="239.1.2.3", proto=2, ttl=1) / MARK, ip(proto=2) / MARK),
        frames("STP, CDP", "P41", Dot3(src=facts.mac, dst="01:80:c2:00:00:00") / LLC() / STP(),
               Dot3(src=facts.mac, dst="01:00:0c:cc:cc:cc") / LLC(dsap=0xAA, ssap=0xAA)
               / SNAP(OUI=0xC, code=0x2000) / MARK),
        frames("VLAN tags", "P41", *(
            ether(type=kind) / Dot1Q(vlan=vlan, type=0x0800) / IP(src=own, dst=gateway) / call
            for kind in (0x8100, 0x88A8) for vlan in (0, 1, 100))),
        frames("mDNS, LLMNR, SSDP", "P39", *(
            ether(mac) / IP(src=own, dst=group) / UDP(sport=number, dport=number) / MARK
            for mac, group, number in (("01:00:5e:00:00:fb", "224.0.0.251", 5353),
                                       ("01:00:5e:00:00:fc", "224.0.0.252", 5355),
                                       ("01:00:5e:7f:ff:fa", "239.255.255.250", 1900)))),
        frames("a call to other MACs", "P42", *(
            ether(mac) / IP(src=own, dst=gateway) / call
            for mac in (BROADCAST_MAC, "01:00:5e:01:02:03", "02:00:00:00:00:99"))),
        frames("a call from another MAC", "P43", *(
            ether(src=mac) / IP(src=own, dst=gateway) / call
            for mac in ("02:00:00:00:00:98", facts.peer_mac))),
        frames("a call from another address", "P26", *(
            ip(src=src) / call for src in ("127.0.0.1", gateway, N1, "10.0.2.15", "0.0.0.0"))),
        frames("calls to the internet and the LAN", "P1", *(
            ip(dst) / layer for dst in (N1, *LAN) for layer in (syn(443), UDP(dport=53) / MARK))),
        frames("calls to the gateway's other ports", "P31", *(
            ip() / syn(number) for number in SHUT[link]), ip() / UDP(dport=123) / MARK),
        frames("ICMP, GRE, SCTP", "P11", ip() / ICMP() / MARK, ip() / GRE() / MARK,
               ip(proto=132) / MARK),
        frames("IP options", "P27", *(ip(options=[option]) / call for option in
                                      (IPOption_RR(), TIMESTAMP, IPOption_Router_Alert()))),
        frames("fragments", "P28", ip(proto=6, flags="MF", id=8) / raw(call / b"part"),
               ip(proto=6, frag=3, id=8) / (b"x" * 8)),
        *(
            frames(f"TCP flags {TCP_FLAG_NAMES[each]}", "P29", ip() / TCP(dport=port, flags=each))
            for each in ("F", "", "FPU", "SF", "SR")
        ),
    )  # fmt: skip


# ---- hostile gateways


def _from_gateway(facts: LinkConstants, other: LinkConstants) -> tuple[Probe, ...]:
    link, own, gateway, port = (
        facts.name,
        str(facts.address.ip),
        str(facts.peer),
        PORTS[facts.name][0],
    )
    both = (INET, link)

    def sent(name: str, ref: str, view: View, layers: tuple[str, ...], *packets: Packet) -> Probe:
        return Probe(f"{link}-guest: {name}", ref, Frames(link, tuple(map(raw, packets))), view,
                     layers, least=len(packets))  # fmt: skip

    def frames(name: str, ref: str, *packets: Packet, kinds: tuple[int, ...] = (0x0800,)) -> Probe:
        return sent(name, ref, Daemon(link, kinds), (link,), *packets)

    def ether(**over: object) -> Packet:
        return Ether(**{"src": facts.peer_mac, "dst": facts.mac, **over})

    def ip(src: str = gateway, **over: object) -> Packet:
        return ether() / IP(**{"src": src, "dst": own, **over})

    answer = TCP(sport=port, dport=50000, flags="SA")
    back = Wire(link)
    return (
        sent("calls, answered", "P31", back, both, *(ip() / syn(each) for each in (22, 631, 9050))),
        sent("calls from the port it serves", "P31", Delivered((6,)), both,
             *(ip() / syn(each, sport=port) for each in (22, 9050))),
        sent("a bare SYN/ACK and ACK: no RST", "P30", back, (INET,), ip() / answer,
             ip() / TCP(sport=port, dport=50001, flags="A", ack=5)),
        sent("UDP", "P32", Delivered((17,)), both, ip() / UDP(sport=4000, dport=53) / MARK,
             ip() / UDP(sport=4000, dport=631) / MARK),
        sent("echo, answered", "P11", back, (*both, "echo_ignore"), ip() / ICMP() / MARK),
        sent("ICMP timestamp, answered", "P12", back, both, ip() / ICMP(type=13)),
        sent("ICMP redirect, fragmentation needed", "P13", Delivered((1,)), both,
             ip() / ICMP(type=5, code=1, gw="10.1.2.4") / IP(src=own, dst=N1) / UDP(),
             ip() / ICMP(type=3, code=4, nexthopmtu=552) / IP(src=own, dst=gateway) / TCP()),
        sent("SCTP, GRE, IPIP", "P16", Delivered((132, 47, 4)), both,
             *(ip(proto=each) / MARK for each in (132, 47, 4))),
        sent("packets for the other gateway", "P46", Wire(other.name),
             (INET, link, other.name, "ip_forward"),
             *(ip(dst=str(other.peer)) / layer
               for layer in (syn(PORTS[other.name][0]), UDP(dport=53) / MARK, ICMP()))),
        sent("packets for the other link's address, answered", "P24", back, both,
             ip(dst=str(other.address.ip)) / syn(22)),
        sent("the other gateway's answers on this link", "P26", Delivered((6,)),
             (*both, "rp_filter"),
             ip(str(other.peer), dst=str(other.address.ip))
             / TCP(sport=PORTS[other.name][0], flags="SA")),
        frames("other MACs", "P42", *(
            ether(**over) / IP(src=gateway, dst=own) / answer
            for over in ({"src": "02:00:00:00:00:99"}, {"dst": BROADCAST_MAC},
                         {"dst": "01:00:5e:01:02:03"}, {"src": other.peer_mac}))),
        frames("other sources", "P26", *(
            ip(src) / answer
            for src in (N1, "10.0.2.2", own, "127.0.0.1", "0.0.0.0", "192.168.0.1"))),
        frames("other destinations", "P26", *(
            ip(dst=dst) / answer for dst in (N1, str(other.address.ip), "127.0.0.1", "10.1.2.7"))),
        frames("IP options", "P27", *(ip(options=[option]) / answer for option in
                                      (IPOption_RR(), TIMESTAMP, IPOption_Router_Alert()))),
        frames("fragments", "P28", ip(proto=6, flags="MF", id=9) / raw(answer / b"part"),
               ip(proto=6, frag=3, id=9) / (b"x" * 8)),
        *(
            frames(f"TCP flags {TCP_FLAG_NAMES[each]}", "P29",
                   ip() / TCP(sport=port, dport=50002, flags=each))
            for each in ("F", "", "FPU", "SF", "SR")
        ),
        frames("closed ports of its own", "P31", *(
            ip() / TCP(sport=each, dport=50003, flags="SA") for each in SHUT[link])),
        frames("VLAN tags", "P41", *(
            ether(type=kind) / Dot1Q(vlan=1, type=0x0800) / IP(src=gateway, dst=own) / answer
            for kind in (0x8100, 0x88A8))),
        frames("ARP", "P21", *(
            ether(dst=dst) / ARP(op=op, hwsrc=facts.peer_mac, psrc=gateway, pdst=own)
            for dst, op in ((BROADCAST_MAC, 1), (facts.mac, 2))), kinds=(0x0806,)),
        frames("IPv6 RA, echo", "P18",
               ether(dst="33:33:00:00:00:01") / IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_RA(),
               ether() / IPv6(src="fe80::1", dst="fe80::2") / UDP(), kinds=(0x86DD,)),
        frames("LLDP, EAPOL", "P41", ether(type=0x88CC) / MARK, ether(type=0x888E) / MARK,
               kinds=(0x88CC, 0x888E)),
        frames("STP", "P41", Dot3(src=facts.peer_mac, dst="01:80:c2:00:00:00") / LLC() / STP(),
               kinds=(ETH_P_802_2,)),
        frames("DHCP OFFER", "P40", ether() / IP(src=gateway, dst="255.255.255.255")
               / UDP(sport=67, dport=68) / MARK, ether(dst=BROADCAST_MAC) / IP(
                   src=gateway, dst="255.255.255.255") / UDP(sport=67, dport=68) / MARK),
    )  # fmt: skip


def _tor_frame(src: str) -> Packet:
    return Ether(src=TOR.peer_mac, dst=TOR.mac) / IP(src=src, dst=str(TOR.address.ip))


FROM_TOR = (
    Probe("tor-guest: DNS answers to no question", "P38", Frames("tor", tuple(
        raw(_tor_frame(str(TOR.peer)) / UDP(sport=port, dport=4000) / MARK) for port in DNS_PORTS)),
          Delivered((17,)), (INET,), least=2),
    Probe("tor-guest: a mapped name calls", "P31", Frames("tor", (
        raw(_tor_frame(MAPPED) / syn(22)),)), Delivered((6,)), (INET, "tor")),
    Probe("tor-guest: answers of mapped names to no call: no RST", "P30", Frames("tor", (
        raw(_tor_frame(MAPPED) / TCP(sport=80, dport=50005, flags="SA")),)), Wire("tor"), (INET,)),
    Probe("tor-guest: UDP of mapped names", "P32", Frames("tor", (
        raw(_tor_frame(MAPPED) / UDP(sport=53, dport=4000) / MARK),)),
          Delivered((17,)), (INET, "tor")),
)  # fmt: skip


# ---- Tails' network namespaces


def _network(name: str, dst: str | None = None, **over: object) -> Packet:
    own, peer, _ = NETWORKS[name]
    number = list(NETWORKS).index(name)
    ether = Ether(src=f"02:00:00:00:02:{number:02x}", dst=f"02:00:00:00:01:{number:02x}")
    return ether / IP(**{"src": peer, "dst": dst or own.partition("/")[0], **over})


def _from_network(name: str) -> tuple[Probe, ...]:
    _, peer, ports = NETWORKS[name]
    other = next(each for each in NETWORKS if each != name)
    others_own, others_peer, _ = NETWORKS[other]

    def sent(what: str, view: View, layers: tuple[str, ...], *packets: Packet) -> Probe:
        return Probe(f"{name}: {what}", "P31", Frames(name, tuple(map(raw, packets))), view, layers,
                     least=len(packets))  # fmt: skip

    return (
        sent("calls to other ports, answered", Wire(name), (INET,),
             *(_network(name) / syn(port)
               for port in (22, 9050, 9062, 9150, 4444) if port not in ports)),
        sent("UDP", Delivered((17,)), (INET,), _network(name) / UDP(dport=53) / MARK),
        sent("calls to another network's address", Wire(name), (INET,),
             _network(name, others_own.partition("/")[0]) / syn(951)),
        sent("forwarded to another network", Wire(other), (INET, "ip_forward"),
             _network(name, others_peer) / syn(80)),
        sent("forwarded to tor-guest and the internet", Wire("tor"), (INET, "tor", "ip_forward"),
             _network(name, str(TOR.peer)) / syn(9050), _network(name, N1) / syn(443)),
        sent("another network's source", Delivered((6,)), (INET, "rp_filter"),
             _network(name, src=others_peer) / syn(951)),
        Probe(f"programs: calls into {name}", "P53", Call((0, 1000), "tcp", (peer,), 80),
              Wire(name), (INET,), least=2),
    )  # fmt: skip


PROBES = (
    *PROGRAMS,
    *_by_root(TOR),
    *_by_root(I2P),
    *_from_gateway(TOR, I2P),
    *_from_gateway(I2P, TOR),
    *FROM_TOR,
    *(probe for name in NETWORKS for probe in _from_network(name)),
)

FLOWS = (
    *(
        Flow(f"a program calls {link}-guest's port {port}",
             Exchange(link, "tcp", str(facts.peer), port), Wire(link))
        for link, facts in (("tor", TOR), ("i2p", I2P)) for port in PORTS[link]
    ),
    *(Flow(f"a program asks DNSPort {port}", Exchange("tor", "udp", str(TOR.peer), port),
           Wire("tor")) for port in DNS_PORTS),
    Flow("a program calls a mapped name", Exchange("tor", "tcp", MAPPED, 80), Wire("tor")),
    *(
        Flow(f"{name} calls port {port}",
             Frames(name, (raw(_network(name) / syn(port, sport=45000)),)), Wire(name))
        for name, (_, _, ports) in NETWORKS.items() for port in ports
    ),
    Flow("programs talk over lo", Call((0, 1000), "tcp", ("127.0.0.1",), 9050), Delivered((6,))),
)  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    """app-guest, with programs that wait on its local Tor ports."""
    made = AppGuest()
    made.listen(22, 631, 951, 9050)
    yield made
    made.close()


@pytest.fixture(scope="module")
def results(lab: Laboratory, report: Report) -> dict[str, Result]:
    """All probes, verified."""
    found = verify(lab, PROBES)
    report.add(lab, found.values())
    return found


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.id)
def test_probe_is_stopped_by_each_of_its_layers(probe: Probe, results: dict[str, Result]) -> None:
    results[probe.id].check()


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_what_must_work_works(flow: Flow, lab: Laboratory) -> None:
    passes(lab, flow)


# ---- refused at once


def test_programs_are_not_offline(lab: Laboratory) -> None:
    """What looks for a default route finds one, through tor-guest."""
    route = run("ip", "route", "get", N1, namespace=lab.guest)
    assert route.startswith(f"{N1} via 10.1.2.1 dev tor src 10.1.2.3 ")
    assert run("ip", "route", "show", "default", namespace=lab.guest) == (
        "default via 10.1.2.1 dev tor \n"
    )


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("address", [N1, "192.168.0.1", "10.0.2.2", "10.1.2.1", "10.1.3.1"])
def test_a_call_is_refused_at_once(lab: Laboratory, address: str, uid: int) -> None:
    """ICMP "administratively prohibited" (RFC 1812) reaches the caller as EHOSTUNREACH."""
    lab.without()
    lab.captures()
    began = time.monotonic()
    with inside(lab.guest), acting_as(uid):
        with socket.socket() as caller:
            caller.settimeout(10 * patience())
            assert caller.connect_ex((address, 22)) == errno.EHOSTUNREACH
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            pytest.raises(PermissionError),
        ):
            sender.sendto(MARK, (address, 999))
    assert time.monotonic() - began < _AT_ONCE
    assert lab.captures()["tor"] == lab.captures()["i2p"] == []


@pytest.mark.parametrize(("argv", "says"), [
    (("curl", "--silent", "--show-error", "--noproxy", "*", f"http://{N1}/"), "onnect"),
    (("ping", "-c1", "-W9", N1), "Packet filtered"),
    ((*WITH_RESOLVER, "getent", "ahostsv4", "unique.test.invalid"), ""),
], ids=["curl", "ping", "getent"])  # fmt: skip
def test_a_program_ends_at_once(lab: Laboratory, argv: tuple[str, ...], says: str) -> None:
    """With its own time limits, which are many seconds."""
    lab.without()
    lab.captures()
    began = time.monotonic()
    with inside(lab.guest):
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=12 * patience()
        )
    assert time.monotonic() - began < _AT_ONCE
    assert done.returncode
    assert says in done.stdout + done.stderr
    assert lab.captures()["tor"] == []


def test_without_the_rule_set_a_call_waits(lab: Laboratory) -> None:
    """The anti-test: nobody refuses, and the caller hears nothing."""
    lab.without({INET})
    with inside(lab.guest), socket.socket() as caller:
        caller.setblocking(False)
        assert caller.connect_ex((N1, 22)) == errno.EINPROGRESS
        lab.settle()
        assert caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        with pytest.raises(OSError, match="not connected"):
            caller.getpeername()
    lab.without()


#: Seconds in which a program must know.
_AT_ONCE = patience() / 5


# ---- what the kernel says by itself when a link rises


class Rise(Laboratory):
    """app-guest whose links come up without some of the steps, for anti-tests."""

    def __init__(self, *, tables: bool, no_ipv6: bool) -> None:
        self._tables, self._no_ipv6 = tables, no_ipv6
        super().__init__(Profile.APP_GUEST)

    def _rise(self) -> None:
        self.nft(self.texts[INET])
        for step in steps(self.plan):
            ipv6 = isinstance(step, Sysctl) and "disable_ipv6" in step.path
            table = isinstance(step, LoadTable | RequireTables)
            if (self._tables or not table) and (self._no_ipv6 or not ipv6):
                self.carry_out(step)


@pytest.mark.parametrize("tables", [True, False], ids=["tables", "no tables"])
@pytest.mark.parametrize("no_ipv6", [True, False], ids=["IPv6 off", "IPv6 on"])
def test_the_kernel_says_nothing_when_a_link_rises(*, tables: bool, no_ipv6: bool) -> None:
    """MLD, duplicate address detection, router solicitations. The inet table lets none of it out,
    and neither do the other two; without all three it is seen."""
    lab = Rise(tables=tables, no_ipv6=no_ipv6)
    try:
        if no_ipv6:
            assert "inet6" not in run(
                "ip", "-6", "address", "show", "dev", "tor", namespace=lab.guest
            )
        else:
            # It has spoken: each report has met the inet table or, past it, the link's.
            wait_until(lambda: _refused(lab) > 0, "the kernel speaks")
        assert lab.captures() == {"tor": [], "i2p": []}
        if not (tables or no_ipv6):
            lab.without({INET})
            for change in ("down", "up"):
                run("ip", "link", "set", "tor", change, namespace=lab.guest)
            wait_until(lambda: bool(lab.captures()["tor"]), "multicast listener reports")
    finally:
        lab.close()


def _refused(lab: Laboratory) -> int:
    return sum(count for (_, chain, comment), _, count in lab.rules()
               if (chain, comment) == ("output", "out"))  # fmt: skip


# ---- rules and seeded mistakes


def test_a_packet_without_a_call_is_refused_even_where_conntrack_would_take_it(
    lab: Laboratory,
) -> None:
    lab.without()
    lab.sysctl("net/netfilter/nf_conntrack_tcp_loose", "1")
    try:
        probe = next(each for each in PROBES if "calls that never were" in each.name)
        assert probe.action.perform(lab, probe.view) == []
        assert ("inet tails_profiles", "output", "new TCP without SYN") in lab.tally()
    finally:
        lab.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")


def test_every_rule_is_hit(lab: Laboratory, results: dict[str, Result]) -> None:
    """Accept rules by what passed, the others by what was stopped; needs the tests above."""
    assert results
    for flow in FLOWS:
        passes(lab, flow)
    assert untested(lab) == set()


def _drops(table: str, chain: str, *caught: tuple[str, str]) -> Iterator[Mutant]:
    for comment, probe in caught:
        yield Mutant(f"{table} {chain}: {comment!r} only counts", table,
                     f'counter drop comment "{comment}"', f'counter comment "{comment}"', probe,
                     after=f"chain {chain} ")  # fmt: skip


_OUT = "P1 programs: SYN to the internet"
_SOCKS = 'oifname "tor" ip saddr 10.1.2.3 ip daddr 10.1.2.1 ct direction original'
_MAPPED = "ip daddr 10.64.0.0/10 ct direction original"
_REPLY = "ct direction reply ct state established "
MUTANTS = (
    Mutant("output lets the rest pass", INET,
           'counter reject with icmpx type admin-prohibited comment "out"', "accept", _OUT),
    Mutant("input lets the rest pass", INET, 'counter drop comment "in"', "accept",
           "P31 veth-tbb: UDP"),
    Mutant("forward lets the rest pass", INET, 'counter drop comment "forward"', "accept",
           "P31 veth-tbb: forwarded to another network"),
    Mutant("output accepts established", INET, "hook output priority filter; policy drop;",
           "hook output priority filter; policy drop; ct state established,related,new accept",
           _OUT),
    Mutant("any link is lo, out", INET, 'oif "lo" counter', "counter", _OUT),
    Mutant("any link is lo, in", INET, 'iif "lo" counter', "counter", "P31 veth-tbb: UDP"),
    Mutant("any port of tor-guest", INET, "tcp dport { 9050, 9062, 9063, 9150, 951 } counter",
           "meta l4proto tcp counter", "P31 programs: SYN to tor-guest's port 22"),
    Mutant("any address on tor's link", INET, _SOCKS, 'oifname "tor" ct direction original',
           "P45 programs: SYN to other addresses of the inner link"),
    Mutant("any source to tor-guest", INET, "ip saddr 10.1.2.3 ip daddr 10.1.2.1",
           "ip daddr 10.1.2.1", "P26 programs: SYN from the other link's address",
           after="chain output"),
    Mutant("any UDP port of tor-guest", INET, "udp dport { 53, 5353 } counter",
           "meta l4proto udp counter", "P32 programs: UDP to tor-guest's other ports"),
    Mutant("all of 10/8 is mapped", INET, _MAPPED, "ip daddr 10.0.0.0/8 ct direction original",
           "P45 programs: SYN to the LAN and the hypervisor"),
    Mutant("the internet is mapped", INET, _MAPPED, "ct direction original", _OUT),
    Mutant("UDP to mapped names", INET, 'meta l4proto tcp counter accept comment "mapped names"',
           "counter accept", "P7 programs: UDP to mapped names"),
    Mutant("any port of i2p-guest", INET, "tcp dport { 4444, 4447, 4448 } counter",
           "meta l4proto tcp counter", "P31 programs: SYN to i2p-guest's port 7656"),
    Mutant("tor-guest calls", INET, _REPLY + "meta l4proto tcp", "meta l4proto tcp",
           "P31 tor-guest: calls from the port it serves"),
    Mutant("tor-guest sends datagrams", INET, _REPLY + "udp sport", "udp sport",
           "P38 tor-guest: DNS answers to no question"),
    Mutant("i2p-guest calls", INET, _REPLY + "tcp sport { 4444", "tcp sport { 4444",
           "P31 i2p-guest: calls from the port it serves"),
    Mutant("any source in a network", INET, "ip saddr 10.200.1.6 ip daddr", "ip daddr",
           "P31 veth-onioncircs: another network's source"),
    Mutant("calls into a network", INET, _REPLY + "tcp sport 951", "meta l4proto tcp",
           "P53 programs: calls into veth-onioncircs", after="chain output"),
    *_drops("tor", "ingress",
            ("source MAC", "P42 tor-guest: other MACs"),
            ("destination MAC", "P42 tor-guest: other MACs"),
            ("IP options", "P27 tor-guest: IP options"),
            ("fragment", "P28 tor-guest: fragments"),
            ("destination address", "P26 tor-guest: other destinations"),
            ("call from the gateway", "P31 tor-guest: calls from the port it serves")),
    *_drops("i2p", "egress",
            ("source MAC", "P43 a call from another MAC, on i2p"),
            ("destination MAC", "P42 a call to other MACs, on i2p"),
            ("IP options", "P27 IP options, on i2p"),
            ("source address", "P26 a call from another address, on i2p"),
            ("fragment", "P28 fragments, on i2p"),
            ("SYN and FIN", "P29 TCP flags SYN FIN, on i2p"),
            ("SYN and RST", "P29 TCP flags SYN RST, on i2p"),
            ("no TCP flag", "P29 TCP flags none, on i2p"),
            ("FIN alone", "P29 TCP flags FIN, on i2p")),
    Mutant("tor ingress: any source", "tor", "ip saddr 10.1.2.1 tcp sport", "tcp sport",
           "P26 tor-guest: other sources"),
    Mutant("tor egress: any port", "tor", "tcp dport { 9050, 9062, 9063, 9150, 951 }",
           "meta l4proto tcp", "P31 calls to the gateway's other ports, on tor",
           after="chain egress"),
    Mutant("tor egress: the rest passes", "tor", 'counter drop comment "out"', "accept",
           "P1 calls to the internet and the LAN, on tor"),
    Mutant("tor egress: the rest passes, ICMP", "tor", 'counter drop comment "out"', "accept",
           "P11 ICMP, GRE, SCTP, on tor"),
    Mutant("i2p ingress: the rest passes", "i2p", 'counter drop comment "in"', "accept",
           "P31 i2p-guest: closed ports of its own"),
)  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_seeded_mistake_is_noticed(mutant: Mutant, lab: Laboratory, report: Report) -> None:
    report.mutants += 1
    assert not survival(lab, mutant, PROBES)
