# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes from the network of a gateway's uplink, and what the gateway itself must not send.

The second half is about users of the gateway, root with packet sockets, daemons, and what the
kernel says by itself.
"""

import functools
import socket
from contextlib import suppress
from dataclasses import dataclass

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
    IPOption_Router_Alert,
    IPOption_RR,
    IPv6,
    Packet,
    raw,
)

from tails_profiles import constants as c
from tests.leaks.attacks import (
    ANSWERED,
    BACK,
    ELSEWHERE,
    ETHERTYPES,
    FORWARDED,
    GROUPS,
    INGRESS,
    LEFT,
    MARK,
    N1,
    PRIVATE,
    TCP_FLAG_NAMES,
    TIMESTAMP,
    Gateway,
    ethertypes,
    ipv6,
    syn,
    uplink,
)
from tests.leaks.laboratory import (
    BROADCAST_MAC,
    INET,
    LAN_MAC,
    LAN_MACHINE,
    ROUTER_MAC,
    Laboratory,
    acting_as,
    drain,
    inside,
)
from tests.leaks.probes import (
    Action,
    Call,
    Daemon,
    Delivered,
    Entered,
    Frames,
    Probe,
    RootFrames,
    View,
)

#: Layers that both stop what comes from outside, or what would be said in answer.
NETWORK = (INET, "uplink")


def _from_router(gw: Gateway, *packets: Packet) -> Action:
    return uplink(*(gw.outside() / packet for packet in packets))


@functools.cache
def from_network(gw: Gateway, *, dhcp: bool = False) -> tuple[Probe, ...]:
    """P54: a scan by packets of the router, of the internet, and of another machine of the LAN.

    ``dhcp``: the uplink's address is from a lease, so that answers of DHCP are let in.
    """
    own = str(c.UPLINK.ip)
    lan = Ether(src=LAN_MAC, dst=gw.uplink.mac) / IP(src=str(LAN_MACHINE.ip), dst=own)

    def answered(name: str, *frames: Packet, more: tuple[str, ...] = ()) -> Probe:
        return Probe(name, "P54", uplink(*frames), LEFT, (*NETWORK, *more), least=len(frames))

    def frames(name: str, ethertypes: tuple[int, ...], *packets: Packet) -> Probe:
        return Probe(
            name,
            "P54",
            uplink(*packets),
            Daemon("uplink", ethertypes),
            ("uplink",),
            least=len(packets),
        )

    everybody = {"src": LAN_MAC, "dst": BROADCAST_MAC}
    ports = (22, 23, 53, *gw.tcp_ports, 9051)
    return (
        answered("SYN from the internet", *(gw.outside() / syn(port) for port in ports)),
        answered("SYN from the LAN", *(lan / syn(port) for port in ports)),
        answered("UDP from the internet and the LAN", gw.outside() / UDP(dport=999) / MARK,
                 lan / UDP(dport=999) / MARK),
        answered("echo from the internet and the LAN", gw.outside() / ICMP() / MARK,
                 lan / ICMP() / MARK, more=("echo_ignore",)),
        answered("ICMP timestamp from the LAN", lan / ICMP(type=13)),
        answered("SYN to the inner address, from outside",
                 *(gw.outside(dst=gw.own) / syn(port) for port in ports)),
        answered("SYN to 127.0.0.1, from outside",
                 gw.outside(dst="127.0.0.1") / syn(22), more=("route_localnet",)),
        Probe("ICMP fragmentation needed, redirect, from outside", "P14", uplink(
            gw.outside() / ICMP(type=3, code=4, nexthopmtu=552) / IP(src=own, dst=N1) / TCP(),
            gw.outside() / ICMP(type=5, code=1, gw="10.0.2.77") / IP(src=own, dst=N1) / TCP()),
              Delivered((1,)), NETWORK, least=2),
        Probe("packets for app-guest, from outside", "P54", uplink(
            gw.outside(dst=gw.client) / syn(80),
            gw.outside(dst=gw.client) / UDP(sport=999, dport=53) / MARK,
            gw.outside(dst=gw.client) / ICMP()), BACK, (*FORWARDED,), least=3),
        Probe("app-guest's address, from outside", "P26", uplink(
            gw.outside(src=gw.client, dst=gw.own) / syn(gw.tcp_ports[0])), Delivered((6,)),
              (*NETWORK, "rp_filter")),
        Probe("an open connection of app-guest, from outside", "P26", Intruder(gw),
              Delivered((6,)), (*NETWORK, "rp_filter")),
        Probe("unexpected SYN/ACK, ACK, FIN/ACK: the kernel's RST", "P30", _from_router(
            gw, *(TCP(sport=443, dport=50000, flags=flags) for flags in ("SA", "A", "FA"))),
              LEFT, (INET,), least=3),
        Probe("ARP of the LAN machine", "P54", uplink(Ether(**everybody) / ARP(
            hwsrc=LAN_MAC, psrc=str(LAN_MACHINE.ip), pdst=own)), LEFT, ("uplink",)),
        Probe("the router's ARP for the inner address", "P54", uplink(
            Ether(src=ROUTER_MAC, dst=BROADCAST_MAC)
            / ARP(hwsrc=ROUTER_MAC, psrc=str(c.UPLINK_ROUTER), pdst=gw.own)),
              LEFT, ("uplink", "arp_ignore")),
        frames("odd ARP", (0x0806,),
               *(Ether(src=ROUTER_MAC, dst=dst) / ARP(**{
                   "hwsrc": ROUTER_MAC, "psrc": str(c.UPLINK_ROUTER), "pdst": own, **over})
                 for dst, over in (("02:00:00:00:00:99", {}), ("01:00:5e:00:00:01", {}),
                                   (BROADCAST_MAC, {"op": 3}), (BROADCAST_MAC, {"hwtype": 6}),
                                   (BROADCAST_MAC, {"psrc": own}), (BROADCAST_MAC, {"pdst": N1}),
                                   (BROADCAST_MAC, {"psrc": "0.0.0.0"})))),
        frames("mDNS, LLMNR, NetBIOS, SSDP of the LAN", (0x0800,),
               *(Ether(src=LAN_MAC, dst=mac) / IP(src=str(LAN_MACHINE.ip), dst=group)
                 / UDP(sport=port, dport=port) / MARK for mac, group, port in
                 (("01:00:5e:00:00:fb", "224.0.0.251", 5353),
                  ("01:00:5e:00:00:fc", "224.0.0.252", 5355),
                  (BROADCAST_MAC, "10.0.2.255", 137), (BROADCAST_MAC, "255.255.255.255", 1900)))),
        frames("IPv6 RA, NS, echo of the LAN", (0x86DD,), *(
            Ether(src=LAN_MAC, dst=packet.dst) / packet.payload for packet in ipv6(gw))),
        frames("802.1Q and 802.1ad tags on the uplink", (0x0800,), *(
            Ether(src=ROUTER_MAC, dst=gw.uplink.mac, type=kind) / Dot1Q(vlan=vlan, type=0x0800)
            / IP(src=N1, dst=own) / TCP(sport=443, flags="A")
            for kind in (0x8100, 0x88A8) for vlan in (0, 1, 100))),
        frames("LLDP, EAPOL, PPPoE and others on the uplink", ETHERTYPES, *(
            Ether(src=LAN_MAC, dst=gw.uplink.mac, type=ethertype) / MARK
            for ethertype in ETHERTYPES)),
        frames("IP options from the internet", (0x0800,), *(
            gw.outside(options=[option]) / TCP(sport=443, dport=50001, flags="A")
            for option in (IPOption_RR(), TIMESTAMP, IPOption_Router_Alert()))),
        frames("fragments from the internet", (0x0800,),
               gw.outside(proto=6, flags="MF", id=9) / (b"x" * 8),
               gw.outside(proto=6, frag=1, id=9) / (b"x" * 8)),
        *(
            frames(f"TCP flags {TCP_FLAG_NAMES[flags]} from the internet", (0x0800,),
                   gw.outside() / TCP(sport=443, dport=50002, flags=flags))
            for flags in ("F", "", "FPU", "SF", "SR")
        ),
        frames("TCP to other destination MACs", (0x0800,), *(
            Ether(src=ROUTER_MAC, dst=mac) / IP(src=N1, dst=own)
            / TCP(sport=443, dport=50005, flags="A")
            for mac in (BROADCAST_MAC, "01:00:5e:01:02:03", gw.inner.mac))),
        frames("packets for other addresses", (0x0800,), *(
            gw.outside(dst=dst) / TCP(sport=443, dport=50003, flags="A")
            for dst in ("10.0.2.16", "10.0.2.255", gw.own, gw.client, "127.0.0.1", N1))),
        frames("packets of private sources", (0x0800,), *(
            gw.outside(src=src) / TCP(sport=443, dport=50004, flags="A")
            for src in (*PRIVATE, "10.0.2.2", "127.0.0.1", own, gw.client, "0.0.0.0"))),
        frames("SCTP, ICMP, GRE, IGMP of the internet", (0x0800,), *(
            gw.outside(proto=proto) / MARK for proto in (1, 2, 4, 41, 47, 50, 132))),
        *(() if dhcp else (frames("answers of DHCP nobody asked for", (0x0800,), *(
            Ether(src=ROUTER_MAC, dst=dst) / IP(src="10.0.2.2", dst=to)
            / UDP(sport=67, dport=68) / MARK
            for dst, to in ((gw.uplink.mac, own), (BROADCAST_MAC, "255.255.255.255")))),)),
    )  # fmt: skip


# ---- from the gateway itself


@functools.cache
def every_ethertype(gw: Gateway) -> Probe:
    """P54 as a sweep."""
    mac = bytes.fromhex(gw.uplink.mac.replace(":", ""))
    return Probe("every ethertype, on the uplink", "P54", Frames("uplink", [
        mac + frame[6:] for frame in ethertypes(gw)]), Entered("uplink"), ("uplink",),
                 least=65536 - 1537)  # fmt: skip


@functools.cache
def by_root(gw: Gateway, *, udp: bool = False, dhcp: bool = False) -> tuple[Probe, ...]:
    """What root in the gateway puts on its links with a packet socket; so do daemons.

    ``udp``: the variant lets UDP out. ``dhcp``: it lets a request of DHCP out.
    """
    return (*_root_on_uplink(gw, udp=udp, dhcp=dhcp), *_root_on_inner(gw))


def _root_on_uplink(gw: Gateway, *, udp: bool, dhcp: bool) -> tuple[Probe, ...]:
    own, mac = str(c.UPLINK.ip), gw.uplink.mac
    router = str(c.UPLINK_ROUTER)

    def frames(name: str, *packets: Packet) -> Probe:
        sent = RootFrames("uplink", tuple(raw(packet) for packet in packets))
        return Probe(f"root's frames: {name}", "P53", sent, LEFT, ("uplink",), least=len(packets))

    def ether(**over: object) -> Packet:
        return Ether(**{"src": mac, "dst": ROUTER_MAC, **over})

    def ip(**over: object) -> Packet:
        return ether() / IP(**{"src": own, "dst": N1, **over})

    def arp(**over: object) -> Packet:
        fields = {"op": 1, "hwsrc": mac, "psrc": own, "pdst": router, **over}
        return ether(dst=BROADCAST_MAC) / ARP(**fields)

    request = ether(dst=BROADCAST_MAC) / IP(src="0.0.0.0", dst="255.255.255.255")
    ack = TCP(dport=443, flags="A")
    return (
        *(() if dhcp else (frames("DHCP DISCOVER", request / UDP(sport=68, dport=67) / MARK),)),
        frames("almost a DHCP DISCOVER", request / UDP(sport=68, dport=53) / MARK,
               ether() / IP(src="0.0.0.0", dst="10.0.2.2") / UDP(sport=68, dport=67) / MARK,
               ether(dst=BROADCAST_MAC) / IP(src=own, dst="255.255.255.255")
               / UDP(sport=68, dport=67) / MARK),
        frames("LLDP, EAPOL, PPPoE and others",
               *(ether(type=ethertype) / MARK for ethertype in ETHERTYPES)),
        frames("STP, CDP", Dot3(src=mac, dst="01:80:c2:00:00:00") / LLC() / STP(),
               Dot3(src=mac, dst="01:00:0c:cc:cc:cc") / LLC(dsap=0xAA, ssap=0xAA)
               / SNAP(OUI=0xC, code=0x2000) / MARK),
        frames("IPv6 RS, NS, MLD", *(
            ether(dst=packet.dst) / packet.payload for packet in ipv6(gw))),
        frames("mDNS, SSDP, IGMP to their groups",
               ether(dst="01:00:5e:00:00:fb") / IP(src=own, dst="224.0.0.251") / UDP(dport=5353),
               ether(dst="01:00:5e:7f:ff:fa") / IP(src=own, dst="239.255.255.250")
               / UDP(dport=1900), ether(dst="01:00:5e:00:00:16") / IP(
                   src=own, dst="224.0.0.22", proto=2) / MARK),
        frames("TCP to a group MAC", ether(dst=BROADCAST_MAC) / IP(src=own, dst=N1) / ack,
               ether(dst="01:00:5e:01:02:03") / IP(src=own, dst=N1) / ack),
        frames("802.1Q and 802.1ad tags",
               *(ether(type=kind) / Dot1Q(vlan=1, type=0x0800) / IP(src=own, dst=N1) / ack
                 for kind in (0x8100, 0x88A8))),
        frames("another source MAC", ether(src=gw.inner.mac) / IP(src=own, dst=N1) / ack),
        frames("sources of inner links, and others", *(
            ip(src=src) / ack for src in (gw.own, gw.client, gw.sibling, "10.0.2.16", ELSEWHERE,
                                          "127.0.0.1", "0.0.0.0"))),
        frames("to private ranges", *(ip(dst=dst) / ack for dst in (*PRIVATE, router, "10.0.2.3"))),
        frames("IP options", *(ip(options=[option]) / ack for option in
                               (IPOption_RR(), TIMESTAMP, IPOption_Router_Alert()))),
        frames("fragments", ip(proto=6, flags="MF", id=8) / (b"x" * 24),
               ip(proto=6, frag=3, id=8) / (b"x" * 8)),
        *(
            frames(f"TCP flags {TCP_FLAG_NAMES[flags]}", ip() / TCP(dport=443, flags=flags))
            for flags in ("F", "", "FPU", "SF", "SR")
        ),
        frames("ICMP, SCTP, GRE", ip() / ICMP() / MARK, ip(proto=132) / MARK, ip() / GRE() / MARK),
        *(() if udp else (frames("UDP", ip() / UDP(dport=53) / MARK, ip() / UDP(dport=443)),)),
        frames("ARP for others, claims, probes", arp(pdst="10.0.2.77"), arp(pdst=own),
               arp(op=2, pdst=own), arp(psrc="0.0.0.0"), arp(psrc=gw.own), arp(psrc=router),
               arp(hwsrc=gw.inner.mac), arp(op=3), arp(hwtype=6)),
    )  # fmt: skip


def _root_on_inner(gw: Gateway) -> tuple[Probe, ...]:
    port = gw.tcp_ports[0]

    def frames(name: str, *packets: Packet) -> Probe:
        sent = RootFrames("inner", tuple(raw(packet) for packet in packets))
        return Probe(
            f"root's frames inwards: {name}", "P53", sent, BACK, INGRESS, least=len(packets)
        )

    def ether(**over: object) -> Packet:
        return Ether(**{"src": gw.inner.mac, "dst": gw.inner.peer_mac, **over})

    def ip(**over: object) -> Packet:
        return ether() / IP(**{"src": gw.own, "dst": gw.client, **over})

    answer = TCP(sport=port, dport=50000, flags="SA")
    return (
        frames("a call", ip() / TCP(sport=port, dport=80, flags="S")),
        frames("answers of closed ports", ip() / TCP(sport=22, dport=50000, flags="SA"),
               ip() / UDP(sport=123, dport=50000) / MARK, ip() / ICMP(type=0)),
        frames("answers of other addresses", ip(src=str(c.UPLINK.ip)) / answer,
               ip(src=gw.sibling) / answer, ip(src="127.0.0.1") / answer),
        frames("to another address", ip(dst="10.1.2.4") / answer, ip(dst=N1) / answer),
        frames("other MACs", ether(dst=BROADCAST_MAC) / IP(src=gw.own, dst=gw.client) / answer,
               ether(src=gw.uplink.mac) / IP(src=gw.own, dst=gw.client) / answer),
        frames("ARP, LLDP, IPv6", ether() / ARP(hwsrc=gw.inner.mac, psrc=gw.own, pdst=gw.client),
               ether(type=0x88CC) / MARK, ether() / IPv6(dst="fe80::1") / answer),
        frames("802.1Q and 802.1ad tags",
               *(ether(type=kind) / Dot1Q(vlan=1, type=0x0800) / IP(src=gw.own, dst=gw.client)
                 / answer for kind in (0x8100, 0x88A8))),
        frames("IP options", ip(options=[IPOption_RR()]) / answer),
        frames("fragments", ip(proto=6, flags="MF", id=8) / (b"x" * 24)),
        *(
            frames(f"TCP flags {TCP_FLAG_NAMES[flags]}",
                   ip() / TCP(sport=port, dport=50000, flags=flags))
            for flags in ("F", "", "FPU", "SF", "SR")
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Intruder(Action):
    """A packet on the uplink that claims to belong to a connection of the inner link."""

    gateway: Gateway

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """Open a new connection from the inner link, then send the packet: what came of it."""
        gw, port = self.gateway, lab.fresh_port()
        near = lab.ends["inner"]
        drain(near.capture)
        near.sender.send(raw(gw.ip(gw.own) / syn(gw.tcp_ports[0], sport=port)))
        lab.settle()
        answers = [frame for frame in map(Ether, near.captured()) if TCP in frame]
        # Conntrack believes only who knows the other's sequence number.
        fields = {"seq": 8, "ack": answers[0][TCP].seq + 1 if answers else 0}
        stray = gw.outside(src=gw.client, dst=gw.own) / TCP(
            sport=port, dport=gw.tcp_ports[0], flags="A", **fields
        )
        view.clear(lab)
        lab.ends["uplink"].sender.send(raw(stray))
        return view.seen(lab)


@dataclass(frozen=True)
class Exchange(Action):
    """The gateway's own program calls an address, and somebody there answers once.

    Seen is what the program got: an open connection, or a datagram.
    """

    uid: int
    kind: str
    address: str
    port: int

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """Call, answer by hand, look into the socket; ``view`` sees the call."""
        view.clear(lab)
        sock, _ = self.answered(lab)
        with sock, suppress(OSError):
            return [sock.getpeername()[0].encode() if self.kind == "tcp" else sock.recv(1024)]
        return []

    def answered(self, lab: Laboratory) -> tuple[socket.socket, Packet]:
        """The program's socket, and the frame that has answered its call."""
        end = lab.ends["uplink"]
        drain(end.capture)
        kind = socket.SOCK_STREAM if self.kind == "tcp" else socket.SOCK_DGRAM
        with inside(lab.guest), acting_as(self.uid):
            sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect((self.address, self.port))
        if self.kind == "udp":
            sock.send(MARK)
        lab.settle()
        calls = [Ether(frame) for frame in end.captured()]
        assert len(calls) == 1, f"{self}: {len(calls)} frames left"
        answer = answer_to(calls[0])
        end.sender.send(raw(answer))
        lab.settle()
        return sock, answer


def answer_to(call: Packet) -> Packet:
    """What a server says: SYN/ACK, or a datagram."""
    ether = Ether(src=call.dst, dst=call.src)
    ip = IP(src=call[IP].dst, dst=call[IP].src)
    if TCP in call:
        tcp = call[TCP]
        return ether / ip / TCP(sport=tcp.dport, dport=tcp.sport, flags="SA", seq=100,
                                ack=tcp.seq + 1)  # fmt: skip
    return ether / ip / UDP(sport=call[UDP].dport, dport=call[UDP].sport) / MARK


@dataclass(frozen=True)
class Resolve(Exchange):
    """The same with a router whose MAC was forgotten: ARP finds it first."""

    def answered(self, lab: Laboratory) -> tuple[socket.socket, Packet]:
        """Forget the neighbours of the uplink, then call."""
        lab.forget_neighbours()
        return super().answered(lab)


@dataclass(frozen=True)
class AfterClose(Action):
    """P30: the gateway's program has closed its connection, and the other end has not noticed.

    No program is there any more: what now leaves, the kernel says by itself.
    """

    uid: int

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """Connect, close (the program's own FIN may leave), send late data, FIN, FIN, ACK."""
        sock, answer = Exchange(self.uid, "tcp", N1, 443).answered(lab)
        sock.close()
        lab.settle()
        view.clear(lab)
        tcp = answer[TCP]
        for flags, seq in (("PA", 101), ("FA", 105), ("FA", 105), ("A", 106)):
            late = answer.copy()
            late[TCP].flags, late[TCP].seq, late[TCP].ack = flags, seq, tcp.ack
            del late[TCP].chksum, late[IP].chksum, late[IP].len
            lab.ends["uplink"].sender.send(raw(late / b"late" if "P" in flags else late))
        return view.seen(lab)


@functools.cache
def users(gw: Gateway, own: int, *, udp: bool = False) -> tuple[Probe, ...]:
    """P30, P53: every user but the gateway's own sends nothing; that one nothing to private ranges.

    ``udp``: the variant lets UDP of its own user out, so that the link's table lets UDP pass.
    """
    others = (*(uid for uid in range(1000) if uid != own), 1000, 65534, 2**31 - 2)

    def calls(name: str, uids: tuple[int, ...], kind: str, addresses: tuple[str, ...],
              layers: tuple[str, ...] = NETWORK, view: View = LEFT) -> Probe:  # fmt: skip
        action = Call(uids, kind, addresses, 443 if view is LEFT else gw.tcp_ports[0])
        return Probe(name, "P53", action, view, layers, least=len(uids) * len(addresses))

    datagrams = (INET,) if udp else NETWORK
    return (
        calls("SYN of every other user", others, "tcp", (N1,), (INET,)),
        calls("UDP of every other user", others, "udp", (N1,), datagrams),
        calls("echo of every other user", others, "ip 1", (N1,)),
        calls("echo of its own user", (own,), "ip 1", (N1,)),
        *(() if udp else (calls("UDP of its own user", (own,), "udp", (N1,)),)),
        calls("SYN of its own user to private ranges", (own,), "tcp", PRIVATE),
        calls("UDP of its own user to private ranges and groups", (own,), "udp",
              (*PRIVATE, *GROUPS)),
        calls("SYN of other users over lo", (0, 1000), "tcp", ("127.0.0.1",), (INET,),
              Delivered((6,))),
        calls("UDP of other users over lo", (0, 1000), "udp", ("127.0.0.1",), (INET,),
              Delivered((17,))),
        calls("calls of its own user to its links' addresses", (own,), "tcp",
              (gw.own, str(c.UPLINK.ip)), (INET,), Delivered((6,))),
        calls("calls to app-guest", (0, own), "tcp", (gw.client,), ANSWERED, BACK),
        calls("datagrams to app-guest", (0, own), "udp", (gw.client,), ANSWERED, BACK),
        Probe("what the kernel says after a connection", "P30", AfterClose(own), LEFT, (INET,)),
    )  # fmt: skip
